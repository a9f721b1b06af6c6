"""Asynchronous projections apply each event once, across crashes, restarts and several processes (G13)."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, make_url
from sqlalchemy.event import listen

from runstore.core.codec import RecordedEvent, encode
from runstore.core.ids import new_run_id
from runstore.core.times import now_ms
from runstore.database.columns import pack_run_id
from runstore.database.database import Database
from runstore.database.dialects import Dialect, Row, open_dialect
from runstore.eventlog.sql import SqlEventLog
from runstore.maintenance.projections import Projections
from runstore.maintenance.rebuild import rebuild, verify
from runstore.projections import advance
from runstore.projections import runner as runners
from runstore.projections.advance import Advance, StepResult
from runstore.projections.builds import release
from runstore.projections.projection import Projection
from runstore.projections.runner import ProjectionRunner
from runstore.projections.sessions import SessionsProjection
from runstore.projections.usage import UsageProjection
from tests.kit.events import note, start_run
from tests.kit.polling import until
from tests.kit.slow import mostly_slow
from tests.kit.writer import writing
from tests.projections.examples import Picky, Totals
from tests.projections.running import BAD, Newer, builds, counted, found, live, run_once, write
from tests.servers.databases import DATABASES

servers = pytest.mark.parametrize(
    "database_url",
    mostly_slow([kind for kind in DATABASES if kind != "sqlite"], "postgresql"),
    indirect=True,
)


class Sized(Totals):
    """Keeps how many events its batches had."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        self.sizes.append(len(events))
        super().apply(connection, events)


class Timed(Sized):
    """Every event takes so long, by its own clock."""

    def __init__(self, event_s: float) -> None:
        super().__init__()
        self.event_s = event_s

    def monotonic(self) -> float:
        return sum(self.sizes) * self.event_s


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Dialect]:
    """A server that appends: its connections wait for longer."""
    dialect = open_dialect(make_url(database_url))
    yield dialect
    dialect.close()


async def test_a_projection_applies_every_event_once(log: SqlEventLog, opened: Database) -> None:
    await write(log)
    run_once(opened, Totals())
    assert found(opened, Totals()) == await counted(log)
    await write(log)
    run_once(opened, Totals())
    run_once(opened, Totals())
    assert found(opened, Totals()) == await counted(log)
    assert verify(opened, Totals()).equal


@pytest.mark.parametrize("size", [1, 3, 1_000])
async def test_batches_of_any_size_come_out_equal(
    log: SqlEventLog, opened: Database, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", size)
    monkeypatch.setattr(advance, "MOST_EVENTS", size)
    await write(log)
    run_once(opened, Totals())
    assert found(opened, Totals()) == await counted(log)


@pytest.mark.parametrize("others", [[], [SessionsProjection(), UsageProjection()]], ids=["alone", "together"])
async def test_batches_that_end_at_their_bytes_come_out_equal(
    log: SqlEventLog, opened: Database, others: list[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "BATCH_BYTES", 300)
    await write(log)
    run_once(opened, Totals(), *others)
    assert found(opened, Totals()) == await counted(log)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_batch_of_large_events_is_followed_by_reads_of_few(
    log: SqlEventLog, opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "BATCH_BYTES", 300)
    limits: list[int] = []

    def keep(
        _connection: Connection, _cursor: object, statement: str, values: Sequence[Any], *_: object
    ) -> None:
        if "events.data" in statement and "LIMIT" in statement:
            limits.append(values[2])

    await write(log)
    run_once(opened, Totals())
    listen(opened.dialect.engine, "before_cursor_execute", keep)
    await log.append(await start_run(log), [note("x" * 290) for _ in range(9)])
    run_once(opened, Totals())
    assert limits[0] > 100
    assert max(limits[1:]) <= 10
    assert found(opened, Totals()) == await counted(log)


@pytest.mark.parametrize("others", [[], [UsageProjection()]], ids=["alone", "together"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_slow_batches_do_not_shrink_to_single_events(
    log: SqlEventLog, opened: Database, others: list[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", 8)
    monkeypatch.setattr(advance, "BATCH_S", 0)
    monkeypatch.setattr(advance, "FEW_S", 1_000)
    monkeypatch.setattr(advance, "FEW_EVENTS", 4)
    kept = Sized()
    run_once(opened, kept, *others)
    await write(log)
    run_once(opened, kept, *others)
    assert len(kept.sizes) > 2, kept.sizes
    assert min(kept.sizes[:-1]) >= 4
    assert found(opened, Totals()) == await counted(log)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("event_s", "most"), [(0.3, 4), (0.8, 2)])
async def test_slow_batches_do_not_hold_the_writer_for_longer_than_few_events_may(
    log: SqlEventLog, opened: Database, event_s: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", 8)
    monkeypatch.setattr(advance, "BATCH_S", 1)
    monkeypatch.setattr(advance, "FEW_S", 2)
    monkeypatch.setattr(advance, "FEW_EVENTS", 4)
    clock = Timed(event_s)
    monkeypatch.setattr(advance, "time", clock)
    run_once(opened, clock)
    await write(log)
    run_once(opened, clock)
    assert len(clock.sizes) > 3, clock.sizes
    assert set(clock.sizes[1:-1]) == {most}


async def test_runners_that_race_apply_every_event_once(
    log: SqlEventLog, opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", 2)
    monkeypatch.setattr(advance, "MOST_EVENTS", 2)
    run_once(opened, Totals())
    await write(log)
    runners = [ProjectionRunner(opened, [Totals()], lease_s=0.0) for _ in range(3)]
    await asyncio.gather(*(asyncio.to_thread(runner.run, once=True) for runner in runners))
    run_once(opened, Totals())
    assert found(opened, Totals()) == await counted(log)


async def test_projections_at_one_position_share_a_transaction(log: SqlEventLog, opened: Database) -> None:
    kept = [UsageProjection(), SessionsProjection(), Totals()]
    run_once(opened, *kept)
    await write(log)
    statements: list[str] = []
    listen(opened.dialect.engine, "before_cursor_execute", lambda *call: statements.append(call[2].lstrip()))
    listen(opened.dialect.engine, "commit", lambda *_: statements.append("COMMIT"))
    run_once(opened, *kept)
    transactions = "\n".join(statements).split("COMMIT")
    [applied] = [said for said in transactions if "INSERT INTO usage_runs_a" in said]
    assert "INSERT INTO totals_a" in applied
    assert found(opened, Totals()) == await counted(log)


async def test_runners_of_several_projections_that_race_apply_every_event_once(
    log: SqlEventLog, opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", 2)
    monkeypatch.setattr(advance, "MOST_EVENTS", 2)
    kept = [UsageProjection(), SessionsProjection(), Totals()]
    run_once(opened, *kept)
    await write(log)
    runners = [ProjectionRunner(opened, kept, lease_s=0.0) for _ in range(3)]
    await asyncio.gather(*(asyncio.to_thread(runner.run, once=True) for runner in runners))
    run_once(opened, *kept)
    for projection in kept:
        assert verify(opened, projection).equal


@pytest.mark.parametrize("left", [False, True], ids=["that works", "that has left"])
async def test_a_batch_that_another_process_has_applied_is_not_applied_again(
    log: SqlEventLog, opened: Database, *, left: bool
) -> None:
    run_once(opened, Totals())
    await write(log)
    build = live(opened, "totals")
    last = (await log.read_all())[-1].position
    first, second = (Advance(opened, Totals(), build, owner) for owner in ("first", "second"))
    assert first.step(last) is StepResult.MOVED
    if left:
        with opened.changing() as connection:
            release(connection, "first")
    assert not Advance.step_together([second], last)
    assert second.step(last) is StepResult.CHANGED
    run_once(opened, Totals())
    assert found(opened, Totals()) == await counted(log)


async def test_a_projection_of_another_process_is_left_to_it_while_its_lease_lasts(
    log: SqlEventLog, opened: Database
) -> None:
    run_once(opened, Totals())
    await write(log)
    last = (await log.read_all())[-1].position
    assert Advance(opened, Totals(), live(opened, "totals"), "other").step(last) is StepResult.MOVED
    before = found(opened, Totals())
    await write(log)
    run_once(opened, Totals())
    assert found(opened, Totals()) == before
    ProjectionRunner(opened, [Totals()], lease_s=0.0).run(once=True)
    assert found(opened, Totals()) == await counted(log)


@servers
@pytest.mark.parametrize("others", [[], [SessionsProjection()]], ids=["alone", "together"])
async def test_an_event_that_is_committed_after_one_behind_it_is_not_passed_over(
    opened: Database, elsewhere: Dialect, others: list[Projection]
) -> None:
    run_once(opened, Totals(), *others)
    with writing(elsewhere) as (early, _):
        with writing(elsewhere) as (late, _):
            late.commit()
        run_once(opened, Totals(), *others)
        assert found(opened, Totals()) == {}
        early.commit()

    def are_both_applied() -> bool:  # a writer that was in the way makes a reader pause
        run_once(opened, Totals(), *others)
        return found(opened, Totals()) == {"custom.note": 2}

    await until(are_both_applied)


@servers
async def test_tables_of_a_new_version_miss_no_event_that_is_committed_after_one_behind_it(
    opened: Database, elsewhere: Dialect
) -> None:
    run_once(opened, Totals())
    with writing(elsewhere) as (early, _):
        with writing(elsewhere) as (late, _):
            late.commit()
        rebuild(opened, Newer())
        assert found(opened, Newer()) == {}
        early.commit()

    def are_both_applied() -> bool:
        run_once(opened, Newer())
        return found(opened, Newer()) == {"custom.note": 2}

    await until(are_both_applied)


async def test_a_batch_that_was_cut_off_is_applied_once(log: SqlEventLog, opened: Database) -> None:
    class Killed(BaseException):
        pass

    class Mortal(Totals):
        def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
            super().apply(connection, events)
            raise Killed

    await write(log)
    with pytest.raises(Killed):
        run_once(opened, Mortal())
    ProjectionRunner(opened, [Totals()], lease_s=0.0).run(once=True)
    assert found(opened, Totals()) == await counted(log)


async def test_a_running_runner_follows_the_log(log: SqlEventLog, opened: Database) -> None:
    async with ProjectionRunner(opened, [Totals()]) as runner:
        await write(log)
        runner.wake()
        written = await counted(log)
        await until(lambda: found(opened, Totals()) == written)
    assert live(opened, "totals").owner is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_runner_that_has_caught_up_rests_although_writers_go_on(
    opened: Database, elsewhere: Dialect
) -> None:
    run_once(opened, Totals())
    written = 0

    def write_one(*_: object) -> None:
        nonlocal written
        if written < 50:
            written += 1
            row = Row(pack_run_id(new_run_id()), 1, encode(note()))
            with Database(elsewhere).writing() as connection:
                elsewhere.insert_events(connection, b"append 1", [row])

    write_one()
    listen(opened.dialect.engine, "checkin", write_one)  # after each read and each transaction
    run_once(opened, Totals())
    assert written < 20


async def test_events_that_another_runner_is_to_apply_are_waited_for(
    log: SqlEventLog, opened: Database
) -> None:
    async with ProjectionRunner(opened, [Totals()]) as other:
        await write(log)
        other.wake()
        await until(lambda: any(build.owner for build in builds(opened, "totals")))
        await write(log)
        await asyncio.to_thread(Projections(opened, [Totals()]).run)
        assert found(opened, Totals()) == await counted(log)


async def test_an_event_that_is_refused_stops_that_projection_alone(
    log: SqlEventLog, opened: Database
) -> None:
    run_id = await write(log)
    await log.append(run_id, [note(), BAD, note()])
    run_once(opened, Picky(), Totals())
    assert found(opened, Totals()) == await counted(log)
    failed = live(opened, "picky")
    assert failed.state == "failed"
    assert failed.error is not None
    assert (failed.error.run_id, failed.error.seq, failed.error.type) == (run_id, 14, "custom.bad")
    assert "ValueError: no such events, please" in failed.error.error
    assert "runstore projections skip picky" in failed.error.remedy
    assert found(opened, Picky())["custom.note"] == 11  # all before it


async def test_a_lag_grows_although_the_runner_does_not_look(
    log: SqlEventLog, opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append(await start_run(log), [BAD])
    runner = ProjectionRunner(opened, [Picky()])
    runner.run(once=True)
    before = runner.lags_s["picky"]
    monkeypatch.setattr(runners, "now_ms", lambda: now_ms() + 60_000)
    assert 60 <= runner.lags_s["picky"] - before < 120
