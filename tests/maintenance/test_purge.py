"""Purging, on every kind of database: the remains, and what readers and writers meet during it (G9, G10)."""

import asyncio
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, exc, make_url, text

import runstore.maintenance.purge as purging
import runstore.maintenance.rebuild as rebuilding
from runstore.core.codec import EncodedEvent, RecordedEvent, decode, encode
from runstore.core.errors import AlreadyStarted, RunClosed, RunPurged, RunstoreError
from runstore.core.events import (
    CancelRequested,
    Custom,
    Deleted,
    Failed,
    ModelUsage,
    Purged,
    Queued,
    ToolFailed,
    ToolStarted,
    ToolUsage,
    Usage,
)
from runstore.core.ports import EventFilter, Reservation
from runstore.core.run import Run, fold
from runstore.database.columns import pack_run_id
from runstore.database.dialects import Row, open_dialect
from runstore.eventlog.queries import last_position, read_evolving
from runstore.eventlog.rules.reservations import KEPT_MS
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from runstore.maintenance.purge import PIECE_EVENTS, Purgeable, PurgeCount
from runstore.projections import advance
from runstore.projections.comparison import TableDifference
from runstore.projections.runs import RunQuery, find_run, find_runs
from tests.kit.database import open_log_at, run_list
from tests.kit.events import (
    CANCEL,
    CANCELLED,
    COMPLETED,
    QUEUED,
    close_run,
    note,
    read_run,
    start_run,
    started,
)
from tests.kit.polling import DEADLINE_S, until
from tests.kit.process import PYTHON, environment
from tests.kit.purging import FOREVER, LATER, OLD, old_run_id, purge, survey, write_old
from tests.kit.rebuilding import rebuild_runs, verify_runs
from tests.kit.slow import mostly_slow
from tests.servers.databases import DATABASES, FORMS, kept_database

DELETED = Deleted(by="ann")
# A partition that is dropped goes at once: see `test_partition_purge.py`.
by_rows = pytest.mark.parametrize("database_url", mostly_slow(DATABASES, "sqlite"), indirect=True)
on_sqlite = pytest.mark.parametrize(
    "database_url", ["sqlite"], indirect=True
)  # for what no database does otherwise


@pytest.fixture(params=mostly_slow(FORMS, "sqlite"))
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with kept_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
async def other_log(url: str) -> AsyncIterator[SqlEventLog]:
    """Another process on the same database."""
    log = open_log_at(url, MemoryFeed())
    yield log
    await log.close()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The access that any other program has."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "TURN_S", 0.001)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "PIECE_EVENTS", 7)
    monkeypatch.setattr(purging, "PAGE_RUNS", 3)


def rebuild_in(url: str, *, swap: bool = True) -> TableDifference:
    dialect = open_dialect(make_url(url))
    try:
        return rebuild_runs(dialect) if swap else verify_runs(dialect)
    finally:
        dialect.engine.dispose()


def count_events(connection: Connection, type: str = "%") -> int:
    counted = text("SELECT count(*) FROM events WHERE type LIKE :type")
    return int(connection.execute(counted, {"type": type}).scalar_one())


def rows_of(table: str) -> Callable[[Connection], int]:
    return lambda connection: int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


async def last_event(log: SqlEventLog, run_id: str) -> RecordedEvent:
    [event] = await log.database.query(read_evolving, run_id)
    return event


async def is_purged(log: SqlEventLog, run_id: str) -> bool:
    head = await log.head(run_id)
    assert head is not None
    return head.purged


# ---- which runs ----


async def test_the_runs_that_ended_before_are_purged_and_no_others(log: SqlEventLog, url: str) -> None:
    old = await write_old(log)
    deleted = await write_old(log, ending=[COMPLETED, DELETED])
    stopped = await write_old(log, ending=[CANCEL, CANCELLED])
    made_before = await write_old(log, at=LATER - 1)
    running = await write_old(log, ending=[])
    young = await close_run(log)
    assert survey(url) == Purgeable(runs=3, events=4 + 5 + 5, begun=0)
    assert purge(url) == PurgeCount(runs=3, events=4 + 5 + 5)
    assert [await is_purged(log, run_id) for run_id in (old, deleted, stopped)] == [True] * 3
    for run_id, seqs in ((made_before, 4), (running, 3), (young, 3)):
        assert [event.seq for event in await read_run(log, run_id)] == list(range(1, seqs + 1))


@on_sqlite
async def test_a_purge_keeps_what_the_models_and_tools_came_to(log: SqlEventLog, url: str) -> None:
    usage = Usage(
        agent="demo", input_tokens=5, output_tokens=2, model="m", cache_read_tokens=4, incomplete=True
    )
    tool = {"agent": "demo", "tool_use_id": "u1", "name": "add"}
    run_id = await write_old(log, usage, usage, ToolStarted(**tool), ToolFailed(**tool, output="x" * 300_000))
    purge(url)
    (last,) = await log.database.query(read_evolving, run_id)
    purged = decode(last.type, last.version, last.data)
    assert isinstance(purged, Purged)
    assert purged.models == [
        ModelUsage("m", 2, incomplete=2, input_tokens=10, output_tokens=4, cache_read_tokens=8)
    ]
    assert purged.tools == [ToolUsage("demo", "add", 1, failures=1, latencies=(1,))]
    assert purged.incomplete
    assert purged.usage["cache_read_tokens"] == 8


@on_sqlite
async def test_a_run_that_was_deleted_lately_is_as_old_as_its_ending(log: SqlEventLog, url: str) -> None:
    run_id = await write_old(log)
    await log.append(run_id, [DELETED])
    purge(url)
    assert await is_purged(log, run_id)


@on_sqlite
async def test_a_purged_run_is_not_purged_again(log: SqlEventLog, url: str) -> None:
    await write_old(log)
    purge(url)
    assert survey(url, before=FOREVER) == Purgeable(runs=0, events=0, begun=0)
    assert purge(url, before=FOREVER) == PurgeCount(runs=0, events=0)


@on_sqlite
async def test_a_survey_changes_nothing(log: SqlEventLog, url: str) -> None:
    run_id = await write_old(log)
    survey(url)
    assert len(await read_run(log, run_id)) == 4
    assert await log.database.query(rows_of("purging")) == 0


# ---- the remains ----


async def test_one_event_is_left_that_summarises_the_run(log: SqlEventLog, url: str) -> None:
    queued = Queued(
        agent="writer", user_id="ann", session_id="s-1", workspace_id="red", input="secret",
        metadata={"secret": 1}, parent_run_id=old_run_id(),
    )  # fmt: skip
    customs = [Custom("custom.a"), Custom("custom.b"), Usage(agent="writer", input_tokens=3, output_tokens=4)]
    ending = [Failed(code="timeout", message="secret"), DELETED]
    run_id = await write_old(log, *customs, queued=queued, ending=ending)
    purge(url)
    event = await last_event(log, run_id)
    assert (event.seq, event.type, event.ends) == (9, Purged.type, False)
    assert b"secret" not in event.data
    assert await log.database.query(find_run, run_id) == Run(
        run_id, user_id="ann", agent_name="writer", session_id="s-1", workspace_id="red",
        parent_run_id=queued.parent_run_id, status="error", created_at=OLD, started_at=OLD,
        completed_at=OLD + 1, attempt=1, error_code="timeout", deleted=True, purged_at=event.at,
        usage={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        counts={
            "lifecycle.queued": 1, "lifecycle.started": 1, "llm.token": 1, "llm.usage": 1, "custom": 2,
            "lifecycle.failed": 1, "run.deleted": 1,
        },
    )  # fmt: skip
    assert await log.database.query(count_events) == 1


async def test_the_rows_of_purged_runs_are_rebuilt_from_their_summaries(log: SqlEventLog, url: str) -> None:
    for ending in ([COMPLETED], [CANCEL, CANCELLED], [COMPLETED, DELETED]):
        await write_old(log, Usage(agent="demo", input_tokens=1, output_tokens=2), ending=ending)
    young = await close_run(log)
    purge(url)
    assert rebuild_in(url, swap=False) == TableDifference(missing=0, wrong=0, extra=0, rows=4)
    await log.database.change_exclusively(lambda connection: run_list().drop(connection))
    rebuild_in(url)
    assert rebuild_in(url, swap=False).equal
    assert len((await log.database.query(find_runs, RunQuery(purged=True))).runs) == 3
    assert [run.run_id for run in (await log.database.query(find_runs, RunQuery())).runs] == [young]


@on_sqlite
async def test_a_purge_of_runs_that_the_run_list_lacks_makes_their_rows(log: SqlEventLog, url: str) -> None:
    await write_old(log)
    await log.database.change_exclusively(lambda connection: run_list().drop(connection))
    purge(url)
    assert rebuild_in(url, swap=False) == TableDifference(missing=0, wrong=0, extra=0, rows=1)


async def test_positions_go_on_after_a_purge(log: SqlEventLog, url: str) -> None:
    await write_old(log)
    before = await log.database.query(last_position)
    purge(url)
    after = await log.read_all()
    assert [event.type for event in after] == [Purged.type]
    assert after[0].position > before


@on_sqlite
async def test_the_session_forgets_a_purged_run(log: SqlEventLog, url: str) -> None:
    old = await write_old(log)
    queued = Queued(agent="demo", user_id="ann", session_id="s-1", input="hi")
    young, newest = old_run_id(LATER), old_run_id(FOREVER)
    for run_id in (young, newest):
        await log.append(run_id, [queued, started(), COMPLETED])
    purge(url)
    assert await log.session_runs("ann", "s-1", before=newest, limit=10) == [young]
    assert await log.session_runs("ann", "s-1", before=old, limit=10) == []


@on_sqlite
async def test_a_key_still_names_the_run_that_it_started_and_goes_when_it_is_too_old(
    log: SqlEventLog, url: str
) -> None:
    run_id, reservation = await close_run(log), Reservation("local", key="young", body_hash=bytes(32))
    keyed = old_run_id(LATER)
    await log.append(keyed, [QUEUED, started(), COMPLETED], reservation=reservation)
    ancient = encode(QUEUED, at=LATER - KEPT_MS)
    await log.append(
        old_run_id(), [ancient], reservation=Reservation("local", key="old", body_hash=bytes(32))
    )
    purge(url, before=FOREVER)
    assert await is_purged(log, run_id)
    with pytest.raises(AlreadyStarted) as refusal:
        await log.append(old_run_id(), [QUEUED], reservation=reservation)
    assert refusal.value.run_id == keyed
    assert await log.database.query(rows_of("idempotency")) == 1


# ---- in small transactions ----


@by_rows
@pytest.mark.usefixtures("small_pieces")
async def test_a_transaction_removes_a_bounded_number_of_events(log: SqlEventLog, url: str) -> None:
    for size in (0, 3, 4, 40, 0, 0, 1):
        await write_old(log, *(note(f"{i}") for i in range(size)))
    removed = [0]
    assert purge(url, progress=lambda done: removed.append(done.events)).events == 7 * 4 + 48
    assert max(after - before for before, after in pairwise(removed)) == 7
    assert removed[-1] == 7 * 4 + 48
    assert await log.database.query(rows_of("purging")) == 0


@on_sqlite
async def test_a_transaction_removes_a_bounded_number_of_bytes(
    log: SqlEventLog, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "PIECE_BYTES", 10_000)
    await write_old(log, *(note("x" * 6_000) for _ in range(10)))
    removed = [0]
    purge(url, progress=lambda done: removed.append(done.events))
    assert max(after - before for before, after in pairwise(removed)) < 6


@by_rows
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("steps", "begun"), [(1, 3), (4, 2)])
async def test_the_next_purge_finishes_an_interrupted_one(
    log: SqlEventLog, url: str, steps: int, begun: int
) -> None:
    runs = [await write_old(log, *(note() for _ in range(8))) for _ in range(4)]
    told: list[PurgeCount] = []

    def interrupt(done: PurgeCount) -> None:
        told.append(done)
        if len(told) == steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purge(url, progress=interrupt)
    assert [await is_purged(log, run_id) for run_id in runs] == [True, True, True, False]
    assert survey(url) == Purgeable(runs=1, events=12, begun=begun)
    assert rebuild_in(url, swap=False) == TableDifference(missing=0, wrong=0, extra=0, rows=4)
    purge(url, before=0)  # no run is that old, but the begun purge is finished
    assert await log.database.query(count_events) == 3 + 12
    assert len(await read_run(log, runs[3])) == 12
    assert await log.database.query(rows_of("purging")) == 0


@by_rows
@pytest.mark.slow
async def test_a_purge_that_was_killed_is_finished_by_the_next(log: SqlEventLog, url: str) -> None:
    run_id = await write_old(log, ending=[])
    for _ in range(25):
        await log.append(run_id, [encode(note(), at=OLD)] * 1_000)
    await log.append(run_id, [encode(COMPLETED, at=OLD)])
    command = [*PYTHON, "retention", "--older-than", "1d", "--database-url", url]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
        await until(partial(has_fewer_events, log, 25_000))
        process.kill()
    left = await log.database.query(count_events)
    assert 1 < left < 25_000, "it was killed too late"
    with pytest.raises(RunPurged):
        await log.read(run_id)
    assert rebuild_in(url, swap=False).equal
    assert purge(url, before=0).events >= left - 1 - PIECE_EVENTS
    assert await log.database.query(count_events) == 1


async def has_fewer_events(log: SqlEventLog, number: int) -> bool:
    return await log.database.query(count_events) < number


# ---- readers: all or RunPurged ----


READS: list[dict[str, Any]] = [
    {}, {"after": 5}, {"limit": 3}, {"after": 9, "limit": 4}, {"upto": 20}, {"after": 60},
    {"only": EventFilter()}, {"only": EventFilter(types=frozenset({Purged.type}))},
    {"only": EventFilter(prefixes=("custom.",))},
]  # fmt: skip


@by_rows
@pytest.mark.usefixtures("small_pieces")
async def test_a_reader_gets_all_requested_events_or_an_error_at_every_step(
    log: SqlEventLog, url: str
) -> None:
    run_id = await write_old(log, *(note(f"{i}") for i in range(30)))
    expected = [await log.read(run_id, **options) for options in READS]
    loop = asyncio.get_running_loop()
    steps = 0

    async def read() -> None:
        for options in READS:
            with pytest.raises(RunPurged):
                await log.read(run_id, **options)
        listed = await log.database.query(find_run, run_id)
        assert listed.purged_at
        assert fold(run_id, await log.database.query(read_evolving, run_id)) == listed

    def look(done: PurgeCount) -> None:
        nonlocal steps
        steps += 1
        asyncio.run_coroutine_threadsafe(read(), loop).result(DEADLINE_S)

    assert [len(page) for page in expected] == [34, 29, 3, 4, 20, 0, 1, 1, 31]
    await asyncio.to_thread(purge, url, progress=look)
    assert steps > 5
    await read()


@pytest.mark.usefixtures("small_pieces")
async def test_readers_beside_a_purge_never_see_a_hole(log: SqlEventLog, url: str) -> None:
    runs = [await write_old(log, *(note(f"{i}") for i in range(30))) for _ in range(6)]
    whole = refused = 0
    stop = threading.Event()

    async def read() -> None:
        nonlocal whole, refused
        while not stop.is_set():
            for run_id in runs:
                try:
                    events = await read_run(log, run_id, limit=11)
                except RunPurged:
                    refused += 1
                else:
                    assert [event.seq for event in events] == list(range(1, 35))
                    whole += 1

    reading = asyncio.gather(*(read() for _ in range(3)))
    await until(lambda: whole > 10)
    await asyncio.to_thread(purge, url)
    seen = refused
    await until(lambda: refused > seen + 10)
    stop.set()
    await reading


@on_sqlite
async def test_a_stream_that_falls_behind_a_purge_ends_and_says_so(
    log: SqlEventLog, feed: MemoryFeed, url: str
) -> None:
    run_id = await write_old(log, *(note("x" * 100_000) for _ in range(20)))
    tail = Tail(log, feed, run_id, after=0)
    frames = native(tail)
    assert await anext(frames)
    purge(url)
    assert [frame async for frame in frames] == []
    assert (tail.purged, tail.ended) == (True, False)


@on_sqlite
async def test_a_stream_of_a_purged_run_is_refused(log: SqlEventLog, feed: MemoryFeed, url: str) -> None:
    run_id = await write_old(log)
    purge(url)
    for after in (0, 3, 4, 5):
        tail = Tail(log, feed, run_id, after=after)
        assert [frame async for frame in native(tail)] == []
        assert tail.purged


# ---- writers ----


async def test_a_purged_run_takes_nothing_more(log: SqlEventLog, url: str) -> None:
    run_id = await write_old(log)
    purge(url)
    for event in (note(), COMPLETED, DELETED, CancelRequested(by="ann", reason="user")):
        with pytest.raises(RunClosed) as refusal:
            await log.append(run_id, [event])
        assert refusal.value.head == 5
    with pytest.raises(RunstoreError):
        await log.append(run_id, [QUEUED], expected_seq=0)
    assert await log.database.query(count_events) == 1


async def test_a_writer_that_has_slept_through_ending_and_purge_is_refused(
    log: SqlEventLog, other_log: SqlEventLog, url: str
) -> None:
    runs = [await start_run(log) for _ in range(3)]  # it knows their heads
    for run_id in runs:
        await other_log.append(run_id, [COMPLETED])
    purge(url, before=FOREVER)
    refusals: list[RunstoreError] = []
    log.offer(runs[0], encode(note("offered")), attempt=1, refused=refusals.append)
    await until(lambda: bool(refusals))
    assert isinstance(refusals[0], RunClosed)
    for run_id, event in ((runs[1], note()), (runs[2], COMPLETED)):
        with pytest.raises(RunClosed):
            await log.append(run_id, [event])
    assert await log.database.query(count_events) == 3
    assert rebuild_in(url, swap=False).equal


async def test_nothing_is_removed_while_a_writer_is_at_work_that_may_not_know(
    log: SqlEventLog, url: str
) -> None:
    run_id = await write_old(log)
    dialect = open_dialect(make_url(url))
    told: list[PurgeCount] = []
    late = Row(pack_run_id(run_id), 3, EncodedEvent("custom.late", 1, False, 0, b"1"))
    with dialect.engine.connect() as writer:
        dialect.begin_write(writer)
        purging = asyncio.create_task(
            asyncio.to_thread(purge, url, progress=lambda done: told.append(copy(done)))
        )
        if "sqlite" not in url:  # there it cannot even mark
            await until(lambda: bool(told))
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert count_events(writer) == 4 + len(told), "events have gone"
        assert len(told) <= 1
        with pytest.raises(Exception) as refusal:  # noqa: PT011 of any driver
            dialect.insert_events(writer, bytes(8), [late])
        assert dialect.is_conflict(refusal.value)
        writer.rollback()
    dialect.engine.dispose()
    assert await purging == PurgeCount(runs=1, events=4)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.slow
async def test_writers_beside_a_purge_lose_nothing_and_it_comes_to_its_end(
    log: SqlEventLog, other_log: SqlEventLog, url: str
) -> None:
    for _ in range(6):
        await write_old(log, *(note() for _ in range(20)))
    stop = asyncio.Event()
    written: dict[str, int] = {}

    async def write(log: SqlEventLog) -> None:
        run_id = await start_run(log)
        written[run_id] = 2
        while not stop.is_set():
            written[run_id] = await log.append(run_id, [note()])

    writing = asyncio.gather(*(write(each) for each in (log, log, other_log)))
    done = await asyncio.to_thread(purge, url)
    stop.set()
    await writing
    assert done == PurgeCount(runs=6, events=6 * 24)
    for run_id, seq in written.items():
        assert [event.seq for event in await read_run(log, run_id)] == list(range(1, seq + 1))
    assert rebuild_in(url, swap=False).equal


@on_sqlite
async def test_a_run_that_is_deleted_during_a_purge_is_left_to_the_next_one(
    log: SqlEventLog, url: str
) -> None:
    run_id, other = await write_old(log), await write_old(log)
    loop, to_delete = asyncio.get_running_loop(), [run_id]

    def delete_meanwhile(summary: Purged) -> Purged:
        if to_delete:
            deletion = log.append(to_delete.pop(), [DELETED])
            asyncio.run_coroutine_threadsafe(deletion, loop).result(DEADLINE_S)
        return summary

    assert await asyncio.to_thread(purge, url, change=delete_meanwhile) == PurgeCount(runs=1, events=4)
    assert (await is_purged(log, run_id), await is_purged(log, other)) == (False, True)
    assert purge(url) == PurgeCount(runs=1, events=5)
    assert (await log.database.query(find_run, run_id)).deleted


# ---- side by side ----


@by_rows
@pytest.mark.usefixtures("small_pieces")
async def test_two_purges_at_once_do_the_work_of_one(log: SqlEventLog, url: str) -> None:
    runs = [await write_old(log, *(note() for _ in range(10))) for _ in range(8)]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: purge(url), range(2)))
    assert sum(each.runs for each in done) == 8
    assert sum(each.events for each in done) == 8 * 14
    assert all([await is_purged(log, run_id) for run_id in runs])
    assert await log.database.query(count_events) == 8
    assert await log.database.query(rows_of("purging")) == 0


@by_rows
@pytest.mark.usefixtures("small_pieces")
async def test_a_rebuild_in_the_middle_of_a_purge_comes_out_equal(log: SqlEventLog, url: str) -> None:
    for _ in range(4):
        await write_old(log, *(note() for _ in range(10)))
    await close_run(log)
    found: list[TableDifference] = []
    purge(url, progress=lambda done: found.append(rebuild_in(url)))
    assert len(found) > 5
    assert all(difference.equal for difference in found)


@on_sqlite
async def test_a_purge_in_the_middle_of_a_rebuild_comes_out_equal(
    log: SqlEventLog, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "FIRST_EVENTS", 5)
    monkeypatch.setattr(advance, "MOST_EVENTS", 5)
    for _ in range(4):
        await write_old(log, ending=[CANCEL, CANCELLED])
    dialect = open_dialect(make_url(url))
    rebuilds = iter([lambda: purge(url, before=LATER)])

    def rest(seconds: float) -> None:
        next(rebuilds, lambda: None)()

    monkeypatch.setattr(rebuilding.time, "sleep", rest)
    assert rebuild_runs(dialect).equal
    dialect.engine.dispose()
    assert rebuild_in(url, swap=False) == TableDifference(missing=0, wrong=0, extra=0, rows=4)


# ---- the database itself ----


async def test_the_database_deletes_only_events_of_purged_runs_and_never_their_summary(
    log: SqlEventLog, url: str, engine: Engine
) -> None:
    def interrupt(done: PurgeCount) -> None:
        raise KeyboardInterrupt

    await write_old(log)
    with pytest.raises(KeyboardInterrupt):
        purge(url, progress=interrupt)
    await close_run(log)
    for change in (
        "DELETE FROM events",
        f"DELETE FROM events WHERE type = '{Purged.type}'",
        "UPDATE events SET seq = 7",
        "DELETE FROM events WHERE type = 'lifecycle.queued' AND run_id NOT IN (SELECT run_id FROM purging)",
    ):
        with engine.connect() as connection, pytest.raises(exc.DBAPIError, match="events are immutable"):
            connection.execute(text(change))
    assert await log.database.query(count_events) == 5 + 3
