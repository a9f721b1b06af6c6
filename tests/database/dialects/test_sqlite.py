"""The guarantees of the SQLite file itself, for every connection."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError

from runstore import migrations
from runstore.core.errors import ConfigError, LogUnavailable, SchemaMismatch
from runstore.core.ports import EventFilter
from runstore.database.database import Database
from runstore.database.dialects import CONNECTIONS, SqliteDialect, open_dialect
from runstore.eventlog import writer
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from tests.kit.database import make_database, migrate, open_database, open_sqlite_log
from tests.kit.events import CANCEL, COMPLETED, close_run, note, start_run

OpenLog = Callable[..., SqlEventLog]


@pytest.fixture
def dialect(database: Path) -> Iterator[SqliteDialect]:
    dialect = open_database(database)
    yield dialect
    dialect.engine.dispose()


@pytest.fixture
def connection(dialect: SqliteDialect) -> Iterator[Connection]:
    with dialect.engine.connect() as connection:
        yield connection


# ---- events are immutable ----


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET data = x'00'",
        "UPDATE events SET seq = 99 WHERE seq = 2",
        "DELETE FROM events",
        "DELETE FROM events WHERE seq = 2",
        "INSERT OR REPLACE INTO events SELECT * FROM events",
        "REPLACE INTO events (run_id, seq, type, v, ends, at, append_id, data)"
        " SELECT run_id, seq, type, v, ends, at, append_id, x'00' FROM events",
        "INSERT INTO events SELECT * FROM events WHERE true ON CONFLICT DO UPDATE SET data = x'00'",
    ],
)
async def test_the_database_refuses_to_change_an_event(
    open_log: OpenLog, connection: Connection, change: str
) -> None:
    log = open_log()
    run_id = await start_run(log)
    before = await log.read(run_id)
    with pytest.raises(IntegrityError, match="events are immutable"):
        connection.exec_driver_sql(change)
    connection.rollback()
    assert await log.read(run_id) == before


async def test_a_seq_is_given_once(open_log: OpenLog, connection: Connection) -> None:
    await start_run(open_log())
    with pytest.raises(IntegrityError, match="UNIQUE"):
        connection.exec_driver_sql(
            "INSERT INTO events (run_id, seq, type, v, ends, at, append_id, data)"
            " SELECT run_id, seq, type, v, ends, at, append_id, data FROM events"
        )


async def test_a_position_is_never_given_again(open_log: OpenLog, connection: Connection) -> None:
    log = open_log()
    await start_run(log)
    for trigger in ("update", "delete"):
        connection.exec_driver_sql(f"DROP TRIGGER events_refuse_{trigger}")
    connection.exec_driver_sql("DELETE FROM events")
    await start_run(log)
    assert [event.position for event in await log.read_all()] == [3, 4]


# ---- durable ----


def test_every_connection_is_durable_and_guarded(dialect: SqliteDialect) -> None:
    connections = [dialect.engine.connect() for _ in range(CONNECTIONS)]
    for connection in connections:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "recursive_triggers")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "recursive_triggers": 1}
        connection.close()


async def test_acknowledged_events_are_in_the_file_while_the_log_is_open(
    open_log: OpenLog, database: Path
) -> None:
    run_id = await start_run(open_log())
    with closing(sqlite3.connect(database)) as beside:
        assert beside.execute("SELECT count(*) FROM events").fetchone() == (2,)
    assert len(await open_log().read(run_id)) == 2


async def test_a_log_goes_on_where_it_was_closed(database: Path) -> None:
    runs = []
    for _ in range(3):
        log = open_sqlite_log(database, MemoryFeed())
        runs += [await start_run(log), await close_run(log)]
        for run_id in runs[::2]:
            await log.append(run_id, [note()])
        await log.close()
    log = open_sqlite_log(database, MemoryFeed())
    assert [len(await log.read(run_id)) for run_id in runs] == [5, 3, 4, 3, 3, 3]
    assert [run.run_id for run in await log.open_runs()] == runs[::2]
    assert [event.position for event in await log.read_all()] == list(range(1, 22))
    await log.close()


async def test_a_closed_log_says_so_to_its_readers(database: Path) -> None:
    log = open_sqlite_log(database, MemoryFeed())
    run_id = await start_run(log)
    await log.close()
    with pytest.raises(LogUnavailable):
        await log.head(run_id)
    with pytest.raises(LogUnavailable):
        await log.read(run_id)


async def test_a_file_that_is_not_a_database_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_TIMEOUT_S", 0.05)
    path = tmp_path / "runstore.db"
    path.write_bytes(b"this is no database, whatever its name says. " * 100)
    log = open_sqlite_log(path, MemoryFeed())
    with pytest.raises(LogUnavailable, match="not a database"):
        await log.open_runs()
    with pytest.raises(LogUnavailable, match="not a database"):
        await start_run(log)
    await log.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:////no/such/directory/runstore.db", "oracle://x"]
)
def test_a_database_that_cannot_hold_a_log_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        open_dialect(make_url(url))


# ---- control tables, which no projection may be needed for ----


async def test_open_runs_do_not_need_the_run_list(open_log: OpenLog, connection: Connection) -> None:
    log = open_log()
    run_id = await start_run(log)
    connection.exec_driver_sql("DELETE FROM runs")
    assert [run.run_id for run in await log.open_runs()] == [run_id]
    await log.append(run_id, [CANCEL])
    head = await log.head(run_id)
    assert head is not None
    assert (head.attempt, head.cancel_requested) == (1, True)
    await log.append(run_id, [COMPLETED])
    assert await log.open_runs() == []


# ---- other processes ----

# Holds the locks of a recovery of the WAL until its input ends; its index looks as after a killed writer.
RECOVERY = """
import fcntl, sys
with open(sys.argv[1], "r+b") as index:
    index.write(bytes(8) + b"\\1" * 88)
    index.flush()
    for place in (120, 122):  # WAL_WRITE_LOCK and WAL_RECOVER_LOCK
        fcntl.lockf(index, fcntl.LOCK_EX, 1, place)
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_write_waits_for_a_process_that_recovers_the_wal(database: Path, dialect: SqliteDialect) -> None:
    with Database(dialect).changing():
        pass  # so that the connection is open before the recovery
    command = [sys.executable, "-c", RECOVERY, f"{database}-shm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        ending = threading.Timer(0.1, process.stdin.close)
        ending.start()
        with Database(dialect).changing() as connection:
            connection.exec_driver_sql("UPDATE barrier SET purges = purges")
        ending.join()


# ---- migrations ----


def test_an_empty_file_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    assert migrate(path) is None
    assert migrate(path) == migrations.HEAD


def test_one_of_simultaneous_migrations_migrates(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: migrate(path), range(4)))
    assert sorted(version or "" for version in found) == ["", *[migrations.HEAD] * 3]


def test_a_connection_to_a_new_file_waits_for_the_one_that_is_making_it(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as maker:
        maker.execute("BEGIN IMMEDIATE")
        done = threading.Timer(0.05, maker.execute, ["COMMIT"])
        done.start()
        assert migrate(path) is None
        done.join()


def test_a_newer_schema_is_refused_and_left_alone(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = database.read_bytes()
    with pytest.raises(SchemaMismatch, match="9999"):
        migrate(database)
    assert database.read_bytes() == before


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new.db"
    dialect = open_database(path)
    with dialect.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        migrations.upgrade(connection)
        connection.rollback()
        assert inspect(connection).get_table_names() == []
    dialect.engine.dispose()
    assert migrate(path) is None


def test_the_newest_migration_is_this_releases_schema(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "runstore:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]
    assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == migrations.HEAD


async def test_a_statement_that_sqlite_will_never_take_is_an_error_and_no_outage(
    open_log: OpenLog,
) -> None:
    """A reader that waited for the end of an outage would wait without end."""
    log, feed = open_log(), MemoryFeed()
    run_id = await start_run(log)
    too_many = EventFilter(prefixes=tuple(f"custom.x{number}." for number in range(1_100)))
    frames = native(Tail(log, feed, run_id, after=0, only=too_many))
    with pytest.raises(OperationalError, match="too large"):
        await anext(frames)


async def test_a_changed_working_directory_leaves_the_file_and_its_locks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents and their tools may change it, for the whole process."""
    make_database(tmp_path / "runstore.db")
    monkeypatch.chdir(tmp_path)
    dialect = open_dialect(make_url("sqlite:///runstore.db"))
    with closing(dialect):
        with dialect.engine.connect() as connection:
            dialect.begin_write(connection)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        dialect.engine.dispose()
        with dialect.engine.connect() as connection:
            dialect.begin_write(connection)
        assert dialect.file == tmp_path / "runstore.db"
        assert dialect.location == "runstore.db"
        assert not any(elsewhere.iterdir())


def test_a_link_that_leads_nowhere_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with closing(open_dialect(make_url(f"sqlite:///{tmp_path}/a"))) as dialect:
        assert dialect.exposed() is None
        assert not dialect.file.exists()


def test_a_link_to_no_file_yet_is_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "link.db"
    path.symlink_to(tmp_path / "new.db")
    assert migrate(path) is None
    assert migrate(path) == migrations.HEAD


def test_no_file_is_made_in_place_of_one_that_was_taken_away(tmp_path: Path) -> None:
    """SQLite would delete the write-ahead log beside an empty file."""
    path = make_database(tmp_path / "runstore.db")
    dialect = open_database(path)
    with dialect.engine.connect() as connection:
        dialect.begin_write(connection)
    dialect.engine.dispose()
    taken = path.rename(tmp_path / "taken.db")
    with pytest.raises(LogUnavailable, match="removed or replaced"):
        dialect.engine.connect()
    assert not path.exists()
    taken.rename(path)
    dialect.engine.connect().close()
    dialect.close()


BESIDE = [("-wal", "-shm"), ("-wal",), ("-shm",)]


def take_away(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()


@pytest.mark.parametrize("suffixes", BESIDE)
@pytest.mark.parametrize("how", ["removed", "replaced"])
@pytest.mark.parametrize("name", ["runstore.db", "new.db", "link.db"])
def test_a_connection_that_has_only_read_writes_nothing_after_its_wal_was_taken_away(
    database: Path, name: str, how: str, suffixes: tuple[str, ...]
) -> None:
    path = database.with_name(name)
    if name == "link.db":
        path.symlink_to(database)
    with closing(open_database(path)) as dialect:
        with dialect.engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").one()
        real = Path(os.path.realpath(path))
        take_away(real, *suffixes)
        if how == "replaced":
            for suffix in suffixes:
                real.with_name(real.name + suffix).touch()
        with dialect.engine.connect() as connection:
            with pytest.raises(LogUnavailable, match="-wal or -shm file was removed or replaced"):
                dialect.begin_write(connection)
            connection.rollback()
            with pytest.raises(LogUnavailable, match="-wal or -shm file was removed or replaced"):
                dialect.engine.connect()


@pytest.mark.parametrize("suffixes", BESIDE)
def test_a_file_whose_wal_was_taken_away_is_opened_after_all_have_closed_it(
    database: Path, suffixes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.database.dialects.sqlite.BUSY_TIMEOUT_S", 0.1)
    first, second = open_database(database), open_database(database)
    for dialect in (first, second):
        with Database(dialect).changing() as connection:
            connection.exec_driver_sql("UPDATE barrier SET purges = purges + 1")
    take_away(database, *suffixes)
    first.close()
    for _ in range(2):
        with closing(open_database(database)) as early, pytest.raises(LogUnavailable, match="stop all proc"):
            early.engine.connect()
    second.close()
    with closing(open_database(database)) as late, late.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT purges FROM barrier").scalar() == 2


def test_a_file_that_was_taken_away_before_the_first_write_is_not_made_again(database: Path) -> None:
    with closing(open_database(database)) as dialect:
        dialect.engine.connect().close()
        dialect.engine.dispose()
        database.unlink()
        with pytest.raises(LogUnavailable, match="the file was removed or replaced"):
            dialect.engine.connect()
        assert not database.exists()


def test_every_connection_notes_the_writes_of_others(
    database: Path, dialect: SqliteDialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.database.dialects.sqlite.TURN_S", 0.2)
    with closing(open_database(database)) as other:
        for writer in (dialect, other, dialect):
            with Database(writer).changing() as connection:
                connection.exec_driver_sql("UPDATE barrier SET purges = purges + 1")
        began = time.monotonic()
        with Database(dialect).changing():
            assert time.monotonic() - began >= 0.2, "it gives others a turn"


def test_a_server_imports_the_dialect_of_no_other_database() -> None:
    looks = "print([name for name in sys.modules if name.count('.') == 2 and 'sqlalchemy.dialects' in name])"
    code = f"import runstore.cli.main, runstore.process, sys; {looks}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ".mysql" not in done.stdout
    assert ".postgresql" not in done.stdout
