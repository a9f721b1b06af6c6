"""Reads from a streaming replica of PostgreSQL: never older than the primary, which answers in its place."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import structlog
from sqlalchemy import Connection, text

from runstore.core.errors import ConfigError, LogUnavailable
from runstore.core.ids import new_run_id
from runstore.database.database import Database
from runstore.database.dialects import PAGERS, REPLICA_CONNECT_S
from runstore.database.opening import open_database
from runstore.database.replica import FIRST_RETRY_S
from runstore.eventlog.sql import LONG_READ, SqlEventLog
from runstore.feed.memory import MemoryFeed
from tests.kit.checks import check_all
from tests.kit.cluster import cluster
from tests.kit.events import QUEUED, started, token
from tests.kit.load import Load
from tests.kit.polling import until
from tests.servers.databases import bare_database
from tests.servers.postgres_replica import OwnReplica, Pair, replicated

LATEST = "SELECT pg_is_in_recovery(), (SELECT count(*) FROM events)"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with replicated() as pair:
        yield pair


def latest(connection: Connection) -> tuple[bool, int]:
    """Whether it is the replica, and the number of events there."""
    by_replica, events = connection.execute(text(LATEST)).one()
    return by_replica, events


def slow_on_the_replica(connection: Connection) -> bool:
    query = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_sleep(60)::text END, pg_is_in_recovery()"
    return bool(connection.execute(text(query)).one()[1])


async def by_replica(database: Database) -> bool:
    return (await database.query_list(latest))[0]


async def test_the_replica_answers_and_has_every_event_that_was_acknowledged(pair: Pair) -> None:
    database = open_database(pair.primary.url, read_url=pair.replica.url, statement_timeout=True)
    log = SqlEventLog(database, MemoryFeed())
    run_id = new_run_id()
    try:
        await until(lambda: by_replica(database))
        (_, before) = await database.query_list(latest)
        await log.append(run_id, [QUEUED, started()])
        for count in range(3, 63):
            await log.append(run_id, [token()])
            query = database.query_list if count % 2 else database.query_past
            assert (await query(latest))[1] == before + count
        assert database.replica is not None
        assert database.replica.answered > 30
        await log.append(run_id, [token()] * LONG_READ)
        answered = database.replica.answered
        await until(lambda: by_replica(database))
        for from_replica, by_it in ((True, 2), (False, 2)):
            page = await log.read(run_id, upto=LONG_READ, limit=LONG_READ, from_replica=from_replica)
            assert len(page) == LONG_READ
            assert database.replica.answered == answered + by_it
        assert not (await database.query(latest))[0]
        assert not (await database.query_history(latest))[0]
    finally:
        await log.close()
        await database.close()


async def test_a_replica_that_is_behind_or_down_is_left_alone_until_it_is_back(pair: Pair) -> None:
    database = open_database(pair.primary.url, read_url=pair.replica.url, statement_timeout=True)
    log = SqlEventLog(database, MemoryFeed())
    try:
        with structlog.testing.capture_logs() as logged:
            for lose, bring_back in (
                (pair.replica.pause, pair.replica.resume),
                (pair.replica.kill, pair.replica.start),
            ):
                await until(lambda: by_replica(database))
                lose()
                (_, before) = await database.query(latest)
                await log.append(new_run_id(), [QUEUED])
                assert await database.query_list(latest) == (False, before + 1)
                assert database.replica is not None
                assert not database.replica.usable
                bring_back()
                await until(lambda: by_replica(database))
                assert database.replica.usable
        told = [line["event"] for line in logged if str(line["event"]).startswith("replica")]
        assert told == ["replica_lost", "replica_back"] * 2
    finally:
        await log.close()
        await database.close()


async def test_while_a_replica_hangs_only_one_read_at_a_time_waits_for_it(pair: Pair) -> None:
    database = open_database(pair.primary.url, read_url=pair.replica.url, statement_timeout=True)
    answered = 0
    meanwhile: list[int] = []  # the reads that were answered while one waited

    async def reads() -> None:
        nonlocal answered
        while not meanwhile:
            began, before = time.monotonic(), answered
            assert not (await database.query_past(latest))[0]
            if time.monotonic() - began > REPLICA_CONNECT_S / 2:
                meanwhile.append(answered - before)
            answered += 1

    try:
        await until(lambda: by_replica(database))
        pair.replica.freeze()
        try:
            assert not await by_replica(database)
            await asyncio.gather(*(reads() for _ in range(PAGERS)))
        finally:
            pair.replica.thaw()
        assert max(meanwhile) > 5 * PAGERS, "all reads waited"
        await until(lambda: by_replica(database))
    finally:
        await database.close()


async def test_a_slow_read_and_a_lost_connection_to_the_primary_do_not_count_against_the_replica(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.database.dialects.postgresql.ANSWER_S", 1)
    database = open_database(pair.primary.url, read_url=pair.replica.url, statement_timeout=True)
    try:
        await until(lambda: by_replica(database))
        assert database.replica is not None
        before = database.replica.fallbacks
        with pytest.raises(LogUnavailable, match="canceling statement due to statement timeout"):
            await database.query_list(lambda connection: connection.execute(text("SELECT pg_sleep(60)")))
        assert await by_replica(database)
        assert database.replica.fallbacks == before
        assert not await asyncio.to_thread(database.read_past, slow_on_the_replica)
        assert database.replica.usable
        assert database.replica.fallbacks == before + 1
        pair.primary.cut_off()
        assert not await by_replica(database)
        assert await by_replica(database)
    finally:
        await database.close()


async def test_small_reads_that_are_slow_on_the_replica_leave_it_alone_for_a_growing_time(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.database.dialects.postgresql.ANSWER_S", 0.2)
    database = open_database(pair.primary.url, read_url=pair.replica.url, statement_timeout=True)
    replica = database.replica
    assert replica is not None
    now = time.monotonic()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        time.sleep(seconds)

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr("runstore.database.replica.time", clock)

    async def is_slow() -> bool:
        """Whether a small read waits for the replica, before the primary answers."""
        began = time.monotonic()
        assert not await asyncio.to_thread(database.read_past, slow_on_the_replica)
        return time.monotonic() - began > 0.2

    try:
        await until(lambda: by_replica(database))
        for wait_s in (FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S):
            assert await is_slow()
            assert not await is_slow()
            assert await by_replica(database), "other reads"
            now += wait_s / 2
            assert not await is_slow()
            now += wait_s / 2
        assert (await asyncio.to_thread(database.read_past, latest))[0]
        assert await is_slow()
        now += FIRST_RETRY_S
        assert (await asyncio.to_thread(database.read_past, latest))[0]
        assert replica.usable
    finally:
        await database.close()


async def test_a_replica_that_follows_the_primary_of_before_a_failover_answers_nothing(pair: Pair) -> None:
    await open_database(pair.primary.url).close()  # both timelines have the schema
    with ExitStack() as stack:
        promoted = stack.enter_context(OwnReplica(pair.primary))
        follower = stack.enter_context(OwnReplica(promoted))
        promoted.promote()
        pair.primary.write(1_000_000)  # so that the old position is beyond the new one
        await until(lambda: pair.replica.replayed() == pair.primary.flushed())
        assert pair.replica.replayed() > promoted.flushed()
        for replica, used in ((pair.replica, False), (follower, True)):
            database = open_database(promoted.url, read_url=replica.url, statement_timeout=True)
            try:
                if used:
                    await until(lambda: by_replica(database))  # noqa: B023
                else:
                    assert not await by_replica(database)
            finally:
                await database.close()


async def test_a_server_that_is_no_replica_of_the_database_answers_nothing(pair: Pair) -> None:
    other = pair.replica.url.removesuffix("postgres") + "template1"
    for url in (pair.primary.url, other):
        database = open_database(pair.primary.url, read_url=url, statement_timeout=True)
        try:
            with structlog.testing.capture_logs() as logged:
                assert not await by_replica(database)
            (line,) = logged
            assert "it is not a replica of the database at `database_url`" in str(line["error"])
        finally:
            await database.close()


async def test_a_replica_whose_url_the_driver_cannot_take_answers_nothing(tmp_path: Path) -> None:
    with bare_database("postgresql", tmp_path) as url:
        database = open_database(url, read_url=f"{url}?sslmod=require")
        try:
            assert await database.query_list(latest) == (False, 0)
            assert database.replica is not None
            assert (database.replica.answered, database.replica.fallbacks) == (0, 1)
        finally:
            await database.close()


def test_only_postgresql_has_read_replicas(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="read replicas are supported on PostgreSQL only") as refused:
        open_database(f"sqlite:///{tmp_path / 'a.db'}", read_url=f"sqlite:///{tmp_path / 'b.db'}")
    assert refused.value.setting == "database_read_url"


@pytest.mark.slow
async def test_a_server_with_a_replica_that_dies_shows_every_run_whole(pair: Pair, tmp_path: Path) -> None:
    config = '[agents.talker]\nmodel = "scripted"\ntokens = 1200\ntokens_per_s = 1000\n'
    read_url = {"database_read_url": pair.replica.url}
    with cluster(tmp_path, pair.primary.url, config=config, servers=0, workers=1) as made:
        made.add_servers(2, **read_url)
        async with Load(lambda: made.urls) as load:
            load.begin(5, "talker", notes=True)
            await load.until_seen(500)
            pair.replica.kill()
            load.begin(5, "talker", notes=True)
            pair.replica.start()
            await load.finish()
            await check_all(load, made)
        async with httpx.AsyncClient(base_url=made.urls[0], trust_env=False) as client:

            async def answered() -> bool:
                assert (await client.get("/runs")).status_code == 200
                metrics = (await client.get("/metrics")).text
                reads = re.search(
                    r'^runstore_replica_reads_total{answered_by="replica"} (\S+)', metrics, re.M
                )
                return reads is not None and float(reads[1]) > 0

            await until(answered)
