"""Processes die, freeze and are replaced under load, and clocks are wrong, on PostgreSQL and on MariaDB."""

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import runstore
from tests.kit.checks import check_all, check_said
from tests.kit.cluster import Cluster, WorkerProcess, cluster
from tests.kit.frames import Frame
from tests.kit.load import Load
from tests.servers.databases import empty_database
from tests.soak import SOAK

pytestmark = pytest.mark.slow

LEASE_S = 1
DRAIN_S = 0.2  # shorter than a run takes
HELD = 6  # runs that do not end before they may, on one worker or another
FREE = 4  # those of a model, which end by themselves
CAPACITY = 5  # so that one worker cannot take all that are held
HOUR_S = 3_600
CONFIG = f"""
[server]
heartbeat_s = 0.5
capacity = {CAPACITY}

[agents.held]
factory = "agents:held"

[agents.free]
model = "scripted"
tokens = 120
tokens_per_s = 40
"""
AGENTS = """
import asyncio
from pathlib import Path

async def held(input):
    may_end = Path(__file__).with_name("may_end")
    while True:
        await asyncio.sleep(0.025)
        yield "on and "
        if may_end.exists():
            break
"""


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("processes")
    with (
        empty_database(request.param, folder) as url,
        cluster(folder, url, config=CONFIG, agents=AGENTS, lease_s=LEASE_S, drain_s=DRAIN_S) as made,
    ):
        yield made


@pytest.fixture
def made(site: Cluster) -> Cluster:
    """All processes run, also those that the last test has killed."""
    site.start_all()
    return site


def attempts(load: Load) -> list[Frame]:
    """The second and later ones."""
    return [
        frame
        for seen in load.runs
        for frame in seen.frames
        if frame.type == "lifecycle.started" and frame.data["attempt"] > 1
    ]


async def begin(load: Load, made: Cluster) -> None:
    """Start runs, until each worker has some that does not end before `let_end`."""
    may_end(made).unlink(missing_ok=True)
    load.begin(HELD, "held", notes=True)
    load.begin(FREE, "free", notes=True)

    def busy() -> set[str]:
        active = [seen.frames for seen in load.runs if not seen.ended]
        held = [frames for frames in active if frames and frames[0].data["agent"] == "held"]
        return {f.data["worker_id"] for frames in held for f in frames if f.type == "lifecycle.started"}

    await load.until(lambda: {each.worker_id for each in made.workers} <= busy(), "runs on each worker")


async def let_end(load: Load, made: Cluster) -> None:
    """Wait until all runs have ended."""
    may_end(made).touch()
    await load.finish()


def replaced(worker: WorkerProcess) -> int:
    """How many runs it has lost to newer attempts, and not because they had ended."""
    return len(re.findall(r"^run_lost .*(?:has begun elsewhere|was replaced by attempt)", worker.log, re.M))


@contextmanager
def spare_worker(made: Cluster) -> Iterator[None]:
    """One more for a while."""
    worker = WorkerProcess(made.folder, **made.options)
    try:
        worker.start()
        yield
    finally:
        worker.close()


def may_end(made: Cluster) -> Path:
    return made.folder / "may_end"


async def test_the_runs_of_a_killed_worker_go_on_elsewhere(made: Cluster) -> None:
    async with Load(lambda: made.urls) as load:
        for _ in range(SOAK):
            await begin(load, made)
            made.workers[0].kill()
            await let_end(load, made)
            made.start_all()
        await check_all(load, made)
        check_said(load, begun={"claimed", "adopted"})
        assert attempts(load), "or it had nothing to do"


async def test_a_killed_server_takes_nothing_with_it(made: Cluster) -> None:
    async with Load(lambda: made.urls) as load:
        for number in range(SOAK):
            await begin(load, made)
            made.servers[number % 2].kill()
            load.begin(2, "free", notes=True)
            await load.until_seen(load.frames + 40 * HELD)
            made.start_all()
            await let_end(load, made)
        await check_all(load, made)
        check_said(load, begun={"claimed"})


async def test_events_of_a_worker_that_was_frozen_for_longer_than_its_lease_are_refused(
    made: Cluster,
) -> None:
    frozen = made.workers[0]
    async with Load(lambda: made.urls) as load:
        for _ in range(SOAK):
            await begin(load, made)
            adopted, given_up = len(attempts(load)), replaced(frozen)
            frozen.freeze()
            with spare_worker(made):  # the other one may have no room
                try:
                    await load.until(lambda n=adopted: len(attempts(load)) > n, "its runs are adopted")
                finally:
                    frozen.thaw()
                await load.until(lambda n=given_up: replaced(frozen) > n, "it gives a run up that goes on")
                await let_end(load, made)
        await check_all(load, made)
        check_said(load, begun={"claimed", "adopted"})


async def test_a_rolling_restart_loses_nothing(made: Cluster) -> None:
    """Each process is stopped and replaced, one after the other; its runs go on elsewhere."""
    async with Load(lambda: made.urls) as load:
        for _ in range(SOAK):
            await begin(load, made)
            for process in (*made.workers, *made.servers):
                process.terminate()
                load.begin(1, "free", notes=True)
                assert await asyncio.to_thread(process.wait) == 0
                await asyncio.to_thread(made.start_all)
            await let_end(load, made)
        await check_all(load, made)
        check_said(load, begun={"claimed", "handed_over"})
        assert attempts(load), "or it was over before"


async def test_clocks_that_differ_by_two_hours_change_nothing(tmp_path: Path) -> None:
    with (
        empty_database("postgresql", tmp_path) as url,
        cluster(tmp_path, url, config=CONFIG, agents=AGENTS, servers=1, workers=0, lease_s=LEASE_S) as made,
    ):
        for shift_s in (-HOUR_S, HOUR_S):
            made.add_workers(1, variables=shifted(shift_s))
        async with Load(lambda: made.urls) as load:
            await begin(load, made)
            await let_end(load, made)
            check_said(load, begun={"claimed"})
            ended = {round((f.at_s - s.frames[0].at_s) / HOUR_S) for s in load.runs for f in s.frames[-1:]}
            assert ended == {-1, 1}, "or no clock was wrong"
            killed, other = made.workers
            await begin(load, made)
            killed.kill()
            await let_end(load, made)
            check_said(load, begun={"claimed", "adopted"})
            assert {frame.data["worker_id"] for frame in attempts(load)} == {other.worker_id}


def shifted(shift_s: int) -> dict[str, str]:
    folders = (Path(__file__).parents[1] / "clock", Path(runstore.__file__).parents[1])
    return {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "RUNSTORE_TEST_CLOCK_SHIFT_S": str(shift_s),
    }
