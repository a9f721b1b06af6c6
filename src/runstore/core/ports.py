"""The ports between packages: each is small and states its guarantees."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from msgspec import Struct

from runstore.core.codec import EncodedEvent, RecordedEvent, TailEvent
from runstore.core.errors import RunstoreError
from runstore.core.events import Custom, Event, EventType, InputRequested


class Head(Struct, frozen=True, gc=False):
    """A run's head, which decides about its next append.

    `attempt`, `cancel_requested`, `status`: of an open run, which is queued, running or waiting. A run that
    waits, or is queued after it, has no attempt that may write: `released`.
    """

    seq: int
    closed: bool = False
    deleted: bool = False
    attempt: int = 0
    cancel_requested: bool = False
    purged: bool = False
    status: str = "queued"

    @property
    def released(self) -> bool:
        return self.attempt > 0 and self.status != "running"


class OpenRun(Struct, frozen=True, gc=False):
    """An active run, for claims, sweeps and adoptions. Times: UTC, milliseconds since 1970."""

    run_id: str
    user_id: str
    status: str
    attempt: int
    adoptions: int
    worker_id: str | None
    cancel_at: int | None
    queued_at: int
    expires_at: int | None = None  # of a run that waits for answers


class Committed(Struct, frozen=True):
    """One run's part of a commit.

    `control`: it holds a lifecycle event or a cancel request. `remote`: another process committed it.
    `redacts`: it withholds earlier events, and caches must drop their copies of them.
    """

    run_id: str
    first_seq: int
    events: Sequence[EncodedEvent]
    control: bool
    remote: bool = False
    redacts: bool = False


class EventFilter(Struct, frozen=True):
    """The types that a reader wants: exact ones, and prefixes such as `lifecycle.`.

    Terminal events always pass.
    """

    types: frozenset[EventType] = frozenset()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Collection[str]) -> "EventFilter":
        """The filter for exact types, and families such as `lifecycle.*`."""
        families = {name for name in names if name.endswith(".*")}
        prefixes = sorted(family.removesuffix("*") for family in families)
        return cls(frozenset(names) - families, tuple(prefixes))

    def passes(self, type: EventType, ends: bool) -> bool:
        return ends or type in self.types or type.startswith(self.prefixes)


class Reservation(Struct, frozen=True):
    """A new run's place among its user's active runs, and its idempotency key.

    Args:
        max_active: refuse the run if the user has this many active runs.
        key: an idempotency key; refuse the run if the key was used before. `body_hash`: 32 bytes, which
            distinguish a repeated request from another one with the same key.
    """

    user_id: str
    max_active: int | None = None
    key: str | None = None
    body_hash: bytes = b""


class LogReader(Protocol):
    """Reads the events of a run, which are immutable.

    Order: a run's `seq` is 1, 2, 3, … across all writers.
    Visibility: only committed events are read.
    Redaction: an `llm.redacted` with the same seq, position and time replaces a redacted event, for every
        later read.
    Purging: a purged run cannot be read; a concurrent reader gets all events it asked for, or RunPurged.
    Errors: every method raises LogUnavailable while the log cannot be read.
    Threads: the coroutines may be called from any event loop.
    """

    async def head(self, run_id: str) -> Head | None:
        """The run's head; None if the run does not exist."""

    async def read(
        self,
        run_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
        only: EventFilter | None = None,
    ) -> list[RecordedEvent]:
        """A page of the run's events with `after < seq <= upto`, in order; also bounded in bytes.

        Only an empty page means that no more exist.

        Raises:
            RunPurged
        """


class LogWriter(Protocol):
    """Appends events to runs.

    Durability: an event that `append` acknowledged survives `kill -9` and a power cut, once.
    Order: an append follows the run's last event, and is stored whole or not at all.
    Closing: after a terminal event a run accepts only one `run.deleted`, and at last one `run.purged`. It
        keeps its head, and cannot be started again.
    Discarding: `llm.discarded` states how much text it discards, and the log adds its first seq.
        Redacted text is replaced in the same append.
    Sessions: the runs of a user's session are started one at a time, in the order they were queued, except
        the `parallel` ones. A run queued to `interrupt` asks those before it to stop, in the same append.
    Visibility: the live feed receives events after their commit, never before.
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
        """Append events and wait for their commit; return the run's last seq.

        Args:
            expected_seq: refuse unless the run's head is here; 0 creates the run. None: any head.
            attempt: the writer's lease; refuse if a newer attempt has started.
            patient: keep trying while the log is unavailable, instead of failing at once.
            reservation: checked and made with the append that starts a run.

        Raises:
            LimitExceeded, AlreadyStarted, IdempotencyConflict: the reservation is refused; nothing is stored.
            SessionBusy: it is not the run's turn in its session; nothing was stored.
            WrongExpectedSeq, RunClosed, LeaseLost, RunNotFound, RunActive: refused; nothing was stored.
            InvalidEvent: an event cannot be encoded or is not allowed there; nothing was stored.
            LogUnavailable: the log accepts no writes now. Nothing was stored, or the answer to the COMMIT is
                lost: a second try with an `expected_seq` or the reservation's key finds out which.
        """

    def offer(
        self, run_id: str, event: EncodedEvent, *, attempt: int, refused: Callable[[RunstoreError], None]
    ) -> bool:
        """Queue one event of a running agent without waiting for its commit.

        Returns False if the queue is full: wait for `room`, then offer it again. If the log refuses the event
        later, `refused` is called on another thread and must not block.
        """

    def room(self, run_id: str) -> Awaitable[None]:
        """Wait until `offer` may succeed."""


class EventLog(LogReader, LogWriter, Protocol):
    """The log of every run's events."""

    async def close(self) -> None:
        """Commit the queued events, then close. Safe to call twice."""


class Conversations(LogReader, Protocol):
    """Reads the runs of a session, as an agent with a memory does."""

    async def session_runs(self, user_id: str, session_id: str, *, before: str, limit: int) -> list[str]:
        """A session's runs that were queued before one of them, newest first, without purged ones."""


class OpenRuns(LogReader, Protocol):
    """Reads the runs that are not closed, as scheduling does. They are as current as the log itself."""

    async def open_runs(self, *, limit: int = 2_000, exclude_workers: Collection[str] = ()) -> list[OpenRun]:
        """The active runs: those to stop, then those that a worker has, then queued ones.

        Runs that wait for answers are omitted, except those with a cancel request.

        Within each kind users take turns, at each worker: first the oldest run of every user, then the second
        ones, and so on; the runs of one turn are sorted by age.

        Args:
            exclude_workers: omit the runs of these workers, except those with a cancel request.
        """

    async def expired(self, now: int, *, limit: int) -> list[str]:
        """Waiting runs with a request that has expired, the longest expired first.

        Args:
            now: UTC, milliseconds since 1970.
        """

    async def runs_of(self, worker_id: str) -> list[OpenRun]:
        """The active runs of this worker."""

    async def workers(self) -> set[str]:
        """The workers of all active runs."""

    async def open_attempts(self, run_ids: Collection[str]) -> dict[str, int]:
        """The attempt of each of these runs, 0 if queued; ended runs are omitted."""


class RunLog(EventLog, Conversations, OpenRuns, Protocol):
    """The log of a process that runs agents."""


class Subscription(Protocol):
    """One reader's position in the live feed of a run."""

    def take(self, after: int) -> Sequence[TailEvent] | None:
        """The events from `after` + 1 on, up to the run's ending; None if there is a gap: read the log."""

    def correct(self, last: int) -> None:
        """The log ends at `last`, as read since the last `take`: later events in the feed are invalid."""

    async def wait(self, timeout_s: float) -> bool:
        """Wait for news since the last `take`; False after `timeout_s`, or when the feed closes."""


class Publisher(Protocol):
    """Receives commits."""

    def publish(self, commits: Sequence[Committed]) -> None:
        """Publish committed events. Called by the writer's thread; does not block."""


class LiveFeed(Publisher, Protocol):
    """Wakes readers after a commit. It is a hint and a cache: a loss of all its data costs only time."""

    @property
    def closing(self) -> bool:
        """Whether the feed was closed."""

    def subscribe(self, run_id: str) -> AbstractContextManager[Subscription]:
        """Register for a run's news: every event committed from now on is taken, or noticed as a gap."""

    def listen(self, listener: Callable[[Committed], None]) -> None:
        """Call `listener` for each commit with `control`; it must not block.

        It is called on the writer's thread. For another process's commit it is called on a thread of the
        feed, once for each control event. Their data is `b""`, except for a queued run's `user_id`.
        """

    def close(self) -> None:
        """Wake every reader for the last time."""


class RunContext(Struct, frozen=True):
    """An agent's information about its run; a factory's parameter named `ctx`.

    `memory`: the messages of the session's earlier successful runs, if the run starts with them.
    `memory_held`: for each of them the event that holds it unchanged: run, seq, number of the message in it.
    """

    run_id: str
    user_id: str
    agent_name: str
    session_id: str | None
    metadata: dict[str, Any]
    attempt: int
    memory: Sequence[dict[str, Any]] = ()
    memory_held: Sequence[tuple[str, int, int] | None] = ()

    def request(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        model: str | None = None,
        system: Any = None,
        tools: Any = None,
        parameters: dict[str, Any] | None = None,
        tool_choice: Any = None,
    ) -> dict[str, Any]:
        """The next request of a generator agent to a model, for it to yield: the run's `llm.request`.

        Args:
            messages: in the form in which the agent sends them. Those that it sent before are not stored
                again.
            parameters: only values of names that cannot be secrets are kept, as `temperature`.
        """
        data = {
            "messages": list(messages), "model": model, "system": system, "tools": tools,
            "parameters": parameters or {}, "tool_choice": tool_choice,
        }  # fmt: skip
        return {"type": "llm.request", "data": data}


class AddedMessage(Struct, frozen=True):
    """A message that a person added to a run under way. `seq`: its `input.added`."""

    seq: int
    content: str | list[dict[str, Any]]


class RunRecorder(Protocol):
    """Records the events of one run's agent. Bound to its run when it is made; never shared or looked up."""

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        """Queue an event; waits only while the log is behind (back-pressure)."""

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        """Write an event ahead: returns when it is stored."""

    async def added(self, after: int) -> Sequence[AddedMessage]:
        """The messages that people have added to the run, with a greater seq than `after`."""


class AgentResult(Struct, frozen=True):
    """The outcome of an agent: the data of `lifecycle.completed`."""

    result: dict[str, Any]
    usage: dict[str, int]


class Asked(Struct, frozen=True):
    """The agent cannot go on without a person's input. Its next attempt gets the answers in `history`."""

    requests: Sequence[InputRequested]


class Agent(Protocol):
    """One agent, built for one attempt of one run."""

    async def run(
        self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder
    ) -> AgentResult | Asked:
        """Work until done, or until a person has to answer.

        `history`: events of earlier attempts, empty on the first.

        Raises:
            AgentError: the agent failed, with a code and a message that a person can act on.
        """

    def cancel(self) -> None:
        """Ask the agent to stop at its next safe point. Its task is cancelled a moment later."""
