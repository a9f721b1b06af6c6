"""A search for rows by keys of several columns, for which SQLite needs another form to use its index."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Dialect, func, select, tuple_

from runstore.core.codec import to_json


def is_one_of(
    columns: Sequence[ColumnElement[str]], keys: Sequence[tuple[str, ...]], dialect: Dialect
) -> ColumnElement[bool]:
    """Whether these columns hold one of the keys.

    For a list of keys, SQLite reads the whole table. For a subquery, it looks each of its rows up.
    """
    if dialect.name != "sqlite":
        return tuple_(*columns).in_(keys)
    each = func.json_each(to_json(keys).decode()).table_valued("value")
    parts = [func.json_extract(each.c.value, f"$[{index}]") for index in range(len(columns))]
    return tuple_(*columns).in_(select(*parts))
