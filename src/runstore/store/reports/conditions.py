"""Parts of all reports: the tables to read, conditions on them, and their limits."""

from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Select, Table

from runstore.core.errors import InvalidCursor, InvalidQuery, ProjectionNotBuilt
from runstore.projections.live import live_tables
from runstore.projections.projection import Projection

MAX_ROWS = 10_000  # rows of a report


class Days(Protocol):
    """A query of days such as 2026-11-29, both inclusive."""

    @property
    def since(self) -> str | None: ...

    @property
    def until(self) -> str | None: ...


def tables_of(connection: Connection, projection: Projection) -> dict[str, Table]:
    """The live tables. Raises ProjectionNotBuilt."""
    tables = live_tables(connection, projection)
    if tables is None:
        raise ProjectionNotBuilt(projection.name)
    return tables


def equal(table: Table, **values: Any) -> list[ColumnElement[bool]]:
    """The columns have these values; None: any."""
    return [table.c[name] == value for name, value in values.items() if value is not None]


def in_days(table: Table, query: Days) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if query.since is not None:
        where.append(table.c.day >= query.since)
    if query.until is not None:
        where.append(table.c.day <= query.until)
    return where


def bounded(query: Select[Any]) -> Select[Any]:
    """The query, for one row too many at most: see `check_rows`."""
    return query.limit(MAX_ROWS + 1)


def check_rows(rows: int) -> None:
    """Refuse a report with more than MAX_ROWS rows, rather than cut it off."""
    if rows > MAX_ROWS:
        raise InvalidQuery(f"the report has more than {MAX_ROWS:,} rows: ask for fewer days or columns")


def parse_cursor(text: str) -> tuple[int, str]:
    """The number and the name in the `next` of a page. Raises InvalidCursor."""
    number, separator, rest = text.partition(":")
    if not separator or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise InvalidCursor(f"after={text[:50]!r} is not the `next` of a page of this order")
    return int(number), rest
