"""Stores a batch in a SQL database: whole, once, and with its control tables and inline projections."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog
from msgspec import Struct
from sqlalchemy import Connection

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.errors import AppendRefused, LogUnavailable, RunstoreError
from runstore.core.events import Queued
from runstore.core.ports import Committed, Head
from runstore.core.run import EVOLVING_TYPES
from runstore.database.columns import pack_run_id
from runstore.database.database import Database, begin_write
from runstore.database.dialects import Row
from runstore.eventlog.admission import NOTHING, Append, admit, advance
from runstore.eventlog.discards import discards, settle
from runstore.eventlog.queries import read_append_id, read_head, read_redacts, read_text_before, withhold
from runstore.eventlog.rules.control import write_control
from runstore.eventlog.rules.rules import Rules, read_rules, users_of, write_rules
from runstore.eventlog.writer import AppendResult, CommitResult

CONCURRENT_TRIES = 2  # tries beside other writers; the one after them is exclusive, and cannot conflict
BATCHES = 1 << 32  # batches of one process that an append_id distinguishes
MAX_KNOWN_HEADS = 10_000  # heads of open runs to cache; a forgotten head is read again


log = structlog.get_logger(__name__)


class InlineProjection(Protocol):
    """State derived in the append's own transaction, so that it never lags the log."""

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        """Fold in new events, each run's in order; their position is 0, as the database assigns it.

        Must not commit; may be repeated after a rollback.
        """


class _Conflict(Exception):
    """Another writer was first or blocked us, or the server closed the connection: nothing was stored."""


class _Unconfirmed(Struct, frozen=True):
    """A batch whose COMMIT has no answer yet. If the answer is lost, its rows show whether it was stored."""

    batch: Sequence[Append]
    result: CommitResult
    append_id: bytes
    run_id: str
    seq: int


class _Admitted(Struct, frozen=True):
    """The accepted part of a batch, and the resulting heads, unless another writer was first."""

    heads: dict[str, Head]
    results: list[AppendResult]
    changes: dict[str, list[EncodedEvent]]
    moved: set[str]  # the runs with other changes than streamed text
    rules: Rules
    redacting: set[str]

    def result(self) -> CommitResult:
        return CommitResult(self.results, [self._committed(run_id) for run_id in self.changes])

    def first_seq(self, run_id: str) -> int:
        return self.heads[run_id].seq - len(self.changes[run_id]) + 1

    def recorded(self) -> list[RecordedEvent]:
        """The events that change a run's state, as they are stored."""
        return [
            RecordedEvent(run_id, seq, 0, event.type, event.version, event.ends, event.at, event.data)
            for run_id, events in sorted(self.changes.items(), key=_new_first)
            if run_id in self.moved
            for seq, event in enumerate(events, self.first_seq(run_id))
            if _evolves(event)
        ]

    def _committed(self, run_id: str) -> Committed:
        events = self.changes[run_id]
        return Committed(
            run_id, self.first_seq(run_id), events,
            control=run_id in self.moved and any(event.control for event in events),
            redacts=run_id in self.redacting,
        )  # fmt: skip

    def rows(self) -> list[Row]:
        """Rows sorted by run and seq, after those of new runs, whose positions keep the order of arrival."""
        rows: list[Row] = []
        for run_id, events in sorted(self.changes.items(), key=_new_first):
            packed, first = pack_run_id(run_id), self.first_seq(run_id)
            rows += [Row(packed, seq, event) for seq, event in enumerate(events, first)]
        return rows


class SqlStore:
    """Commits batches. Used only by the writer's thread.

    Args:
        beside: changes other tables in the transaction of each batch; may be repeated after a rollback.
    """

    def __init__(
        self,
        database: Database,
        projections: Sequence[InlineProjection],
        *,
        beside: Callable[[Connection], None] | None = None,
    ) -> None:
        self._dialect = database.dialect
        self._projections = projections
        self._beside = beside
        self._connection: Connection | None = None
        # Heads of open runs at our last commit: correct, or the insert conflicts.
        self._heads: dict[str, Head] = {}
        self._purges = 0  # after a purge, a stale head would no longer conflict
        self._unconfirmed: _Unconfirmed | None = None
        self._landed: dict[Append, AppendResult] = {}  # stored, and not yet reported
        self._unpublished: list[Committed] = []  # the events stored with them
        self._append_ids = _append_ids()

    def commit(self, batch: Sequence[Append]) -> CommitResult:
        for _ in range(CONCURRENT_TRIES):
            with suppress(_Conflict):
                return self._commit_once(batch)  # the next try uses the heads as they are then
        return self._commit_once(batch, exclusive=True)

    def close(self) -> None:
        """Close the connection, even if its pool has been disposed of."""
        if self._connection is not None:
            self._drop(self._connection)

    def probe(self) -> CommitResult:
        return self._commit_once([])

    def _commit_once(self, batch: Sequence[Append], *, exclusive: bool = False) -> CommitResult:
        """Commit, or roll back and raise what the failure means: `_Conflict` if another try may do better."""
        try:
            return self._commit_unstored(batch, exclusive)
        except Exception as error:
            conflict = isinstance(error, _Conflict) or self._dialect.is_conflict(error)
            cut_off = not self._rollback(batch, keep=conflict and not exclusive) and self._unconfirmed is None
            self._dialect.give_way(error)
            if (conflict or cut_off) and not exclusive:  # nothing was stored
                raise _Conflict from error
            if unavailable := self._dialect.unavailable(error):
                raise unavailable from error
            if self._unconfirmed is not None:  # perhaps stored: a refusal would invite a second write
                log.error("commit_in_doubt", error=repr(error))
                raise LogUnavailable("the answer to a COMMIT is lost") from error
            raise

    def _commit_unstored(self, batch: Sequence[Append], exclusive: bool) -> CommitResult:
        """Commit the appends of the batch that no earlier try stored, and report all of them."""
        self._look_up_unconfirmed(batch)
        if not self._landed and not self._unpublished:
            return self._store_batch(batch, exclusive)
        rest = [append for append in batch if append not in self._landed]
        result = self._store_batch(rest, exclusive) if rest or not batch else CommitResult([], [])
        self._landed |= zip(rest, result.results, strict=True)
        commits, self._unpublished = [*self._unpublished, *result.commits], []
        return CommitResult([self._landed.pop(append) for append in batch], commits)

    def _look_up_unconfirmed(self, batch: Sequence[Append]) -> None:
        """Find out whether a batch whose COMMIT failed was stored: a second write could store it twice.

        The transaction is exclusive, since the server may still be at work on the first one: a row that is
        missing then will never appear. Appends of that batch that are not in `batch` were refused, and do not
        come again.
        """
        last = self._unconfirmed
        if last is not None:
            connection = self._connect()
            begin_write(self._dialect, connection, exclusive=True)
            found = read_append_id(connection, last.run_id, last.seq)
            self._dialect.touch(connection)  # MariaDB shows rows that it has not synced yet
            connection.commit()
            self._unconfirmed = None
            if found == last.append_id:
                coming = set(batch)
                results = zip(last.batch, last.result.results, strict=True)
                self._landed |= {append: result for append, result in results if append in coming}
                self._unpublished += last.result.commits

    def _store_batch(self, batch: Sequence[Append], exclusive: bool) -> CommitResult:
        """Judge and store appends in one transaction."""
        connection = self._connect()
        if (purges := begin_write(self._dialect, connection, exclusive=exclusive)) != self._purges:
            self._heads.clear()
            self._purges = purges
        self._dialect.lock_users(connection, partial(users_of, connection, batch))
        admitted = self._admit_proven(connection, batch)
        _settle_discards(connection, admitted, batch)
        result = admitted.result()
        if admitted.changes:
            append_id = next(self._append_ids)
            self._write(connection, append_id, admitted)
            first = result.commits[0]
            self._unconfirmed = _Unconfirmed(batch, result, append_id, first.run_id, first.first_seq)
        elif not batch:
            self._dialect.touch(connection)
        connection.commit()
        self._unconfirmed = None
        self._remember(admitted)
        return result

    def _connect(self) -> Connection:
        self._connection = self._connection or self._dialect.engine.connect()
        return self._connection

    def _admit_proven(self, connection: Connection, batch: Sequence[Append]) -> _Admitted:
        """Judge the appends, each by a head that an insert of this transaction or a read proves."""
        admitted = self._admit_by_known_heads(connection, batch)
        if unproven := {append.run_id for append in batch}.difference(admitted.changes) & self._heads.keys():
            for run_id in unproven:
                del self._heads[run_id]
            admitted = self._admit_by_known_heads(connection, batch)
        return admitted

    def _admit_by_known_heads(self, connection: Connection, batch: Sequence[Append]) -> _Admitted:
        heads, rules = self._current_heads(connection, batch), read_rules(connection)
        results, changes, moved = _admit_each(heads, rules, batch, partial(read_head, connection))
        return _Admitted(heads, results, changes, moved, rules, set())

    def _current_heads(self, connection: Connection, batch: Sequence[Append]) -> dict[str, Head]:
        heads: dict[str, Head] = {}
        for append in batch:
            run_id = append.run_id
            if run_id not in heads:
                heads[run_id] = self._heads.get(run_id) or read_head(connection, run_id) or NOTHING
        return heads

    def _write(self, connection: Connection, append_id: bytes, admitted: _Admitted) -> None:
        if admitted.moved:
            write_rules(connection, admitted.rules)
        self._dialect.insert_events(connection, append_id, admitted.rows())
        if self._beside is not None:
            self._beside(connection)
        if evolving := _only_evolving({run_id: admitted.changes[run_id] for run_id in admitted.moved}):
            if self._projections:
                recorded = admitted.recorded()
                for projection in self._projections:
                    projection.apply(connection, recorded)
            write_control(connection, evolving, admitted.heads)

    def _remember(self, admitted: _Admitted) -> None:
        if len(self._heads) > MAX_KNOWN_HEADS:
            self._heads.clear()
        for run_id in admitted.changes:
            head = admitted.heads[run_id]
            if head.closed:
                self._heads.pop(run_id, None)
            else:
                self._heads[run_id] = head

    def _rollback(self, batch: Sequence[Append], *, keep: bool) -> bool:
        """`keep` the connection if it still answers; return False if there was one that does not."""
        for append in batch:
            self._heads.pop(append.run_id, None)
        connection = self._connection
        if connection is None:
            return True
        answers = not connection.invalidated
        try:
            connection.rollback()  # closing alone keeps the lock while a cursor is referenced
        except Exception:
            answers = False
        if not (keep and answers):  # the next try starts over with a new connection
            self._drop(connection)
        return answers

    def _drop(self, connection: Connection) -> None:
        self._connection = None
        with suppress(Exception):  # of a connection that is broken, and never used again
            connection.invalidate()
            connection.close()


def _append_ids() -> Iterator[bytes]:
    """A number for each batch; after the last one they restart under another process's name."""
    while True:
        process = os.urandom(4)
        for number in range(BATCHES):
            yield process + number.to_bytes(4, "big")


def _admit_each(
    heads: dict[str, Head],
    rules: Rules,
    batch: Sequence[Append],
    find_head: Callable[[str], Head | None],
) -> tuple[list[AppendResult], dict[str, list[EncodedEvent]], set[str]]:
    """Accept or refuse each append, in order; `heads` advance with the accepted ones."""
    results: list[AppendResult] = []
    changes: dict[str, list[EncodedEvent]] = defaultdict(list)
    moved: set[str] = set()

    def let_in(run_id: str, events: list[EncodedEvent], *, text: bool = False) -> None:
        if events:
            heads[run_id] = advance(heads[run_id], events, text=text)
            changes[run_id] += events
            if not text:
                moved.add(run_id)

    for append in batch:
        head = heads[append.run_id]
        try:
            events = admit(head, append)
            caused = [] if append.text else rules.take(append, events, head)
        except RunstoreError as refusal:
            results.append(refusal)
            continue
        let_in(append.run_id, events, text=append.text)
        results.append(heads[append.run_id].seq)
        for other in caused:
            if other.run_id not in heads:
                heads[other.run_id] = find_head(other.run_id) or NOTHING
            with suppress(AppendRefused):  # it has ended in the meantime, and need not stop
                let_in(other.run_id, admit(heads[other.run_id], other))
    return results, dict(changes), moved


def _new_first(change: tuple[str, list[EncodedEvent]]) -> str:
    run_id, events = change
    return "" if events[0].type == Queued.type else run_id


def _evolves(event: EncodedEvent) -> bool:
    return event.type in EVOLVING_TYPES or event.ends


def _only_evolving(changes: dict[str, list[EncodedEvent]]) -> dict[str, list[EncodedEvent]]:
    kept = {run_id: list(filter(_evolves, events)) for run_id, events in changes.items()}
    return {run_id: events for run_id, events in kept.items() if events}


def _settle_discards(connection: Connection, admitted: _Admitted, batch: Sequence[Append]) -> None:
    """Complete the discards in a batch, and replace what they withhold."""
    for run_id in {append.run_id for append in batch if discards(append)} & admitted.changes.keys():
        first_seq = admitted.first_seq(run_id)
        earlier = partial(read_text_before, connection, run_id, first_seq)
        settled = settle(
            admitted.changes[run_id], first_seq, earlier, partial(read_redacts, connection, run_id)
        )
        for withheld in settled.withheld:
            withhold(connection, run_id, withheld)
        admitted.changes[run_id] = settled.events
        if settled.redacts:
            admitted.redacting.add(run_id)
