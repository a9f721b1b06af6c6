"""Where the packages meet: each port is small and states its guarantees."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from msgspec import Struct

from runstore.core.codec import EncodedEvent, RecordedEvent, TailEvent
from runstore.core.errors import RunstoreError
from runstore.core.events import Custom, Event, EventType


class Head(Struct, frozen=True, gc=False):
    """Where a run stands, by which its next append is judged. `attempt`, `cancel_requested`: while open."""

    seq: int
    closed: bool = False
    deleted: bool = False
    attempt: int = 0
    cancel_requested: bool = False
    purged: bool = False


class OpenRun(Struct, frozen=True, gc=False):
    """A run that has not ended, as claim, sweep and adopt see it. Times: UTC, milliseconds since 1970."""

    run_id: str
    user_id: str
    status: str
    attempt: int
    adoptions: int
    worker_id: str | None
    cancel_at: int | None
    queued_at: int


class Committed(Struct, frozen=True):
    """One run's part of a commit.

    `control`: it holds a lifecycle event or a cancel request. `remote`: another process has committed it.
    `redacts`: it withholds events that were committed before, and whoever has kept them lets go of them.
    """

    run_id: str
    first_seq: int
    events: Sequence[EncodedEvent]
    control: bool
    remote: bool = False
    redacts: bool = False


class EventFilter(Struct, frozen=True):
    """Which types a reader wants: exact ones, and prefixes as `lifecycle.`. Terminal events always pass."""

    types: frozenset[EventType] = frozenset()
    prefixes: tuple[str, ...] = ()

    def passes(self, type: EventType, ends: bool) -> bool:
        return ends or type in self.types or type.startswith(self.prefixes)


class Reservation(Struct, frozen=True):
    """A new run's place among its user's active runs, and its idempotency key.

    Args:
        max_active: refuse the run when the user has this many runs that have not ended.
        key: an idempotency key; refuse the run when the key was used before. `body_hash`: 32 bytes, which
            distinguish a repeated request from another one with the same key.
    """

    user_id: str
    max_active: int | None = None
    key: str | None = None
    body_hash: bytes = b""


class EventLog(Protocol):
    """The truth: every run's events, immutable and in order.

    Durability: what `append` acknowledges survives `kill -9` and a power cut, once.
    Order: a run's `seq` is 1, 2, 3, … whoever writes; an append is stored whole or not at all.
    Closing: after a terminal event a run takes nothing but one `run.deleted`, and at last one `run.purged`.
    Discarding: `llm.discarded` says how much text it takes back, and the log adds from which seq.
    What is redacted is replaced, in the same append and for every later read, by an `llm.redacted` with the
    same seq, position and time.
    Purging: from that on the run is read no more; whoever was reading it gets all of what he asks for, or
    RunPurged. It keeps its head, and cannot be started again.
    Sessions: of the runs of a user's session one at a time is started, in the order they were queued, the
    `parallel` ones aside. One that is queued to `interrupt` asks those before it to stop, in the same append.
    Visibility: the live feed hears of events after their commit, never before.
    Threads: `offer` may be called from any thread; the coroutines from any event loop.
    """

    async def append(
        self,
        run_id: str,
        events: Sequence[Event | Custom | EncodedEvent],
        *,
        expected_seq: int | None = None,
        attempt: int | None = None,
        patient: bool = False,
        reservation: Reservation | None = None,
    ) -> int:
        """Append events and wait for their commit; returns the run's last seq.

        Args:
            expected_seq: refuse unless the run's head is here; 0 creates the run. None: wherever it is.
            attempt: the writer's lease; refuse when a newer attempt has started.
            patient: keep trying while the log is unavailable, instead of failing at once.
            reservation: checked and made with the append that begins a run.

        Raises:
            LimitExceeded, AlreadyStarted, IdempotencyConflict: the reservation is refused; nothing is stored.
            SessionBusy: it is not the run's turn in its session; nothing was stored.
            WrongExpectedSeq, RunClosed, LeaseLost, RunNotFound, RunActive: refused; nothing was stored.
            InvalidEvent: an event cannot be encoded or has no place there; nothing was stored.
            LogUnavailable: the log takes no writes now. Nothing was stored, or the answer to its COMMIT is
                lost: a second try with an `expected_seq` or the reservation's key finds out which.
        """

    def offer(
        self, run_id: str, event: EncodedEvent, *, attempt: int, refused: Callable[[RunstoreError], None]
    ) -> bool:
        """Queue one event of a running agent without waiting for its commit.

        Returns False when the queue is full: wait for `room`, then offer it again. Should the log refuse the
        event later, `refused` is called on another thread and must not block.
        """

    def room(self, run_id: str) -> Awaitable[None]:
        """Wait until `offer` is worth another try."""

    async def head(self, run_id: str) -> Head | None:
        """Where the run stands; None when there is no such run."""

    async def read(
        self,
        run_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
        only: EventFilter | None = None,
    ) -> list[RecordedEvent]:
        """A page of the run's events with `after < seq <= upto`, in order; bounded in bytes too.

        Only an empty page means that there is no more.

        Raises:
            RunPurged
        """

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        """A page of all runs' events after a `position`; events of one run come in their order.

        Of a run that is being purged there may be a part; its `run.purged` comes after that, and says it all.
        """

    async def open_runs(self, *, limit: int = 2_000, exclude_workers: Collection[str] = ()) -> list[OpenRun]:
        """The runs that have not ended: those to stop, then those that a worker has, then queued ones.

        Of each kind users take turns, at each worker: first comes everybody's oldest, then the second ones,
        and so on; those of one turn oldest first.

        Args:
            exclude_workers: leave out the runs of these workers, except those with a cancel request.
        """

    async def runs_of(self, worker_id: str) -> list[OpenRun]:
        """The runs that have not ended and are this worker's."""

    async def workers(self) -> set[str]:
        """The workers of all runs that have not ended."""

    async def open_attempts(self, run_ids: Collection[str]) -> dict[str, int]:
        """The attempt of each of these runs, 0: queued; one that has ended is left out."""

    async def session_runs(self, user_id: str, session_id: str, *, before: str, limit: int) -> list[str]:
        """The runs of a user's session that were queued before one of them, newest first; no purged ones."""

    async def close(self) -> None:
        """Commit what is queued, then let go. Safe to call twice."""


class Subscription(Protocol):
    """One reader's place at the live feed of a run."""

    def take(self, after: int) -> Sequence[TailEvent] | None:
        """The events from `after` + 1 on, up to the run's ending; None when there is a gap: read the log."""

    def correct(self, last: int) -> None:
        """The log ends at `last`, as read since the last `take`: what the feed has beyond is none of it."""

    async def wait(self, timeout_s: float) -> bool:
        """Wait for news since the last `take`; False after `timeout_s`, or when the feed closes."""


class Publisher(Protocol):
    """Hears of commits."""

    def publish(self, commits: Sequence[Committed]) -> None:
        """Tell of committed events. Called by the writer's thread; does not block."""


class LiveFeed(Publisher, Protocol):
    """Wakes readers after a commit. A hint and a cache: losing all of it loses nothing but time."""

    @property
    def closing(self) -> bool:
        """Whether it was closed."""

    def subscribe(self, run_id: str) -> AbstractContextManager[Subscription]:
        """Register for a run's news: whatever is committed from now on is taken or seen as a gap."""

    def listen(self, listener: Callable[[Committed], None]) -> None:
        """Call `listener` for each commit with `control`; it must not block.

        It is called on the writer's thread. Of another process's commit it hears on a thread of the feed,
        and only of the events that make it one, each as a commit of its own. Their data is `b""`, but for a
        queued run's `user_id`.
        """

    def close(self) -> None:
        """Wake every reader for the last time."""


class RunContext(Struct, frozen=True):
    """What an agent may know of the run that it works for; a factory's parameter named `ctx`.

    `memory`: the messages of the session's earlier successful runs, if the run begins with them.
    """

    run_id: str
    user_id: str
    agent_name: str
    session_id: str | None
    metadata: dict[str, Any]
    attempt: int
    memory: Sequence[dict[str, Any]] = ()


class RunRecorder(Protocol):
    """Takes what the agent of one run says. Bound to its run when it is made; never shared or looked up."""

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        """Queue an event; waits only when the log is behind (back-pressure)."""

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        """Write an event ahead: returns when it is stored."""


class AgentResult(Struct, frozen=True):
    """How an agent ended: the data of `lifecycle.completed`."""

    result: dict[str, Any]
    usage: dict[str, int]


class Agent(Protocol):
    """One agent, built for one attempt of one run."""

    async def run(self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder) -> AgentResult:
        """Work until done. `history`: what earlier attempts said, empty on the first.

        Raises:
            AgentError: it failed, with a code and a message that a person can act on.
        """

    def cancel(self) -> None:
        """Ask it to stop at its next safe point. The task is cancelled a moment later."""
