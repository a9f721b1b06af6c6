"""The database fails and recovers under load: no event is lost, and no worker counts as dead."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.kit.checks import check_all, check_said
from tests.kit.cluster import Cluster, cluster
from tests.kit.link import Link
from tests.kit.load import Load
from tests.servers.databases import migrate
from tests.servers.mariadb import OwnMariadb
from tests.servers.own import OwnServer
from tests.servers.postgres import OwnPostgres
from tests.soak import SOAK

pytestmark = pytest.mark.slow

SERVERS: dict[str, Callable[[], OwnServer]] = {"postgresql": OwnPostgres, "mysql": OwnMariadb}
LEASE_S = 1
OUTAGE_S = 10.0 if SOAK > 1 else 1.5  # longer than the lease
RUNS = 4  # that are begun before each outage; one more during it
FRAMES = 50  # of all runs, that are seen before the next one
CONFIG = """
[server]
heartbeat_s = 0.5

[agents.talker]
model = "scripted"
tokens = 150
tokens_per_s = 50
"""


class Site(NamedTuple):
    """A cluster, and the way to its database."""

    server: OwnServer
    link: Link
    cluster: Cluster


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        server = stack.enter_context(SERVERS[request.param]())
        migrate(server.url)
        link = stack.enter_context(Link(server.url))
        folder = tmp_path_factory.mktemp("outages")
        made = stack.enter_context(cluster(folder, link.url, config=CONFIG, lease_s=LEASE_S))
        yield Site(server, link, made)


async def killed(site: Site) -> None:
    """`kill -9` of all its processes."""
    await asyncio.to_thread(site.server.kill)
    await asyncio.sleep(OUTAGE_S)
    await asyncio.to_thread(site.server.start)


async def stopped(site: Site) -> None:
    await asyncio.to_thread(site.server.stop)
    await asyncio.sleep(OUTAGE_S)
    await asyncio.to_thread(site.server.start)


async def frozen(site: Site) -> None:
    """Connections stay open without answers."""
    site.server.freeze()
    await asyncio.sleep(OUTAGE_S)
    site.server.thaw()


async def refusing(site: Site) -> None:
    site.link.refuse()
    site.link.cut()
    await asyncio.sleep(OUTAGE_S)
    site.link.accept()


async def cut_off(site: Site) -> None:
    """Connections are cut silently, and data in flight is lost."""
    site.link.hold("requests", "answers")
    await asyncio.sleep(OUTAGE_S)
    site.link.cut()
    site.link.restore()


FAULTS = {each.__name__: each for each in (killed, stopped, frozen, refusing, cut_off)}


@pytest.mark.parametrize("fault", FAULTS)
async def test_outages_of_every_kind_lose_nothing_and_no_run(site: Site, fault: str) -> None:
    async with Load(lambda: site.cluster.urls) as load:
        for _ in range(SOAK):
            load.begin(RUNS, "talker", notes=True)
            await load.until_seen(load.frames + FRAMES)
            outage = asyncio.create_task(FAULTS[fault](site))
            load.begin(1, "talker", notes=True)
            await outage
        await load.finish()
        await check_all(load, site.cluster)
        check_said(load, begun={"claimed"})
