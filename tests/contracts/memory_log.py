"""A log in memory, for tests. It passes the same contract as the others, except for durability."""

import threading
from collections import defaultdict
from collections.abc import Awaitable, Collection, Iterator, Sequence
from itertools import count

import msgspec

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.errors import InvalidEvent, RunPurged, RunstoreError
from runstore.core.events import (
    AgentStarted,
    CancelRequested,
    InputGiven,
    InputRequested,
    Purged,
    Queued,
    Redacted,
    Started,
)
from runstore.core.ports import Committed, EventFilter, Head, LiveFeed, OpenRun
from runstore.core.queued import read_queued
from runstore.eventlog.admission import NOTHING, Append, Given, admit, advance
from runstore.eventlog.discards import TextEvent, Withheld, discards, says_redacts, settle
from runstore.eventlog.queries import MAX_PAGE_BYTES
from runstore.eventlog.rules.control import WAITING
from runstore.eventlog.rules.reservations import Reservations, UsedKey
from runstore.eventlog.rules.rules import Rules
from runstore.eventlog.rules.sessions import Session, Sessions, Turn, session_of
from runstore.eventlog.writer import CommitResult, Writer


class MemoryEventLog:
    """The port `EventLog` over dictionaries."""

    def __init__(self, feed: LiveFeed) -> None:
        self._store = MemoryStore()
        self._writer = Writer(self._store, feed)
        self.append = self._writer.append
        self.offer = self._writer.offer

    def room(self, run_id: str) -> Awaitable[None]:
        return self._writer.room()

    async def head(self, run_id: str) -> Head | None:
        with self._store.lock:
            return self._store.heads.get(run_id)

    async def read(
        self,
        run_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
        only: EventFilter | None = None,
        from_replica: bool = False,
    ) -> list[RecordedEvent]:
        with self._store.lock:
            events = self._store.runs.get(run_id, [])
        if events and events[-1].type == Purged.type:
            raise RunPurged(run_id)
        events = events[after:upto]
        return _page([e for e in events if only is None or only.passes(e.type, e.ends)], limit)

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        with self._store.lock:
            events = [event for event in self._store.log if event.position > after]
        return _page(events, limit)

    async def open_runs(self, *, limit: int = 2_000, exclude_workers: Collection[str] = ()) -> list[OpenRun]:
        runs = [
            run
            for run in self._open()
            if (run.worker_id not in exclude_workers and run.status != WAITING) or run.cancel_at is not None
        ]
        return _by_turns(runs)[:limit]

    async def expired(self, now: int, *, limit: int) -> list[str]:
        waiting = [(run.expires_at, run.run_id) for run in self._open() if run.status == WAITING]
        return [run_id for at, run_id in sorted((at, each) for at, each in waiting if at) if at <= now][
            :limit
        ]

    async def runs_of(self, worker_id: str) -> list[OpenRun]:
        return [run for run in self._open() if run.worker_id == worker_id]

    async def workers(self) -> set[str]:
        return {run.worker_id for run in self._open() if run.worker_id is not None}

    async def open_attempts(self, run_ids: Collection[str]) -> dict[str, int]:
        return {run.run_id: run.attempt for run in self._open() if run.run_id in run_ids}

    async def session_runs(self, user_id: str, session_id: str, *, before: str, limit: int) -> list[str]:
        with self._store.lock:
            runs = self._store.conversations.get((user_id, session_id), [])
            earlier = runs[: runs.index(before)] if before in runs else []
        return earlier[::-1][:limit]

    async def close(self) -> None:
        await self._writer.close()

    def _open(self) -> list[OpenRun]:
        with self._store.lock:
            return list(self._store.open.values())


class MemoryStore:
    """Commits batches to lists."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.heads: dict[str, Head] = {}
        self.runs: dict[str, list[RecordedEvent]] = {}
        self.open: dict[str, OpenRun] = {}
        self.log: list[RecordedEvent] = []
        self.keys: dict[tuple[str, str], UsedKey] = {}
        self.sessions: dict[str, Session | None] = {}  # whose turns the open runs take, as they were queued
        self.active: dict[Session, str] = {}
        self.conversations: dict[Session, list[str]] = {}  # the runs of each session, as they were queued
        self._positions = count(1)

    def commit(self, batch: Sequence[Append]) -> CommitResult:
        result = CommitResult([], [])
        with self.lock:
            for append in batch:
                try:
                    result.results.append(self._store(append, result.commits))
                except RunstoreError as refusal:
                    result.results.append(refusal)
                except msgspec.ValidationError as error:
                    result.results.append(InvalidEvent(f"the event cannot be stored: {error}"))
        return result

    def probe(self) -> CommitResult:
        return CommitResult([], [])

    def close(self) -> None:
        """There is nothing to let go of."""

    def _count_active(self, user_id: str) -> int:
        return sum(run.user_id == user_id for run in self.open.values())

    def _store(self, append: Append, commits: list[Committed]) -> int:
        """Store an append whole, or nothing of it."""
        run_id = append.run_id
        before = self.heads.get(run_id, NOTHING)
        if not (events := admit(before, append)):
            return before.seq
        reservations = Reservations(self._count_active, lambda *user_key: self.keys.get(user_key))
        rules = Rules(reservations, Sessions(self._find_turn, self.active.get, self._find_before))
        caused = rules.take(append, events, before)
        session = self.sessions.get(run_id)
        if events[0].type == Queued.type:
            queued = read_queued(events[0])
            session = session_of(queued)
            if queued.session_id is not None:
                self.conversations.setdefault((queued.user_id, queued.session_id), []).append(run_id)
        redacts = False
        if discards(append):
            settled = settle(
                events, before.seq + 1, lambda: self._text_before(run_id), lambda: self._redacts(run_id)
            )
            events, redacts = settled.events, settled.redacts
            for withheld in settled.withheld:
                self._withhold(run_id, withheld)
        after, open_run = advance(before, events), self.open.get(run_id)
        for event in events:
            open_run = _follow(open_run, run_id, event)
        if open_run is not None:
            open_run = msgspec.structs.replace(open_run, added=after.added)
        recorded = [
            RecordedEvent(run_id, seq, next(self._positions), e.type, e.version, e.ends, e.at, e.data)
            for seq, e in enumerate(events, before.seq + 1)
        ]
        self.heads[run_id] = after
        if after.purged:
            self._forget(run_id)
        self.runs.setdefault(run_id, []).extend(recorded)
        self.log += recorded
        self.keys |= reservations.keys
        self.active |= rules.sessions.started
        if open_run is None:
            self.open.pop(run_id, None)
            self.sessions.pop(run_id, None)
            if session is not None and self.active.get(session) == run_id:
                del self.active[session]
        else:
            self.open[run_id], self.sessions[run_id] = open_run, session
        control = any(event.control for event in events)
        commits.append(Committed(run_id, before.seq + 1, events, control, redacts=redacts))
        for other in caused:
            self._store(other, commits)
        return after.seq

    def _text_before(self, run_id: str) -> Iterator[TextEvent]:
        for event in reversed(self.runs.get(run_id, [])):
            yield TextEvent(event.seq, event.type, event.data)

    def _redacts(self, run_id: str) -> bool:
        started = (event.data for event in self.runs.get(run_id, []) if event.type == AgentStarted.type)
        return any(map(says_redacts, started))

    def _withhold(self, run_id: str, withheld: Withheld) -> None:
        run, seqs = self.runs[run_id], set(withheld.seqs)
        for place in [place for place, event in enumerate(run) if event.seq in seqs]:
            tombstone = msgspec.structs.replace(run[place], type=Redacted.type, data=withheld.data)
            self.log[self.log.index(run[place])] = tombstone
            run[place] = tombstone

    def _forget(self, run_id: str) -> None:
        """Remove a run's events."""
        del self.runs[run_id]
        self.log = [event for event in self.log if event.run_id != run_id]
        for runs in self.conversations.values():
            if run_id in runs:
                runs.remove(run_id)

    def _find_turn(self, run_id: str) -> Turn | None:
        session = self.sessions.get(run_id)
        return None if session is None else Turn(session, run_id, self.runs[run_id][0].position)

    def _find_before(self, turn: Turn, most: int) -> list[str]:
        line = [run_id for run_id, session in self.sessions.items() if session == turn.session]
        if turn.position is not None:
            line = line[: line.index(turn.run_id)]
        return line[::-1][:most]


def _follow(run: OpenRun | None, run_id: str, event: EncodedEvent) -> OpenRun | None:
    """The run's row among the open runs after an event; None for a closed run."""
    change = msgspec.structs.replace
    if event.type == Queued.type:
        return OpenRun(run_id, read_queued(event).user_id, "queued", 0, 0, None, None, event.at)
    if event.ends or run is None:
        return None
    if event.type == Started.type:
        started = msgspec.json.decode(event.data, type=Started)
        return change(
            run, status="running", attempt=started.attempt, worker_id=started.worker_id,
            adoptions=run.adoptions + (started.reason == "adopted"),
        )  # fmt: skip
    if event.type == InputRequested.type:
        expires_at = msgspec.json.decode(event.data, type=Given).expires_at
        times = [at for at in (expires_at, run.expires_at) if at is not None]
        return change(run, status=WAITING, worker_id=None, expires_at=min(times, default=None))
    if event.type == InputGiven.type:
        given = msgspec.json.decode(event.data, type=Given)
        return change(run, status=WAITING if given.open else "queued", expires_at=given.expires_at)
    if event.type == CancelRequested.type and run.cancel_at is None:
        return change(run, cancel_at=event.at)
    return run


def _by_turns(runs: Sequence[OpenRun]) -> list[OpenRun]:
    turns: defaultdict[tuple[str | None, str], count[int]] = defaultdict(count)
    oldest_first = sorted(runs, key=lambda run: (run.queued_at, run.run_id))
    ranked = [(next(turns[run.worker_id, run.user_id]), run) for run in oldest_first]
    return [run for _, run in sorted(ranked, key=_urgency)]


def _urgency(ranked: tuple[int, OpenRun]) -> tuple[bool, bool, int]:
    turn, run = ranked
    return run.cancel_at is None, run.worker_id is None, turn


def _page(events: list[RecordedEvent], limit: int) -> list[RecordedEvent]:
    size = 0
    for length, event in enumerate(events[:limit], 1):
        size += len(event.data)
        if size >= MAX_PAGE_BYTES:
            return events[:length]
    return events[:limit]
