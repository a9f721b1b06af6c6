"""Rebuilds of several projections in one thread: the log is read once, and one failure harms no other."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy.event import listen

import runstore.maintenance.rebuild as rebuilding
from runstore.core.errors import ConfigError, ProjectionFailed
from runstore.core.events import Custom
from runstore.database.database import Database
from runstore.database.dialects import sqlite
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
def reads(opened: Database) -> list[str]:
    """The statements that read pages of the log."""
    found: list[str] = []

    def note_read(*call: object) -> None:
        statement = str(call[2]).replace("`", "")  # MySQL quotes the name
        if "FROM events" in statement and "ORDER BY events.position" in statement:
            found.append(statement)

    listen(opened.dialect.engine, "before_cursor_execute", note_read)
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


def states(opened: Database, name: str) -> list[tuple[bool, str]]:
    with opened.connect() as connection:
        return [(build.live, build.state) for build in read_builds(connection, name)]


async def test_the_log_is_read_once_for_all(log: SqlEventLog, opened: Database, reads: list[str]) -> None:
    await write(log)
    ProjectionRunner(opened, TOGETHER).run(once=True)
    reads.clear()
    rebuild(opened, Totals())
    alone = len(reads)
    reads.clear()
    reports = rebuild_all(opened, TOGETHER)
    assert [report.projection for report in reports] == ["sessions", "totals", "usage"]
    assert all(report.equal for report in reports)
    # Each of them reads the last events itself.
    assert 0 < len(reads) < 2 * alone


async def test_differences_are_found_and_mended_in_each(log: SqlEventLog, opened: Database) -> None:
    await write(log)
    ProjectionRunner(opened, TOGETHER).run(once=True)
    with opened.changing() as connection:
        connection.exec_driver_sql("DELETE FROM usage_runs_a")
        connection.exec_driver_sql("UPDATE totals_a SET events = 0 WHERE type = 'custom.note'")
    equal = {report.projection: report.equal for report in verify_all(opened, TOGETHER)}
    assert equal == {"sessions": True, "totals": False, "usage": False}
    assert {r.projection: r.equal for r in rebuild_all(opened, TOGETHER)} == equal
    assert all(report.equal for report in verify_all(opened, TOGETHER))


async def test_one_that_was_interrupted_further_on_is_met_by_the_others(
    log: SqlEventLog, opened: Database
) -> None:
    await write(log)

    def interrupt(reached: int, goal: int) -> None:
        if reached > goal // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(opened, Totals(), interrupt)
    reached: list[tuple[str, int]] = []
    rebuild_all(opened, TOGETHER, lambda name, position, goal: reached.append((name, position)))
    [first, *_] = [position for name, position in reached if name == "totals"]
    assert first > 10
    assert {name for name, position in reached if position == first} == {"sessions", "totals", "usage"}
    assert all(report.equal for report in verify_all(opened, TOGETHER))


def interrupt_halfway(opened: Database, projection: Projection) -> Build:
    """A rebuild that ends in the middle of the log."""

    def interrupt(reached: int, goal: int) -> None:
        if reached > goal // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(opened, projection, interrupt)
    return filled(opened, projection)


def filled(opened: Database, projection: Projection) -> Build:
    with opened.connect() as connection:
        (build,) = [build for build in read_builds(connection, projection.name) if not build.live]
    return build


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("projection", [UsageProjection(), run_list()], ids=["usage", "runs"])
async def test_verify_leaves_an_interrupted_rebuild_as_it_is(
    log: SqlEventLog,
    opened: Database,
    monkeypatch: pytest.MonkeyPatch,
    projection: Projection,
    killed: bool,
) -> None:
    await write(log)
    rebuild(opened, projection)
    if killed:  # it releases nothing, and others wait for its lease
        monkeypatch.setattr(rebuilding, "release", lambda connection, owner: None)
        monkeypatch.setattr(rebuilding, "LEASE_S", 0.2)
    interrupted = interrupt_halfway(opened, projection)
    assert (interrupted.state, interrupted.position > 10) == ("running", True)
    with pytest.raises(ConfigError, match=f"runstore projections rebuild {projection.name}"):
        verify_all(opened, [projection])
    assert filled(opened, projection) == interrupted
    reached: list[int] = []
    rebuild(opened, projection, lambda position, goal: reached.append(position))
    assert min(reached) >= interrupted.position
    assert verify_all(opened, [projection])[0].equal


async def test_verify_leaves_a_rebuild_that_refused_an_event_as_it_is(
    log: SqlEventLog, opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(log)
    rebuild(opened, Picky())
    await write(log, bad=True)
    with pytest.raises(ProjectionFailed):
        rebuild(opened, Picky())
    before = states(opened, "picky")
    assert (False, "failed") in before
    with pytest.raises(ConfigError, match="runstore projections rebuild picky"):
        verify_all(opened, [Picky()])
    assert states(opened, "picky") == before


async def test_verify_waits_while_another_process_rebuilds(log: SqlEventLog, opened: Database) -> None:
    await write(log)
    rebuild(opened, UsageProjection())
    started, waiting = threading.Event(), threading.Event()

    def hold(reached: int, goal: int) -> None:
        started.set()
        assert waiting.wait(DEADLINE_S)

    with ThreadPoolExecutor(2) as pool:
        rebuilds = pool.submit(rebuild, opened, UsageProjection(), hold)
        assert started.wait(DEADLINE_S)
        verifies = pool.submit(
            verify_all, opened, [UsageProjection()], lambda name, reached, goal: waiting.set()
        )
        assert rebuilds.result(DEADLINE_S).equal
        assert verifies.result(DEADLINE_S)[0].equal
    assert states(opened, "usage") == [(True, "running")]


async def test_an_event_that_one_refuses_leaves_the_others_to_the_next_rebuild(
    log: SqlEventLog, opened: Database
) -> None:
    await write(log, bad=True)
    with pytest.raises(ProjectionFailed, match=r"picky.*custom\.bad"):
        rebuild_all(opened, [*TOGETHER, Picky()])
    assert states(opened, "picky") == [(False, "failed")]
    assert states(opened, "usage") == [(False, "running")]
    rebuild_all(opened, TOGETHER)
    assert states(opened, "usage") == [(True, "running")]
    assert all(report.equal for report in verify_all(opened, TOGETHER))


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("work", [rebuild_all, verify_all])
async def test_each_step_waits_for_a_writer_that_holds_the_lock(
    log: SqlEventLog, opened: Database, monkeypatch: pytest.MonkeyPatch, work: Callable[..., Any]
) -> None:
    await write(log)
    rebuild_all(opened, TOGETHER)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(patience, "RETRY_S", 0.01)
    with closing(sqlite3.connect(str(opened.file), isolation_level=None, check_same_thread=False)) as writer:
        releases: list[threading.Timer] = []

        def hold(*_progress: object) -> None:
            if releases:
                releases[-1].join()
            writer.execute("BEGIN IMMEDIATE")
            releases.append(threading.Timer(0.05, writer.execute, ["COMMIT"]))
            releases[-1].start()

        hold()
        assert all(report.equal for report in work(opened, TOGETHER, hold))
        releases[-1].join()
    assert len(releases) > 5
