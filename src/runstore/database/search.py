"""A search for bytes within bytes, which each database spells differently."""

from typing import Any

from sqlalchemy import ColumnElement, LargeBinary, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import Boolean


class holds(FunctionElement[bool]):
    """Whether a column of bytes holds these bytes."""

    inherit_cache = True
    type = Boolean()

    def __init__(self, column: ColumnElement[bytes], wanted: bytes) -> None:
        super().__init__(column, bindparam("wanted", wanted, LargeBinary, unique=True))


@compiles(holds)
def _instr(element: holds, compiler: Any, **options: Any) -> str:
    """SQLite, MySQL and MariaDB: bytes are compared as bytes."""
    column, wanted = element.clauses
    return f"(instr({compiler.process(column, **options)}, {compiler.process(wanted, **options)}) > 0)"


@compiles(holds, "postgresql")
def _position(element: holds, compiler: Any, **options: Any) -> str:
    column, wanted = element.clauses
    return f"(position({compiler.process(wanted, **options)} IN {compiler.process(column, **options)}) > 0)"
