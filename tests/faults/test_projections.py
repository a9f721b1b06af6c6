"""Projections across `kill -9`, lost databases and full disks: every event is applied once (G9, G13)."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, make_url, select

from runstore.core.codec import RecordedEvent
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.eventlog.sql import SqlEventLog
from runstore.maintenance import patience
from runstore.maintenance import rebuild as rebuilding
from runstore.maintenance.rebuild import rebuild, verify
from runstore.projections import runner as runners
from runstore.projections.builds import Build, read_builds
from runstore.projections.live import live_slot, live_tables
from runstore.projections.runner import ProjectionRunner
from tests.kit.events import close_run, note, start_run
from tests.kit.link import Link
from tests.kit.polling import until
from tests.kit.process import environment
from tests.projections.examples import Totals, totals
from tests.servers.databases import KINDS

ROOT = Path(__file__).parents[2]
OUTAGE_S = 10.0


@pytest.fixture
async def log(open_shared: Callable[..., SqlEventLog]) -> SqlEventLog:
    return open_shared()


@contextmanager
def opened(url: str) -> Iterator[Database]:
    with closing(open_dialect(make_url(url))) as dialect:
        yield Database(dialect)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened(database_url) as database:
        yield database


async def write(log: SqlEventLog, runs: int = 10) -> None:
    for _ in range(runs):
        await close_run(log)
    run_id = await start_run(log)
    await log.append(run_id, [note(f"{i}") for i in range(20)])


async def counted(log: SqlEventLog) -> dict[str, int]:
    """The expected content of the projection, by a plain fold."""
    events: list[RecordedEvent] = []
    while page := await log.read_all(after=events[-1].position if events else 0):
        events += page
    return dict(Counter(event.type for event in events))


def found(database: Database) -> dict[str, int]:
    def read(connection: Connection) -> dict[str, int]:
        tables = live_tables(connection, Totals())
        return totals(connection, tables["totals"]) if tables else {}

    return database.read(read)


def builds(database: Database) -> list[Build]:
    return database.read(partial(read_builds, name="totals"))


def kill_after(batches: int, url: str, command: str) -> None:
    """`kill -9` a process in the middle of the transaction of a batch."""
    arguments = [sys.executable, "-m", "tests.faults.killed_projections", url, command]
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(batches):
            assert process.stdout.readline().startswith("applied")
        process.kill()
        process.wait()
        assert "done" not in process.stdout.read()


# ---- kill -9 ----


@pytest.mark.slow
async def test_a_runner_killed_in_the_middle_of_a_batch_has_applied_nothing_twice(
    log: SqlEventLog, database: Database, database_url: str
) -> None:
    await write(log)
    await asyncio.to_thread(kill_after, 4, database_url, "run")
    (build,) = builds(database)
    assert 0 < build.position < 30
    assert build.owner is not None
    ProjectionRunner(database, [Totals()], lease_s=0.0).run(once=True)
    assert found(database) == await counted(log)


@pytest.mark.slow
async def test_a_rebuild_that_was_killed_is_finished_by_a_runner_and_comes_out_equal(
    log: SqlEventLog, database: Database, database_url: str
) -> None:
    await write(log)
    ProjectionRunner(database, [Totals()]).run(once=True)
    await asyncio.to_thread(kill_after, 4, database_url, "rebuild")
    shadow = next(build for build in builds(database) if not build.live)
    assert 0 < shadow.position < 30
    await write(log)
    ProjectionRunner(database, [Totals()], lease_s=0.0).run(once=True)
    live = next(build for build in builds(database) if build.live)
    assert live.slot == shadow.slot
    assert found(database) == await counted(log)
    assert verify(database, Totals()).equal


@pytest.mark.slow
async def test_a_rebuild_that_was_killed_is_continued_by_the_next_one(
    log: SqlEventLog, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "LEASE_S", 0.3)
    await write(log)
    ProjectionRunner(database, [Totals()]).run(once=True)
    await asyncio.to_thread(kill_after, 4, database_url, "rebuild")
    shadow = next(build for build in builds(database) if not build.live)
    reached: list[int] = []
    report = rebuild(database, Totals(), lambda position, goal: reached.append(position))
    assert report.equal
    assert min(reached) >= shadow.position
    assert found(database) == await counted(log)


# ---- the database ----


@pytest.mark.slow
@pytest.mark.parametrize("database_url", KINDS, indirect=True)
async def test_a_database_that_refuses_connections_pauses_a_runner_and_nothing_is_skipped(
    log: SqlEventLog, database_url: str, database: Database
) -> None:
    await write(log)
    with Link(database_url) as link, opened(link.url) as through:
        async with ProjectionRunner(through, [Totals()]) as runner:
            await until(lambda: bool(found(database)))
            link.refuse()
            link.cut()
            await write(log)
            runner.wake()
            await asyncio.sleep(OUTAGE_S)
            behind = found(database)
            link.accept()
            runner.wake()
            written = await counted(log)
            assert behind != written
            await until(lambda: found(database) == written)
    assert [build.state for build in builds(database)] == ["running"]
    assert [build.skipped for build in builds(database)] == [0]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_full_disk_ends_a_rebuild_with_a_message_and_the_live_tables_as_they_were(
    log: SqlEventLog, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    await write(log)
    ProjectionRunner(database, [Totals()]).run(once=True)
    before = found(database)
    await log.close()
    full = _limited(database_url)
    with closing(full.dialect), pytest.raises(Exception, match="full") as refused:
        rebuild(full, Wide())
    assert full.dialect.unavailable(refused.value) is not None
    assert found(database) == before
    rebuild(database, Totals())
    assert found(database) == before


class Wide(Totals):
    """It fills the disk."""

    def apply(self, connection, events) -> None:  # type: ignore[no-untyped-def]
        super().apply(connection, events)
        (table,) = self.tables
        rows = [{"type": f"{i}-{'x' * 100}", "events": 1} for i in range(5_000)]
        connection.execute(table.insert(), rows)


def _limited(url: str) -> Database:
    """The database as on a disk without room: SQLite refuses more pages as it does there."""
    from sqlalchemy import event

    dialect = open_dialect(make_url(url))

    @event.listens_for(dialect.engine, "connect")
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 30}")

    return Database(dialect)


# ---- readers ----


@pytest.mark.slow
async def test_readers_never_miss_a_table_or_see_it_go_back_while_it_is_rebuilt_under_load(
    log: SqlEventLog, database: Database, database_url: str
) -> None:
    await write(log, 50)
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        with opened(database_url) as own:
            while not stop.is_set():
                with own.connect() as connection:
                    tables = live_tables(connection, Totals())
                    assert tables is not None, "the live tables have vanished"
                    (table,) = tables.values()
                    counts = select(table.c.events).where(table.c.type == "lifecycle.queued")
                    seen.append(connection.execute(counts).scalar() or 0)
                    connection.rollback()

    async def keep_writing() -> None:
        while not stop.is_set():
            await close_run(log)

    async with ProjectionRunner(database, [Totals()]) as runner:
        await until(lambda: bool(found(database)))
        reading = asyncio.create_task(asyncio.to_thread(read))
        writing = [asyncio.create_task(keep_writing()) for _ in range(3)]
        slots = set()
        with opened(database_url) as own:
            for _ in range(3):
                report = await asyncio.to_thread(rebuild, own, Totals())
                assert report.equal
                with own.connect() as connection:
                    slots.add(live_slot(connection, Totals()))
                runner.wake()
        stop.set()
        await asyncio.gather(reading, *writing)
        written = await counted(log)
        runner.wake()
        await until(lambda: found(database) == written)
    assert slots == {"a", "b"}
    assert len(seen) > 20
    assert seen == sorted(seen)


# ---- processes ----


async def test_of_two_processes_one_advances_a_projection_until_it_leaves(
    log: SqlEventLog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "TICK_S", 0.01)
    monkeypatch.setattr(runners, "LONGEST_TICK_S", 0.01)
    await write(log)
    async with ProjectionRunner(database, [Totals()]) as second:
        async with ProjectionRunner(database, [Totals()]) as first:
            written = await counted(log)
            await until(lambda: found(database) == written)
            (owner,) = {build.owner for build in builds(database)}
            await write(log)
            first.wake()
            second.wake()
            written = await counted(log)
            await until(lambda: found(database) == written)
            assert {build.owner for build in builds(database)} == {owner}
        await write(log)
        second.wake()
        written = await counted(log)
        await until(lambda: found(database) == written)
