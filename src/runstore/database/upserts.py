"""Writes many rows that may exist, with one statement for all of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, delete
from sqlalchemy.dialects import mysql, postgresql, sqlite

from runstore.database.columns import MYSQL

Row = Mapping[str, Any]


def put_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, each with all columns; a row with the same primary key is replaced."""
    _upsert(connection, table, rows, adding=())


def add_rows(connection: Connection, table: Table, rows: Sequence[Row], sums: Collection[str]) -> None:
    """Insert rows, each with all columns; to a row with the same primary key the columns `sums` are added."""
    _upsert(connection, table, rows, adding=sums)


def delete_rows(connection: Connection, table: Table, keys: Sequence[Row], **equal: Any) -> None:
    """Delete the rows with these primary keys, if they have the values `equal`."""
    if keys:
        named = [{f"key_{name}": key[name] for name in _keys(table)} for key in keys]
        matches = [column == bindparam(f"key_{column.name}") for column in table.primary_key.columns]
        matches += [table.c[name] == value for name, value in equal.items()]
        connection.execute(delete(table).where(and_(*matches)), named)


def _keys(table: Table) -> list[str]:
    return [column.name for column in table.primary_key.columns]


def _upsert(connection: Connection, table: Table, rows: Sequence[Row], adding: Collection[str]) -> None:
    if not rows:
        return
    keys = _keys(table)
    changing = adding or [column.name for column in table.c if column.name not in keys]
    insert: Any
    if connection.dialect.name in MYSQL:
        insert = mysql.insert(table)
        given = insert.inserted
        write = insert.on_duplicate_key_update
    else:
        insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
        given = insert.excluded

        def write(changes: Any) -> Any:
            return insert.on_conflict_do_update(index_elements=keys, set_=changes)

    changes = {name: table.c[name] + given[name] if adding else given[name] for name in changing}
    connection.execute(write(changes), rows)
