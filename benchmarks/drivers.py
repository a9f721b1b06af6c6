"""The databases' drivers, used as one would without runstore: the same table, rows and durability."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import URL, make_url

from runstore.core.codec import encode
from runstore.core.events import Token

TOKEN = Token(text="hello ", agent="demo")
COLUMNS = "run_id, seq, type, v, ends, at, append_id, data"
COPY = f"COPY events ({COLUMNS}) FROM STDIN (FORMAT BINARY)"
COPY_TYPES = ("bytea", "int8", "text", "int2", "int2", "int8", "bytea", "bytea")


class Driver(Protocol):
    """A connection that stores rows; a transaction each time."""

    def append(self, count: int) -> None: ...

    def close(self) -> None: ...


class _Run:
    """One more run's rows."""

    def __init__(self) -> None:
        self._run_id = os.urandom(16)
        self._data = encode(TOKEN).data
        self._seq = 0

    def rows(self, count: int) -> list[tuple[Any, ...]]:
        first, self._seq = self._seq + 1, self._seq + count
        return [
            (self._run_id, seq, "llm.token", 1, 0, 1_700_000_000_000, b"12345678", self._data)
            for seq in range(first, first + count)
        ]


class _Sqlite3:
    def __init__(self, url: URL) -> None:
        self._run = _Run()
        self._connection = sqlite3.connect(str(url.database), isolation_level=None)
        self._connection.execute("PRAGMA synchronous=FULL")
        self.close = self._connection.close

    def append(self, count: int) -> None:
        statement = f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(statement, self._run.rows(count))
        self._connection.execute("COMMIT")


class _Executemany:
    """psycopg and PyMySQL: one statement for many rows."""

    def __init__(self, connection: Any) -> None:
        self._run = _Run()
        self._connection = connection
        self.close = connection.close

    def append(self, count: int) -> None:
        with self._connection.cursor() as cursor:
            self._insert(cursor, self._run.rows(count))
        self._connection.commit()

    def _insert(self, cursor: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        values = ", ".join(["%s"] * len(rows[0]))
        cursor.executemany(f"INSERT INTO events ({COLUMNS}) VALUES ({values})", rows)


class _Copy(_Executemany):
    """psycopg: PostgreSQL's own way for many rows."""

    def _insert(self, cursor: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        with cursor.copy(COPY) as copy:
            copy.set_types(COPY_TYPES)
            for row in rows:
                copy.write_row(row)


def drivers_of(url: str) -> dict[str, Callable[[], Driver]]:
    """The ways to store rows in a database without runstore, by what they are called."""
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return {"sqlite3": lambda: _Sqlite3(parsed)}
    if backend == "postgresql":
        return {
            "psycopg executemany": lambda: _Executemany(_psycopg(parsed)),
            "psycopg COPY": lambda: _Copy(_psycopg(parsed)),
        }
    return {"PyMySQL executemany": lambda: _Executemany(_pymysql(parsed))}


def _psycopg(url: URL) -> Any:
    import psycopg

    return psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))


def _pymysql(url: URL) -> Any:
    import pymysql

    return pymysql.connect(
        host=url.host, port=url.port or 3306, user=url.username, password=str(url.password or ""),
        database=url.database, **url.query,
    )  # fmt: skip
