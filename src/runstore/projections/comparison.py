"""Compares the tables of two builds of a projection, range by range of their keys."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, delete, insert, or_, select, union

from runstore.projections.projection import Projection

RANGE_ROWS = 1_000  # rows of each table that are compared in one transaction, within about 10 ms
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

        Rows that appear behind it later are not compared: otherwise there would be no end under load.
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
        keys_left = self._next_range(connection)
        is_last = len(keys_left) < RANGE_ROWS
        if not keys_left:
            self._next = _Range(self._after, is_last, TableDifference())
            return False
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
        self._next = _Range(last, is_last, difference)
        if self._correct:
            self._replace(connection, wrong + extra, [new[key] for key in missing + wrong])
        return not is_last

    def _next_range(self, connection: Connection) -> list[Row]:
        """The keys of the next range in either table, in the order of the database."""
        keys = union(*[select(self._next_keys(table)) for table in (self._live, self._new)]).subquery()
        return list(map(tuple, connection.execute(select(keys).order_by(*keys.c).limit(RANGE_ROWS))))

    def _next_keys(self, table: Table) -> Any:
        key = self._key_of(table)
        return select(*key).where(*self._is_left(key)).order_by(*key).limit(RANGE_ROWS).subquery()

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
