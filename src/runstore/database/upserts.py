"""Writes many rows with one statement for all of them.

A rebuild writes millions of rows. So a statement is compiled once for each table, and its rows are converted
column by column: SQLAlchemy's own conversion, row by row, takes three times as long.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Dialect, Table, and_, bindparam, delete, insert, update

from runstore.database.columns import MYSQL, Name

KEY = "runstore_key_"  # prefix of parameters that a primary key is compared with
KEPT_STATEMENTS = 128  # compiled statements to cache; a projection has a handful for each of its two slots

Row = Mapping[str, Any]
Bind = Callable[[Any], Any]


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, each with all columns."""
    _write(connection, _compiled(table, connection.dialect, None), rows)


def update_rows(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Set these columns of the rows with the same primary keys."""
    _write(connection, _updating(table, connection.dialect, tuple(columns)), rows)


def put_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, each with all columns; a row with the same primary key is replaced."""
    _write(connection, _compiled(table, connection.dialect, ()), rows)


def add_rows(connection: Connection, table: Table, rows: Sequence[Row], sums: Collection[str]) -> None:
    """Insert rows, each with all columns; to a row with the same primary key the columns `sums` are added."""
    _write(connection, _compiled(table, connection.dialect, tuple(sums)), rows)


def delete_rows(connection: Connection, table: Table, keys: Sequence[Row], **equal: Any) -> None:
    """Delete the rows with these primary keys, if they have the values `equal`."""
    if keys:
        named = [{f"{KEY}{name}": key[name] for name in _keys(table)} for key in keys]
        matches = _matches(table)
        matches += [table.c[name] == value for name, value in equal.items()]
        connection.execute(delete(table).where(and_(*matches)), named)


def _matches(table: Table) -> list[ColumnElement[bool]]:
    return [column == bindparam(f"{KEY}{column.name}") for column in table.primary_key.columns]


def _keys(table: Table) -> list[str]:
    return [column.name for column in table.primary_key.columns]


class _Parameter(Struct, frozen=True):
    """A parameter of a statement, and its column.

    `bind` converts a value for the driver; None: the driver takes it unchanged.
    """

    name: str
    value_in: Callable[[Row], Any]
    is_name: bool
    bind: Bind | None

    def bound(self, values: list[Any], dialect: Dialect) -> list[Any]:
        if self.bind is None or (self.is_name and Name.takes_as_they_are(values, dialect)):
            return values
        return [self.bind(value) for value in values]


class _Compiled(Struct, frozen=True):
    """A statement as text. `parameters`: in order. `named`: the driver takes them by name."""

    text: str
    parameters: tuple[_Parameter, ...]
    named: bool


def _write(connection: Connection, statement: _Compiled, rows: Sequence[Row]) -> None:
    if not rows:
        return
    columns = [each.bound([*map(each.value_in, rows)], connection.dialect) for each in statement.parameters]
    values: list[Any] = list(zip(*columns, strict=True))
    if statement.named:
        names = [each.name for each in statement.parameters]
        values = [dict(zip(names, row, strict=True)) for row in values]
    connection.exec_driver_sql(statement.text, values)


@lru_cache(KEPT_STATEMENTS)
def _compiled(table: Table, dialect: Dialect, sums: tuple[str, ...] | None) -> _Compiled:
    """The statement that inserts rows. `sums`: see `_upsert`; None: no row may exist."""
    return _compile(table, dialect, insert(table) if sums is None else _upsert(table, dialect, sums))


@lru_cache(KEPT_STATEMENTS)
def _updating(table: Table, dialect: Dialect, columns: tuple[str, ...]) -> _Compiled:
    """The statement that sets these columns of a row. The names of parameters for its key begin with KEY."""
    values: dict[str, Any] = {name: bindparam(name) for name in columns}
    return _compile(table, dialect, update(table).where(and_(*_matches(table))).values(values))


def _compile(table: Table, dialect: Dialect, statement: Any) -> _Compiled:
    compiled: Any = statement.compile(dialect=dialect)
    names = compiled.positiontup or list(compiled.binds)
    parameters = tuple(_parameter(name, table, dialect) for name in names)
    return _Compiled(str(compiled), parameters, named=not compiled.positiontup)


def _parameter(name: str, table: Table, dialect: Dialect) -> _Parameter:
    column = table.c[name.removeprefix(KEY)]
    bind = column.type.dialect_impl(dialect).bind_processor(dialect)
    return _Parameter(name, itemgetter(column.name), isinstance(column.type, Name), bind)


def _upsert(table: Table, dialect: Dialect, sums: Sequence[str]) -> Any:
    """Replace a row that exists, or, with `sums`, add these columns to it."""
    keys = _keys(table)
    changing = sums or [column.name for column in table.c if column.name not in keys]
    insert = _insert_of(dialect)(table)
    given = insert.inserted if dialect.name in MYSQL else insert.excluded
    changes = {name: table.c[name] + given[name] if sums else given[name] for name in changing}
    if dialect.name in MYSQL:
        return insert.on_duplicate_key_update(changes)
    return insert.on_conflict_do_update(index_elements=keys, set_=changes)


def _insert_of(dialect: Dialect) -> Any:
    """The database's own `insert`. Only one is imported, as each takes tens of milliseconds and a MiB."""
    if dialect.name in MYSQL:
        from sqlalchemy.dialects.mysql import insert as on_mysql

        return on_mysql
    if dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as on_postgresql

        return on_postgresql
    from sqlalchemy.dialects.sqlite import insert as on_sqlite

    return on_sqlite
