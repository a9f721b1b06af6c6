"""Many runs on several servers and workers, followed from one server to the next."""

from pathlib import Path

import pytest

from tests.kit.checks import check_all
from tests.kit.cluster import cluster
from tests.kit.load import Load
from tests.servers.databases import DATABASES, empty_database
from tests.soak import SOAK

pytestmark = pytest.mark.slow

CONFIG = """
[server]
heartbeat_s = 1
capacity = 100

[agents.talker]
model = "scripted"
tokens = 100
tokens_per_s = 100
"""
RUNS = {"postgresql": 60, "mysql": 12, "sqlite": 12} if SOAK == 1 else dict.fromkeys(DATABASES, 200)


@pytest.mark.parametrize("kind", RUNS)
async def test_subscribers_that_hop_between_servers_see_every_run_whole(kind: str, tmp_path: Path) -> None:
    with (
        empty_database(kind, tmp_path) as url,
        cluster(tmp_path, url, config=CONFIG) as made,
    ):
        async with Load(lambda: made.urls) as load:
            for _ in range(SOAK):
                load.begin(RUNS[kind], "talker", notes=True)
                await load.finish()
            assert sum(seen.connections for seen in load.runs) > 2 * len(load.runs), "or no reader has hopped"
            await check_all(load, made)
