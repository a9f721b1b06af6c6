"""A worker counts as dead only after a whole lease of silence in which others could read its heartbeats."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import make_url

from runstore.app import open_runtime
from runstore.core.new_run import NewRun
from runstore.database.database import Database
from runstore.database.dialects import open_dialect, sqlite
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.runtime.leases.file_locks import FileLeases
from runstore.runtime.leases.heartbeats import HeartbeatLeases, ListedLeases
from runstore.settings import ServerSettings, Settings
from runstore.store.workers import read_workers
from tests.kit.database import make_database, open_sqlite_log
from tests.kit.polling import DEADLINE_S, until
from tests.servers.databases import KINDS

LOOKS_S = 0.5  # between two looks, as the supervisor's
FOR_EVER_S = 3_600.0  # the lease of a worker that beats when it begins, and then not again


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def join(tmp_path: Path, clock: Clock) -> AsyncIterator[Callable[..., HeartbeatLeases]]:
    """`join(lease_s)` makes one more worker of a database; all see the same clock."""
    log = open_sqlite_log(make_database(tmp_path / "runstore.db"), MemoryFeed())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(log.close)

        def join(lease_s: float) -> HeartbeatLeases:
            leases = HeartbeatLeases(log.database, lease_s=lease_s, capacity=1, clock=clock)
            stack.push_async_callback(leases.release)
            return leases

        yield join


async def watched_s(watcher: HeartbeatLeases, worker: HeartbeatLeases, clock: Clock, upto_s: float) -> float:
    """The time after which `worker` counts as dead; infinite if longer than `upto_s`."""
    begun_at = clock.now
    while clock.now - begun_at <= upto_s:
        if await watcher.dead({worker.worker_id}):
            return clock.now - begun_at
        clock.now += LOOKS_S
    return float("inf")


@pytest.mark.parametrize(("lease_s", "at_most_s"), [(15, 15), (3, 3), (1, 3)])
async def test_a_worker_that_gives_no_sign_is_dead_after_its_lease(
    join: Callable[..., HeartbeatLeases], clock: Clock, lease_s: float, at_most_s: float
) -> None:
    """A short lease, too; a process that polls more slowly than workers beat credits at most one beat per
    poll.
    """
    watcher, worker = join(lease_s), join(FOR_EVER_S)
    await worker.hold()
    assert lease_s <= await watched_s(watcher, worker, clock, 60) <= at_most_s


async def test_a_worker_that_beats_is_alive(join: Callable[..., HeartbeatLeases], clock: Clock) -> None:
    watcher, worker = join(1), join(FOR_EVER_S)
    await worker.hold()
    for _ in range(10):
        await worker.beat()
        assert await watched_s(watcher, worker, clock, 1) == float("inf")


@pytest.mark.parametrize("lease_s", [15, 1])
async def test_after_an_outage_every_worker_has_a_whole_lease_again(
    join: Callable[..., HeartbeatLeases], clock: Clock, lease_s: float
) -> None:
    watcher, worker = join(lease_s), join(FOR_EVER_S)
    await worker.hold()
    for _ in range(3):
        assert await watched_s(watcher, worker, clock, lease_s / 2) == float("inf")
        clock.now += 60  # no process could read the table
    assert await watched_s(watcher, worker, clock, 60) >= lease_s


async def test_a_worker_holds_its_lease_for_as_long_as_its_last_beat_is_good(
    join: Callable[..., HeartbeatLeases], clock: Clock
) -> None:
    worker = join(FOR_EVER_S)
    assert not worker.held
    await worker.hold()
    clock.now += FOR_EVER_S - 1
    assert worker.held
    clock.now += 1  # by now others may have taken its runs
    assert not worker.held
    await worker.beat()
    assert worker.held


async def test_a_process_that_cannot_write_counts_no_worker_as_dead(
    join: Callable[..., HeartbeatLeases], clock: Clock
) -> None:
    watcher, worker = join(60), join(FOR_EVER_S)
    await worker.hold()
    await watcher.hold()  # and its next beat is 12 real seconds away
    assert await watched_s(watcher, worker, clock, 180) == float("inf")


async def test_a_worker_that_has_woken_up_is_not_forgotten(
    join: Callable[..., HeartbeatLeases], clock: Clock
) -> None:
    watcher, worker, dead = join(1), join(FOR_EVER_S), join(FOR_EVER_S)
    await worker.hold()
    await dead.hold()
    assert await watched_s(watcher, worker, clock, 60) < 60
    await worker.beat()  # between the poll and the reaction to it
    await watcher.forget(set())
    assert await watcher.dead({worker.worker_id, dead.worker_id}) == {dead.worker_id: False}


@contextmanager
def writers_kept_out(url: str) -> Iterator[None]:
    """Somebody else holds the barrier."""
    dialect = open_dialect(make_url(url), statement_timeout=False)
    with closing(dialect), dialect.engine.connect() as connection:
        dialect.begin_write(connection, exclusive=True)
        yield


@pytest.mark.parametrize("database_url", KINDS, indirect=True)
async def test_a_worker_begins_while_all_writers_are_blocked(
    open_shared: Callable[..., SqlEventLog], database_url: str
) -> None:
    worker = HeartbeatLeases(open_shared().database, lease_s=FOR_EVER_S, capacity=1)
    with writers_kept_out(database_url):
        await worker.hold()
    assert worker.held
    await worker.release()


@pytest.mark.parametrize("database_url", KINDS, indirect=True)
async def test_a_worker_leaves_while_all_writers_are_blocked(
    open_shared: Callable[..., SqlEventLog], database_url: str
) -> None:
    """Else what it handed over would wait for a whole lease, and count as lost."""
    log = open_shared()
    worker = HeartbeatLeases(log.database, lease_s=FOR_EVER_S, capacity=1)
    await worker.hold()
    with writers_kept_out(database_url):
        await worker.release()
    assert await log.database.query(read_workers) == []


class Slow:
    """A database that has taken a beat and has not answered yet."""

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.asked, self.answer = asyncio.Event(), asyncio.Event()
        self.answer.set()

    async def query(self, function: Callable[..., Any], *arguments: Any) -> Any:
        raise AssertionError("no poll comes")

    async def change(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.asked.set()
        await asyncio.shield(
            asyncio.create_task(self._change(function.__name__))
        )  # as a thread's, it goes on

    async def _change(self, name: str) -> None:
        if name == "_beat":
            await self.answer.wait()
        self.changes.append(name)


async def test_a_worker_leaves_behind_its_last_beat() -> None:
    """The other way round the beat would list it again, and what it handed over would wait for its lease."""
    database = Slow()
    leases = HeartbeatLeases(cast(Database, database), lease_s=0.05, capacity=1)
    await leases.hold()
    database.answer.clear()
    database.asked.clear()
    await asyncio.wait_for(database.asked.wait(), DEADLINE_S)
    leaving = asyncio.create_task(leases.release())
    for _ in range(10):  # turns of the loop, in which a removal that does not wait would be done
        await asyncio.sleep(0)
    database.answer.set()
    await leaving
    assert database.changes == ["_beat", "_beat", "_remove"]


async def test_a_worker_whose_last_beat_hangs_leaves_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new heartbeat could undo every conclusion."""
    monkeypatch.setattr("runstore.runtime.leases.heartbeats.RELEASE_S", 0.05)
    database = Slow()
    leases = HeartbeatLeases(cast(Database, database), lease_s=0.05, capacity=1)
    await leases.hold()
    database.answer.clear()
    database.asked.clear()
    await asyncio.wait_for(database.asked.wait(), DEADLINE_S)
    await asyncio.wait_for(leases.release(), DEADLINE_S)
    assert database.changes == ["_beat"]


async def test_beats_go_on_after_an_error_of_no_known_kind() -> None:
    class Failing(Slow):
        async def change(self, function: Callable[..., Any], *arguments: Any) -> Any:
            await super().change(function, *arguments)
            if len(self.changes) == 2:
                raise RuntimeError("of no known kind")

    database = Failing()
    leases = HeartbeatLeases(cast(Database, database), lease_s=0.05, capacity=1)
    await leases.hold()
    await until(lambda: len(database.changes) > 3)
    assert leases.held
    await leases.release()


async def test_without_a_lease_that_is_known_to_be_good_no_run_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ServerSettings(database_url=f"sqlite:///{make_database(tmp_path / 'runstore.db')}", drain_s=0)
    async with open_runtime(Settings(server)) as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(ListedLeases, "held", False)
            run_id = (await runtime.store.start(NewRun("demo", "hi", user_id="local"))).run.run_id
            await until(lambda: runtime.supervisor.waiting == 1)
            await runtime.supervisor.sweep()
            assert (await runtime.store.get(run_id)).run.status == "queued"
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"


async def test_a_worker_starts_while_others_write_and_is_listed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    path = make_database(tmp_path / "runstore.db")
    log = open_sqlite_log(path, MemoryFeed())
    leases = ListedLeases(FileLeases(tmp_path / "workers"), log.database, capacity=1)

    async def listed() -> list[str]:
        return [worker.worker_id for worker in await log.database.query(read_workers)]

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await leases.hold()
        assert leases.held
        assert await listed() == []
        other.execute("COMMIT")
    for _ in range(2):
        await leases.forget(set())
        assert await listed() == [leases.worker_id]
    await leases.release()
    await log.close()
