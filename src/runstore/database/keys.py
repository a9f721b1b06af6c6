"""Finds rows by many keys, by statements of a bounded size."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, func, select, tuple_

from runstore.core.codec import to_json
from runstore.database.expressions import spelled

AT_ONCE = 500  # keys of one statement; SQLite takes 32,766 parameters

T = TypeVar("T")


def in_pieces(keys: Sequence[T]) -> Iterator[Sequence[T]]:
    """The keys, AT_ONCE at a time."""
    for start in range(0, len(keys), AT_ONCE):
        yield keys[start : start + AT_ONCE]


def rows_with(
    connection: Connection, query: Select[Any], column: ColumnElement[Any], keys: Sequence[Any]
) -> Iterator[Any]:
    """The rows of a query in which a column holds one of the keys."""
    for some in in_pieces(keys):
        yield from connection.execute(query.where(column.in_(some)))


def is_one_of(columns: Sequence[ColumnElement[str]], keys: Sequence[tuple[str, ...]]) -> ColumnElement[bool]:
    """Whether these columns hold one of the keys.

    For a list of keys, SQLite reads the whole table. For a subquery, it looks each of its rows up.
    """
    each = func.json_each(to_json(keys).decode()).table_valued("value")
    parts = [func.json_extract(each.c.value, f"$[{index}]") for index in range(len(columns))]
    return spelled(tuple_(*columns).in_(keys), sqlite=tuple_(*columns).in_(select(*parts)))
