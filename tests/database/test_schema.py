"""The guarantees of a database for every connection, and its migrations; on each kind."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    Connection,
    Engine,
    delete,
    event,
    func,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

import runstore.database.tables as schema
from runstore import migrations
from runstore.core.codec import EncodedEvent
from runstore.core.errors import ConfigError, SchemaMismatch
from runstore.core.events import Queued
from runstore.core.ids import new_run_id
from runstore.database.columns import pack_run_id
from runstore.database.dialects import Dialect, Row, open_dialect
from runstore.database.dialects.base import check_version
from runstore.database.opening import open_database
from runstore.database.tables import runs
from runstore.eventlog.queries import read_first_positions
from runstore.eventlog.sql import SqlEventLog
from tests.kit.events import close_run, start_run, token
from tests.kit.polling import until
from tests.kit.slow import mostly_slow
from tests.servers.databases import DATABASES, bare_database

OpenLog = Callable[..., SqlEventLog]

WAITING = {  # whether a process has waited for a migration's lock for longer than ANSWER_S, which is 1 s here
    "postgresql": (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        "WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted "
        "AND clock_timestamp() - waitstart > interval '1.2 s'"
    ),
    "mysql": (
        "SELECT count(*) FROM information_schema.processlist "
        "WHERE db = database() AND state = 'User lock' AND time_ms > 1200"
    ),
}
ERRORS = (sqlite3.IntegrityError, psycopg.IntegrityError, pymysql.IntegrityError)
events = schema.events


@pytest.fixture
def connection(dialect: Dialect) -> Iterator[Connection]:
    with dialect.engine.connect() as connection:
        yield connection


@pytest.fixture(params=mostly_slow(DATABASES, "sqlite", "postgresql"))
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any schema."""
    with bare_database(request.param, tmp_path) as url:
        yield url


# ---- events are immutable ----


@pytest.mark.parametrize("change", ["update", "update_all", "delete", "delete_all"])
async def test_the_database_refuses_to_change_an_event(
    open_shared: OpenLog, connection: Connection, change: str
) -> None:
    log = open_shared()
    run_id = await start_run(log)
    before = await log.read(run_id)
    statement = {
        "update": update(events).where(events.c.seq == 2).values(seq=99),
        "update_all": update(events).values(data=b"0"),
        "delete": delete(events).where(events.c.seq == 2),
        "delete_all": delete(events),
    }[change]
    with pytest.raises(DBAPIError, match="events are immutable"):
        connection.execute(statement)
    connection.rollback()
    assert await log.read(run_id) == before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_events_cannot_be_truncated(open_shared: OpenLog, connection: Connection) -> None:
    """PostgreSQL calls no row trigger for it. On MySQL it takes the right to drop tables."""
    log = open_shared()
    run_id = await start_run(log)
    before = await log.read(run_id)
    for statement in ("TRUNCATE events", "TRUNCATE events CASCADE"):
        with pytest.raises(DBAPIError, match="events are immutable"):
            connection.execute(text(statement))
        connection.rollback()
    assert await log.read(run_id) == before


TOMBSTONE = {"type": "llm.redacted", "data": b'{"agent":"demo"}'}


@pytest.mark.parametrize(
    "besides", [{"seq": 99}, {"position": 99}, {"at": 1}, {"ends": 1}, {"append_id": b"12345678"},
                {"run_id": new_run_id()}, {"type": "llm.token"}]
)  # fmt: skip
async def test_a_tombstone_takes_the_place_of_text_and_changes_nothing_else(
    open_shared: OpenLog, connection: Connection, besides: dict[str, Any]
) -> None:
    log = open_shared()
    run_id = await start_run(log)
    await log.append(run_id, [token()])
    bury = update(events).where(events.c.run_id == run_id)
    for refused in (bury.where(events.c.seq == 3).values({**TOMBSTONE, **besides}), bury.values(TOMBSTONE)):
        with pytest.raises(DBAPIError, match="events are immutable"):
            connection.execute(refused)
        connection.rollback()
    assert [event.type for event in await log.read(run_id)][2:] == ["llm.token"]


async def test_only_the_events_of_a_run_that_is_being_purged_can_be_deleted(
    open_shared: OpenLog, connection: Connection
) -> None:
    log = open_shared()
    purged, kept = await close_run(log), await close_run(log)
    connection.execute(insert(schema.purging).values(run_id=purged))
    connection.execute(delete(events).where(events.c.run_id == purged))
    with pytest.raises(DBAPIError, match="events are immutable"):
        connection.execute(delete(events).where(events.c.run_id == kept))
    connection.rollback()


async def test_a_seq_is_given_once(open_shared: OpenLog, dialect: Dialect, connection: Connection) -> None:
    run_id = await start_run(open_shared())
    dialect.begin_write(connection)
    rows = [Row(pack_run_id(run_id), 2, EncodedEvent("custom.note", 1, False, 0, b"null"))]
    with pytest.raises(ERRORS) as refusal:
        dialect.insert_events(connection, b"12345678", rows)
    connection.rollback()
    assert dialect.is_conflict(refusal.value)


def test_names_that_differ_in_case_or_blanks_are_different(connection: Connection) -> None:
    rows = [
        {"user_id": user, "key": key, "run_id": new_run_id(), "body_hash": b"0" * 32, "at": 0}
        for user in ("alice", "Alice", "alice ", "älice", "alice\u200b")
        for key in ("k", "K", "k ")
    ]
    connection.execute(insert(schema.idempotency), rows)
    found = connection.execute(schema.idempotency.select().order_by("user_id", "key")).all()
    assert {(row.user_id, row.key): row.run_id for row in found} == {
        (row["user_id"], row["key"]): row["run_id"] for row in rows
    }
    assert [row.user_id for row in found] == sorted(row.user_id for row in found)
    connection.rollback()


# ---- migrations ----


def test_an_empty_database_is_migrated(bare_url: str) -> None:
    assert version(bare_url) == migrations.HEAD
    assert version(bare_url) == migrations.HEAD


def test_one_of_simultaneous_migrations_migrates(bare_url: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(version, [bare_url] * 3)) == [migrations.HEAD] * 3


@pytest.mark.parametrize("database_url", mostly_slow(DATABASES, "sqlite", "postgresql"), indirect=True)
def test_the_migrations_make_the_tables_that_the_code_uses(connection: Connection) -> None:
    """And no others."""
    assert differences(connection) == []


def test_a_newer_schema_is_refused(bare_url: str) -> None:
    dialect = open_database(bare_url).dialect
    with dialect.engine.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.commit()
    dialect.close()
    with pytest.raises(SchemaMismatch, match="9999"):
        version(bare_url)


def test_a_database_without_a_schema_holds_no_log(bare_url: str) -> None:
    with pytest.raises(ConfigError, match=r"no file|holds no log"):
        open_database(bare_url, create=False)


@pytest.mark.parametrize("bare_url", WAITING, indirect=True)
async def test_a_process_that_serves_waits_for_the_migration_of_another_one(
    bare_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than for an answer to anything else."""
    kind = make_url(bare_url).get_backend_name()
    monkeypatch.setattr(f"runstore.database.dialects.{kind}.ANSWER_S", 1)
    dialect = open_dialect(make_url(bare_url), statement_timeout=False)
    with closing(dialect), dialect.engine.connect() as looking, dialect.engine.connect() as connection:
        with dialect.migrating(connection):
            opening = asyncio.create_task(asyncio.to_thread(open_database, bare_url, statement_timeout=True))
            await until(lambda: opening.done() or waits(looking, WAITING[kind]))
        (await opening).dialect.close()


def waits(connection: Connection, statement: str) -> bool:
    return bool(connection.exec_driver_sql(statement).scalar())


def test_an_older_schema_is_left_as_it_is_unless_it_shall_be_upgraded(bare_url: str) -> None:
    with closing(open_database(bare_url).dialect) as dialect, dialect.engine.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0004'"))
        connection.commit()
        with pytest.raises(SchemaMismatch, match=r"0004.*`runstore migrate`"):
            open_database(bare_url, upgrade=False)
        connection.rollback()
        assert migrations.current_version(connection) == "0004"


async def test_runs_of_sessions_that_are_older_than_their_table_are_remembered(
    open_shared: OpenLog, database_url: str, connection: Connection
) -> None:
    """The index must work without the run list, which may have been dropped."""
    log = open_shared()
    old, known, purged, alone = [new_run_id() for _ in range(4)]
    for run_id, session in ((old, "s"), (known, "s"), (purged, "s"), (alone, None)):
        queued = Queued(
            agent="demo", user_id="zoë", session_id=session, input="hi", multitask_strategy="parallel"
        )
        await log.append(run_id, [queued])
    await log.close()
    connection.execute(delete(schema.session_runs).where(schema.session_runs.c.run_id != known))
    connection.execute(update(schema.session_runs).values(position=None))
    connection.execute(delete(runs))
    connection.execute(insert(schema.purging).values(run_id=purged))
    connection.execute(text("UPDATE alembic_version SET version_num = '0007'"))
    connection.commit()
    assert version(database_url) == migrations.HEAD
    found = connection.execute(select(schema.session_runs)).all()
    first = read_first_positions(connection, [old, known])
    assert sorted(found) == sorted(("zoë", "s", run_id, first[run_id]) for run_id in (old, known))
    connection.execute(delete(schema.purging))
    connection.commit()


MAX_TRIES = 100  # more than there are changes of the schema


class Killed(BaseException):
    """As if the process ended between two statements."""


@pytest.mark.parametrize("bare_url", ["mysql"], indirect=True)
@pytest.mark.slow
def test_a_migration_that_is_killed_between_two_changes_of_the_schema_goes_on(bare_url: str) -> None:
    """MySQL commits each of them at once. Each time one more is made; the log is protected all the while."""
    changes, protected = 0, False
    for _ in range(MAX_TRIES):
        with killed_before_the_second_change() as changed:
            try:
                assert version(bare_url) == migrations.HEAD
            except Killed:
                pass
            else:
                break
        changes += len(changed)
        assert changed, "no try comes further than the one before"
        with closing(open_dialect(make_url(bare_url))) as dialect, dialect.engine.connect() as connection:
            refused = refuses_updates(connection)
        assert refused or not protected
        protected = refused
    else:
        raise AssertionError("the migration does not come to its end")
    assert changes > 40
    with closing(open_dialect(make_url(bare_url))) as dialect, dialect.engine.connect() as connection:
        assert differences(connection) == []
        triggers = connection.execute(text("SHOW TRIGGERS")).mappings().all()
        assert {row["Trigger"] for row in triggers} == {"events_refuse_update", "events_refuse_delete"}
        assert "llm.redacted" in triggers[0]["Statement"] + triggers[1]["Statement"]
        assert connection.execute(select(func.count()).select_from(schema.user_locks)).scalar() == 256


@contextmanager
def killed_before_the_second_change() -> Iterator[list[str]]:
    """Of the schema, wherever it is changed; yields the one that is made."""
    changed: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        repeatable = statement.startswith("CREATE OR REPLACE")  # of a view
        if statement.split(maxsplit=1)[0] in ("CREATE", "DROP", "ALTER") and not repeatable:
            if changed:
                raise Killed
            changed.append(statement)

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield changed
    finally:
        event.remove(Engine, "before_cursor_execute", look)


def refuses_updates(connection: Connection) -> bool:
    found = connection.execute(text("SHOW TRIGGERS")).mappings().all()
    return any(row["Event"] == "UPDATE" for row in found)


@pytest.mark.parametrize("found", [(13, 21), (9,), None])
def test_a_server_that_is_too_old_is_refused(found: tuple[int, ...] | None) -> None:
    url = make_url("postgresql+psycopg://me:secret@there/runs")
    with pytest.raises(ConfigError, match="too old") as refusal:
        check_version(url, "PostgreSQL", found, (14,))
    assert "secret" not in str(refusal.value)


def test_a_server_of_this_release_is_taken(dialect: Dialect, connection: Connection) -> None:
    dialect.check(connection)


def version(url: str) -> str | None:
    """Open a database as a starting server does; returns the schema that it then has."""
    dialect = open_database(url).dialect
    with dialect.engine.connect() as connection:
        found = migrations.current_version(connection)
    dialect.engine.dispose()
    return found


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return compare_metadata(context, schema.metadata)
