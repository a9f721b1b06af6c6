"""Advances a build along the log. One transaction applies a batch and stores the position (G13)."""

import time
from collections.abc import Sequence
from enum import Enum

import structlog
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, exc

from runstore.core.codec import RecordedEvent
from runstore.core.ports import EventFilter
from runstore.database.database import Database
from runstore.eventlog.queries import last_position, read_all
from runstore.projections.builds import Build, Key, advance_rows, fail, fault_of, lock_each
from runstore.projections.projection import Projection

WINDOW = 100_000  # positions that one read looks through
FIRST_EVENTS, MOST_EVENTS = 200, 20_000  # events of one batch, at first and at most
BATCH_BYTES = 2 << 20  # bytes of their data; the event that crosses it is the last
BATCH_S = 0.02  # seconds that a transaction aims at; on SQLite writers wait for it
# A batch of FEW_EVENTS may take FEW_S: most of that time does not depend on the size of the batch.
FEW_EVENTS, FEW_S = 100, 0.1
LONG_BATCH_S = 0.5  # the same without writers: a short batch spends much of its time on its statements
LAST_EVENTS = 1_000  # events that are applied while writers, or the live build, wait
UNSTORED = 500_000  # positions without an event for the projection, before the position is stored

Kind = tuple[str, bool]  # of an event: its type, and whether it ends the run

log = structlog.get_logger(__name__)


class Step(Enum):
    """The outcome of a step."""

    MOVED = "moved"
    AT_END = "at the end"
    FAILED = "failed"  # an event was refused, and the build has stopped at it
    CHANGED = "changed"  # by another process: read the builds again


class CaughtUp(Struct, frozen=True):
    """The position that `catch_up` reached, and whether it is where it had to get."""

    position: int
    whole: bool


class Poison(Exception):
    """The projection refuses an event. `__cause__`: its exception."""

    def __init__(self, event: RecordedEvent) -> None:
        self.event = event


class _Changed(Exception):
    """Another process has changed a build."""


class Advance:
    """Applies the log to one build.

    Every process may do so at the same time: a batch is only stored if the build is where it was when the
    batch was read. `owner` keeps them from useless work.

    Methods raise the database's errors; a later call then continues.
    """

    def __init__(self, database: Database, projection: Projection, build: Build, owner: str) -> None:
        self.build = build
        self.position = build.position  # events up to it are applied, or not for this projection
        self._database = database
        self._projection = projection.on(build.slot)
        self._owner = owner
        self._events = FIRST_EVENTS
        self.batch_s = BATCH_S

    def step(self, upto: int) -> Step:
        """Apply the next batch of events up to a position that is final."""
        if self.position >= upto:
            return Step.AT_END
        window = min(upto, self.position + WINDOW)
        with self._database.connect() as connection:
            events, reached = self._read(connection, window, self._events)
        if events:
            return self._apply(events, reached)
        self.position = reached
        return self.store() if reached - self.build.position >= UNSTORED else Step.MOVED

    @property
    def reads(self) -> EventFilter | None:
        """The events that the projection gets; None: all of them."""
        return self._projection.reads

    def store(self) -> Step:
        """Store the position, if events that are not for this projection have moved it."""
        return self._apply([], self.position) if self.position > self.build.position else Step.AT_END

    def catch_up(self, connection: Connection, upto: int | None) -> "CaughtUp":
        """Apply the last events, LAST_EVENTS at most, within a transaction.

        Call `caught_up` with the result after the commit.

        Args:
            upto: None: the end of the log, as the transaction excludes all writers.

        Raises:
            Poison: an event is refused. Roll back; `step` finds it again.
        """
        upto = last_position(connection) if upto is None else upto
        if self.position < upto:
            events, reached = self._read(connection, upto, LAST_EVENTS)
            self._fold(connection, events)
        else:
            reached = self.position
        advance_rows(connection, [(self.build, self._owner)], reached)
        return CaughtUp(reached, reached >= upto)

    def caught_up(self, to: "CaughtUp") -> None:
        """The transaction of `catch_up` is committed."""
        self._moved_to(to.position)

    def is_ours(self, row: Build | None) -> bool:
        """Whether a row, as it is now, is the build that we advance."""
        if row is None or row.slot != self.build.slot or row.state not in ("running", "checking"):
            return False
        ours = row.owner in (None, self._owner) or (row.owner, row.beat) == (
            self.build.owner,
            self.build.beat,
        )
        return ours and (row.version, row.position) == (self.build.version, self.build.position)

    @property
    def _key(self) -> Key:
        return self.build.name, self.build.slot

    def _read(self, connection: Connection, upto: int, limit: int) -> tuple[list[RecordedEvent], int]:
        """The next events, and the position that they reach."""
        reads = self._projection.reads
        events = read_all(connection, self.position, upto, limit, reads, max_bytes=BATCH_BYTES)
        cut = len(events) == limit or _is_full(events)
        return events, events[-1].position if cut else upto

    def _apply(self, events: list[RecordedEvent], reached: int) -> Step:
        try:
            with self._database.changing(derived=True) as connection:
                started = time.monotonic()  # without the wait for a writer's transaction
                _take(connection, [self])
                self._fold(connection, events)
                advance_rows(connection, [(self.build, self._owner)], reached)
        except _Changed:
            return Step.CHANGED
        except Poison as poison:
            return self._isolate(poison, len(events))
        except Exception:
            self._events = max(self._events // 2, 1)  # a smaller batch needs less of everything
            raise
        self._moved_to(reached)
        self._adapt(len(events), _is_full(events), time.monotonic() - started)
        return Step.MOVED

    def _fold(self, connection: Connection, events: list[RecordedEvent]) -> None:
        if not events:
            return
        try:
            self._projection.apply(connection, events)
        except Exception as error:
            faulty = isinstance(error, exc.IntegrityError | exc.DataError | exc.ProgrammingError)
            if not faulty and self._database.may_pass(error):
                raise
            raise Poison(events[0]) from error

    def _isolate(self, poison: Poison, events: int) -> Step:
        """Halve the batch until the event is alone, so that those before it are applied."""
        if events > 1:
            self._events = events // 2
            return Step.MOVED
        cause, event = poison.__cause__, poison.event
        failure = fault_of(cause if isinstance(cause, Exception) else poison, self.build.name, event)
        with self._database.changing() as connection:
            if not fail(connection, self.build, failure):
                return Step.CHANGED
        log.error(
            "projection_failed", projection=self.build.name, run_id=event.run_id, seq=event.seq,
            type=event.type, error=failure.error, remedy=failure.remedy,
        )  # fmt: skip
        return Step.FAILED

    def _moved_to(self, position: int) -> None:
        self.position = position
        self.build = replace(self.build, position=position, owner=self._owner, beat=self.build.beat + 1)

    def _adapt(self, events: int, is_full: bool, took_s: float) -> None:
        """Let batches grow or shrink until one takes `batch_s`, or, of FEW_EVENTS at most, FEW_S.

        A batch that its bytes ended also limits the next one: a server sends all rows that it is asked for.
        """
        most = MOST_EVENTS
        if events and took_s > self.batch_s:
            per_s = events / took_s
            few = min(int(per_s * max(self.batch_s, FEW_S)), FEW_EVENTS)
            most = max(int(per_s * self.batch_s), few, 1)
        if events > most:
            self._events = most
        elif is_full:
            self._events = min(self._events, 2 * events)
        elif events >= self._events:
            self._events = min(2 * self._events, most)


def _is_full(events: Sequence[RecordedEvent]) -> bool:
    """Whether their bytes end the batch."""
    return sum(len(event.data) for event in events) >= BATCH_BYTES


def step_together(database: Database, advances: Sequence[Advance], upto: int) -> bool:
    """Apply the next batch to several builds that are at one position, in one transaction.

    The log is read once for all of them, and writers wait for one transaction instead of one for each.

    Returns:
        False if nothing was applied, as one of them cannot take it: its own `step` shows why.
    """
    position = advances[0].position
    window = min(upto, position + WINDOW)
    limit = min(each._events for each in advances)
    with database.connect() as connection:
        events = read_all(connection, position, window, limit, _any_of(advances), max_bytes=BATCH_BYTES)
    is_full = _is_full(events)
    reached = events[-1].position if is_full or len(events) == limit else window
    kinds = [(event.type, event.ends) for event in events]
    parts = [(each, _of(each.reads, events, kinds)) for each in advances]
    written = [(each, part) for each, part in parts if part or reached - each.build.position >= UNSTORED]
    if written and not _write_together(database, written, reached, len(events), is_full):
        return False
    for each, _ in parts:
        each.position = reached
    return True


def _write_together(
    database: Database,
    parts: Sequence[tuple[Advance, list[RecordedEvent]]],
    reached: int,
    events: int,
    is_full: bool,
) -> bool:
    try:
        with database.changing(derived=True) as connection:
            started = time.monotonic()
            _take(connection, [each for each, _ in parts])
            for each, part in parts:
                each._fold(connection, part)
            advance_rows(connection, [(each.build, each._owner) for each, _ in parts], reached)
    except Exception:  # one of them alone repeats it, and so finds its cause
        return False
    took_s = time.monotonic() - started
    for each, _ in parts:
        each._moved_to(reached)
        each._adapt(events, is_full, took_s)
    return True


def _take(connection: Connection, advances: Sequence[Advance]) -> None:
    """Lock the builds. Raises _Changed if another process has changed one since."""
    rows = lock_each(connection, [each._key for each in advances])
    for each in advances:
        row = rows.get(each._key)
        if row is None or not each.is_ours(row):
            raise _Changed
        each.build = row


def _of(reads: EventFilter | None, events: list[RecordedEvent], kinds: Sequence[Kind]) -> list[RecordedEvent]:
    """The events that pass a filter, which is asked once for each of their `kinds`."""
    if reads is None:
        return events
    passing = {kind for kind in {*kinds} if reads.passes(*kind)}
    return [event for event, kind in zip(events, kinds, strict=True) if kind in passing]


def _any_of(advances: Sequence[Advance]) -> EventFilter | None:
    """The events that at least one of them reads."""
    filters = [each.reads for each in advances if each.reads is not None]
    if len(filters) < len(advances):
        return None
    prefixes = sorted({prefix for each in filters for prefix in each.prefixes})
    return EventFilter(frozenset().union(*(each.types for each in filters)), tuple(prefixes))
