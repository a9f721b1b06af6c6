"""Rebuilds of several projections in one thread: the log is read once, and one failure harms no other."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.event import listen

import runstore.maintenance.rebuild as rebuilding
from runstore.core.errors import ConfigError, ProjectionFailed
from runstore.core.events import Custom
from runstore.database.database import Database
from runstore.database.dialects import open_dialect, sqlite
from runstore.eventlog.sql import SqlEventLog
from runstore.maintenance import patience
from runstore.maintenance.rebuild import rebuild, rebuild_all, verify_all
from runstore.projections import advance, filling
from runstore.projections.builds import Build, read_builds
from runstore.projections.projection import Projection
from runstore.projections.runner import ProjectionRunner
from runstore.projections.sessions import SessionsProjection
from runstore.projections.usage import UsageProjection
from tests.kit.database import run_list
from tests.kit.events import close_run, note, start_run
from tests.kit.polling import DEADLINE_S
from tests.projections.examples import Picky, Totals

TOGETHER = (SessionsProjection(), Totals(), UsageProjection())


@pytest.fixture
async def log(open_shared: Callable[..., SqlEventLog]) -> SqlEventLog:
    return open_shared()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    dialect = open_dialect(make_url(database_url))
    yield Database(dialect)
    dialect.close()


@pytest.fixture
def reads(database: Database) -> list[str]:
    """The statements that read pages of the log."""
    found: list[str] = []

    def note_read(*call: object) -> None:
        statement = str(call[2]).replace("`", "")  # MySQL quotes the name
        if "FROM events" in statement and "ORDER BY events.position" in statement:
            found.append(statement)

    listen(database.dialect.engine, "before_cursor_execute", note_read)
    return found


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advance, "MOST_EVENTS", 5)
    monkeypatch.setattr(advance, "FIRST_EVENTS", 5)
    monkeypatch.setattr(advance, "FEW_EVENTS", 5)
    monkeypatch.setattr(advance, "FEW_S", 60)  # a busy machine makes them no smaller
    for module in (advance, filling):
        monkeypatch.setattr(module, "LAST_EVENTS", 5)


async def write(log: SqlEventLog, *, bad: bool = False) -> None:
    for _ in range(20):
        await close_run(log)
    run_id = await start_run(log)
    await log.append(run_id, [Custom("custom.bad", {}) if bad else note("fine"), note("last")])
    for _ in range(20):
        await close_run(log)


def states(database: Database, name: str) -> list[tuple[bool, str]]:
    with database.connect() as connection:
        return [(build.live, build.state) for build in read_builds(connection, name)]


async def test_the_log_is_read_once_for_all(log: SqlEventLog, database: Database, reads: list[str]) -> None:
    await write(log)
    ProjectionRunner(database, TOGETHER).run(once=True)
    reads.clear()
    rebuild(database, Totals())
    alone = len(reads)
    reads.clear()
    reports = rebuild_all(database, TOGETHER)
    assert [report.projection for report in reports] == ["sessions", "totals", "usage"]
    assert all(report.equal for report in reports)
    # Each of them reads the last events itself.
    assert 0 < len(reads) < 2 * alone


async def test_differences_are_found_and_mended_in_each(log: SqlEventLog, database: Database) -> None:
    await write(log)
    ProjectionRunner(database, TOGETHER).run(once=True)
    with database.changing() as connection:
        connection.exec_driver_sql("DELETE FROM usage_runs_a")
        connection.exec_driver_sql("UPDATE totals_a SET events = 0 WHERE type = 'custom.note'")
    equal = {report.projection: report.equal for report in verify_all(database, TOGETHER)}
    assert equal == {"sessions": True, "totals": False, "usage": False}
    assert {r.projection: r.equal for r in rebuild_all(database, TOGETHER)} == equal
    assert all(report.equal for report in verify_all(database, TOGETHER))


async def test_one_that_was_interrupted_further_on_is_met_by_the_others(
    log: SqlEventLog, database: Database
) -> None:
    await write(log)

    def interrupt(reached: int, goal: int) -> None:
        if reached > goal // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(database, Totals(), interrupt)
    reached: list[tuple[str, int]] = []
    rebuild_all(database, TOGETHER, lambda name, position, goal: reached.append((name, position)))
    [first, *_] = [position for name, position in reached if name == "totals"]
    assert first > 10
    assert {name for name, position in reached if position == first} == {"sessions", "totals", "usage"}
    assert all(report.equal for report in verify_all(database, TOGETHER))


def interrupt_halfway(database: Database, projection: Projection) -> Build:
    """A rebuild that ends in the middle of the log."""

    def interrupt(reached: int, goal: int) -> None:
        if reached > goal // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(database, projection, interrupt)
    return filled(database, projection)


def filled(database: Database, projection: Projection) -> Build:
    with database.connect() as connection:
        (build,) = [build for build in read_builds(connection, projection.name) if not build.live]
    return build


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("projection", [UsageProjection(), run_list()], ids=["usage", "runs"])
async def test_verify_leaves_an_interrupted_rebuild_as_it_is(
    log: SqlEventLog,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    projection: Projection,
    killed: bool,
) -> None:
    await write(log)
    rebuild(database, projection)
    if killed:  # it releases nothing, and others wait for its lease
        monkeypatch.setattr(rebuilding, "release", lambda connection, owner: None)
        monkeypatch.setattr(rebuilding, "LEASE_S", 0.2)
    interrupted = interrupt_halfway(database, projection)
    assert (interrupted.state, interrupted.position > 10) == ("running", True)
    with pytest.raises(ConfigError, match=f"runstore projections rebuild {projection.name}"):
        verify_all(database, [projection])
    assert filled(database, projection) == interrupted
    reached: list[int] = []
    rebuild(database, projection, lambda position, goal: reached.append(position))
    assert min(reached) >= interrupted.position
    assert verify_all(database, [projection])[0].equal


async def test_verify_leaves_a_rebuild_that_refused_an_event_as_it_is(
    log: SqlEventLog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(log)
    rebuild(database, Picky())
    await write(log, bad=True)
    with pytest.raises(ProjectionFailed):
        rebuild(database, Picky())
    before = states(database, "picky")
    assert (False, "failed") in before
    with pytest.raises(ConfigError, match="runstore projections rebuild picky"):
        verify_all(database, [Picky()])
    assert states(database, "picky") == before


async def test_verify_waits_while_another_process_rebuilds(log: SqlEventLog, database: Database) -> None:
    await write(log)
    rebuild(database, UsageProjection())
    started, waiting = threading.Event(), threading.Event()

    def hold(reached: int, goal: int) -> None:
        started.set()
        assert waiting.wait(DEADLINE_S)

    with ThreadPoolExecutor(2) as pool:
        rebuilds = pool.submit(rebuild, database, UsageProjection(), hold)
        assert started.wait(DEADLINE_S)
        verifies = pool.submit(
            verify_all, database, [UsageProjection()], lambda name, reached, goal: waiting.set()
        )
        assert rebuilds.result(DEADLINE_S).equal
        assert verifies.result(DEADLINE_S)[0].equal
    assert states(database, "usage") == [(True, "running")]


async def test_an_event_that_one_refuses_leaves_the_others_to_the_next_rebuild(
    log: SqlEventLog, database: Database
) -> None:
    await write(log, bad=True)
    with pytest.raises(ProjectionFailed, match=r"picky.*custom\.bad"):
        rebuild_all(database, [*TOGETHER, Picky()])
    assert states(database, "picky") == [(False, "failed")]
    assert states(database, "usage") == [(False, "running")]
    rebuild_all(database, TOGETHER)
    assert states(database, "usage") == [(True, "running")]
    assert all(report.equal for report in verify_all(database, TOGETHER))


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("work", [rebuild_all, verify_all])
async def test_each_step_waits_for_a_writer_that_holds_the_lock(
    log: SqlEventLog, database: Database, monkeypatch: pytest.MonkeyPatch, work: Callable[..., Any]
) -> None:
    await write(log)
    rebuild_all(database, TOGETHER)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(patience, "RETRY_S", 0.01)
    with closing(
        sqlite3.connect(str(database.file), isolation_level=None, check_same_thread=False)
    ) as writer:
        releases: list[threading.Timer] = []

        def hold(*_progress: object) -> None:
            if releases:
                releases[-1].join()
            writer.execute("BEGIN IMMEDIATE")
            releases.append(threading.Timer(0.05, writer.execute, ["COMMIT"]))
            releases[-1].start()

        hold()
        assert all(report.equal for report in work(database, TOGETHER, hold))
        releases[-1].join()
    assert len(releases) > 5
