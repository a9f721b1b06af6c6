"""The log in memory: for tests and trials. It passes the same contract as the others, but for durability."""

import threading
from collections.abc import Awaitable, Sequence
from itertools import count

import msgspec

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.errors import RunstoreError
from runstore.core.events import Queued, Started
from runstore.core.ports import Committed, EventFilter, Head, LiveFeed, OpenRun
from runstore.eventlog.admission import NOTHING, Append, admit, advance
from runstore.eventlog.control import is_control
from runstore.eventlog.writer import CommitResult, Outcome, Writer


class MemoryEventLog:
    """The port `EventLog` over dictionaries."""

    def __init__(self, feed: LiveFeed) -> None:
        self._store = MemoryStore()
        self._writer = Writer(self._store, feed)
        self.append = self._writer.append
        self.offer = self._writer.offer

    def room(self, run_id: str) -> Awaitable[None]:
        return self._writer.room()

    def wait_for_room(self, run_id: str, timeout_s: float) -> None:
        self._writer.wait_for_room(timeout_s)

    async def head(self, run_id: str) -> Head | None:
        return self._store.heads.get(run_id)

    async def read(
        self,
        run_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
        only: EventFilter | None = None,
    ) -> list[RecordedEvent]:
        events = self._store.runs.get(run_id, [])[after:upto]
        return [e for e in events if only is None or only.passes(e.type, e.ends)][:limit]

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        return self._store.log[after : after + limit]

    async def open_runs(self, *, except_worker: str | None = None, limit: int = 2_000) -> list[OpenRun]:
        with self._store.lock:
            runs = list(self._store.open.values())
        wanted = [
            r
            for r in runs
            if except_worker is None or r.worker_id != except_worker or r.cancel_at is not None
        ]
        return wanted[:limit]

    async def close(self) -> None:
        await self._writer.close()


class MemoryStore:
    """Commits batches to lists."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.heads: dict[str, Head] = {}
        self.runs: dict[str, list[RecordedEvent]] = {}
        self.open: dict[str, OpenRun] = {}
        self.log: list[RecordedEvent] = []
        self._positions = count(1)

    def commit(self, batch: Sequence[Append]) -> CommitResult:
        outcomes: list[Outcome] = []
        commits: list[Committed] = []
        with self.lock:
            for append in batch:
                try:
                    events = admit(self.heads.get(append.run_id, NOTHING), append)
                except RunstoreError as refusal:
                    outcomes.append(refusal)
                    continue
                commits += self._store(append.run_id, events)
                outcomes.append(self.heads[append.run_id].seq)
        return CommitResult(outcomes, commits)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _store(self, run_id: str, events: list[EncodedEvent]) -> list[Committed]:
        if not events:
            return []
        head = self.heads.get(run_id, NOTHING)
        self.heads[run_id] = advance(head, events)
        for seq, event in enumerate(events, head.seq + 1):
            recorded = RecordedEvent(
                run_id,
                seq,
                next(self._positions),
                event.type,
                event.version,
                event.ends,
                event.at,
                event.data,
            )
            self.log.append(recorded)
            self.runs.setdefault(run_id, []).append(recorded)
            self._control(run_id, event)
        return [Committed(run_id, head.seq + 1, events, any(map(is_control, events)))]

    def _control(self, run_id: str, event: EncodedEvent) -> None:
        change = msgspec.structs.replace
        if event.ends:
            self.open.pop(run_id)
        elif event.type == Queued.type:
            self.open[run_id] = OpenRun(run_id, "queued", 0, 0, None, None, event.at)
        elif event.type == Started.type:
            run, started = self.open[run_id], msgspec.json.decode(event.data, type=Started)
            self.open[run_id] = change(
                run, status="running", attempt=started.attempt, worker_id=started.worker_id,
                adoptions=run.adoptions + (started.reason == "adopted"),
            )  # fmt: skip
        elif self.heads[run_id].cancel_requested and self.open[run_id].cancel_at is None:
            self.open[run_id] = change(self.open[run_id], cancel_at=event.at)
