"""Purging replaces the events of ended runs by one event, which records that the run existed.

It works in steps, with transactions so small that writers hardly wait. A reader gets all of a run or
RunPurged:

1. Mark: append `run.purged` and, in the same transaction, add the run to `purging`. From then on the run is
   not read any more.
2. Warn: make writers forget the heads that they know. A writer that was suspended could otherwise append at a
   seq that is free again; while the events exist, it conflicts.
3. Clear: delete the older events piece by piece, and with the last of them the run's entry in `purging`.

On a partitioned log, a purge of many runs marks all of them first, and drops the partitions in which most
events are theirs: see `partition_purge.py`.

The next purge finishes an interrupted one. Two concurrent purges share the work. A purged run may be purged
again, to change what its remaining event says.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Protocol, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, func, select, update

from runstore.core.codec import RecordedEvent, encode
from runstore.core.errors import RunPurged
from runstore.core.events import Deleted, Purged
from runstore.core.folds.tool_usage import TOOL_TYPES, tool_usage_of
from runstore.core.ids import first_run_id
from runstore.core.ports import EventFilter
from runstore.core.run import fold, summary
from runstore.core.times import now_ms
from runstore.core.usage import usage_of
from runstore.database.database import Database
from runstore.database.partitions import is_partitioned, month_after
from runstore.database.tables import barrier, events, idempotency, purging
from runstore.eventlog.admission import Append
from runstore.eventlog.queries import read_each, read_evolving
from runstore.eventlog.rules.reservations import KEPT_MS
from runstore.eventlog.sql_store import InlineProjection, SqlStore
from runstore.maintenance.partition_purge import drop_partitions
from runstore.maintenance.partitioning import try_to_add_months
from runstore.maintenance.patience import retry_while_transient

PAGE_RUNS = 100  # runs examined by one statement
MARKED_RUNS = 20  # runs marked in one transaction, which blocks writers for about 20 ms
PIECE_EVENTS = 1_000  # events removed in one transaction, which blocks writers for about 10 ms
PIECE_BYTES = 4 << 20  # bytes of their data, approximately: the event that crosses it is the last
TURN_S = 0.02  # seconds between two transactions, so that writers get their turn

T = TypeVar("T")

_TOOLS = EventFilter(types=TOOL_TYPES)
_e = events.c
_RUNS = (
    select(_e.run_id)
    .where(_e.run_id > bindparam("after"), _e.run_id < bindparam("upto"))
    .where(_e.seq == 1)  # a purged run has only one event, which is not its first
    .order_by(_e.run_id)
    .limit(bindparam("runs"))
)
# One run at a time: for a join over a page of runs, PostgreSQL would read the whole table.
_LAST_TWO = (
    select(_e.seq, _e.type, _e.ends, _e.at)
    .where(_e.run_id == bindparam("run"))
    .order_by(_e.seq.desc())
    .limit(2)
)
_COUNTS = select(_e.type, func.count()).where(_e.run_id == bindparam("run")).group_by(_e.type)
_last = events.alias("last")
_LAST_SEQ = select(func.max(_last.c.seq)).where(_last.c.run_id == bindparam("run")).scalar_subquery()
_OLDER = (
    select(_e.seq, func.length(_e.data))
    .where(_e.run_id == bindparam("run"), _e.seq < _LAST_SEQ)
    .order_by(_e.seq)
)
_MARKED = select(purging.c.run_id).order_by(purging.c.run_id).limit(bindparam("runs"))
_BEGUN = select(func.count()).select_from(purging)
_WARN = update(barrier).values(purges=barrier.c.purges + 1)
_REMOVE = delete(events).where(_e.run_id == bindparam("run"), _e.seq <= bindparam("upto"))
_DONE = delete(purging).where(purging.c.run_id == bindparam("run"))


class Purgeable(Struct, frozen=True):
    """The extent of a purge. `begun`: runs that an earlier purge marked and did not clear."""

    runs: int
    events: int
    begun: int


class PurgeCount(Struct):
    """The progress of a purge."""

    runs: int = 0
    events: int = 0


class Due(Struct, frozen=True):
    """A run to purge, and its last seq."""

    run_id: str
    seq: int


class Reading(Protocol):
    """Calls a function with a connection, retry_while_transient."""

    def __call__(self, function: Callable[[Connection], T], /) -> T: ...


# Finds the runs to purge, page by page.
Found = Callable[[Reading], Iterator[list[Due]]]


class _Piece(Struct, frozen=True):
    """The part of a run to remove in one transaction: all events up to a seq. `last`: none remain."""

    run_id: str
    upto: int
    last: bool


_is_last = attrgetter("last")


class Purge:
    """Purges runs of one database.

    Every method raises the database's error if other writers block it for longer than PATIENCE_S.

    Args:
        progress: called after each transaction. An exception from it stops the purge, as Ctrl-C does.
    """

    def __init__(
        self,
        database: Database,
        projections: Sequence[InlineProjection],
        progress: Callable[[PurgeCount], None] = lambda count: None,
    ) -> None:
        self._database = database
        self._store = SqlStore(database, projections)
        self._progress = progress
        self._done = PurgeCount()

    def survey(self, found: Found) -> Purgeable:
        """Count the runs and events to purge, without a change."""
        begun = self._read(lambda connection: connection.execute(_BEGUN).scalar_one())
        due = [(len(page), sum(run.seq for run in page)) for page in found(self._read)]
        return Purgeable(sum(runs for runs, _ in due), sum(seqs for _, seqs in due), begun)

    def run(
        self,
        found: Found,
        *,
        by: str,
        change: Callable[[Purged], Purged] = lambda summary: summary,
        before: Callable[[Sequence[Due]], None] = lambda page: None,
        drops: bool = True,
    ) -> PurgeCount:
        """Purge the runs that are found.

        Args:
            by: the user to name in the log.
            change: of the event that remains of a run.
            before: called with each page of runs, before they are purged.
            drops: drop partitions of a partitioned log.
        """
        drops = drops and self._read(is_partitioned)
        self._clear(drops=drops)
        for page in found(self._read):
            before(page)
            self._mark(page, by, change)
            if not drops:
                self._clear()
        if drops:
            self._clear(drops=True)
            try_to_add_months(self._database, now_ms())
        self._write(_forget_keys)
        return self._done

    def close(self) -> None:
        """Close the connection that appends."""
        self._store.close()

    def _mark(self, due: Sequence[Due], by: str, change: Callable[[Purged], Purged]) -> None:
        """Append the purge event to these runs; leave runs that have changed to a later purge."""
        summaries = self._read(lambda connection: [(run, _summary(connection, run, by)) for run in due])
        appends = [
            Append(run.run_id, [encode(change(summary))], expected_seq=run.seq)
            for run, summary in summaries
            if summary is not None
        ]
        for start in range(0, len(appends), MARKED_RUNS):
            some = appends[start : start + MARKED_RUNS]
            result = self._patiently(partial(self._store.commit, some))
            self._done.runs += sum(isinstance(each, int) for each in result.results)
            self._rest()

    def _clear(self, *, drops: bool = False) -> None:
        """Remove the events of all marked runs."""
        if drops:
            self._done.events += drop_partitions(self._database, _warn)
        while marked := self._read(
            lambda connection: connection.execute(_MARKED, {"runs": PAGE_RUNS}).scalars().all()
        ):
            self._write(_warn, exclusive=True)
            waiting = deque(marked)
            while waiting:
                pieces = self._read(partial(_next_pieces, run_ids=waiting))
                self._done.events += self._write(partial(_remove, pieces=pieces))
                for _ in filter(_is_last, pieces):
                    waiting.popleft()
                self._rest()

    def _rest(self) -> None:
        self._progress(self._done)
        time.sleep(TURN_S)

    def _read(self, function: Callable[[Connection], T]) -> T:
        return self._patiently(lambda: self._database.read(function))

    def _write(self, function: Callable[[Connection], T], *, exclusive: bool = False) -> T:
        def write() -> T:
            with self._database.writing(exclusive=exclusive) as connection:
                return function(connection)

        return self._patiently(write)

    def _patiently(self, work: Callable[[], T]) -> T:
        return retry_while_transient(self._database, work)


def ended_before(before: int, *, whole_months: bool = False) -> Found:
    """Finds the runs that ended before a time (UTC, milliseconds since 1970), oldest first.

    A run that ended before a time was created before it.

    Args:
        whole_months: leave the runs that were created in the month of that time.
    """
    created = month_after(before, 0) if whole_months else before

    def find(read: Reading) -> Iterator[list[Due]]:
        page = {"after": first_run_id(0), "upto": first_run_id(created), "runs": PAGE_RUNS}
        while runs := read(lambda connection: connection.execute(_RUNS, page).scalars().all()):
            page["after"] = runs[-1]
            yield read(partial(_find_due, run_ids=runs, before=before))

    return find


def _find_due(connection: Connection, run_ids: Sequence[str], before: int) -> list[Due]:
    """The runs, of these, that ended before a time and are not purged."""
    due: list[Due] = []
    for run_id in run_ids:
        head, *earlier = connection.execute(_LAST_TWO, {"run": run_id}).all()
        ending = earlier[0] if head.type == Deleted.type else head
        if ending.ends and ending.at < before:
            due.append(Due(run_id, head.seq))
    return due


def _summary(connection: Connection, due: Due, by: str) -> Purged | None:
    """The event that replaces a run's events; None if the run has changed, or another purge has taken it."""
    evolving = read_evolving(connection, due.run_id)
    run, used = fold(due.run_id, evolving), usage_of(evolving)
    if run.purged_at is not None:
        return _summary_again(evolving[-1], due, by)
    try:
        tools = tool_usage_of(read_each(connection, due.run_id, _TOOLS))
    except RunPurged:
        return None
    counts: dict[str, int] = {}
    for type, count in connection.execute(_COUNTS, {"run": due.run_id}):
        name = "custom" if type.startswith("custom.") else type
        counts[name] = counts.get(name, 0) + count
    if not run.closed or sum(counts.values()) != due.seq:
        return None
    return summary(run, by=by, counts=counts, used=used, tools=tools)


def _summary_again(last: RecordedEvent, due: Due, by: str) -> Purged | None:
    """The event that replaces an earlier purge's event."""
    if last.seq != due.seq:
        return None
    earlier = msgspec.json.decode(last.data, type=Purged)
    counts = {**earlier.counts, Purged.type: earlier.counts.get(Purged.type, 0) + 1}
    return msgspec.structs.replace(earlier, by=by, counts=counts)


def _next_pieces(connection: Connection, run_ids: Sequence[str]) -> list[_Piece]:
    """The pieces to remove in one transaction: part of the first run, or several whole runs."""
    pieces: list[_Piece] = []
    room, size = PIECE_EVENTS, 0
    for run_id in run_ids:
        older = connection.execute(_OLDER.limit(room), {"run": run_id}).all()
        count = 0
        while count < len(older) and size < PIECE_BYTES:
            size += older[count][1]
            count += 1
        last = count == len(older) < room
        pieces.append(_Piece(run_id, older[count - 1][0] if count else 0, last))
        room -= count
        if not last or not room or size >= PIECE_BYTES:
            break
    return pieces


def _remove(connection: Connection, pieces: Sequence[_Piece]) -> int:
    """Remove pieces; return the number of events."""
    removed = 0
    for piece in pieces:
        removed += connection.execute(_REMOVE, {"run": piece.run_id, "upto": piece.upto}).rowcount
    if done := [{"run": piece.run_id} for piece in pieces if piece.last]:
        connection.execute(_DONE, done)
    return removed


def _warn(connection: Connection) -> None:
    connection.execute(_WARN)


def _forget_keys(connection: Connection) -> None:
    """Delete expired idempotency keys; younger ones still lead to their runs."""
    oldest = now_ms() - KEPT_MS
    connection.execute(delete(idempotency).where(idempotency.c.at <= oldest))
