"""Purges that drop a partition of `events`: the log is as after a removal of the rows (G9, G10)."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, make_url

import runstore.maintenance.partition_purge as dropping
import runstore.maintenance.purge as purging
from runstore.core.errors import RunPurged
from runstore.core.events import AuditRead, Purged
from runstore.core.ids import reads_id
from runstore.database.dialects import open_dialect
from runstore.database.opening import opened_database
from runstore.database.partitions import FIRST, month_after, read_partitions
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.maintenance.purge import Purge, PurgeCount, ended_before
from tests.kit.database import open_log_at, run_list
from tests.kit.events import COMPLETED, note, read_run, start_run, token
from tests.kit.killed_at import killed_at_each_statement
from tests.kit.purging import OLD, old_run_id, purge, write_old
from tests.kit.rebuilding import rebuild_runs, verify_runs
from tests.kit.statements import after_statement
from tests.maintenance.test_partitioning import all_events
from tests.servers.databases import kept_database

NOTES = 40  # events of an old run, besides the four that it begins and ends with
COPIED = f"INSERT INTO {dropping.COPY} "  # the events that stay


@pytest.fixture
def database_url(tmp_path: Path) -> Iterator[str]:
    with kept_database("partitioned", tmp_path) as url:
        yield url


@pytest.fixture(autouse=True)
def turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "TURN_S", 0.001)
    monkeypatch.setattr(dropping, "PAUSE_S", 0.05)


@pytest.fixture
def no_rows_removed() -> Iterator[None]:
    """Purged events go with their partition."""
    removed: list[int] = []
    with after_statement("DELETE FROM events ", lambda _, cursor: removed.append(cursor.rowcount)):
        yield
    assert not any(removed)


def first_partition(url: str) -> int:
    """The oid of the table that holds old runs."""
    with opened_database(url) as database:
        [oid] = [partition.oid for partition in database.read(read_partitions) if partition.name == FIRST]
    return oid


def number_marked(url: str) -> int:
    with opened_database(url) as database, database.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM purging").scalar_one())


def differs(url: str, *, swap: bool) -> bool:
    dialect = open_dialect(make_url(url))
    try:
        return not (rebuild_runs(dialect) if swap else verify_runs(dialect)).equal
    finally:
        dialect.engine.dispose()


async def write_many(log: SqlEventLog, runs: int = 5) -> list[str]:
    return [await write_old(log, *(note() for _ in range(NOTES))) for _ in range(runs)]


@pytest.mark.usefixtures("no_rows_removed")
async def test_runs_are_purged_with_their_partition(url: str, log: SqlEventLog) -> None:
    old = await write_many(log)
    before = first_partition(url)
    new = await start_run(log)
    assert purge(url) == PurgeCount(runs=5, events=5 * (NOTES + 4))
    assert first_partition(url) != before
    assert number_marked(url) == 0
    events = await all_events(log)
    assert [(event.run_id, event.seq, event.type) for event in events] == [
        (new, 1, "lifecycle.queued"),
        (new, 2, "lifecycle.started"),
        *((run_id, NOTES + 5, Purged.type) for run_id in old),
    ]
    assert [event.position for event in events] == [*range(5 * (NOTES + 4) + 1, 5 * (NOTES + 4) + 8)]
    for run_id in old:
        with pytest.raises(RunPurged):
            await log.read(run_id)
    assert not differs(url, swap=False)
    assert not differs(url, swap=True)


@pytest.mark.usefixtures("no_rows_removed")
async def test_runs_that_are_not_due_stay_in_the_new_partition_and_go_on(url: str, log: SqlEventLog) -> None:
    old = await write_many(log)
    running, ended_late = old_run_id(), old_run_id()
    await start_run(log, running)
    await start_run(log, ended_late)
    await log.append(ended_late, [COMPLETED])
    read = AuditRead(by="ann", run_id=old[0], what="events")
    await log.append(reads_id(old[0]), [read])
    kept = {run_id: await read_run(log, run_id) for run_id in (running, ended_late, reads_id(old[0]))}
    before = first_partition(url)
    assert purge(url).runs == 5
    assert first_partition(url) != before
    assert {run_id: await read_run(log, run_id) for run_id in kept} == kept
    await log.append(running, [token(), COMPLETED])
    await log.append(reads_id(old[0]), [read])
    assert [event.seq for event in await read_run(log, running)] == [1, 2, 3, 4]
    assert not differs(url, swap=False)


@pytest.mark.usefixtures("no_rows_removed")
async def test_a_partition_whose_runs_were_purged_is_dropped_again(url: str, log: SqlEventLog) -> None:
    for runs in (5, 10):
        await write_many(log)
        before = first_partition(url)
        assert purge(url).runs == 5
        assert first_partition(url) != before
        assert len(await all_events(log)) == runs


async def test_whole_months_leave_the_runs_of_the_month_in_which_the_age_falls(
    url: str, log: SqlEventLog
) -> None:
    begun = month_after(OLD, 0)
    last_month, this_month = await write_old(log, at=begun - 1_000), await write_old(log, at=begun + 1_000)
    ended_late = await write_old(log, at=begun - 1, ending=[])
    await log.append(ended_late, [COMPLETED])
    with opened_database(url) as database, closing(Purge(database, [run_list()])) as purge:
        assert purge.run(ended_before(OLD, whole_months=True), by="retention").runs == 1
    assert {event.run_id for event in await all_events(log) if event.type == Purged.type} == {last_month}
    assert len(await read_run(log, this_month)) == 4


async def test_a_partition_most_of_which_stays_is_not_dropped(url: str, log: SqlEventLog) -> None:
    await write_many(log, 1)
    running = await start_run(log, old_run_id())
    await log.append(running, [note() for _ in range(2 * NOTES)])
    before = first_partition(url)
    assert purge(url) == PurgeCount(runs=1, events=NOTES + 4)
    assert first_partition(url) == before
    assert len(await all_events(log)) == 1 + 2 + 2 * NOTES


async def test_a_partition_that_takes_events_during_the_copy_is_not_dropped(
    url: str, log: SqlEventLog
) -> None:
    await write_many(log)
    running = await start_run(log, old_run_id())
    loop = asyncio.get_running_loop()

    def append_late(*_: object) -> None:
        asyncio.run_coroutine_threadsafe(log.append(running, [token()]), loop).result(30)

    before = first_partition(url)
    with after_statement(COPIED, append_late):
        purged = await asyncio.to_thread(purge, url)
    assert purged.events == 5 * (NOTES + 4)
    assert first_partition(url) == before
    assert [event.seq for event in await read_run(log, running)] == [1, 2, 3]
    assert number_marked(url) == 0


async def test_a_partition_under_a_long_read_is_purged_by_rows_and_blocks_no_writer(
    url: str, log: SqlEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropping, "LOCKED_S", 0.5)
    await write_many(log)
    running = await start_run(log)
    before = first_partition(url)
    with opened_database(url) as database, database.connect() as reader:
        reader.exec_driver_sql("BEGIN; SELECT FROM events")
        purged = asyncio.create_task(asyncio.to_thread(purge, url))
        while not purged.done():
            await asyncio.wait_for(log.append(running, [token()]), 5)
        reader.exec_driver_sql("ROLLBACK")
    assert (await purged).events == 5 * (NOTES + 4)
    assert first_partition(url) == before


@pytest.mark.parametrize(
    "made",
    [
        f"CREATE VIEW mine AS SELECT * FROM {FIRST}",
        "CREATE TABLE events_copy (position bigint)",
        "CREATE TABLE mine (run bytea, seq bigint, FOREIGN KEY (run, seq) REFERENCES events (run_id, seq))",
    ],
)
async def test_a_partition_that_cannot_be_dropped_is_purged_by_rows(
    url: str, log: SqlEventLog, made: str
) -> None:
    await write_many(log)
    with opened_database(url) as database, database.connect() as connection:
        connection.exec_driver_sql(made)
        before = first_partition(url)
        assert purge(url) == PurgeCount(runs=5, events=5 * (NOTES + 4))
        assert first_partition(url) == before
        connection.exec_driver_sql(f"DROP {made.split()[1]} {made.split()[2]}")
    assert number_marked(url) == 0


@pytest.mark.usefixtures("no_rows_removed")
async def test_an_index_on_the_log_is_built_before_the_locks(partitioned: str) -> None:
    log = open_log_at(partitioned, MemoryFeed())
    with opened_database(partitioned) as database, database.connect() as connection:
        connection.exec_driver_sql("CREATE INDEX mine ON events (at)")
    built: list[str] = []

    def look(connection: Connection, _: object) -> None:
        indexes = "SELECT indexdef FROM pg_indexes WHERE tablename = 'events_copy'"
        built.extend(connection.exec_driver_sql(indexes).scalars())

    with after_statement(COPIED, look):
        for _ in range(2):
            await write_many(log)
            before = first_partition(partitioned)
            assert purge(partitioned).runs == 5
            assert first_partition(partitioned) != before
    assert sum("(at)" in index for index in built) == 2
    assert len(built) == 6
    await log.close()


async def test_writers_and_readers_go_on_while_a_partition_is_dropped(url: str, log: SqlEventLog) -> None:
    old, before = await write_many(log, 20), first_partition(url)
    whole = [await read_run(log, run_id) for run_id in old]
    purged = asyncio.Event()
    written: dict[str, int] = {}

    async def write() -> None:
        run_id = await start_run(log)
        while not purged.is_set():
            written[run_id] = await log.append(run_id, [token()])

    async def read() -> None:
        refused = 0
        while not purged.is_set() or refused < len(old):
            refused = 0
            for run_id, expected in zip(old, whole, strict=True):
                try:
                    assert await log.read(run_id) == expected
                except RunPurged:
                    refused += 1

    async def run_purge() -> None:
        try:
            await asyncio.to_thread(purge, url)
        finally:
            purged.set()

    await asyncio.gather(run_purge(), *(write() for _ in range(3)), read())
    assert first_partition(url) != before
    for run_id, last in written.items():
        assert [event.seq for event in await read_run(log, run_id)] == [*range(1, last + 1)]
    assert len(await all_events(log)) == 20 + sum(written.values())
    assert not differs(url, swap=False)


async def test_two_purges_at_once_purge_each_run_once(url: str, log: SqlEventLog) -> None:
    await write_many(log, 30)
    done = await asyncio.gather(*(asyncio.to_thread(purge, url) for _ in range(2)))
    assert sum(count.runs for count in done) == 30
    assert [event.type for event in await all_events(log)] == [Purged.type] * 30
    assert number_marked(url) == 0


@pytest.mark.slow
async def test_a_purge_that_is_killed_at_any_statement_is_finished_by_the_next(
    url: str, log: SqlEventLog
) -> None:
    running = await start_run(log)
    old = await write_many(log)
    whole = [await read_run(log, run_id) for run_id in old]
    before = first_partition(url)
    tries = 0
    async for number in killed_at_each_statement("retention", "--older-than", "1d", "--database-url", url):
        tries = number
        await log.append(running, [token()])
        for run_id, expected in zip(old, whole, strict=True):
            with suppress(RunPurged):
                assert await log.read(run_id) == expected
        assert not differs(url, swap=False)
    assert tries > 8
    assert first_partition(url) != before
    assert len(await all_events(log)) == 5 + 2 + tries
    assert number_marked(url) == 0
