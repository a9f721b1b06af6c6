"""A worker's own search for work: no run is overlooked, however many others need no attention."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runstore.app import Runtime, open_runtime
from runstore.core.events import Queued, Started
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog
from runstore.runtime.leases.file_locks import FileLeases
from runstore.runtime.supervision import sweep
from runstore.settings import ServerSettings, Settings
from tests.kit.polling import DEADLINE_S

SWEPT = 2


@pytest.fixture(autouse=True)
def _sweeps_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "MAX_SWEPT", SWEPT)


@pytest.fixture
async def elsewhere(open_log: Callable[..., EventLog]) -> EventLog:
    """Another process on the same database, of which nothing is heard."""
    return open_log()


@pytest.fixture
def folder(database: Path) -> Path:
    """Where workers of the database hold their locks."""
    folder = Path(f"{database}.workers")
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
async def busy(folder: Path, elsewhere: EventLog) -> AsyncIterator[None]:
    """A worker that lives, and has a run of more users than one sweep looks at."""
    leases = FileLeases(folder)
    await leases.hold()
    for number in range(2 * SWEPT):
        await write(elsewhere, f"user-{number}", worker_id=leases.worker_id)
    yield
    await leases.release()


@asynccontextmanager
async def working(database: Path) -> AsyncIterator[Runtime]:
    server = ServerSettings(database_url=f"sqlite:///{database}", drain_s=0)
    async with open_runtime(Settings(server)) as runtime:
        yield runtime


async def write(log: EventLog, user_id: str, *, worker_id: str | None = None, policy: str = "resume") -> str:
    """A run that is queued, or that this worker has."""
    run_id = new_run_id()
    definition = {"on_worker_lost": policy}
    await log.append(run_id, [Queued(agent="demo", user_id=user_id, input="hi", definition=definition)])
    if worker_id is not None:
        await log.append(run_id, [Started(worker_id=worker_id, attempt=1, reason="claimed")])
    return run_id


@pytest.mark.usefixtures("busy")
async def test_however_many_runs_are_at_work_a_queued_one_starts(database: Path, elsewhere: EventLog) -> None:
    run_id = await write(elsewhere, "new")
    async with working(database) as runtime:
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(("policy", "status"), [("resume", "success"), ("fail", "error")])
async def test_however_many_runs_are_at_work_those_of_a_dead_worker_are_adopted(
    database: Path, folder: Path, elsewhere: EventLog, policy: str, status: str
) -> None:
    Path(folder, "dead.lock").touch()  # a lock without a holder
    runs = [
        await write(elsewhere, f"late-{number}", worker_id="dead", policy=policy)
        for number in range(2 * SWEPT)
    ]
    async with working(database) as runtime:
        for run_id in runs:
            run = (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run
            assert run.status == status
