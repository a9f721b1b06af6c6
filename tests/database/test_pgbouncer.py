"""PostgreSQL behind pgbouncer in transaction mode: each transaction may have another session."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text

from runstore.core.errors import LogUnavailable
from runstore.core.ids import new_run_id
from runstore.database.database import TablesReplaced
from runstore.database.opening import open_database
from runstore.database.partitions import BOUND
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from tests.kit.checks import check_all
from tests.kit.cluster import cluster
from tests.kit.events import COMPLETED, QUEUED, started, token
from tests.kit.load import Load
from tests.servers.databases import empty_database
from tests.servers.pgbouncer import OwnPgbouncer

SETTINGS = (
    "default_transaction_isolation", "lock_timeout", "idle_in_transaction_session_timeout",
    "statement_timeout", "TimeZone", "synchronous_commit",
)  # fmt: skip
CONFIG = """
[server]
heartbeat_s = 0.5

[agents.talker]
model = "scripted"
tokens = 60
tokens_per_s = 40
"""


@pytest.fixture(scope="module")
def pooler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPgbouncer]:
    """In front of a database whose settings are not those that runstore needs."""
    with empty_database("postgresql", tmp_path_factory.mktemp("pooled")) as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            name = connection.info.dbname
            for setting in ("synchronous_commit = off", "default_transaction_isolation = 'serializable'"):
                connection.execute(f"ALTER DATABASE {name} SET {setting}")
        with OwnPgbouncer(url) as pooler:
            yield pooler


def settings(connection: Connection) -> list[str]:
    shown = ", ".join(f"current_setting('{name}')" for name in (*SETTINGS, "transaction_isolation"))
    return [*connection.execute(text(f"SELECT {shown}")).one()]


async def test_every_transaction_and_read_has_its_settings_and_leaves_none_behind(
    pooler: OwnPgbouncer,
) -> None:
    database = open_database(pooler.url, statement_timeout=True)
    wanted = ["read committed", "200ms", "1s", "10s", "UTC", "on", "read committed"]
    try:
        with database.writing() as connection:
            assert settings(connection) == wanted
        with database.writing(exclusive=True) as connection:
            assert settings(connection) == [*wanted[:1], "2s", *wanted[2:]]
        with database.changing() as connection:
            assert settings(connection) == wanted
        with database.changing(derived=True) as connection:
            assert settings(connection) == [*wanted[:5], "off", wanted[6]]
        assert await database.query(settings) == [*wanted[:2], "10s", *wanted[3:]]
        tries: list[list[str]] = []

        def begins_again(connection: Connection) -> None:
            tries.append(settings(connection))
            connection.rollback()
            if len(tries) < 3:
                raise TablesReplaced

        await database.query_list(begins_again)
        assert tries == [[*wanted[:2], "10s", *wanted[3:]]] * 3
        await database.high_water_mark(0)
        with psycopg.connect(pooler.url.replace("+psycopg", ""), autocommit=True) as other:
            for _ in range(10):  # on any session of the pool
                shown = other.execute(
                    "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),"
                    " current_setting('synchronous_commit'), current_setting('transaction_isolation')"
                )
                assert shown.fetchone() == ("0", "0", "off", "serializable")
    finally:
        await database.close()


async def test_writers_of_several_processes_keep_runs_dense_over_a_few_sessions(pooler: OwnPgbouncer) -> None:
    logs = [SqlEventLog(open_database(pooler.url, statement_timeout=True), MemoryFeed()) for _ in range(3)]
    runs = [new_run_id() for _ in range(4)]
    try:
        for run_id in runs:
            await logs[0].append(run_id, [QUEUED, started()])
        for _ in range(20):  # psycopg prepares a statement that it has seen five times
            await asyncio.gather(*(log.append(run_id, [token()]) for log in logs for run_id in runs))
        for run_id in runs:
            await logs[1].append(run_id, [COMPLETED])
            events = await logs[2].read(run_id)
            assert [event.seq for event in events] == list(range(1, 3 + 20 * len(logs) + 1))
    finally:
        for log in logs:
            await log.close()
            await log.database.close()


async def test_an_event_beyond_the_bound_of_a_conversion_does_not_queue_others_behind_a_long_read(
    pooler: OwnPgbouncer,
) -> None:
    log = SqlEventLog(open_database(pooler.url, statement_timeout=True), MemoryFeed())
    bound = rf"ALTER TABLE events ADD CONSTRAINT {BOUND} CHECK (run_id < '\x00') NOT VALID"
    try:
        with psycopg.connect(pooler.url.replace("+psycopg", "")) as reader:
            reader.execute(bound)
            reader.commit()
            reader.execute("SELECT FROM events")
            with pytest.raises(LogUnavailable, match=BOUND):
                await asyncio.wait_for(log.append(new_run_id(), [QUEUED, started()]), 20)
        run_id = new_run_id()
        await log.append(run_id, [QUEUED, started()], patient=True)
        assert len(await log.read(run_id)) == 2
    finally:
        await log.close()
        await log.database.close()


async def test_a_pooler_that_restarts_is_an_outage_that_passes(pooler: OwnPgbouncer) -> None:
    database = open_database(pooler.url, statement_timeout=True)

    def sessions(connection: Connection) -> int:
        return int(connection.execute(text("SELECT 1")).scalar_one())

    try:
        assert await database.query(sessions) == 1
        pooler.kill()
        with pytest.raises(LogUnavailable):
            await database.query(sessions)
        pooler.start()
        assert await database.query(sessions) == 1
        await database.change(sessions)
    finally:
        await database.close()


@pytest.mark.slow
async def test_servers_and_workers_share_three_sessions_of_the_database(tmp_path: Path) -> None:
    with (
        empty_database("postgresql", tmp_path) as url,
        OwnPgbouncer(url) as pooler,
        cluster(tmp_path, pooler.url, config=CONFIG) as made,
    ):
        async with Load(lambda: made.urls) as load:
            load.begin(10, "talker", notes=True)
            await load.until_seen(100)
            await asyncio.to_thread(pooler.kill)
            await asyncio.to_thread(pooler.start)
            load.begin(10, "talker", notes=True)
            await load.finish()
            await check_all(load, made)
