"""Inserts of events into SQLite with few calls of the driver, each of which releases the GIL once.

The driver takes most of an insert to bind its values, with the GIL held. So a run's consecutive events of one
type, such as its tokens, go as one value: a JSON array, which SQLite itself takes apart.
"""

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec

from runstore.database.dialects.base import COLUMNS, Row

LEAST_ALIKE = 6  # rows for which an array costs less than rows of values
MOST_ROWS = 256  # rows of one INSERT with rows of values; SQLite takes 32,766 values

# Each item of the array is `at` in TIME_DIGITS digits, and then the event's data.
TIME_DIGITS = 13
_INSERT_ALIKE = f"""
    INSERT INTO events ({COLUMNS})
    SELECT ?, ? + key, ?, ?, ?, CAST(substr(value, 1, {TIME_DIGITS}) AS INTEGER), ?,
        CAST(substr(value, {TIME_DIGITS} + 1) AS BLOB)
    FROM json_each(?)
"""
_to_json = msgspec.json.Encoder().encode


def insert(connection: sqlite3.Connection, append_id: bytes, rows: Sequence[Row]) -> None:
    """Insert the rows, each run's in the order of their seqs, which becomes that of their positions."""
    if len(rows) < LEAST_ALIKE:
        _insert_different(connection, append_id, rows)
        return
    different: list[Row] = []
    for _, group in groupby(rows, _kind):
        alike = list(group)
        if len(alike) < LEAST_ALIKE:
            different += alike
        else:
            _insert_different(connection, append_id, different)
            _insert_alike(connection, append_id, alike)
            different = []
    _insert_different(connection, append_id, different)


def _kind(row: Row) -> tuple[object, ...]:
    event = row.event
    return row.run_id, event.type, event.version, event.ends


def _insert_alike(connection: sqlite3.Connection, append_id: bytes, rows: Sequence[Row]) -> None:
    """Insert consecutive rows of one kind."""
    first = rows[0]
    items = [f"{row.event.at:0{TIME_DIGITS}}{row.event.data.decode()}" for row in rows]
    values = (
        first.run_id, first.seq, first.event.type, first.event.version, first.event.ends, append_id,
        _to_json(items).decode(),
    )  # fmt: skip
    connection.execute(_INSERT_ALIKE, values)


def _insert_different(connection: sqlite3.Connection, append_id: bytes, rows: Sequence[Row]) -> None:
    start = 0
    while start < len(rows):
        left = len(rows) - start
        # Powers of two, so that there are few statements to cache.
        count = min(MOST_ROWS, 1 << (left.bit_length() - 1))
        connection.execute(_statement(count), _values(append_id, rows[start : start + count]))
        start += count


def _values(append_id: bytes, rows: Sequence[Row]) -> list[Any]:
    """The rows one after the other, each in the order of COLUMNS."""
    values: list[Any] = []
    for row in rows:
        event = row.event
        values += (
            row.run_id, row.seq, event.type, event.version, event.ends, event.at, append_id, event.data
        )  # fmt: skip
    return values


_STATEMENTS: dict[int, str] = {}


def _statement(rows: int) -> str:
    statement = _STATEMENTS.get(rows)
    if statement is None:
        values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * rows)
        statement = _STATEMENTS[rows] = f"INSERT INTO events ({COLUMNS}) VALUES {values}"
    return statement
