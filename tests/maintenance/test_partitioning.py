"""The conversion of a live PostgreSQL log to partitions: it loses nothing, and stops no process."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

import runstore.database.partitions as partitions
import runstore.maintenance.partitioning as partitioning
from runstore.core.codec import RecordedEvent
from runstore.core.errors import ConfigError, LogUnavailable
from runstore.core.events import Discarded
from runstore.core.ids import LAST_TIME, READS_OF_ALL, first_run_id, new_run_id
from runstore.core.times import now_ms
from runstore.database.columns import pack_run_id
from runstore.database.opening import opened_database
from runstore.database.partitions import (
    BOUND,
    FIRST,
    OTHER,
    VALIDATE,
    check_positions,
    is_partitioned,
    literal,
    month_after,
    months_between,
    read_partitions,
)
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.maintenance.partitioning import add_months, partition_events, try_to_add_months
from tests.kit.database import open_log_at
from tests.kit.events import QUEUED, close_run, note, read_run, start_run, started, token
from tests.kit.killed_at import killed_at_each_statement
from tests.kit.polling import until
from tests.kit.purging import OLD, old_run_id, write_old
from tests.servers.databases import empty_database, kept_database

YEAR_MS = 366 * 86_400_000


@pytest.fixture
def database_url(tmp_path: Path) -> Iterator[str]:
    """A log that is not partitioned, for a test that changes its schema."""
    with empty_database("postgresql", tmp_path) as url:
        yield url


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioning, "PAUSE_S", 0.05)


def convert(url: str, now: int | None = None, say: Callable[[str], None] = lambda step: None) -> list[str]:
    with opened_database(url) as database:
        return list(partition_events(database, now or now_ms(), say))


async def all_events(log: SqlEventLog) -> list[RecordedEvent]:
    events: list[RecordedEvent] = []
    while page := await log.read_all(after=events[-1].position if events else 0):
        events += page
    return events


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    with opened_database(url) as database, database.connect() as connection:
        yield connection


def rows(connection: Connection, query: str) -> list[Any]:
    return list(connection.exec_driver_sql(query).scalars())


# ---- what a conversion leaves ----


async def test_a_converted_log_is_the_same_log(url: str, log: SqlEventLog) -> None:
    runs = [await write_old(log, note("1")), await close_run(log), await start_run(log)]
    before = await all_events(log)
    with connected(url) as connection:
        connection.exec_driver_sql("GRANT SELECT ON events TO PUBLIC")
    convert(url)
    assert await all_events(log) == before
    await log.append(runs[2], [token()])
    assert (await all_events(log))[:-1] == before
    assert [event.seq for event in await read_run(log, runs[2])] == [1, 2, 3]
    await start_run(log, old_run_id(now_ms() + YEAR_MS))
    with connected(url) as connection:
        assert is_partitioned(connection)
        assert rows(connection, "SELECT position FROM audit_events ORDER BY position") == [
            event.position for event in await all_events(log)
        ]
        assert rows(connection, "SELECT has_table_privilege('public', 'events', 'SELECT')") == [True]
        assert rows(connection, f"SELECT conname FROM pg_constraint WHERE conname = '{BOUND}'") == []


async def test_a_second_conversion_adds_the_coming_months(url: str) -> None:
    now = now_ms()
    first = convert(url, now)
    assert convert(url, now) == []
    later = month_after(now, 2)
    assert convert(url, later) == [f"events_{name}" for name in names_of(later, 2, 3)]
    assert first[-1] == f"events_{names_of(now, 3, 3)[0]}"


def names_of(now: int, first: int, last: int) -> list[str]:
    starts = [month_after(now, number) for number in range(first, last + 1)]
    return [f"{datetime.fromtimestamp(start / 1000, UTC):%Y_%m}" for start in starts]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("mysql", marks=pytest.mark.slow)])
def test_other_databases_are_not_partitioned(kind: str, tmp_path: Path) -> None:
    with kept_database(kind, tmp_path) as url:
        with pytest.raises(ConfigError, match="only PostgreSQL"):
            convert(url)
        with opened_database(url) as database:
            assert add_months(database, now_ms()) == []
            assert database.read(read_partitions) == []


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE VIEW mine AS SELECT * FROM events", "view mine"),
        ("CREATE INDEX mine ON events (at)", "index mine"),
        ("CREATE TABLE mine (event bigint REFERENCES events)", "foreign key mine_event_fkey"),
        ("CREATE PUBLICATION mine FOR TABLE events", "publication mine"),
        ("GRANT SELECT (at) ON events TO PUBLIC", "rights on column at"),
        ("ALTER TABLE events ADD CONSTRAINT mine CHECK (at > 0)", "constraint mine"),
    ],
)
def test_objects_that_would_stay_on_the_first_partition_are_refused_and_nothing_changes(
    url: str, made: str, named: str
) -> None:
    with connected(url) as connection:
        connection.exec_driver_sql(made)
    with pytest.raises(ConfigError, match=named):
        convert(url)
    with connected(url) as connection:
        assert not is_partitioned(connection)
        assert rows(connection, f"SELECT conname FROM pg_constraint WHERE conname = '{BOUND}'") == []


async def test_a_log_with_a_run_of_the_far_future_is_refused(url: str, log: SqlEventLog) -> None:
    await start_run(log, old_run_id(now_ms() + 2 * YEAR_MS))
    with pytest.raises(ConfigError, match="cannot be partitioned"):
        convert(url)


# ---- guarantees that a partitioned table does not give by itself ----


async def test_every_partition_refuses_changes(partitioned: str) -> None:
    log = open_log_at(partitioned, MemoryFeed())
    for run_id in (old_run_id(), None, old_run_id(now_ms() + YEAR_MS)):
        await start_run(log, run_id)
    before = await all_events(log)
    with opened_database(partitioned) as database, database.connect() as connection:
        names = [partition.name for partition in read_partitions(connection)]
        assert {FIRST, OTHER} < {*names}
        for change in ("UPDATE {} SET seq = 99", "DELETE FROM {}", "TRUNCATE {}"):
            changed = 0
            for name in ("events", *names):
                if (
                    not connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar()
                    and "TRUN" not in change
                ):
                    continue
                with pytest.raises(DBAPIError, match="events are immutable"):
                    connection.exec_driver_sql(change.format(name))
                connection.rollback()
                changed += 1
            assert changed >= 4
    assert await all_events(log) == before
    await log.close()


TIMES: dict[str, Callable[[], int]] = {
    "1970": lambda: 0,
    "long ago": lambda: OLD,
    "last month": lambda: month_after(now_ms(), 0) - 1,
    "now": now_ms,
    "next year": lambda: now_ms() + YEAR_MS,
    "the last": lambda: LAST_TIME - 1,
}


@pytest.mark.parametrize("time", TIMES)
async def test_a_run_id_of_any_time_is_stored(partitioned: str, time: str) -> None:
    log = open_log_at(partitioned, MemoryFeed())
    run_id = await start_run(log, old_run_id(TIMES[time]()))
    await start_run(log, READS_OF_ALL)
    assert [event.seq for event in await read_run(log, run_id)] == [1, 2]
    assert [event.run_id for event in await all_events(log)] == [run_id, run_id, READS_OF_ALL, READS_OF_ALL]
    await log.close()


async def test_a_month_that_the_default_partition_has_runs_of_stays_there(partitioned: str) -> None:
    log = open_log_at(partitioned, MemoryFeed())
    with opened_database(partitioned) as database:
        upper = max(partition.upper or b"" for partition in database.read(read_partitions))
        start = int.from_bytes(upper[:6], "big")
        run_id = await start_run(log, old_run_id(start + 1))
        assert add_months(database, month_after(start, 0)) == [
            f"events_{name}" for name in names_of(start, 1, 3)
        ]
        await start_run(log, old_run_id(month_after(start, 1)))
        with database.connect() as connection:
            found = rows(connection, "SELECT DISTINCT tableoid::regclass::text FROM events ORDER BY 1")
        assert found == [f"events_{names_of(start, 1, 1)[0]}", OTHER]
    assert len(await read_run(log, run_id)) == 2
    await log.close()


async def test_a_large_default_partition_is_not_read_while_writers_wait(
    partitioned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.database.partitions.OTHER_BYTES", -1)
    with opened_database(partitioned) as database:
        assert add_months(database, now_ms() + YEAR_MS) == []


async def test_a_sequence_that_was_set_back_is_refused_at_the_start(partitioned: str) -> None:
    """No index would refuse the position of another partition's event."""
    log = open_log_at(partitioned, MemoryFeed())
    await close_run(log)
    await log.close()
    with connected(partitioned) as connection:
        connection.exec_driver_sql("SELECT setval('events_position_seq', 2)")
    with pytest.raises(ConfigError, match=r"setval\('events_position_seq', 3\)"), connected(partitioned):
        pass


async def test_a_role_that_may_not_see_the_sequence_opens_the_log(partitioned: str) -> None:
    log = open_log_at(partitioned, MemoryFeed())
    await close_run(log)
    await log.close()
    with connected(partitioned) as connection:
        connection.exec_driver_sql("GRANT SELECT ON events TO PUBLIC")
        connection.exec_driver_sql("SET ROLE pg_monitor")
        check_positions(connection)


async def test_a_new_partition_has_the_owner_and_the_grants_of_the_log(partitioned: str) -> None:
    with opened_database(partitioned) as database:
        with database.connect() as connection:
            connection.exec_driver_sql(
                "GRANT SELECT ON events TO PUBLIC; ALTER TABLE events OWNER TO pg_monitor"
            )
        [*_, added] = add_months(database, now_ms() + YEAR_MS)
        with database.connect() as connection:
            owner = f"SELECT tableowner FROM pg_tables WHERE tablename = '{added}'"
            assert rows(connection, owner) == ["pg_monitor"]
            assert rows(connection, f"SELECT has_table_privilege('public', '{added}', 'SELECT')") == [True]


async def test_a_converted_log_has_one_owner_and_the_same_grants_on_each_table(url: str) -> None:
    with connected(url) as connection:
        connection.exec_driver_sql("GRANT SELECT ON events TO PUBLIC; ALTER TABLE events OWNER TO pg_monitor")
    convert(url)
    tables = "FROM pg_class WHERE relname LIKE 'events%%' AND relkind IN ('r', 'p')"
    with connected(url) as connection:
        assert {*rows(connection, f"SELECT pg_get_userbyid(relowner) {tables}")} == {"pg_monitor"}
        assert {*rows(connection, f"SELECT has_table_privilege('public', oid, 'SELECT') {tables}")} == {True}


async def test_a_run_stored_while_its_month_is_added_leaves_the_month_to_the_default_partition(
    partitioned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, loop = open_log_at(partitioned, MemoryFeed()), asyncio.get_running_loop()
    create, later = partitions.create_detached, month_after(now_ms(), 9)
    stored: list[str] = []

    def create_late(connection: Connection, name: str) -> None:
        create(connection, name)
        if not stored:
            starting = start_run(log, old_run_id(later + 1))
            stored.append(asyncio.run_coroutine_threadsafe(starting, loop).result(30))

    monkeypatch.setattr(partitions, "create_detached", create_late)
    with opened_database(partitioned) as database:
        added = await asyncio.to_thread(add_months, database, later)
    assert added[-1] == f"events_{names_of(later, 3, 3)[0]}"
    assert f"events_{names_of(later, 0, 0)[0]}" not in added
    assert len(await read_run(log, stored[0])) == 2
    await log.close()


async def test_months_that_cannot_be_added_are_a_warning_where_they_are_optional(
    partitioned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitioning, "LOCKED_S", 0.1)
    later = now_ms() + YEAR_MS
    with opened_database(partitioned) as database, connected(partitioned) as reader:
        reader.exec_driver_sql(f"BEGIN; SELECT FROM {OTHER}")
        with structlog.testing.capture_logs() as logged:
            try_to_add_months(database, later)
        assert [(line["event"], line["log_level"]) for line in logged] == [
            ("partitions_not_added", "warning")
        ]
        with pytest.raises(DBAPIError, match="lock timeout"):
            add_months(database, later)
        reader.exec_driver_sql("ROLLBACK")
        try_to_add_months(database, later)
        assert add_months(database, later) == []


def test_months_follow_each_other_without_a_gap() -> None:
    start, end = month_after(OLD, 0), month_after(OLD, 30)
    months = months_between(start, end)
    assert len(months) == 30
    assert months[0][0] == start
    assert months[-1][1] == end
    assert all(before[1] == after[0] for before, after in pairwise(months))


# ---- faults ----


@pytest.mark.slow
async def test_a_conversion_that_is_killed_at_any_statement_goes_on(url: str, log: SqlEventLog) -> None:
    """With `kill -9`; the log is whole and takes events all the while."""
    run_id = await start_run(log)
    tries = 0
    async for number in killed_at_each_statement("partition", "--database-url", url):
        tries = number
        await log.append(run_id, [token()])
        assert [event.seq for event in await read_run(log, run_id)] == [*range(1, number + 3)]
        assert len(await all_events(log)) == number + 2
    assert tries > 10
    with connected(url) as connection:
        assert is_partitioned(connection)
        assert rows(connection, f"SELECT conname FROM pg_constraint WHERE conname = '{BOUND}'") == []


async def test_writers_and_readers_go_on_during_a_conversion(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [open_log_at(url, MemoryFeed()) for _ in range(2)]
    for _ in range(20):
        await write_old(logs[0], *(note() for _ in range(50)))
    converted = asyncio.Event()
    written: dict[str, int] = {}

    async def write(log: SqlEventLog) -> None:
        run_id = await start_run(log)
        written[run_id] = 2
        while not converted.is_set() or written[run_id] < 10:
            written[run_id] = await log.append(run_id, [token()])

    async def read(log: SqlEventLog) -> None:
        while not converted.is_set():
            assert len(await all_events(log)) >= 20 * 54

    async def run_conversion() -> None:
        try:
            await asyncio.to_thread(convert, url)
        finally:
            converted.set()

    await asyncio.gather(run_conversion(), *(write(log) for log in logs for _ in range(3)), read(logs[1]))
    assert len(written) == 6
    for run_id, last in written.items():
        assert [event.seq for event in await read_run(logs[0], run_id)] == [*range(1, last + 1)]
    assert len(await all_events(logs[1])) == 20 * 54 + sum(written.values())
    for log in logs:
        await log.close()


async def test_a_conversion_waits_for_a_long_read_and_blocks_no_other(url: str, log: SqlEventLog) -> None:
    run_id = await start_run(log)
    steps: list[str] = []
    with connected(url) as reader:
        reader.exec_driver_sql("BEGIN; SELECT FROM events")
        converting = asyncio.create_task(asyncio.to_thread(convert, url, None, steps.append))
        for _ in range(50):
            await asyncio.wait_for(log.append(run_id, [token()]), 5)
            await asyncio.sleep(0.01)
        assert not converting.done()
        reader.exec_driver_sql("ROLLBACK")
        await converting
    assert len(await read_run(log, run_id)) == 52
    assert len(steps) == 2


async def test_a_read_that_meets_the_locks_of_a_conversion_is_tried_again(
    url: str, log: SqlEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start_run(log)
    with connected(url) as converting:
        converting.exec_driver_sql("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        dialect = log.database.dialect
        is_conflict, refused = dialect.is_conflict, []

        def look(error: Exception) -> bool:
            refused.append(error)
            converting.exec_driver_sql("ROLLBACK")
            return is_conflict(error)

        monkeypatch.setattr(dialect, "is_conflict", look)
        assert len(await log.read(run_id)) == 2
    assert len(refused) == 1


async def test_the_high_water_mark_stays_while_a_conversion_holds_its_locks(
    url: str, log: SqlEventLog
) -> None:
    await start_run(log)
    with connected(url) as converting:
        converting.exec_driver_sql("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        assert await log.database.high_water_mark(0) == 0
        converting.exec_driver_sql("ROLLBACK")

    async def advanced() -> bool:  # after a conflict, it rests before the next try
        return await log.database.high_water_mark(0) == 2

    await until(advanced)


def bound_below_now(url: str) -> None:
    """As a conversion leaves it that was killed, and was not run again for months."""
    set_bound(url, OLD)


def set_bound(url: str, now: int) -> None:
    upto = literal(pack_run_id(first_run_id(month_after(now, 2))))
    with connected(url) as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE events ADD CONSTRAINT {BOUND} CHECK (run_id < {upto}) NOT VALID"
        )


async def test_an_append_beyond_the_bound_of_a_killed_conversion_is_stored(
    url: str, log: SqlEventLog
) -> None:
    bound_below_now(url)
    run_id = await start_run(log)
    await log.append(run_id, [token()])
    assert [event.seq for event in await read_run(log, run_id)] == [1, 2, 3]
    convert(url)
    assert [event.seq for event in await read_run(log, run_id)] == [1, 2, 3]


async def test_an_append_beyond_the_bound_stops_a_validation(url: str, log: SqlEventLog) -> None:
    bound_below_now(url)
    with connected(url) as validating:
        long = f"{VALIDATE}; SELECT pg_sleep(60)"
        sleeping = asyncio.create_task(asyncio.to_thread(validating.exec_driver_sql, long))
        await until_sleeping(url)
        run_id = await asyncio.wait_for(start_run(log), 30)
        with pytest.raises(DBAPIError, match="canceling"):
            await sleeping
    assert [event.seq for event in await read_run(log, run_id)] == [1, 2]


async def until_sleeping(url: str) -> None:
    with connected(url) as connection:
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = "

        async def found() -> bool:
            return rows(connection, f"{sleeping} current_database()") == [1]

        await until(found)


async def test_an_append_beyond_the_bound_waits_for_other_maintenance(url: str, log: SqlEventLog) -> None:
    """As for a VACUUM, which holds the same lock as a validation."""
    bound_below_now(url)
    with connected(url) as vacuum:
        long = "BEGIN; LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(0.5); COMMIT"
        sleeping = asyncio.create_task(asyncio.to_thread(vacuum.exec_driver_sql, long))
        await until_sleeping(url)
        run_id = await asyncio.wait_for(start_run(log), 30)
        await sleeping
    assert [event.seq for event in await read_run(log, run_id)] == [1, 2]


async def test_a_redaction_beyond_the_bound_is_stored(url: str, log: SqlEventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [token("secret")])
    with connected(url) as connection:
        check = f"CHECK (run_id < {literal(pack_run_id(old_run_id()))}) NOT VALID"
        connection.exec_driver_sql(f"ALTER TABLE events ADD CONSTRAINT {BOUND} {check}")
    await log.append(run_id, [Discarded(agent="demo", reason="redacted", length=6)])
    assert [event.type for event in await log.read(run_id, after=2)] == ["llm.redacted", "llm.discarded"]


async def test_an_event_whose_bound_is_set_again_and_again_is_held_back_and_stored(
    url: str, log: SqlEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_below_now(url)
    dialect, refusals = log.database.dialect, 0
    give_way = dialect.give_way

    def set_again(error: Exception) -> None:
        nonlocal refusals
        refusals += 1
        give_way(error)
        if refusals < 5:
            bound_below_now(url)

    monkeypatch.setattr(dialect, "give_way", set_again)
    run_id = new_run_id()
    assert await log.append(run_id, [QUEUED, started()], patient=True) == 2
    assert refusals == 5


@pytest.mark.parametrize("found", [False, True])
def test_a_conversion_that_fails_drops_the_bound_only_if_it_has_set_it(url: str, found: bool) -> None:
    """Another conversion, which is under way, needs its own bound."""

    def fail(step: str) -> None:
        assert step.startswith("validating")
        raise KeyboardInterrupt

    if found:
        set_bound(url, now_ms())
    with pytest.raises(KeyboardInterrupt):
        convert(url, say=fail)
    with connected(url) as connection:
        left = rows(connection, "SELECT conname FROM pg_constraint WHERE conrelid = 'events'::regclass")
        assert (BOUND in left) is found


async def test_a_command_that_waits_for_other_changes_of_the_schema_ends(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "WAIT_S", 0.3)
    monkeypatch.setattr(partitioning, "LOCKED_S", 1.0)
    with connected(url) as other:
        other.exec_driver_sql("BEGIN; LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE")
        begun = time.monotonic()
        with pytest.raises(LogUnavailable):
            convert(url)
        assert time.monotonic() - begun < 10  # and not a number of tries, each of WAIT_S
        other.exec_driver_sql("ROLLBACK")


async def test_a_conversion_whose_analysis_fails_is_done(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioning, "ANALYZE", "ANALYZE missing")
    with structlog.testing.capture_logs() as logged:
        convert(url)
    assert [line["event"] for line in logged] == ["partitions_not_analyzed"]
    with connected(url) as connection:
        assert is_partitioned(connection)


async def test_a_conversion_begins_again_above_a_run_id_beyond_its_bound(url: str, log: SqlEventLog) -> None:
    far = old_run_id(now_ms() + 100 * 86_400_000)
    loop = asyncio.get_running_loop()
    steps: list[str] = []

    def say(step: str) -> None:  # the first one comes between the bound and its validation
        if not steps:
            asyncio.run_coroutine_threadsafe(start_run(log, far), loop).result(30)
        steps.append(step)

    await asyncio.to_thread(convert, url, None, say)
    assert sum("begun again" in step for step in steps) == 1
    assert [event.seq for event in await read_run(log, far)] == [1, 2]
