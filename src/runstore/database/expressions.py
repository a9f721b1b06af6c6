"""Expressions that databases spell differently.

One object holds all spellings, and the compiler of a database picks its own. So callers need not know theirs.
"""

from typing import Any, Self, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    String,
    TypeDecorator,
    bindparam,
    func,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import NULLTYPE
from typing_extensions import override

T = TypeVar("T")


class _Spelled(FunctionElement[Any]):
    """`clauses`: the spellings of SQLite, of PostgreSQL, and of MySQL and MariaDB."""

    inherit_cache = True

    @override
    def self_group(self, against: Any = None) -> Self:
        """As it is, since `_spell` adds parentheses. SQLAlchemy would compare conditions with 1: no index."""
        return self


@compiles(_Spelled)
def _spell(element: _Spelled, compiler: Any, **options: Any) -> str:
    sqlite, postgresql, mysql = element.clauses
    spelling = {"sqlite": sqlite, "postgresql": postgresql}.get(compiler.dialect.name, mysql)
    return f"({compiler.process(spelling, **options)})"


def spelled(
    usual: ColumnElement[T],
    *,
    sqlite: ColumnElement[T] | None = None,
    postgresql: ColumnElement[T] | None = None,
    mysql: ColumnElement[T] | None = None,
) -> ColumnElement[T]:
    """An expression, and what stands for it on some databases."""
    element = _Spelled(*(usual if own is None else own for own in (sqlite, postgresql, mysql)))
    element.type = usual.type
    return element


def holds(column: ColumnElement[bytes], wanted: bytes) -> ColumnElement[bool]:
    """Whether a column of bytes holds these bytes."""
    part = bindparam("wanted", wanted, LargeBinary, unique=True)
    return spelled(func.instr(column, part) > 0, postgresql=func.position(part.op("IN")(column)) > 0)


def octets(column: ColumnElement[Any]) -> ColumnElement[int]:
    """The bytes of a value, approximately: SQLite counts characters, PostgreSQL JSON as on its disk."""
    kind = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
    value = type_coerce(column, NULLTYPE)
    on_disk = None if isinstance(kind, String | LargeBinary) else func.pg_column_size(value)
    return spelled(func.octet_length(value), sqlite=func.length(value), postgresql=on_disk)


def compares_bytes(connection: Connection) -> bool:
    """Whether the database compares any two values, byte by byte.

    Others compare text by its collation, and some types not at all.
    """
    return connection.dialect.name == "sqlite"
