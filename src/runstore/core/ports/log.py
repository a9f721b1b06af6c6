"""The log of events, by its readers: for a run's events, for writers, for memories, for scheduling."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from msgspec import Struct

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.errors import RunstoreError
from runstore.core.events import Custom, Event, EventType


class Head(Struct, frozen=True, gc=False):
    """A run's head, which decides about its next append.

    `attempt`, `cancel_requested`, `status`: of an open run, which is queued, running or waiting. A run that
    waits, or is queued after it, has no attempt that may write: `released`. `added`: the seq of the last
    message that a person added to an open run.
    """

    seq: int
    closed: bool = False
    deleted: bool = False
    attempt: int = 0
    cancel_requested: bool = False
    purged: bool = False
    status: str = "queued"
    added: int = 0

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
    expires_at: int | None = None  # when the first open question expires
    added: int = 0  # the seq of the last message that a person added


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
    """A new run's share of its user's limits: a place among the active runs, and an idempotency key.

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
        from_replica: bool = False,
    ) -> list[RecordedEvent]:
        """A page of the run's events with `after < seq <= upto`, in order; also bounded in bytes.

        Only an empty page means that no more exist.

        Args:
            from_replica: a read replica may answer a long read; for answers to clients, not for decisions.

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
        heard: int | None = None,
    ) -> int:
        """Append events and wait for their commit; return the run's last seq.

        Args:
            expected_seq: refuse unless the run's head is here; 0 creates the run. None: any head.
            attempt: the writer's lease; refuse if a newer attempt has started.
            patient: keep trying while the log is unavailable, instead of failing at once.
            reservation: checked and made with the append that starts a run.
            heard: refuse if a person added a message to the run with a greater seq.

        Raises:
            LimitExceeded, AlreadyStarted, IdempotencyConflict: the reservation is refused; nothing is stored.
            SessionBusy: it is not the run's turn in its session; nothing was stored.
            WrongExpectedSeq, RunClosed, LeaseLost, Unheard, RunNotFound, RunActive: it was refused;
                nothing was stored.
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

    @property
    def unavailable(self) -> RunstoreError | None:
        """Why the log accepts no writes now; None if it does."""
