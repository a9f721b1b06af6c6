"""The writer against real SQLite files: bad events, other processes, and a database that is away."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from runstore.core.codec import EncodedEvent, RecordedEvent, encode
from runstore.core.errors import (
    InvalidEvent,
    LogUnavailable,
    RunstoreError,
)  # fmt: skip
from runstore.core.events import Discarded, Queued, Started
from runstore.core.ids import new_run_id
from runstore.database.database import Database
from runstore.database.dialects import SqliteDialect, sqlite
from runstore.eventlog import writer
from runstore.eventlog.admission import Append
from runstore.eventlog.pending import MAX_RUN_EVENTS
from runstore.eventlog.sql import SqlEventLog
from runstore.eventlog.sql_store import SqlStore
from runstore.eventlog.writer import CommitResult, Writer
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from tests.contracts.memory_log import MemoryStore
from tests.kit.database import OwnLog, make_database, open_database, run_list
from tests.kit.events import (
    CANCEL,
    COMPLETED,
    QUEUED,
    fill_up,
    note,
    offer,
    offer_all,
    start_run,
    started,
    texts,
    token,
)
from tests.kit.live import seqs
from tests.kit.polling import DEADLINE_S, until
from tests.kit.writer import held_writer

OpenLog = Callable[..., SqlEventLog]


# ---- one bad run never fails the others ----


class Choosy:
    """A projection that cannot bear one run."""

    name = "choosy"

    def __init__(self, bad_run: str) -> None:
        self.bad_run = bad_run

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        if self.bad_run in {event.run_id for event in events}:
            raise ValueError("not this one")


async def test_a_run_that_cannot_be_stored_fails_alone(open_log: OpenLog) -> None:
    feed, runs = MemoryFeed(), [new_run_id() for _ in range(5)]
    log = open_log(feed, projections=[Choosy(runs[2])])
    async with held_writer(log, feed):  # so that all of them are one batch
        appends = [asyncio.create_task(log.append(run_id, [QUEUED, started()])) for run_id in runs]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert isinstance(outcomes.pop(2), InvalidEvent)
    assert outcomes == [2] * 4
    assert [len(await log.read(run_id)) for run_id in runs] == [2, 2, 0, 2, 2]


async def test_an_append_that_cannot_be_stored_fails_alone_in_its_run(open_log: OpenLog) -> None:
    feed = MemoryFeed()
    log = open_log(feed)
    run_id = await start_run(log)
    wrong = Started(worker_id="worker-1", attempt="two", reason="claimed")  # type: ignore[arg-type]
    async with held_writer(log, feed):
        appends = [asyncio.create_task(log.append(run_id, [e])) for e in (note("0"), wrong, note("1"))]
        await asyncio.sleep(0)
    before, bad, after = await asyncio.gather(*appends, return_exceptions=True)
    assert (before, after) == (3, 4)
    assert isinstance(bad, InvalidEvent)
    assert await texts(log, run_id) == ["0", "1"]


async def test_an_offer_that_cannot_be_stored_is_refused(open_log: OpenLog) -> None:
    log = open_log(projections=[])
    run_id = await start_run(log)
    refusals: list[RunstoreError] = []
    unstorable = EncodedEvent("custom.note", 1, False, 1 << 70, b"null")
    log.offer(run_id, unstorable, attempt=1, refused=refusals.append)
    await until(lambda: bool(refusals))
    assert isinstance(refusals[0], InvalidEvent)
    assert await log.append(run_id, [note("0")]) == 3


async def test_a_run_of_wrong_types_is_refused(open_log: OpenLog) -> None:
    wrong = Queued(agent="demo", user_id=None, input="hi")  # type: ignore[arg-type]
    log, run_id = open_log(), new_run_id()
    with pytest.raises(InvalidEvent):
        await log.append(run_id, [wrong])
    assert await log.head(run_id) is None


async def test_external_appends_that_find_no_room_are_not_queued(open_log: OpenLog) -> None:
    feed = MemoryFeed()
    log = open_log(feed)
    run_id = await start_run(log)
    async with held_writer(log, feed):
        fill_up(log, run_id)
        appends = [asyncio.create_task(log.append(run_id, [note()])) for _ in range(100)]
        await asyncio.sleep(0)
        assert log.waiting[0] == MAX_RUN_EVENTS
    assert sorted(await asyncio.gather(*appends)) == list(range(MAX_RUN_EVENTS + 3, MAX_RUN_EVENTS + 103))


# ---- several processes on one file ----


@pytest.mark.slow
@pytest.mark.alone
async def test_a_process_that_writes_all_the_time_lets_another_one_write(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.5)  # for which an append may wait, and then fails
    busy, other = open_log(), open_log()
    run_id, others = await start_run(busy), await start_run(other)

    async def flood() -> None:
        while True:
            await offer_all(busy, run_id, *[token("x" * 1_000)] * 32)
            await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    for i in range(30):
        await other.append(others, [note(f"{i}")])
    flooding.cancel()
    await asyncio.wait([flooding])
    assert await texts(other, others) == [f"{i}" for i in range(30)]


# ---- a database that is away ----


@asynccontextmanager
async def closing_log(log: SqlEventLog) -> AsyncIterator[SqlEventLog]:
    yield log
    await log.close()


def sqlite_value(database: Path, query: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(query).fetchone()[0])


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.02)
    monkeypatch.setattr(writer, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(writer, "LAST_RETRY_S", 0.02)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another program holds the database's only write lock."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


@pytest.mark.usefixtures("impatience")
async def test_while_the_database_is_locked_the_impatient_get_an_error_and_the_patient_wait(
    open_log: OpenLog, database: Path
) -> None:
    log = open_log()
    run_id = await start_run(log)
    with locked(database):
        with pytest.raises(LogUnavailable):
            await log.append(run_id, [note("lost, and said so")])
        patient = asyncio.create_task(log.append(run_id, [COMPLETED], patient=True))
        await until(lambda: log.unavailable is not None)
        with pytest.raises(LogUnavailable):
            await log.append(run_id, [note("lost too")])
        assert not patient.done()
    assert await asyncio.wait_for(patient, DEADLINE_S) == 3
    assert log.unavailable is None
    assert await texts(log, run_id) == []


@pytest.mark.usefixtures("impatience")
async def test_events_that_waited_for_a_locked_database_are_stored_once_and_in_order(
    open_log: OpenLog, database: Path
) -> None:
    log = open_log()
    run_id = await start_run(log)
    with locked(database):
        for i in range(20):
            offer(log, run_id, token(f"{i}"))
        await until(lambda: log.unavailable is not None)
        for i in range(20, 40):
            offer(log, run_id, token(f"{i}"))
        patient = asyncio.create_task(log.append(run_id, [note("40")], patient=True))
        await asyncio.sleep(0)
    await asyncio.wait_for(patient, DEADLINE_S)
    assert await texts(log, run_id) == [f"{i}" for i in range(41)]


@pytest.mark.usefixtures("impatience")
async def test_a_log_without_waiting_callers_recovers_by_itself(open_log: OpenLog, database: Path) -> None:
    log = open_log()
    run_id = await start_run(log)
    with locked(database), pytest.raises(LogUnavailable):
        await log.append(run_id, [note("0")])
    await until(lambda: log.unavailable is None)
    assert await log.append(run_id, [note("1")]) == 3


@pytest.mark.usefixtures("impatience")
async def test_a_locked_database_can_be_read(open_log: OpenLog, database: Path) -> None:
    log = open_log()
    run_id = await start_run(log)
    with locked(database):
        assert len(await log.read(run_id)) == 2
        assert len(await log.open_runs()) == 1


@pytest.mark.usefixtures("impatience")
async def test_a_flood_meets_back_pressure_while_the_database_is_locked(
    open_log: OpenLog, database: Path
) -> None:
    log = open_log()
    run_id = await start_run(log)
    offered = 0

    async def flood() -> None:
        nonlocal offered
        while offered < 3 * MAX_RUN_EVENTS:
            if offer(log, run_id, token(f"{offered}")):
                offered += 1
            else:
                await log.room(run_id)

    with locked(database):
        flooding = asyncio.create_task(flood())
        await until(lambda: log.unavailable is not None)
        assert offered <= 2 * MAX_RUN_EVENTS
        assert not flooding.done()
    await asyncio.wait_for(flooding, DEADLINE_S)
    await log.append(run_id, [COMPLETED])
    assert await texts(log, run_id) == [f"{i}" for i in range(3 * MAX_RUN_EVENTS)]


@pytest.mark.usefixtures("impatience")
async def test_a_cancel_that_could_not_be_stored_has_discarded_nothing(
    open_log: OpenLog, database: Path
) -> None:
    feed = MemoryFeed()
    log = open_log(feed)
    run_id = await start_run(log)
    with ExitStack() as stack:
        async with held_writer(log, feed):
            offer(log, run_id, token("0"))
            offer(log, run_id, token("1"))
            cancelling = asyncio.create_task(log.append(run_id, [CANCEL]))
            await asyncio.sleep(0)
            stack.enter_context(locked(database))
        with pytest.raises(LogUnavailable):
            await cancelling
    await log.append(run_id, [COMPLETED], patient=True)
    assert await texts(log, run_id) == ["0", "1"]


@pytest.mark.usefixtures("impatience")
async def test_a_log_that_is_closed_while_the_database_is_locked_leaves_no_caller_waiting(
    open_log: OpenLog, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_TIMEOUT_S", 0.1)
    log = open_log()
    run_id = await start_run(log)
    with locked(database):
        patient = asyncio.create_task(log.append(run_id, [COMPLETED], patient=True))
        offer(log, run_id, token())
        room = asyncio.ensure_future(log.room(run_id))
        await until(lambda: log.unavailable is not None)
        await asyncio.wait_for(log.close(), DEADLINE_S)
        with pytest.raises(LogUnavailable):
            await asyncio.wait_for(patient, DEADLINE_S)
        await asyncio.wait_for(room, DEADLINE_S)


@pytest.mark.usefixtures("impatience")
async def test_what_a_stream_shows_while_the_database_is_locked_is_stored_afterwards(
    open_log: OpenLog, database: Path
) -> None:
    feed = MemoryFeed()
    log = open_log(feed)
    run_id = await start_run(log)
    stream = native(Tail(log, feed, run_id, after=2, idle_s=0.001))
    with locked(database):
        offer(log, run_id, token("0"))
        await until(lambda: log.unavailable is not None)
        for _ in range(20):
            assert await anext(aiter(stream)) == b""
    while not (body := await anext(aiter(stream))):
        pass
    assert b"llm.token" in body
    assert await texts(log, run_id) == ["0"]


async def test_a_full_disk_refuses_and_recovers(database: Path) -> None:
    dialect = open_database(database)
    limit = 30 + sqlite_value(database, "PRAGMA page_count")

    @event.listens_for(dialect.engine, "connect")
    def leave_little_room(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit}")

    async with closing_log(OwnLog(dialect, MemoryFeed(), [run_list()])) as log:
        run_id = await start_run(log)
        with pytest.raises(LogUnavailable, match="full"):
            await log.append(run_id, [note("x" * 500_000)])
        limit = 1 << 30
        await until(lambda: log.unavailable is None)
        assert await log.append(run_id, [note("0")]) == 3
        assert await texts(log, run_id) == ["0"]


@pytest.mark.usefixtures("impatience")
async def test_a_file_that_was_removed_or_replaced_takes_nothing_more(
    open_log: OpenLog, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_TIMEOUT_S", 0.05)
    log = open_log()
    run_id = await start_run(log)
    other = make_database(database.with_name("other.db"))
    other.replace(database)
    with pytest.raises(LogUnavailable, match="removed or replaced"):
        await log.append(run_id, [note("0")])


# ---- a commit whose answer is lost ----


@contextmanager
def lost_answer(
    dialect: SqliteDialect, error: type[Exception] = sqlite3.OperationalError, after: int = 0
) -> Iterator[None]:
    """One COMMIT succeeds, and the writer gets an error; `after` this number of successful ones."""
    left = after

    def commit_and_fail(connection: Connection) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            connection.connection.commit()
            raise error("disk I/O error")

    event.listen(dialect.engine, "commit", commit_and_fail)
    yield
    assert left < 0
    event.remove(dialect.engine, "commit", commit_and_fail)


@pytest.mark.usefixtures("impatience")
async def test_events_stored_with_a_lost_answer_are_acknowledged_and_not_stored_again(
    database: Path,
) -> None:
    dialect, feed = open_database(database), MemoryFeed()
    async with closing_log(OwnLog(dialect, feed, [run_list()])) as log:
        run_id = await start_run(log)
        with lost_answer(dialect):
            assert await log.append(run_id, [note("0"), note("1")], patient=True) == 4
        assert await log.append(run_id, [note("2")]) == 5
        assert await texts(log, run_id) == ["0", "1", "2"]


@pytest.mark.usefixtures("impatience")
async def test_events_stored_with_a_lost_answer_are_published(database: Path) -> None:
    dialect, feed = open_database(database), MemoryFeed()
    async with closing_log(OwnLog(dialect, feed, [run_list()])) as log:
        run_id = await start_run(log)
        with feed.subscribe(run_id) as live:
            with lost_answer(dialect):
                await log.append(run_id, [note("0")], patient=True)
            assert seqs(live.take(2)) == [3]


@pytest.mark.usefixtures("impatience")
async def test_a_redaction_whose_answer_was_lost_is_stored_once_and_published(database: Path) -> None:
    dialect, feed = open_database(database), MemoryFeed()
    redaction = Discarded(agent="demo", reason="redacted", length=6)
    async with closing_log(OwnLog(dialect, feed, [run_list()])) as log:
        run_id = await start_run(log)
        with feed.subscribe(run_id) as live:
            await log.append(run_id, [token("secret")])
            with lost_answer(dialect):
                await log.append(run_id, [redaction], patient=True)
            assert live.take(2) is None
            assert seqs(live.take(3)) == [4]
        await log.append(run_id, [token("more")])
        assert [event.type for event in await log.read(run_id, after=2)] == [
            "llm.redacted", "llm.discarded", "llm.token",
        ]  # fmt: skip


@pytest.mark.usefixtures("impatience")
async def test_a_log_whose_impatient_writer_missed_the_answer_goes_on(database: Path) -> None:
    dialect, feed = open_database(database), MemoryFeed()
    async with closing_log(OwnLog(dialect, feed, [run_list()])) as log:
        run_id = await start_run(log)
        with feed.subscribe(run_id) as live:
            with lost_answer(dialect), pytest.raises(LogUnavailable):
                await log.append(run_id, [note("0")])
            await until(lambda: log.unavailable is None)
            assert await asyncio.wait_for(log.append(run_id, [note("1")]), DEADLINE_S) == 4
            assert seqs(live.take(2)) == [3, 4]
        assert await texts(log, run_id) == ["0", "1"]


@pytest.mark.usefixtures("impatience")
async def test_stored_events_are_published_once_even_if_the_rest_of_the_batch_fails(
    database: Path,
) -> None:
    dialect = open_database(database)
    store = SqlStore(Database(dialect), [run_list()])
    runs = [new_run_id() for _ in range(3)]
    store.commit([Append(run_id, [encode(QUEUED), encode(started())]) for run_id in runs])
    good, bad, other = (Append(run_id, [encode(note(f"{n}"))]) for n, run_id in enumerate(runs))
    bad.events = [EncodedEvent("custom.note", 1, False, 1 << 70, b"null")]
    with lost_answer(dialect), pytest.raises(LogUnavailable):
        store.commit([good])
    with pytest.raises(OverflowError):
        store.commit([good, bad, other])
    assert [commit.run_id for commit in store.commit([other]).commits] == [runs[0], runs[2]]
    told = store.commit([good])
    assert (told.results, told.commits) == ([3], [])
    store.close()
    assert sqlite_value(database, "SELECT count(*) FROM events WHERE type = 'custom.note'") == 2


@pytest.mark.parametrize("error", [sqlite3.OperationalError, RuntimeError])
def test_stored_events_are_not_stored_again_however_many_answers_are_lost(
    database: Path, error: type[Exception]
) -> None:
    dialect = open_database(database)
    store = SqlStore(Database(dialect), [run_list()])
    runs = [new_run_id() for _ in range(3)]
    store.commit([Append(run_id, [encode(QUEUED), encode(started())]) for run_id in runs])
    one, two, three = (Append(run_id, [encode(note(f"{n}"))]) for n, run_id in enumerate(runs))
    for batch in ([one], [one, two], [one, two, three]):
        looks = len(batch) > 1  # first for what became of the last one, which ends with a COMMIT too
        with lost_answer(dialect, error, after=looks), pytest.raises(LogUnavailable):
            store.commit(batch)
    told = store.commit([one, two, three])
    assert told.results == [3, 3, 3]
    assert [commit.run_id for commit in told.commits] == runs
    store.close()
    assert sqlite_value(database, "SELECT count(*) FROM events WHERE type = 'custom.note'") == 3


class Ailing(MemoryStore):
    """A database that is unavailable, then fails with an unknown error, and then recovers."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = [LogUnavailable("away"), RuntimeError("of no known kind")]

    def commit(self, batch: Sequence[Append]) -> CommitResult:
        if self.failures:
            raise self.failures.pop(0)
        return super().commit(batch)

    def probe(self) -> CommitResult:
        return self.commit([])


@pytest.mark.usefixtures("impatience")
async def test_an_unknown_failure_without_waiting_callers_does_not_end_the_writer() -> None:
    store = Ailing()
    log = Writer(store, MemoryFeed())
    run_id = new_run_id()
    with pytest.raises(LogUnavailable):
        await log.append(run_id, [QUEUED])
    await until(lambda: log.unavailable is None)
    assert store.failures == []
    assert await asyncio.wait_for(log.append(run_id, [QUEUED]), DEADLINE_S) == 1
    await log.close()
