"""Queries on the log."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    ScalarSelect,
    Select,
    Subquery,
    bindparam,
    func,
    or_,
    select,
    union_all,
    update,
)

from runstore.core.codec import RecordedEvent
from runstore.core.errors import RunPurged
from runstore.core.events import AgentStarted, Deleted, Purged, Redacted
from runstore.core.ports import EventFilter, Head
from runstore.core.run import EVOLVING_TYPES
from runstore.database.columns import RunId, unpack_run_id
from runstore.database.keys import in_pieces
from runstore.database.tables import barrier, events, open_runs, purging, session_runs
from runstore.eventlog.discards import READ, TextEvent, Withheld, says_redacts

TEXT_AT_ONCE = 500  # events of one statement that finds discarded text
ROWS_AT_ONCE = 16  # rows of one call of the driver, each with up to 1 MiB of data
MAX_SEQ = (1 << 63) - 1  # the last seq that the column holds
MAX_PAGE_BYTES = 256 << 10  # bytes of data of one page; the event that crosses it is the last

EVOLVING = EventFilter(types=EVOLVING_TYPES)

_e = events.c
_RECORDED = (_e.seq, _e.position, _e.type, _e.v, _e.ends, _e.at, _e.data)
EVENT = (_e.run_id, *_RECORDED)  # the columns for `recorded`
# One statement sees one state: all of a run's events, or none while they are being removed.
_RUN = (
    select(*_RECORDED)
    .where(_e.run_id == bindparam("run"), _e.seq > bindparam("after"), _e.seq <= bindparam("upto"))
    .where(~select(purging.c.run_id).where(purging.c.run_id == bindparam("run")).exists())
    .order_by(_e.seq)
    .limit(bindparam("limit"))
)
_LAST = select(*_RECORDED).where(_e.run_id == bindparam("run")).order_by(_e.seq.desc()).limit(1)
_ENDING = _LAST.where(_e.ends == 1)  # the ending, which only markers follow
_ALL = select(*EVENT).where(_e.position > bindparam("after")).order_by(_e.position)
_LAST_POSITION = select(func.max(_e.position))
_OF_AN_OPEN_RUN = ("attempt", "cancel_at", "status", "added")  # columns of a head
_HEAD = (
    select(_e.seq, _e.type, _e.ends, *(open_runs.c[name] for name in _OF_AN_OPEN_RUN))
    .select_from(events.outerjoin(open_runs, open_runs.c.run_id == _e.run_id))
    .where(_e.run_id == bindparam("run"))
    .order_by(_e.seq.desc())
    .limit(1)
)
_TEXT_BEFORE = (
    select(_e.seq, _e.type, _e.data)
    .where(_e.run_id == bindparam("run"), _e.seq < bindparam("before"), _e.type.in_(sorted(READ)))
    .order_by(_e.seq.desc())
    .limit(TEXT_AT_ONCE)
)
_AGENTS_STARTED = select(_e.data).where(_e.run_id == bindparam("run"), _e.type == AgentStarted.type)
_WITHHOLD = (
    update(events)
    .where(_e.run_id == bindparam("run"), _e.seq.in_(bindparam("seqs", expanding=True)))
    .values(type=Redacted.type, v=Redacted.version, data=bindparam("tombstone"))
)
_first = events.alias("first")
_first_of_each = _first.c.seq == 1, _first.c.run_id.in_(bindparam("runs", expanding=True))


def _last_of(column: ColumnElement[int]) -> ScalarSelect[int]:
    """A column of a run's last event, which is one step from the end of the run's part of the index."""
    last = select(column).where(_e.run_id == _first.c.run_id).order_by(_e.seq.desc()).limit(1)
    return last.scalar_subquery().correlate(_first)


_LAST_SEQS = select(_first.c.run_id, _last_of(_e.seq)).where(*_first_of_each)
_LASTS = select(_first.c.run_id, _last_of(_e.seq), _last_of(_e.position)).where(*_first_of_each)
_FIRST_POSITIONS = select(_first.c.run_id, _first.c.position).where(*_first_of_each)
_ATTEMPTS = select(open_runs.c.run_id, open_runs.c.attempt).where(
    open_runs.c.run_id.in_(bindparam("runs", expanding=True))
)


def first_position(run_id: ColumnElement[str]) -> ScalarSelect[int]:
    """The position of a run's first event.

    A user's runs are in the order they were queued, independent of clocks.

    The user's lock, held during the append, guarantees this order. A subquery runs once per run: for a join
    with many runs, PostgreSQL may read the whole table.
    """
    return select(_first.c.position).where(_first.c.run_id == run_id, _first.c.seq == 1).scalar_subquery()


_session = session_runs.c


def _newest_of_session(position: ColumnElement[int], *conditions: ColumnElement[bool]) -> Subquery:
    of_it = _session.user_id == bindparam("user"), _session.session_id == bindparam("session")
    return (
        select(_session.run_id, position.label("position"))
        .where(*of_it, *conditions, position < first_position(bindparam("before", type_=RunId)))
        .order_by(position.desc())
        .limit(bindparam("limit"))
        .subquery()
    )


# An index has the order. Only runs that were queued by a release before 0015, after the migration, lack it.
_found = union_all(
    select(_newest_of_session(_session.position)),
    select(_newest_of_session(first_position(_session.run_id), _session.position.is_(None))),
).subquery()
_SESSION_RUNS = select(_found.c.run_id).order_by(_found.c.position.desc()).limit(bindparam("limit"))


def read_head(connection: Connection, run_id: str) -> Head | None:
    row = connection.execute(_HEAD, {"run": run_id}).first()
    return None if row is None else _head(row)


def read_last_seqs(connection: Connection, run_ids: Sequence[str]) -> dict[str, int]:
    """The heads of many runs; runs that do not exist are omitted."""
    return dict(map(tuple, _rows_of_each(connection, _LAST_SEQS, run_ids)))


def read_lasts(connection: Connection, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The seq and the position of each run's last event, also of purged runs."""
    found = {run_id: (seq, position) for run_id, seq, position in _rows_of_each(connection, _LASTS, run_ids)}
    for run_id in run_ids:
        if run_id not in found and (last := _read_last(connection, run_id)) is not None:
            found[run_id] = last.seq, last.position
    return found


def read_first_positions(connection: Connection, run_ids: Sequence[str]) -> dict[str, int]:
    """The positions of many runs' first events, see `first_position`; runs that do not exist are omitted."""
    return dict(map(tuple, _rows_of_each(connection, _FIRST_POSITIONS, run_ids)))


def read_open_attempts(connection: Connection, run_ids: Collection[str]) -> dict[str, int]:
    """See `OpenRuns.open_attempts`."""
    return dict(map(tuple, _rows_of_each(connection, _ATTEMPTS, list(run_ids))))


def read_append_id(connection: Connection, run_id: str, seq: int) -> bytes | None:
    """The append that an event was stored with."""
    return connection.execute(select(_e.append_id).where(_e.run_id == run_id, _e.seq == seq)).scalar()


def read_text_before(connection: Connection, run_id: str, seq: int) -> Iterator[TextEvent]:
    """The text of a run's agents before an event, newest first, read only as far as needed."""
    while page := connection.execute(_TEXT_BEFORE, {"run": run_id, "before": seq}).all():
        for seq, type, data in page:
            yield TextEvent(seq, type, data)


def read_redacts(connection: Connection, run_id: str) -> bool:
    """Whether an agent of a run has said as it started that its answers may be redacted."""
    return any(map(says_redacts, connection.execute(_AGENTS_STARTED, {"run": run_id}).scalars()))


def withhold(connection: Connection, run_id: str, withheld: Withheld) -> None:
    """Replace events by tombstones, the only change that the database allows."""
    for seqs in in_pieces(withheld.seqs):
        connection.execute(_WITHHOLD, {"run": run_id, "seqs": seqs, "tombstone": withheld.data})


def read_run(
    connection: Connection, run_id: str, after: int, upto: int | None, limit: int, only: EventFilter | None
) -> list[RecordedEvent]:
    """See `LogReader.read`. A page is consistent: it is complete, or RunPurged is raised."""
    query = _RUN if only is None else _RUN.where(_matches(only))
    bounds = {"run": run_id, "after": after, "upto": MAX_SEQ if upto is None else upto, "limit": limit}
    page = _recorded(run_id, _within(MAX_PAGE_BYTES, connection.execute(query, bounds)))
    last = page[-1] if page else _read_last(connection, run_id)
    if last is not None and last.type == Purged.type:
        raise RunPurged(run_id)
    return page


def read_evolving(connection: Connection, run_id: str, upto: int | None = None) -> list[RecordedEvent]:
    """All events of a run that its state depends on; of a purged run, the one that replaces them."""
    try:
        return list(read_each(connection, run_id, EVOLVING, upto))
    except RunPurged:
        last = _read_last(connection, run_id)
        return [] if last is None else [last]


def read_each(
    connection: Connection, run_id: str, only: EventFilter, upto: int | None = None
) -> Iterator[RecordedEvent]:
    """The matching events of a run, read page by page. Raises RunPurged."""
    after = 0
    while page := read_run(connection, run_id, after, upto, 1000, only):
        yield from page
        after = page[-1].seq


def read_ends(connection: Connection, run_id: str) -> list[RecordedEvent]:
    """The run's first event, and its terminal event if it is closed. Raises RunPurged."""
    ending = _recorded(run_id, connection.execute(_ENDING, {"run": run_id}))
    found = read_run(connection, run_id, 0, None, 1, None)  # read last, so that it reveals a purge in between
    return [*found, *ending]


def read_first(connection: Connection, run_id: str) -> RecordedEvent | None:
    """The run's first event; of a purged run, the one that replaces them. None: there is no such run."""
    try:
        first = read_run(connection, run_id, 0, None, 1, None)
    except RunPurged:
        return _read_last(connection, run_id)
    return first[0] if first else None


def read_all(
    connection: Connection,
    after: int,
    upto: int | None,
    limit: int,
    only: EventFilter | None = None,
    *,
    max_bytes: int = MAX_PAGE_BYTES,
) -> list[RecordedEvent]:
    """A page of all runs' events.

    Args:
        upto: the position up to which they are final; None: all are, as other writers are excluded.
        max_bytes: of data; the event that crosses it is the last.
    """
    query = _ALL if only is None else _ALL.where(_matches(only))
    query = query if upto is None else query.where(_e.position <= upto)
    rows = connection.execute(query.limit(limit), {"after": after})
    return [
        RecordedEvent(unpack_run_id(run_id), seq, position, _text(type), v, bool(ends), at, data)
        for run_id, seq, position, type, v, ends, at, data in _within(max_bytes, rows)
    ]


def recorded(rows: Iterable[Any]) -> Iterator[RecordedEvent]:
    """The events in rows of EVENT."""
    for run_id, seq, position, type, v, ends, at, data in rows:
        yield RecordedEvent(run_id, seq, position, type, v, bool(ends), at, data)


def _recorded(run_id: str, rows: Iterable[Any]) -> list[RecordedEvent]:
    """The events in rows of `_RECORDED`, as SQLAlchemy or the driver gives them."""
    return [
        RecordedEvent(run_id, seq, position, _text(type), v, bool(ends), at, data)
        for seq, position, type, v, ends, at, data in rows
    ]


@lru_cache(maxsize=256)
def _text(type: str | bytes) -> str:
    """The type of an event; MySQL's driver gives bytes."""
    return type if isinstance(type, str) else type.decode()


def _within(max_bytes: int, rows: CursorResult[Any]) -> Iterator[Any]:
    """The driver's own rows, up to the one whose data, the last column, crosses `max_bytes`.

    SQLAlchemy's rows would cost a third of the read of a page.
    """
    size, cursor = 0, cast(Any, rows.cursor)
    while some := cursor.fetchmany(ROWS_AT_ONCE):
        for row in some:
            yield row
            size += len(row[-1])
            if size >= max_bytes:
                rows.close()
                return
    rows.close()


def read_session_runs(
    connection: Connection, user_id: str, session_id: str, before: str, limit: int
) -> list[str]:
    session = {"user": user_id, "session": session_id, "before": before, "limit": limit}
    return list(connection.execute(_SESSION_RUNS, session).scalars())


def last_position(connection: Connection) -> int:
    """The position of the log's last event; 0 without one."""
    return connection.execute(_LAST_POSITION).scalar() or 0


def read_purges(connection: Connection) -> int:
    """A number that each purge and each erasure raises, once it has marked its runs."""
    purges: int = connection.execute(select(barrier.c.purges)).scalar_one()
    return purges


def read_first_at(connection: Connection, position: int) -> int | None:
    """The time of the first event after a position."""
    later = select(_e.at).where(_e.position > position).order_by(_e.position).limit(1)
    return connection.execute(later).scalar()


def _rows_of_each(connection: Connection, query: Select[Any], run_ids: Sequence[str]) -> Iterator[Any]:
    for some in in_pieces(run_ids):
        yield from connection.execute(query, {"runs": some})


def _read_last(connection: Connection, run_id: str) -> RecordedEvent | None:
    last = _recorded(run_id, connection.execute(_LAST, {"run": run_id}))
    return last[0] if last else None


def _head(row: Sequence[Any]) -> Head:
    seq, type, ends, attempt, cancel_at, status, added = row
    deleted, purged = type == Deleted.type, type == Purged.type
    closed = bool(ends) or deleted or purged
    state = status or "queued"
    return Head(seq, closed, deleted, attempt or 0, cancel_at is not None, purged, state, added or 0)


def is_of(only: EventFilter) -> ColumnElement[bool]:
    """Whether an event has one of these types. Terminal events do not pass by themselves."""
    families = (func.substr(_e.type, 1, len(prefix)) == prefix for prefix in only.prefixes)
    return or_(_e.type.in_(sorted(only.types)), *families)  # LIKE would ignore case


def _matches(only: EventFilter) -> ColumnElement[bool]:
    return or_(_e.ends == 1, is_of(only))
