"""Reads the whole log in order of position, with filters, a bounded step at a time.

A filter by run is answered from the runs that match, if they are few: their events are merged. If they are
many, a good part of the log matches, and the log itself is searched. So a step costs about the same in a log
of any length.
"""

import heapq
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Select, and_, or_, select

from runstore.core.audit import AuditQuery
from runstore.core.codec import RecordedEvent, one_line
from runstore.core.ids import CLOCKS_MS, first_run_id, read_run_id, reads_id
from runstore.core.ports import EventFilter
from runstore.database.expressions import holds
from runstore.database.keys import rows_with
from runstore.database.tables import events, runs, select_listed
from runstore.eventlog.queries import EVENT, is_of, read_first_positions, read_lasts, recorded

MAX_EXAMINED = 10_000  # events examined for one step
MAX_EXAMINED_S = 1.0  # seconds of one step; the next step continues
MAX_BYTES = 1 << 20  # bytes of data of one step; the event that crosses it is the last
MERGED_RUNS = 500  # runs whose events are merged; for more, the whole log is scanned
SCANNED_RUNS = 10_000  # runs examined to find those that match
WINDOW = 1_000  # events of one query
LATE_MS = 24 * 3_600_000  # milliseconds that an event may wait for a database that is away

_e = events.c
_END = 1 << 62  # beyond every position
_RUN_IDS = select_listed(()).where(runs.c.purged == 0, runs.c.deleted == 0)


class MatchingEvents(Struct, frozen=True):
    """The matching events with `after < position <= upto`."""

    events: list[RecordedEvent]
    upto: int


def read_matching(
    connection: Connection, query: AuditQuery, after: int, mark: int, limit: int
) -> MatchingEvents:
    """One step: the next matching events, up to `limit`, of those up to the high-water mark.

    Its `upto` is always beyond `after`, if the mark is.
    """
    begin, end = max(after, begin_of(connection, query.since)), min(mark, end_of(connection, query.until))
    if begin >= end:
        return MatchingEvents([], mark)
    step = _Step(connection, query, limit)
    if not query.of_run:
        found = step.search(begin, end, None)
    elif (run_ids := find_runs_of(connection, query)) is None:
        found = step.search(begin, end, query)
    else:
        found = step.merge(list(dict.fromkeys([*run_ids, *map(reads_id, run_ids)])), begin, end)
    return MatchingEvents(found.events, mark) if found.upto >= end else found


def find_runs_of(connection: Connection, query: AuditQuery) -> list[str] | None:
    """The ids of the runs that match; None if they are too many to be merged, or to be searched."""
    if query.of_run.keys() == {"run_id"}:
        return [query.of_run["run_id"]]
    by, *others = [name for name in _SELECTIVE if name in query.of_run]
    first = [runs.c[by] == query.of_run[by]]
    if query.until is not None:
        first.append(runs.c.run_id < first_run_id(query.until + CLOCKS_MS))
    if not others:
        found = connection.execute(select(runs.c.run_id).where(*first).limit(MERGED_RUNS + 1))
        run_ids = list(found.scalars())
        return run_ids if len(run_ids) <= MERGED_RUNS else None
    # Each condition has an index. The others are checked on a bounded number of its rows.
    matches = and_(*(runs.c[name] == query.of_run[name] for name in others))
    scanned = connection.execute(select(runs.c.run_id, matches).where(*first).limit(SCANNED_RUNS)).all()
    run_ids = [run_id for run_id, holds in scanned if holds]
    return run_ids if len(run_ids) <= MERGED_RUNS and len(scanned) < SCANNED_RUNS else None


_SELECTIVE = ("run_id", "session_id", "user_id", "workspace_id", "agent_name")  # most selective first


def begin_of(connection: Connection, since: int | None) -> int:
    """A position before every event that happened at `since` or later: the first one of an older run.

    A run's first event is stored at once or not at all. So it is there before what happens later, however
    late that is stored.
    """
    if since is None:
        return 0
    older = _RUN_IDS.where(runs.c.run_id < first_run_id(since - CLOCKS_MS)).order_by(runs.c.run_id.desc())
    return _first_position(connection, older, 0)


def end_of(connection: Connection, until: int | None) -> int:
    """A position after every event that happened at `until` or before and was stored within LATE_MS."""
    if until is None:
        return _END
    newer = runs.c.run_id >= first_run_id(until + CLOCKS_MS + LATE_MS)
    return _first_position(connection, _RUN_IDS.where(newer).order_by(runs.c.run_id), _END)


def _first_position(connection: Connection, run_ids: Select[str], otherwise: int) -> int:
    run_id = connection.execute(run_ids.limit(1)).scalar()
    return otherwise if run_id is None else read_first_positions(connection, [run_id]).get(run_id, otherwise)


class _Cursor(Struct, order=True):
    """How far the events of one run are known: up to a position, which is that of a seq."""

    upto: int
    run_id: str
    seq: int
    last_seq: int


class _Step:
    """One step of a search, bounded in events, bytes and time."""

    def __init__(self, connection: Connection, query: AuditQuery, limit: int) -> None:
        self._connection = connection
        self._conditions = list(_conditions(query))
        self._limit = limit
        self._left = MAX_EXAMINED
        self._until = time.monotonic() + MAX_EXAMINED_S

    @property
    def _spent(self) -> bool:
        return self._left <= 0 or time.monotonic() > self._until

    def search(self, after: int, end: int, query: AuditQuery | None) -> MatchingEvents:
        """Search the log itself. `query`: the conditions on runs, if there are any."""
        found: list[RecordedEvent] = []
        size = 0
        while after < end and not (found and self._spent):
            self._left -= WINDOW
            after = self._next(after) - 1  # purged events leave holes
            upto = min(end, after + WINDOW)
            within = [_e.position > after, _e.position <= upto]
            if query is not None:
                within = [_e.position.in_(self._positions(within, query))]
            for event in self._read(select(*EVENT).where(*within, *self._conditions).order_by(_e.position)):
                found.append(event)
                size += len(event.data)
                if len(found) == self._limit or size >= MAX_BYTES:
                    return MatchingEvents(found, event.position)
            after = upto
            if self._spent:
                break
        return MatchingEvents(found, after)

    def _next(self, after: int) -> int:
        here = select(_e.position).where(_e.position > after).order_by(_e.position).limit(1)
        return self._connection.execute(here).scalar() or _END

    def _positions(self, within: Sequence[ColumnElement[bool]], query: AuditQuery) -> list[int]:
        """The positions of the events whose run matches. Their data, perhaps large, are not read."""
        found = self._connection.execute(select(_e.position, _e.run_id).where(*within)).all()
        run_ids = sorted({read_run_id(run_id) for _, run_id in found})
        conditions = [runs.c[name] == value for name, value in query.of_run.items()]
        wanted = select(runs.c.run_id).where(*conditions)
        matching = {row.run_id for row in rows_with(self._connection, wanted, runs.c.run_id, run_ids)}
        return [position for position, run_id in found if read_run_id(run_id) in matching]

    def merge(self, run_ids: Sequence[str], after: int, end: int) -> MatchingEvents:
        """Merge the events of some runs."""
        cursors = list(self._cursors(run_ids, after))
        heapq.heapify(cursors)
        found: list[RecordedEvent] = []
        while cursors and cursors[0].upto < end and not (found and self._spent):
            known = cursors[0].upto
            if _is_full([event for event in found if event.position <= known], self._limit):
                break
            cursor = heapq.heappop(cursors)
            found += self._advance(cursor, end)
            if cursor.seq < cursor.last_seq:
                heapq.heappush(cursors, cursor)
            if self._spent:
                break
        known = min(cursors[0].upto if cursors else end, end)
        found = sorted((event for event in found if event.position <= known), key=lambda e: e.position)
        size = 0
        for count, event in enumerate(found, 1):
            size += len(event.data)
            if count == self._limit or size >= MAX_BYTES:
                return MatchingEvents(found[:count], event.position)
        return MatchingEvents(found, known)

    def _cursors(self, run_ids: Sequence[str], after: int) -> Iterator[_Cursor]:
        """Where each run's events after a position begin."""
        last = read_lasts(self._connection, run_ids)
        live = [run_id for run_id, (_, position) in last.items() if position > after]
        first = read_first_positions(self._connection, live)
        for run_id in live:
            last_seq = last[run_id][0]
            seq, position = 0, first.get(run_id, 0)
            if position <= after:
                seq, position = self._seek(run_id, after, last_seq)
            yield _Cursor(position - 1, run_id, seq, last_seq)

    def _seek(self, run_id: str, after: int, last_seq: int) -> tuple[int, int]:
        """The seq before the run's first event after a position, and that event's position."""
        low, high = 0, last_seq - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._position(run_id, middle) <= after:
                low = middle
            else:
                high = middle - 1
        return low, self._position(run_id, low + 1)

    def _position(self, run_id: str, seq: int) -> int:
        """The position of a run's event, or of the next one if that is being purged."""
        here = select(_e.position).where(_e.run_id == run_id, _e.seq >= seq).order_by(_e.seq).limit(1)
        return self._connection.execute(here).scalar() or _END

    def _advance(self, cursor: _Cursor, end: int) -> list[RecordedEvent]:
        """The next matching events of a run; moves its cursor on."""
        upto = min(cursor.seq + WINDOW, cursor.last_seq)
        self._left -= upto - cursor.seq
        within = (_e.run_id == cursor.run_id, _e.seq > cursor.seq, _e.seq <= upto, _e.position <= end)
        found: list[RecordedEvent] = []
        size = 0
        for event in self._read(select(*EVENT).where(*within, *self._conditions).order_by(_e.seq)):
            found.append(event)
            size += len(event.data)
            if len(found) == self._limit or size >= MAX_BYTES:
                cursor.seq, cursor.upto = event.seq, event.position
                return found
        cursor.seq, cursor.upto = upto, self._position(cursor.run_id, upto)
        return found

    def _read(self, query: Select[Any]) -> Iterator[RecordedEvent]:
        rows = self._connection.execute(query.limit(self._limit))
        try:
            yield from recorded(rows)
        finally:
            rows.close()


def _is_full(found: Sequence[RecordedEvent], limit: int) -> bool:
    return len(found) >= limit or sum(len(event.data) for event in found) >= MAX_BYTES


def _conditions(query: AuditQuery) -> Iterator[ColumnElement[bool]]:
    """The conditions on the event itself."""
    if query.types:
        yield is_of(EventFilter.of(query.types))
    if query.since is not None:
        yield _e.at >= query.since
    if query.until is not None:
        yield _e.at <= query.until
    if query.contains is not None:
        text = msgspec.json.encode(query.contains)[1:-1]  # the form inside a JSON string
        forms = {text, one_line(text)}  # earlier releases stored the first one
        yield or_(*(holds(_e.data, form) for form in sorted(forms)))
