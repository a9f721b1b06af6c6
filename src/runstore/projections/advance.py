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
LONG_READ = 1_000  # a read of at least this many positions asks how far the replica is
UNSTORED = 500_000  # positions without an event for the projection, before the position is stored

Kind = tuple[str, bool]  # an event's type, and whether it ends the run

log = structlog.get_logger(__name__)


class StepResult(Enum):
    """The outcome of a step."""

    MOVED = "moved"
    AT_END = "at the end"
    FAILED = "failed"  # an event was refused, and the build has stopped at it
    CHANGED = "changed"  # another process changed the builds: read them again


class CaughtUp(Struct, frozen=True):
    """The position that `catch_up` reached, and whether that is its target."""

    position: int
    whole: bool


class Poison(Exception):
    """The projection refuses an event. `__cause__`: its exception."""

    def __init__(self, event: RecordedEvent) -> None:
        self.event = event


class _Changed(Exception):
    """Another process has changed a build."""


class _Batch(Struct, frozen=True):
    """The next events, the position that they reach, and whether their bytes have ended the batch."""

    events: list[RecordedEvent]
    reached: int
    is_full: bool = False


class Advance:
    """Applies the log to one build.

    Every process may do so at the same time: a batch is only stored if the build is where it was when the
    batch was read. `owner` avoids duplicate work; correctness does not depend on it.

    Methods raise the database's errors; a later call then continues.
    """

    def __init__(self, database: Database, projection: Projection, build: Build, owner: str) -> None:
        self.build = build
        self.position = build.position  # each event up to it is applied, or filtered out
        self._database = database
        self._projection = projection.on(build.slot)
        self._owner = owner
        self._events = FIRST_EVENTS
        self.batch_s = BATCH_S

    def step(self, upto: int) -> StepResult:
        """Apply the next batch of events up to a position that is final."""
        if self.position >= upto:
            return StepResult.AT_END
        window = min(upto, self.position + WINDOW)
        batch = _read_past(self._database, self.position, window, self._events, self._projection.reads)
        if batch.events:
            return self._apply(batch)
        self.position = batch.reached
        return self.store() if self._is_unstored(batch.reached) else StepResult.MOVED

    @staticmethod
    def step_together(advances: Sequence["Advance"], upto: int) -> bool:
        """Apply the next batch to several builds that are at one position, in one transaction.

        The log is read once for all of them, and writers wait for one transaction instead of one for each.

        Returns:
            False if nothing was applied, as one of them cannot take it: its own `step` shows why.
        """
        database, position = advances[0]._database, advances[0].position
        window, limit = min(upto, position + WINDOW), min(each._events for each in advances)
        filters = [each._projection.reads for each in advances]
        batch = _read_past(database, position, window, limit, _any_of(filters))
        kinds = [(event.type, event.ends) for event in batch.events]
        parts = [
            (each, _of(reads, batch.events, kinds)) for each, reads in zip(advances, filters, strict=True)
        ]
        written = [(each, part) for each, part in parts if part or each._is_unstored(batch.reached)]
        if written:
            try:
                took_s = Advance._write(database, written, batch.reached)
            except Exception:  # one of them alone repeats it, and so finds its cause
                return False
            for each, _ in written:
                each._moved_by(batch, took_s)
        for each in advances:
            each.position = batch.reached
        return True

    def store(self) -> StepResult:
        """Store the position, if events that are not for this projection have moved it."""
        return (
            self._apply(_Batch([], self.position))
            if self.position > self.build.position
            else StepResult.AT_END
        )

    def catch_up(self, connection: Connection, upto: int | None) -> "CaughtUp":
        """Apply the last events, LAST_EVENTS at most, within a transaction.

        Call `caught_up` with the result after the commit.

        Args:
            upto: None: the end of the log, as the transaction excludes all writers.

        Raises:
            Poison: an event is refused. Roll back; `step` finds it again.
        """
        upto = last_position(connection) if upto is None else upto
        reached = self.position
        if reached < upto:
            batch = _read(connection, reached, upto, LAST_EVENTS, self._projection.reads)
            self._fold(connection, batch.events)
            reached = batch.reached
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

    def _is_unstored(self, position: int) -> bool:
        """Whether it is so far beyond the stored position that it should be stored, too."""
        return position - self.build.position >= UNSTORED

    def _apply(self, batch: _Batch) -> StepResult:
        try:
            took_s = Advance._write(self._database, [(self, batch.events)], batch.reached)
        except _Changed:
            return StepResult.CHANGED
        except Poison as poison:
            return self._isolate(poison, len(batch.events))
        except Exception:
            self._events = max(self._events // 2, 1)  # a smaller batch needs less of everything
            raise
        self._moved_by(batch, took_s)
        return StepResult.MOVED

    @staticmethod
    def _write(
        database: Database, parts: Sequence[tuple["Advance", list[RecordedEvent]]], reached: int
    ) -> float:
        """Apply to each build its events, and store the position, in one transaction; return its seconds.

        Raises:
            _Changed: another process has changed one of the builds.
        """
        with database.changing(derived=True) as connection:
            started = time.monotonic()  # without the wait for a writer's transaction
            rows = lock_each(connection, [each._key for each, _ in parts])
            for each, _ in parts:
                row = rows.get(each._key)
                if row is None or not each.is_ours(row):
                    raise _Changed
                each.build = row
            for each, events in parts:
                each._fold(connection, events)
            advance_rows(connection, [(each.build, each._owner) for each, _ in parts], reached)
        return time.monotonic() - started

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

    def _isolate(self, poison: Poison, events: int) -> StepResult:
        """Halve the batch until the event is alone, so that those before it are applied."""
        if events > 1:
            self._events = events // 2
            return StepResult.MOVED
        cause, event = poison.__cause__, poison.event
        failure = fault_of(cause if isinstance(cause, Exception) else poison, self.build.name, event)
        with self._database.changing() as connection:
            if not fail(connection, self.build, failure):
                return StepResult.CHANGED
        log.error(
            "projection_failed", projection=self.build.name, run_id=event.run_id, seq=event.seq,
            type=event.type, error=failure.error, remedy=failure.remedy,
        )  # fmt: skip
        return StepResult.FAILED

    def _moved_by(self, batch: _Batch, took_s: float) -> None:
        self._moved_to(batch.reached)
        self._adapt(len(batch.events), batch.is_full, took_s)

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


def _read_past(database: Database, after: int, upto: int, limit: int, reads: EventFilter | None) -> _Batch:
    """The next events, of a long range from the read replica if there is one.

    It answers only if it has all that the primary had flushed when it was asked: every event up to a position
    that was final by then.
    """

    def read(connection: Connection) -> _Batch:
        return _read(connection, after, upto, limit, reads)

    if upto - after >= LONG_READ:
        return database.read_past(read)
    with database.connect() as connection:
        return read(connection)


def _read(connection: Connection, after: int, upto: int, limit: int, reads: EventFilter | None) -> _Batch:
    events = read_all(connection, after, upto, limit, reads, max_bytes=BATCH_BYTES)
    is_full = sum(len(event.data) for event in events) >= BATCH_BYTES
    return _Batch(events, events[-1].position if is_full or len(events) == limit else upto, is_full)


def _of(reads: EventFilter | None, events: list[RecordedEvent], kinds: Sequence[Kind]) -> list[RecordedEvent]:
    """The events that pass a filter, which is asked once for each of their `kinds`."""
    if reads is None:
        return events
    passing = {kind for kind in {*kinds} if reads.passes(*kind)}
    return [event for event, kind in zip(events, kinds, strict=True) if kind in passing]


def _any_of(filters: Sequence[EventFilter | None]) -> EventFilter | None:
    """A filter that lets pass what one of these does."""
    known = [each for each in filters if each is not None]
    if len(known) < len(filters):
        return None
    prefixes = sorted({prefix for each in known for prefix in each.prefixes})
    return EventFilter(frozenset().union(*(each.types for each in known)), tuple(prefixes))
