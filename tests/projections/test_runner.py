"""Asynchronous projections apply each event once, across crashes, restarts and several processes (G13)."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from sqlalchemy import Connection, inspect, make_url
from sqlalchemy.event import listen

from runstore.core.codec import RecordedEvent
from runstore.core.errors import ConfigError
from runstore.core.events import Custom
from runstore.database.dialects import open_dialect
from runstore.database.opening import Database
from runstore.eventlog.sql import SqlEventLog
from runstore.maintenance.projections import Projections
from runstore.maintenance.rebuild import rebuild, verify
from runstore.projections import advance, runner
from runstore.projections.advance import Advance, Step
from runstore.projections.builds import Build, live_tables, pause, read_builds, resume, skip
from runstore.projections.projection import Projection
from runstore.projections.runner import ProjectionRunner
from runstore.projections.sessions import SessionsProjection
from runstore.projections.usage import UsageProjection
from tests.events import close_run, note, start_run
from tests.polling import until
from tests.projections.examples import Picky, Totals, totals

BAD = Custom("custom.bad", {})


@pytest.fixture
async def log(open_shared: Callable[..., SqlEventLog]) -> SqlEventLog:
    return open_shared()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The database that a runner opens beside the log of a server."""
    dialect = open_dialect(make_url(database_url))
    yield Database(dialect)
    dialect.close()


def run_once(database: Database, *projections: Projection) -> None:
    """Apply all that is in the log, as `runstore projections run --once` does."""
    ProjectionRunner(database, projections).run(once=True)


def builds(database: Database, name: str) -> list[Build]:
    with database.connect() as connection:
        return read_builds(connection, name)


def live(database: Database, name: str) -> Build:
    return next(build for build in builds(database, name) if build.live)


def found(database: Database, projection: Projection) -> dict[str, int]:
    with database.connect() as connection:
        tables = live_tables(connection, projection)
        return totals(connection, tables[projection.name]) if tables else {}


async def counted(log: SqlEventLog) -> dict[str, int]:
    """The same by a plain fold."""
    events: list[RecordedEvent] = []
    while page := await log.read_all(after=events[-1].position if events else 0):
        events += page
    return dict(Counter(event.type for event in events))


async def write(log: SqlEventLog, runs: int = 5) -> str:
    for _ in range(runs):
        await close_run(log)
    run_id = await start_run(log)
    await log.append(run_id, [note(f"{i}") for i in range(10)])
    return run_id


async def test_a_projection_applies_every_event_once(log: SqlEventLog, database: Database) -> None:
    await write(log)
    run_once(database, Totals())
    assert found(database, Totals()) == await counted(log)
    await write(log)
    run_once(database, Totals())
    run_once(database, Totals())
    assert found(database, Totals()) == await counted(log)
    assert verify(database, Totals()).equal


@pytest.mark.parametrize("size", [1, 3, 1_000])
async def test_batches_of_any_size_come_out_equal(
    log: SqlEventLog, database: Database, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", size)
    monkeypatch.setattr(advance, "MOST_EVENTS", size)
    await write(log)
    run_once(database, Totals())
    assert found(database, Totals()) == await counted(log)


async def test_runners_that_race_apply_every_event_once(
    log: SqlEventLog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", 2)
    monkeypatch.setattr(advance, "MOST_EVENTS", 2)
    run_once(database, Totals())
    await write(log)
    runners = [ProjectionRunner(database, [Totals()], lease_s=0.0) for _ in range(3)]
    await asyncio.gather(*(asyncio.to_thread(runner.run, once=True) for runner in runners))
    run_once(database, Totals())
    assert found(database, Totals()) == await counted(log)


async def test_projections_at_one_position_share_a_transaction(log: SqlEventLog, database: Database) -> None:
    kept = [UsageProjection(), SessionsProjection(), Totals()]
    run_once(database, *kept)
    await write(log)
    statements: list[str] = []
    listen(
        database.dialect.engine, "before_cursor_execute", lambda *call: statements.append(call[2].lstrip())
    )
    listen(database.dialect.engine, "commit", lambda *_: statements.append("COMMIT"))
    run_once(database, *kept)
    transactions = "\n".join(statements).split("COMMIT")
    [applied] = [said for said in transactions if "INSERT INTO usage_runs_a" in said]
    assert "INSERT INTO totals_a" in applied
    assert found(database, Totals()) == await counted(log)


async def test_runners_of_several_projections_that_race_apply_every_event_once(
    log: SqlEventLog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", 2)
    monkeypatch.setattr(advance, "MOST_EVENTS", 2)
    kept = [UsageProjection(), SessionsProjection(), Totals()]
    run_once(database, *kept)
    await write(log)
    runners = [ProjectionRunner(database, kept, lease_s=0.0) for _ in range(3)]
    await asyncio.gather(*(asyncio.to_thread(runner.run, once=True) for runner in runners))
    run_once(database, *kept)
    for projection in kept:
        assert verify(database, projection).equal


async def test_a_projection_that_refuses_an_event_leaves_the_others_alone(
    log: SqlEventLog, database: Database
) -> None:
    run_once(database, Picky(), Totals())
    run_id = await write(log)
    await log.append(run_id, [BAD, note("after")])
    run_once(database, Picky(), Totals())
    assert live(database, "picky").state == "failed"
    assert found(database, Totals()) == await counted(log)


async def test_a_batch_that_another_process_has_applied_is_not_applied_again(
    log: SqlEventLog, database: Database
) -> None:
    run_once(database, Totals())
    await write(log)
    build = live(database, "totals")
    last = (await log.read_all())[-1].position
    first, second = (Advance(database, Totals(), build, owner) for owner in ("first", "second"))
    assert first.step(last) is Step.MOVED
    assert second.step(last) is Step.CHANGED
    run_once(database, Totals())
    assert found(database, Totals()) == await counted(log)


async def test_a_batch_that_was_cut_off_is_applied_once(log: SqlEventLog, database: Database) -> None:
    class Killed(BaseException):
        pass

    class Mortal(Totals):
        def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
            super().apply(connection, events)
            raise Killed

    await write(log)
    with pytest.raises(Killed):
        run_once(database, Mortal())
    ProjectionRunner(database, [Totals()], lease_s=0.0).run(once=True)
    assert found(database, Totals()) == await counted(log)


async def test_a_running_runner_follows_the_log(log: SqlEventLog, database: Database) -> None:
    async with ProjectionRunner(database, [Totals()]) as runner:
        await write(log)
        runner.wake()
        written = await counted(log)
        await until(lambda: found(database, Totals()) == written)
    assert live(database, "totals").owner is None


async def test_events_that_another_runner_is_to_apply_are_waited_for(
    log: SqlEventLog, database: Database
) -> None:
    async with ProjectionRunner(database, [Totals()]) as other:
        await write(log)
        other.wake()
        await until(lambda: any(build.owner for build in builds(database, "totals")))
        await write(log)
        await asyncio.to_thread(Projections(database, [Totals()]).run)
        assert found(database, Totals()) == await counted(log)


async def test_an_event_that_is_refused_stops_that_projection_alone(
    log: SqlEventLog, database: Database
) -> None:
    run_id = await write(log)
    await log.append(run_id, [note(), BAD, note()])
    run_once(database, Picky(), Totals())
    assert found(database, Totals()) == await counted(log)
    failed = live(database, "picky")
    assert failed.state == "failed"
    assert failed.error is not None
    assert (failed.error.run_id, failed.error.seq, failed.error.type) == (run_id, 14, "custom.bad")
    assert "ValueError: no such events, please" in failed.error.error
    assert "runstore projections skip picky" in failed.error.remedy
    assert found(database, Picky())["custom.note"] == 11  # all before it


async def test_a_skipped_event_is_left_out_alone(log: SqlEventLog, database: Database) -> None:
    run_id = await write(log)
    await log.append(run_id, [note(), BAD, note()])
    run_once(database, Picky())
    with database.changing() as connection:
        (skipped,) = skip(connection, "picky")
    assert skipped.seq == 14
    run_once(database, Picky())
    assert found(database, Picky()) | {"custom.bad": 1} == await counted(log)
    assert live(database, "picky").skipped == 1


async def test_a_resumed_projection_goes_on_at_the_event(log: SqlEventLog, database: Database) -> None:
    class Corrected(Picky):
        apply = Totals.apply

    run_id = await write(log)
    await log.append(run_id, [BAD, note()])
    run_once(database, Picky())
    with database.changing() as connection:
        resume(connection, "picky")
    run_once(database, Corrected())
    assert found(database, Picky()) == await counted(log)


async def test_a_paused_projection_waits(log: SqlEventLog, database: Database) -> None:
    await write(log)
    run_once(database, Totals())
    with database.changing() as connection:
        pause(connection, "totals")
    before = found(database, Totals())
    await write(log)
    run_once(database, Totals())
    assert found(database, Totals()) == before
    with database.changing() as connection:
        with pytest.raises(ConfigError, match="pause needs a projection that is running, and it is paused"):
            pause(connection, "totals")
        resume(connection, "totals")
    run_once(database, Totals())
    assert found(database, Totals()) == await counted(log)


async def test_a_new_version_is_built_beside_the_old_one(log: SqlEventLog, database: Database) -> None:
    class Newer(Totals):
        version = 2

    await write(log)
    run_once(database, Totals())
    old = live(database, "totals")
    run_once(database, Newer())
    new = live(database, "totals")
    assert (new.version, new.slot) == (2, "b")
    assert [build.state for build in builds(database, "totals")] == ["retired", "running"]
    assert old.position == new.position
    assert found(database, Newer()) == await counted(log)
    assert found(database, Totals()) == {}, "code of another version reads no tables of this one"
    run_once(database, Totals())  # the older code leaves it alone
    assert live(database, "totals") == new
    with pytest.raises(ConfigError, match="the database has version 2, this code version 1"):
        rebuild(database, Totals())


async def test_replaced_tables_are_dropped_as_no_purge_reaches_them(
    log: SqlEventLog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(log)
    run_once(database, Totals())
    rebuild(database, Totals())
    run_once(database, Totals())
    assert [build.state for build in builds(database, "totals")] == ["retired", "running"]
    monkeypatch.setattr(runner, "RETIRED_S", 0.0)
    run_once(database, Totals())
    assert [(build.slot, build.live) for build in builds(database, "totals")] == [("b", True)]
    with database.connect() as connection:
        assert [name for name in inspect(connection).get_table_names() if "totals" in name] == ["totals_b"]
    assert rebuild(database, Totals()).equal
    assert found(database, Totals()) == await counted(log)


async def test_a_rebuild_repairs_what_it_reports(log: SqlEventLog, database: Database) -> None:
    await write(log)
    run_once(database, Totals())
    with database.changing() as connection:
        connection.exec_driver_sql("UPDATE totals_a SET events = 0 WHERE type = 'custom.note'")
        connection.exec_driver_sql("DELETE FROM totals_a WHERE type = 'lifecycle.queued'")
    report = verify(database, Totals())
    assert report.tables is not None
    difference = report.tables["totals"]
    assert (difference.missing, difference.wrong, difference.extra, difference.rows) == (1, 1, 0, 4)
    assert {(key.how, key.key["type"]) for key in difference.keys} == {
        ("missing", "lifecycle.queued"), ("wrong", "custom.note"),
    }  # fmt: skip
    assert found(database, Totals())["custom.note"] == 0
    assert rebuild(database, Totals()).tables == report.tables
    assert found(database, Totals()) == await counted(log)
    await write(log)
    run_once(database, Totals())
    assert found(database, Totals()) == await counted(log)


async def test_an_interrupted_rebuild_is_finished_by_a_runner(log: SqlEventLog, database: Database) -> None:
    await write(log)
    run_once(database, Totals())

    def interrupt(reached: int, goal: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(database, Totals(), interrupt)
    assert [build.live for build in builds(database, "totals")] == [True, False]
    run_once(database, Totals())
    assert [build.live for build in builds(database, "totals")] == [False, True]
    assert found(database, Totals()) == await counted(log)
