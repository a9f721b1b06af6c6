"""Rebuilds a projection from the log while the system runs.

A shadow table is filled beside the live one, page by page, and survives interruptions. For the last few
events writers are blocked; then the live table is made equal to the shadow, and the differences are reported.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Select, Table, delete, func, insert, or_, select, update

from runstore.core.codec import RecordedEvent
from runstore.database.opening import Database, begin_write
from runstore.database.tables import checkpoints, runs_shadow
from runstore.eventlog.queries import EVOLVING, last_position, read_all
from runstore.projections.runs import RunList

PAGE_EVENTS = 2_000  # events folded in one transaction, which blocks writers for about 20 ms
# Bytes of a short page's data below which it is the last one, and writers stay blocked.
LAST_BYTES = 256 << 10
TURN_S = 0.02  # seconds between two pages, so that writers get their turn

Progress = Callable[[int, int], None]  # position reached, last position


class Difference(Struct, frozen=True):
    """Differences of the live table from the log: missing, wrong and surplus rows."""

    missing: int
    wrong: int
    extra: int
    rows: int

    @property
    def equal(self) -> bool:
        return not (self.missing or self.wrong or self.extra)


def rebuild(database: Database, projection: RunList, progress: Progress, *, swap: bool = True) -> Difference:
    """Fold the whole log into a shadow and compare; with `swap`, make the live table equal to it."""
    shadow = _Shadow(projection)
    keep_writers_out = partial(begin_write, database.dialect, exclusive=True)
    with database.connect() as connection:
        keep_writers_out(connection)
        while shadow.fold_page(connection):  # an empty page is the end, as writers are blocked
            last = last_position(connection)
            if shadow.near_the_end:
                progress(shadow.position, last)
                continue
            connection.commit()
            progress(shadow.position, last)
            time.sleep(TURN_S)
            keep_writers_out(connection)
        difference = _compare(connection, projection.table, shadow.table)
        if swap and not difference.equal:
            _make_equal(connection, projection.table, shadow.table)
        shadow.clear(connection)
        connection.commit()
    return difference


class _Shadow:
    """A projection under construction and its position; both survive an interruption."""

    def __init__(self, projection: RunList) -> None:
        self._name = f"{projection.name}_shadow"
        self.table = runs_shadow
        self._projection = projection.onto(self.table)
        self.position = 0
        self.near_the_end = False  # so few events were left that writers stay blocked

    def fold_page(self, connection: Connection) -> bool:
        """Fold in the next events; False at the end of the log. Writers must be blocked."""
        self._find(connection)
        page = read_all(connection, self.position, None, PAGE_EVENTS, EVOLVING)
        if not page:
            return False
        self.near_the_end = len(page) < PAGE_EVENTS and sum(len(e.data) for e in page) < LAST_BYTES
        changes: dict[str, list[RecordedEvent]] = defaultdict(list)
        for event in page:
            changes[event.run_id].append(event)
        self._projection.apply(connection, changes)
        self.position = page[-1].position
        connection.execute(
            update(checkpoints).where(checkpoints.c.name == self._name).values(position=self.position)
        )
        return True

    def _find(self, connection: Connection) -> None:
        """Continue from an earlier rebuild or the progress of a concurrent one; otherwise start."""
        self.position = connection.execute(_position(self._name)).scalar_one_or_none() or 0
        if not self.position:
            self.clear(connection)
            connection.execute(insert(checkpoints).values(name=self._name, position=0))

    def clear(self, connection: Connection) -> None:
        """Empty it; the next rebuild starts over."""
        connection.execute(delete(self.table))
        connection.execute(delete(checkpoints).where(checkpoints.c.name == self._name))


def _position(name: str) -> Select[Any]:
    return select(checkpoints.c.position).where(checkpoints.c.name == name)


def _compare(connection: Connection, live: Table, shadow: Table) -> Difference:
    def count(query: Any) -> int:
        return int(connection.execute(select(func.count()).select_from(query)).scalar() or 0)

    both = shadow.join(live, live.c.run_id == shadow.c.run_id)
    unequal = or_(*(live.c[c.name].is_distinct_from(c) for c in shadow.c))
    rows, matched = count(shadow), count(both)
    return Difference(
        missing=rows - matched,
        wrong=count(select(shadow.c.run_id).select_from(both).where(unequal).subquery()),
        extra=count(live) - matched,
        rows=rows,
    )


def _make_equal(connection: Connection, live: Table, shadow: Table) -> None:
    connection.execute(delete(live))
    connection.execute(insert(live).from_select([c.name for c in shadow.c], select(shadow)))
