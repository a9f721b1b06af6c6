"""Projections that read the log from a streaming replica of PostgreSQL: each event is applied once (G13)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text

from runstore.core.limits import MAX_EVENTS_PER_APPEND
from runstore.database.database import Database
from runstore.database.opening import open_database
from runstore.eventlog.queries import last_position
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.maintenance.rebuild import rebuild, verify
from runstore.projections.advance import LONG_READ
from runstore.projections.runner import ProjectionRunner
from tests.kit.cluster import cluster
from tests.kit.events import note, start_run
from tests.kit.polling import until
from tests.kit.process import run_command
from tests.projections.examples import Totals
from tests.projections.running import counted, found, live, run_once
from tests.servers.postgres_replica import Pair, replicated

MANY = 2 * LONG_READ


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with replicated() as pair:
        yield pair


@pytest.fixture
async def database(pair: Pair) -> AsyncIterator[Database]:
    """A database whose projections have all events, and whose replica can be asked."""
    database = open_database(pair.primary.url, read_url=pair.replica.url)
    await asyncio.to_thread(run_once, database, Totals())
    await until(lambda: asyncio.to_thread(by_replica, database))
    yield database
    await database.close()


@pytest.fixture
async def log(database: Database) -> AsyncIterator[SqlEventLog]:
    log = SqlEventLog(database, MemoryFeed())
    yield log
    await log.close()


def by_replica(database: Database) -> bool:
    """Whether the replica answers now."""
    assert database.replica is not None
    before = database.replica.answered
    database.read_past(last_position)
    return database.replica.answered > before


async def write(log: SqlEventLog) -> None:
    run_id = await start_run(log)
    for _ in range(MANY // MAX_EVENTS_PER_APPEND):
        await log.append(run_id, [note()] * MAX_EVENTS_PER_APPEND)


async def apply(database: Database) -> tuple[int, int]:
    """Apply what the log has; the reads that the replica answered, and those that it did not."""
    replica = database.replica
    assert replica is not None
    answered, fallbacks = replica.answered, replica.fallbacks
    await asyncio.to_thread(run_once, database, Totals())
    return replica.answered - answered, replica.fallbacks - fallbacks


async def applies_by_replica(database: Database, log: SqlEventLog) -> bool:
    """Whether the replica answers, with more in the log; it may be too slow on a busy machine."""
    await write(log)
    answered, _ = await apply(database)
    return answered > 0


async def test_a_runner_that_is_far_behind_reads_from_the_replica(
    database: Database, log: SqlEventLog
) -> None:
    await until(lambda: applies_by_replica(database, log))
    assert found(database, Totals()) == await counted(log)


async def test_a_runner_at_the_end_of_the_log_does_not_ask_the_replica(
    database: Database, log: SqlEventLog
) -> None:
    await log.append(await start_run(log), [note()] * (LONG_READ // 2))
    assert await apply(database) == (0, 0)
    assert found(database, Totals()) == await counted(log)


@pytest.mark.parametrize("work", [rebuild, verify])
async def test_a_rebuild_and_a_verification_read_from_the_replica(
    database: Database, log: SqlEventLog, work: Callable[..., object]
) -> None:
    await write(log)
    await apply(database)
    replica = database.replica
    assert replica is not None

    async def answered() -> bool:
        before = replica.answered
        await asyncio.to_thread(work, database, Totals())
        return replica.answered > before

    await until(answered)
    assert found(database, Totals()) == await counted(log)


@pytest.mark.parametrize("trouble", ["lags", "hangs", "is dead"])
async def test_while_the_replica_is_in_trouble_the_primary_answers_and_no_event_is_missed(
    pair: Pair, database: Database, log: SqlEventLog, trouble: str
) -> None:
    lose, bring_back = {
        "lags": (pair.replica.pause, pair.replica.resume),
        "hangs": (pair.replica.freeze, pair.replica.thaw),
        "is dead": (pair.replica.kill, pair.replica.start),
    }[trouble]
    lose()
    try:
        await write(log)
        answered, fallbacks = await apply(database)
        assert answered == 0
        assert fallbacks >= 2
        assert found(database, Totals()) == await counted(log)
        report = await asyncio.to_thread(verify, database, Totals())
        assert report.equal
        assert database.replica is not None
        assert not database.replica.usable
    finally:
        bring_back()
    await until(lambda: applies_by_replica(database, log))
    assert found(database, Totals()) == await counted(log)


async def test_a_server_that_is_no_replica_of_the_database_gives_no_event(pair: Pair) -> None:
    other = pair.replica.url.removesuffix("postgres") + "template1"
    for url in (pair.primary.url, other):
        database = open_database(pair.primary.url, read_url=url)
        log = SqlEventLog(database, MemoryFeed())
        await write(log)
        with structlog.testing.capture_logs() as logged:
            answered, fallbacks = await apply(database)
        assert answered == 0
        assert fallbacks >= 2
        assert "it is not a replica" in str([line.get("error") for line in logged])
        assert found(database, Totals()) == await counted(log)
        await log.close()
        await database.close()


async def test_a_batch_that_the_replica_does_not_read_in_time_comes_from_the_primary(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.database.dialects.postgresql.ANSWER_S", 1)
    database = open_database(pair.primary.url, read_url=pair.replica.url)
    await until(lambda: asyncio.to_thread(by_replica, database))
    slow = text("SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_sleep(60)::text END")
    row = await asyncio.to_thread(database.read_past, lambda connection: connection.execute(slow).one())
    assert tuple(row) == (False, None)
    await database.close()


@pytest.mark.slow
async def test_beside_a_replica_that_stalls_and_dies_each_event_is_applied_once(
    pair: Pair, database: Database, log: SqlEventLog
) -> None:
    runner = ProjectionRunner(database, [Totals()])
    run_id = await start_run(log)
    async with runner:

        async def all_applied() -> bool:
            return live(database, "totals").position == await asyncio.to_thread(database.read, last_position)

        for lose, bring_back in 2 * (
            (pair.replica.pause, pair.replica.resume),
            (pair.replica.freeze, pair.replica.thaw),
            (pair.replica.kill, pair.replica.start),
        ):
            for trouble in (lose, bring_back):
                for _ in range(5):
                    await log.append(run_id, [note()] * LONG_READ)
                await asyncio.to_thread(trouble)
            await until(all_applied)
            assert found(database, Totals()) == await counted(log)
            await until(lambda: asyncio.to_thread(by_replica, database))


@pytest.mark.slow
async def test_commands_and_workers_read_from_the_replica(pair: Pair, tmp_path: Path) -> None:
    database = open_database(pair.primary.url)
    log = SqlEventLog(database, MemoryFeed())
    urls = {"RUNSTORE_DATABASE_URL": pair.primary.url, "RUNSTORE_DATABASE_READ_URL": pair.replica.url}
    await write(log)
    pair.replica.kill()  # so that they say that they have asked it
    for words in (("run", "--once"), ("rebuild", "runs"), ("verify", "runs")):
        done = run_command("projections", *words, folder=tmp_path, **urls)
        assert "replica_lost" in done.stderr, words
        assert done.returncode == 0, done.stderr
    pair.replica.start()
    await write(log)
    assert not pair.replica.reads()
    with cluster(tmp_path, pair.primary.url, servers=0, workers=1, database_read_url=pair.replica.url):
        await until(lambda: asyncio.to_thread(pair.replica.reads))
    await log.close()
    await database.close()
