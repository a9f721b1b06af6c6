"""Compares the tables of two builds of a projection, range by range of their keys."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    Integer,
    Numeric,
    Table,
    Text,
    and_,
    bindparam,
    collate,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    type_coerce,
    union,
)
from sqlalchemy.types import NULLTYPE, TypeEngine

from runstore.database.expressions import compares_bytes, octets
from runstore.projections.projection import Projection

RANGE_ROWS = 1_000  # rows of each table that are compared in one transaction, within about 10 ms
COUNTED_ROWS = 5_000  # rows of one transaction where the database counts equal rows
FIRST_ROWS = 32  # half of those whose bytes are counted first, where rows may be large
RANGE_BYTES = 4 << 20  # bytes of texts and BLOBs without a length, of each table in one transaction
SHORT = (Integer, Numeric, Boolean, Date, DateTime)  # types of which no value is large
SHOWN_KEYS = 10  # differing keys of a table that a report names

Row = tuple[Any, ...]
How = Literal["missing", "wrong", "extra"]


class DifferingKey(Struct, frozen=True):
    """The primary key of a row that is missing in the live table, wrong there, or surplus."""

    how: How
    key: dict[str, Any]


class TableDifference(Struct, frozen=True):
    """How a live table differs from the log. `rows`: those that it should have; `keys`: the first ten."""

    missing: int = 0
    wrong: int = 0
    extra: int = 0
    rows: int = 0
    keys: tuple[DifferingKey, ...] = ()

    @property
    def equal(self) -> bool:
        return not (self.missing or self.wrong or self.extra)

    def __add__(self, other: "TableDifference") -> "TableDifference":
        return TableDifference(
            self.missing + other.missing, self.wrong + other.wrong, self.extra + other.extra,
            self.rows + other.rows, (self.keys + other.keys)[:SHOWN_KEYS],
        )  # fmt: skip


class _Range(Struct, frozen=True):
    """A range that was compared. `last`: its last key."""

    last: Row | None
    is_last: bool
    found: TableDifference


class Comparison:
    """Compares a live build with a new one, whose positions must be equal at each step.

    Args:
        correct: make the live rows equal to the new ones.
    """

    def __init__(self, live: Projection, new: Projection, names: Sequence[str], *, correct: bool) -> None:
        pairs = zip(names, live.tables, new.tables, strict=True)
        self._tables = {name: _TableComparison(old, new, correct) for name, old, new in pairs}

    def step(self, connection: Connection) -> bool:
        """Compare the next range; False if it was the last one.

        Rows that are added to an earlier range are not compared: under load there would be no end.
        """
        left = [table for table in self._tables.values() if not table.done]
        return bool(left) and (left[0].step(connection) or len(left) > 1)

    def settle(self) -> None:
        """The transaction of the last step is committed."""
        for table in self._tables.values():
            table.settle()

    def differences(self) -> dict[str, TableDifference]:
        return {name: table.difference() for name, table in self._tables.items()}


class _TableComparison:
    def __init__(self, live: Table, new: Table, correct: bool) -> None:
        self.done = False
        self._live = live
        self._new = new
        self._correct = correct
        self._key = [column.key for column in new.primary_key.columns]
        self._places = [new.c.keys().index(name) for name in self._key]
        self._large = [column.key for column in new.columns if _has_no_length(column.type)]
        # Rows of the last range that fitted into RANGE_BYTES.
        self._fitting = FIRST_ROWS if self._large else COUNTED_ROWS
        self._after: Row | None = None  # the last key that was compared
        self._found = TableDifference()
        self._next: _Range | None = None

    def difference(self) -> TableDifference:
        return self._found

    def settle(self) -> None:
        if self._next is not None:
            self._found = self._found + self._next.found
            self._after, self.done = self._next.last, self._next.is_last
            self._next = None

    def step(self, connection: Connection) -> bool:
        """Compare the next range; whether there are more. `settle` after the commit."""
        counts = compares_bytes(connection)
        rows = self._rows_that_fit(connection, COUNTED_ROWS if counts else RANGE_ROWS)
        compare = self._count_equal if counts else self._compare_equal
        self._next = compare(connection, rows) or self._compare_keys(connection, min(rows, RANGE_ROWS))
        return not self._next.is_last

    def _rows_that_fit(self, connection: Connection, most: int) -> int:
        """How many of the next rows are within RANGE_BYTES in both tables; at least one."""
        rows = min(2 * self._fitting, most)
        while self._large and rows > 1:
            size = max(self._size(connection, table, rows) for table in (self._new, self._live))
            if size <= RANGE_BYTES:
                break
            rows = max(rows * RANGE_BYTES // size, 1)
        self._fitting = rows
        return rows

    def _size(self, connection: Connection, table: Table, rows: int) -> int:
        """The bytes of the next rows of a table."""
        key = self._key_of(table)
        sizes = [func.coalesce(octets(table.c[name]), 0).label(name) for name in self._large]
        some = select(*sizes).where(*self._is_left(key)).order_by(*key).limit(rows).subquery()
        totals = connection.execute(select(*(func.sum(some.c[name]) for name in self._large))).one()
        return sum(int(total or 0) for total in totals)

    def _compare_equal(self, connection: Connection, most: int) -> _Range | None:
        """Compare the next rows of both tables without the keys that differ; None if they do."""
        rows = self._read_next(connection, self._new, most)
        if rows != self._read_next(connection, self._live, most):
            return None
        last = self._python_key(connection, rows[-1]) if rows else self._after
        return _Range(last, len(rows) < most, TableDifference(rows=len(rows)))

    def _count_equal(self, connection: Connection, most: int) -> _Range | None:
        """The same where the database counts equal rows: in a quarter of the time that reading them takes."""
        key = self._key_of(self._new)
        ends = select(*key).where(*self._is_left(key)).order_by(*key).offset(most - 1).limit(1)
        last = connection.execute(ends).first()
        of_new, of_live = (self._in_range(self._key_of(table), last) for table in (self._new, self._live))
        same_key = [mine == its for mine, its in zip(key, self._key_of(self._live), strict=True)]
        same_row = [
            collate(type_coerce(column, Text), "BINARY").is_not_distinct_from(
                type_coerce(self._live.c[name], NULLTYPE)
            )
            for name, column in self._new.c.items()
        ]
        count = select(func.count())
        in_live = select(literal(1)).select_from(self._live).where(*of_live).limit(most + 1).subquery()
        both = self._new.join(self._live, and_(*same_key, *same_row))
        counts = select(
            count.select_from(self._new).where(*of_new).scalar_subquery(),
            count.select_from(in_live).scalar_subquery(),
            count.select_from(both).where(*of_new).scalar_subquery(),
        )
        new, live, equal = connection.execute(counts).one()
        if not new == live == equal:
            return None
        return _Range(self._after if last is None else tuple(last), last is None, TableDifference(rows=new))

    def _in_range(self, key: Sequence[ColumnElement[Any]], last: Any) -> list[ColumnElement[bool]]:
        return [*self._is_left(key), *([] if last is None else [_upto(key, tuple(last))])]

    def _read_next(self, connection: Connection, table: Table, most: int) -> list[Row]:
        key = self._key_of(table)
        columns = [type_coerce(table.c[name], NULLTYPE) for name in self._new.c.keys()]  # noqa: SIM118
        query = select(*columns).where(*self._is_left(key)).order_by(*key).limit(most)
        return list(map(tuple, connection.execute(query).all()))

    def _python_key(self, connection: Connection, row: Row) -> Row:
        """The key of a row from the driver, as Python values."""
        key: list[Any] = []
        for column, place in zip(self._key_of(self._new), self._places, strict=True):
            convert = column.type.dialect_impl(connection.dialect).result_processor(connection.dialect, None)
            key.append(convert(row[place]) if convert else row[place])
        return tuple(key)

    def _compare_keys(self, connection: Connection, most: int) -> _Range:
        """Compare the next range key by key."""
        keys_left = self._next_range(connection, most)
        is_last = len(keys_left) < most
        if not keys_left:
            return _Range(self._after, is_last, TableDifference())
        last = keys_left[-1]
        live, new = (self._read(connection, table, last) for table in (self._live, self._new))
        missing = [key for key in new if key not in live]
        wrong = [key for key, row in new.items() if live.get(key, row) != row]
        extra = [key for key in live if key not in new]
        kinds: list[tuple[How, list[Row]]] = [("missing", missing), ("wrong", wrong), ("extra", extra)]
        keys = [
            DifferingKey(how, dict(zip(self._key, key, strict=True)))
            for how, found in kinds
            for key in found[:SHOWN_KEYS]
        ]
        difference = TableDifference(len(missing), len(wrong), len(extra), len(new), tuple(keys))
        if self._correct:
            self._replace(connection, wrong + extra, [new[key] for key in missing + wrong])
        return _Range(last, is_last, difference)

    def _next_range(self, connection: Connection, most: int) -> list[Row]:
        """The keys of the next range in either table, in the order of the database."""
        keys = union(*[select(self._next_keys(table, most)) for table in (self._live, self._new)]).subquery()
        return list(map(tuple, connection.execute(select(keys).order_by(*keys.c).limit(most))))

    def _next_keys(self, table: Table, most: int) -> Any:
        key = self._key_of(table)
        return select(*key).where(*self._is_left(key)).order_by(*key).limit(most).subquery()

    def _read(self, connection: Connection, table: Table, last: Row) -> dict[Row, Row]:
        key = self._key_of(table)
        query = select(*[table.c[name] for name in self._new.c.keys()])  # noqa: SIM118 - columns
        rows = connection.execute(query.where(*self._is_left(key), _upto(key, last)))
        return {tuple(row[place] for place in self._places): tuple(row) for row in rows}

    def _is_left(self, key: Sequence[ColumnElement[Any]]) -> list[ColumnElement[bool]]:
        return [] if self._after is None else [_beyond(key, self._after)]

    def _key_of(self, table: Table) -> list[ColumnElement[Any]]:
        return [table.c[name] for name in self._key]

    def _replace(self, connection: Connection, removed: Sequence[Row], added: Sequence[Row]) -> None:
        if removed:
            is_key = [column == bindparam(f"key_{column.key}") for column in self._key_of(self._live)]
            names = [f"key_{name}" for name in self._key]
            values = [dict(zip(names, key, strict=True)) for key in removed]
            connection.execute(delete(self._live).where(*is_key), values)
        if added:
            columns = self._new.c.keys()
            connection.execute(insert(self._live), [dict(zip(columns, row, strict=True)) for row in added])


def _has_no_length(kind: TypeEngine[Any]) -> bool:
    """Whether the type of a column sets no limit to the length of its values."""
    return not isinstance(kind, SHORT) and getattr(kind, "length", None) is None


def _beyond(key: Sequence[ColumnElement[Any]], bound: Row) -> ColumnElement[bool]:
    """Keys after a bound. The condition on the first column alone lets every database use the index."""
    column: ColumnElement[Any] = key[0]
    value = bound[0]
    after: ColumnElement[bool] = column > value
    if len(key) == 1:
        return after
    return and_(column >= value, or_(after, _beyond(key[1:], bound[1:])))


def _upto(key: Sequence[ColumnElement[Any]], bound: Row) -> ColumnElement[bool]:
    column: ColumnElement[Any] = key[0]
    value = bound[0]
    upto: ColumnElement[bool] = column <= value
    if len(key) == 1:
        return upto
    return and_(upto, or_(column < value, _upto(key[1:], bound[1:])))
