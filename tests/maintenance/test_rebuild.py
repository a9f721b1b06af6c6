"""State is a fold of the log: never behind it; dropped and rebuilt while the log is written, equal (G9)."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, select

import runstore.maintenance.rebuild as rebuilding
import runstore.projections.advance as advance
import runstore.projections.comparison as comparison
import runstore.projections.filling as filling
from runstore.core.codec import RecordedEvent
from runstore.core.events import Deleted, Usage
from runstore.core.ports import Committed
from runstore.core.run import fold
from runstore.database.dialects import Dialect
from runstore.database.tables import runs
from runstore.eventlog.queries import read_evolving
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.projections.comparison import TableDifference
from runstore.projections.runs import find_run
from tests.kit.database import run_list
from tests.kit.events import (
    CANCEL,
    CANCELLED,
    COMPLETED,
    FAILED,
    QUEUED,
    close_run,
    note,
    start_run,
    started,
    token,
)
from tests.kit.polling import DEADLINE_S
from tests.kit.rebuilding import rebuild_runs, verify_runs
from tests.kit.slow import mostly_slow, shared_out, slow
from tests.servers.databases import DATABASES, kept_database

USAGE = Usage(agent="demo", input_tokens=10, output_tokens=1)


@pytest.fixture(params=["sqlite", "postgresql"])  # and MariaDB, where there are writers beside it
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with kept_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(autouse=True)
def turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "TURN_S", 0.001)


def in_batches_of(events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("FIRST_EVENTS", "MOST_EVENTS", "LAST_EVENTS"):
        monkeypatch.setattr(advance, bound, events)
    monkeypatch.setattr(filling, "LAST_EVENTS", events)


def rows(dialect: Dialect) -> list[tuple[object, ...]]:
    with dialect.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(runs).order_by(runs.c.run_id))]


def execute(dialect: Dialect, *statements: str) -> None:
    with dialect.engine.connect() as connection:
        dialect.begin_write(connection)
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.commit()


async def write_runs(log: SqlEventLog, count: int = 10) -> list[str]:
    """Runs in every state."""
    runs = []
    for number in range(count):
        runs.append(run_id := await start_run(log))
        await log.append(run_id, [token(), USAGE, note()])
        for event in ([], [CANCEL], [CANCEL, CANCELLED], [COMPLETED], [FAILED])[number % 5]:
            await log.append(run_id, [event])
        if number % 5 > 3:
            await log.append(run_id, [Deleted(by="local")])
    return runs


# ---- inline: never behind ----


async def test_the_run_list_is_as_far_as_the_acknowledged_events(log: SqlEventLog) -> None:
    run_id = await start_run(log)
    for event in (token(), USAGE, CANCEL, started(attempt=2), USAGE, CANCELLED, Deleted(by="local")):
        await log.append(run_id, [event])
        assert await log.database.query(find_run, run_id) == fold(run_id, await log.read(run_id))


async def test_the_run_list_is_as_far_as_the_published_events(
    log: SqlEventLog, feed: MemoryFeed, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind: list[Committed] = []
    seen = 0

    def compare(commits: Sequence[Committed]) -> None:
        nonlocal seen
        with dialect.engine.connect() as connection:
            for commit in commits:
                upto = commit.first_seq + len(commit.events) - 1
                state = fold(commit.run_id, read_evolving(connection, commit.run_id, upto))
                seen += 1
                if find_run(connection, commit.run_id) != state:
                    behind.append(commit)

    monkeypatch.setattr(feed, "publish", compare)
    await asyncio.gather(*(write_runs(log) for _ in range(3)))
    assert seen > 30
    assert behind == []


async def test_streamed_text_does_not_touch_the_run_list(log: SqlEventLog, dialect: Dialect) -> None:
    run_id = await start_run(log)
    execute(dialect, "UPDATE runs SET agent_name = 'untouched'")
    await log.append(run_id, [token(), note()])
    assert "untouched" in rows(dialect)[0]


async def test_a_run_whose_row_is_missing_gets_it_with_its_next_event(
    log: SqlEventLog, dialect: Dialect
) -> None:
    run_id, other = await start_run(log), await start_run(log)
    await log.append(run_id, [USAGE])
    execute(dialect, "DELETE FROM runs")
    await log.append(run_id, [USAGE, CANCEL])
    assert await log.database.query(find_run, run_id) == fold(run_id, await log.read(run_id))
    assert await log.database.query(find_run, other) is None


# ---- rebuilding ----


async def test_dropped_and_rebuilt_the_run_list_is_equal(log: SqlEventLog, dialect: Dialect) -> None:
    await write_runs(log)
    before = rows(dialect)
    with dialect.engine.connect() as connection:
        run_list().drop(connection)
        connection.commit()
    assert rows(dialect) == []
    assert rebuild_runs(dialect) == TableDifference(missing=10, wrong=0, extra=0, rows=10)
    assert rows(dialect) == before


@pytest.mark.parametrize("page", [slow(1), 2, slow(3), slow(7), 100])
async def test_however_long_its_pages_a_rebuild_comes_out_equal(
    log: SqlEventLog, dialect: Dialect, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    in_batches_of(page, monkeypatch)
    await write_runs(log)
    assert rebuild_runs(dialect).equal


async def test_an_empty_log_is_rebuilt_to_an_empty_list(dialect: Dialect) -> None:
    assert rebuild_runs(dialect) == TableDifference(missing=0, wrong=0, extra=0, rows=0)


@pytest.fixture
async def writers(log: SqlEventLog) -> AsyncIterator[list[str]]:
    """Writers that never pause, and the runs that they have closed so far."""
    closed: list[str] = []
    stop = threading.Event()

    async def write() -> None:
        while not stop.is_set():
            closed.append(await close_run(log))

    writing = [asyncio.create_task(write()) for _ in range(2)]
    yield closed
    stop.set()
    await asyncio.gather(*writing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "database_url"),
    shared_out(["DELETE FROM runs", "UPDATE runs SET status = 'queued'"]),
    indirect=["database_url"],
)
async def test_a_rebuild_comes_out_equal_while_writers_keep_appending(
    log: SqlEventLog,
    dialect: Dialect,
    writers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    in_batches_of(500, monkeypatch)
    await write_runs(log, 100)
    execute(dialect, damage)
    before = len(writers)
    pages = 0

    def let_writers_in(position: int, last: int) -> None:
        nonlocal pages
        pages += 1
        deadline = time.monotonic() + DEADLINE_S
        while pages == 1 and len(writers) <= before and time.monotonic() < deadline:
            time.sleep(0.001)

    async with asyncio.timeout(DEADLINE_S):
        difference = await asyncio.to_thread(rebuild_runs, dialect, progress=let_writers_in)
        assert difference.missing + difference.wrong >= 100
        assert difference.rows > 100 + before
        assert (await asyncio.to_thread(verify_runs, dialect)).equal


@pytest.mark.slow
@pytest.mark.parametrize("database_url", mostly_slow(DATABASES, "sqlite", "postgresql"), indirect=True)
async def test_writers_that_write_at_every_turn_do_not_keep_a_rebuild_from_its_end(
    log: SqlEventLog, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches_of(20, monkeypatch)
    await write_runs(log)
    loop = asyncio.get_running_loop()
    turns = 0

    def let_writers_in(turn_s: float) -> None:
        nonlocal turns
        turns += 1
        assert turns < 20, "there is no end to it"
        asyncio.run_coroutine_threadsafe(start_run(log), loop).result(DEADLINE_S)

    monkeypatch.setattr(rebuilding, "time", SimpleNamespace(sleep=let_writers_in, monotonic=time.monotonic))
    await asyncio.to_thread(rebuild_runs, dialect)
    assert turns > 0
    assert (await asyncio.to_thread(verify_runs, dialect)).equal


async def test_an_interrupted_rebuild_goes_on_where_it_stopped(
    log: SqlEventLog, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches_of(10, monkeypatch)
    await write_runs(log)
    execute(dialect, "DELETE FROM runs")
    reached: list[int] = []

    def interrupt(position: int, last: int) -> None:
        reached.append(position)
        if len(reached) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild_runs(dialect, progress=interrupt)
    assert rows(dialect) == []
    again: list[int] = []
    rebuild_runs(dialect, progress=lambda position, last: again.append(position))
    assert again[0] > reached[-1]
    assert again == sorted(again)
    assert verify_runs(dialect).equal


@pytest.mark.parametrize("database_url", mostly_slow(DATABASES, "sqlite", "postgresql"), indirect=True)
async def test_rebuilds_that_run_at_once_come_out_equal(
    log: SqlEventLog, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches_of(5, monkeypatch)
    await write_runs(log, 20)
    before = rows(dialect)
    execute(dialect, "DELETE FROM runs")
    with ThreadPoolExecutor(3) as pool:
        differences = list(pool.map(lambda _: rebuild_runs(dialect), range(3)))
    assert sorted(difference.missing for difference in differences) == [0, 0, 20]
    assert [difference.wrong + difference.extra for difference in differences] == [0, 0, 0]
    assert rows(dialect) == before


async def test_progress_is_reported_and_ends_at_the_end(
    log: SqlEventLog, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches_of(10, monkeypatch)
    run_id = (await write_runs(log))[0]
    await log.append(run_id, [COMPLETED])
    told: list[tuple[int, int]] = []
    rebuild_runs(dialect, progress=lambda position, last: told.append((position, last)))
    (end,) = {last for _, last in told}
    assert told == sorted(told)
    assert told[-1] == (end, end)


async def test_a_rebuild_leaves_nothing_behind(log: SqlEventLog, dialect: Dialect) -> None:
    def left(connection: Connection) -> tuple[int, int]:
        rows = connection.exec_driver_sql("SELECT count(*) FROM runs_shadow").scalar_one()
        return rows, connection.exec_driver_sql("SELECT count(*) FROM projections").scalar_one()

    await write_runs(log)
    for command in (rebuild_runs, verify_runs):
        command(dialect)
        with dialect.engine.connect() as connection:
            assert left(connection) == (0, 0)


# ---- what a comparison reports ----


async def test_a_comparison_reports_missing_wrong_and_extra_rows_and_changes_nothing(
    log: SqlEventLog, dialect: Dialect
) -> None:
    written = sorted(await write_runs(log))
    execute(
        dialect,
        f"DELETE FROM runs WHERE run_id IN ('{written[0]}', '{written[1]}', '{written[2]}')",
        f"UPDATE runs SET status = 'queued' WHERE run_id = '{written[3]}'",
        f"UPDATE runs SET session_id = 's' WHERE run_id = '{written[4]}'",
        "INSERT INTO runs SELECT 'no run', user_id, agent_name, session_id, status, created_at, completed_at,"
        f" deleted, state, workspace_id, purged FROM runs WHERE run_id = '{written[5]}'",
    )
    before = rows(dialect)
    assert verify_runs(dialect) == TableDifference(missing=3, wrong=2, extra=1, rows=10)
    assert rows(dialect) == before


async def test_a_rebuild_repairs_what_it_reports(log: SqlEventLog, dialect: Dialect) -> None:
    written = sorted(await write_runs(log))
    before = rows(dialect)
    execute(
        dialect,
        f"DELETE FROM runs WHERE run_id = '{written[0]}'",
        f"UPDATE runs SET run_id = 'no run' WHERE run_id = '{written[1]}'",
        f"UPDATE runs SET agent_name = 'other' WHERE run_id = '{written[2]}'",
    )
    assert rebuild_runs(dialect) == TableDifference(missing=2, wrong=1, extra=1, rows=10)
    assert rows(dialect) == before


@pytest.mark.parametrize("rows_of_a_range", [1, slow(2), 3, slow(10)])
async def test_ranges_of_any_size_are_compared_and_corrected(
    log: SqlEventLog, dialect: Dialect, monkeypatch: pytest.MonkeyPatch, rows_of_a_range: int
) -> None:
    monkeypatch.setattr(comparison, "RANGE_ROWS", rows_of_a_range)
    written = sorted(await write_runs(log))
    before = rows(dialect)
    execute(
        dialect,
        f"DELETE FROM runs WHERE run_id IN ('{written[0]}', '{written[9]}')",
        f"UPDATE runs SET agent_name = 'other' WHERE run_id IN ('{written[3]}', '{written[4]}')",
        f"UPDATE runs SET run_id = 'zzz' WHERE run_id = '{written[5]}'",
    )
    assert rebuild_runs(dialect) == TableDifference(missing=3, wrong=2, extra=1, rows=10)
    assert rows(dialect) == before


async def test_every_row_is_the_fold_of_its_runs_events(log: SqlEventLog, dialect: Dialect) -> None:
    runs = await write_runs(log)
    rebuild_runs(dialect)
    for run_id in runs:
        events: list[RecordedEvent] = await log.read(run_id)
        assert await log.database.query(find_run, run_id) == fold(run_id, events)


async def test_a_list_that_was_rebuilt_goes_on_with_the_log(log: SqlEventLog, dialect: Dialect) -> None:
    run_id = await start_run(log)
    execute(dialect, "DELETE FROM runs")
    rebuild_runs(dialect)
    await log.append(run_id, [USAGE])
    await log.append(run_id, [COMPLETED])
    assert verify_runs(dialect).equal
    assert QUEUED.agent in rows(dialect)[0]
