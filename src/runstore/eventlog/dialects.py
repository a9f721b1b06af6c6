"""What differs between databases, and only that. Everything else does not ask which one it is."""

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.engine import URL

from runstore.core.errors import ConfigError, LogUnavailable

Row = tuple[bytes, int, str, int, int, int, bytes, bytes]  # run_id, seq, type, v, ends, at, append_id, data

BUSY_TIMEOUT_S = 2.0  # how long a write waits for another process's write
READERS = 2  # connections for what must be quick: heads, the run list, open runs
PAGERS = 4  # connections that read pages of events, so that long replays never hold up the others
INSERT_ROWS = 256  # rows of one INSERT: the GIL is given up once for all of them, not at every row
WAL_RETRY_S = 0.01  # between two tries to put a new file into WAL mode
WAL_PAGES = 4_000  # of 4 KiB before a checkpoint, which the committing writer waits for

_COLUMNS = "run_id, seq, type, v, ends, at, append_id, data"


class SqliteDialect:
    """One file, one writer at a time. Commit order is position order: a committed position is final."""

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:":
            raise _wrong(url, "SQLite needs a file, for example sqlite:///runstore.db")
        self.path = Path(url.database)
        if not self.path.parent.is_dir():
            raise _wrong(url, f"there is no directory {self.path.parent}")
        if self.path.exists() and not os.access(self.path, os.W_OK):
            raise _wrong(url, f"the file {self.path} is read-only")
        self.engine = create_engine(
            url,
            pool_size=READERS + PAGERS + 1,
            max_overflow=0,
            connect_args={"timeout": BUSY_TIMEOUT_S, "cached_statements": 64},
        )
        self._identity: tuple[int, int] | None = None
        _control_transactions(self.engine)

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def begin_write(self, connection: Connection) -> None:
        """Start the transaction that will append: from here on nobody else writes.

        Raises:
            LogUnavailable: the file is not the one that was opened; what is written to that one is lost.
        """
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        self._identity = self._identity or self._identify()
        if self._identify() != self._identity:
            raise LogUnavailable(f"database {self.path}: the file was removed or replaced")

    def touch(self, connection: Connection) -> None:
        """Write something of no meaning: a disk that is full, or a file that is read-only, refuses it."""
        connection.exec_driver_sql("PRAGMA user_version = 1")

    def insert_events(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Store rows, sorted by run and seq.

        Raises:
            sqlalchemy.exc.IntegrityError: a seq is taken, so a head was not where the writer believed it.
        """
        cursor = connection.connection.cursor()
        start = 0
        while start < len(rows):
            left = len(rows) - start
            count = min(INSERT_ROWS, 1 << (left.bit_length() - 1))  # powers of two: few statements, cached
            chunk = rows[start : start + count]
            cursor.execute(_insert_statement(count), [value for row in chunk for value in row])
            start += count
        cursor.close()

    def is_conflict(self, error: Exception) -> bool:
        """Whether somebody else has stored one of the seqs."""
        return isinstance(error, sqlite3.IntegrityError)

    def unavailable(self, error: Exception) -> LogUnavailable | None:
        """The error as one that may pass (locked, full, read-only, I/O, corrupt); None when it will not."""
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.InterfaceError):
            return None
        if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.DataError):
            return LogUnavailable(f"database {self.path}: {cause}")
        if isinstance(error, exc.TimeoutError):
            return LogUnavailable(f"database {self.path}: too many reads at once")
        return None


def _wrong(url: URL, what: str) -> ConfigError:
    return ConfigError(f"database URL {url}: {what}", setting="database_url")


def open_dialect(url: URL) -> SqliteDialect:
    if url.get_backend_name() == "sqlite":
        return SqliteDialect(url)
    raise _wrong(url, f"unknown database {url.get_backend_name()!r}; use sqlite:///FILE")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """While another connection makes the same new file, SQLite refuses this at once, whatever the timeout."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(WAL_RETRY_S)


_STATEMENTS: dict[int, str] = {}


def _insert_statement(rows: int) -> str:
    statement = _STATEMENTS.get(rows)
    if statement is None:
        values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * rows)
        statement = _STATEMENTS[rows] = f"INSERT INTO events ({_COLUMNS}) VALUES {values}"
    return statement


def _control_transactions(engine: Engine) -> None:
    """Let SQLAlchemy begin transactions; the driver's own way commits before some statements."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        _switch_to_wal(connection)
        for pragma in (
            "synchronous=FULL",
            "recursive_triggers=ON",  # else INSERT OR REPLACE deletes past the trigger that refuses it
            "foreign_keys=ON",
            f"wal_autocheckpoint={WAL_PAGES}",
            f"journal_size_limit={64 << 20}",
        ):
            connection.execute(f"PRAGMA {pragma}")
