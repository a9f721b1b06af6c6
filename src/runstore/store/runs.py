"""Operations on runs, shared by all surfaces: start, read, follow, stop, append, delete."""

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from msgspec import Struct
from sqlalchemy import Connection

from runstore.core.codec import EncodedEvent, RecordedEvent, encode, json_size
from runstore.core.errors import (
    AlreadyStarted,
    InputClosed,
    InvalidCursor,
    LogUnavailable,
    RunClosed,
    RunDeleted,
    RunNotFound,
    RunPurged,
    TooLarge,
)
from runstore.core.events import CancelRequested, Custom, Deleted, Posted
from runstore.core.folds.trace import TRACED, Trace, TraceFold
from runstore.core.ids import new_run_id
from runstore.core.limits import Limits
from runstore.core.model_requests import ModelRequest, RequestPage
from runstore.core.new_run import NewRun
from runstore.core.pages import pages
from runstore.core.ports import EventFilter, Head, LiveFeed, Reservation, RunLog
from runstore.core.run import Actor, Owner, Run, evolve, fold, owner_of, whole
from runstore.database.database import Database
from runstore.eventlog.queries import read_ends, read_evolving, read_first, read_head
from runstore.feed.shared_reads import SharedReads
from runstore.feed.tail import HEARTBEAT_S, Tail, wait_until_ended
from runstore.projections.runs import RunQuery, RunsFound, find_run, find_runs, is_outdated
from runstore.runtime.attempts.history import read_start
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.store.forks import ForkOptions, forked
from runstore.store.inputs import InputStore
from runstore.store.joined_tails import JoinedTails
from runstore.store.known_runs import KnownRuns
from runstore.store.large_reads import LargeReads
from runstore.store.request_reads import MAX_LISTED, list_requests, read_request

MAX_KNOWN_OWNERS = 10_000  # runs whose owner is cached
OWNERS_TRUST_S = 1.0  # seconds that a cached owner may outlive a purge (API keys: the same)
DEFAULT_LIMITS = Limits()

T = TypeVar("T")


class Slots(Protocol):
    """The slots of this process's worker, for runs that start with the append that queues them."""

    def keep_slot(self, run_id: str) -> EncodedEvent | None:
        """Keep a slot for a new run: its `lifecycle.started`, to be appended with its `lifecycle.queued`.

        None: there is no slot, other runs wait for one, or this is not the server's loop.
        """

    def free_slot(self, run_id: str) -> None:
        """The append is over: free the slot, unless the run has begun."""


class NoSlots:
    """The port `Slots` of a process without a worker."""

    def keep_slot(self, run_id: str) -> None:
        """See `Slots.keep_slot`."""

    def free_slot(self, run_id: str) -> None:
        """See `Slots.free_slot`."""


NO_SLOTS = NoSlots()


class RunAt(Struct, frozen=True):
    """A run's state when its head was at `last_seq`."""

    run: Run
    last_seq: int


class Forked(Struct, frozen=True):
    """A fork, and the last seq of the other run that it begins with."""

    started: RunAt
    at: int


class RunStore:
    """The runs of one database. Every method raises LogUnavailable while the database cannot be used.

    Args:
        slots: of the worker in this process.
    """

    def __init__(
        self,
        database: Database,
        log: RunLog,
        feed: LiveFeed,
        catalog: AgentCatalog,
        *,
        slots: Slots = NO_SLOTS,
        limits: Limits = DEFAULT_LIMITS,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self.catalog = catalog
        self.limits = limits
        self._database = database
        self._log = log
        self._shared_reads = SharedReads(log)
        self._feed = feed
        self._slots = slots
        self._heartbeat_s = heartbeat_s
        self._owners: KnownRuns[Owner] = KnownRuns(database, MAX_KNOWN_OWNERS, trust_s=OWNERS_TRUST_S)
        self.joined_tails = JoinedTails(database, feed, self.tail, heartbeat_s=heartbeat_s)
        self.inputs = InputStore(log)
        self._large_reads = LargeReads()

    async def start(self, new: NewRun, *, run_id: str | None = None) -> RunAt:
        """Queue a run and return it, once it is stored.

        This process may start it with the same append. The returned state is the queued one in either case.

        Args:
            run_id: a new one, if the caller has made it.

        Raises:
            AgentNotFound: there is no such agent.
            TooLarge: the input is larger than `input_bytes`.
            LimitExceeded: the user has too many active runs.
            EventTooLarge: the input and the metadata together exceed the size of an event.
            EventTooDeep: the input or the metadata is nested too deep.
            IdempotencyConflict: the key was used with other arguments.
            SessionBusy: the strategy is `reject`, and the session has an active run.
        """
        self._check_size("input_bytes", new.input, "the input")
        if new.definition is None:
            definition = self.catalog.definition(new.agent)
        else:
            definition = self.catalog.timed(new.definition)
        remembers = definition.get("memory") == "session" if new.memory is None else new.memory
        encoded = encode(new.queued(definition, remembers=remembers))
        key = new.idempotency_key
        reservation = Reservation(new.user_id, self.limits.runs_per_user, key, new.digest() if key else b"")
        run_id = run_id or new_run_id()
        started = self._slots.keep_slot(run_id) if new.session_id is None else None
        events = [encoded] if started is None else [encoded, started]
        first = None
        try:
            await self._log.append(run_id, events, expected_seq=0, reservation=reservation)
        except AlreadyStarted as error:
            first = error.run_id
        finally:
            if started is not None:
                self._slots.free_slot(run_id)
        return RunAt(evolve(Run(run_id), encoded), 1) if first is None else await self.get(first)

    async def fork(self, run_id: str, options: ForkOptions, new: NewRun, *, reads_session: bool) -> Forked:
        """Start a run that begins with the conversation of another one; see `forked`.

        Args:
            new: the user and the login of the fork.
            reads_session: whether this user may read all runs of the run's session.

        Raises:
            RunNotFound, RunDeleted, RunPurged, InvalidCursor, InvalidQuery, AgentNotFound, TooLarge: and as
                `start`.
            Busy: too many forks and requests of models are being read.
        """
        head = await self.head(run_id)
        read = partial(
            forked, self._log, self.catalog, run_id, head, options, new, reads_session=reads_session
        )
        started = await self.start(await self._large_reads.call(read))
        queued = await read_start(self._log, started.run.run_id)  # a repeated request gets the first one's
        return Forked(started, queued.forked_at_seq or 0)

    async def head(self, run_id: str, *, deleted: bool = False, purged: bool = False) -> Head:
        """The run's head.

        Args:
            deleted: also that of a deleted run. purged: also that of a purged run.

        Raises:
            RunNotFound, RunDeleted, RunPurged
        """
        return _existing(run_id, await self._log.head(run_id), deleted=deleted, purged=purged)

    async def owner(self, run_id: str) -> Owner:
        """The run's owner, even if the run was deleted or purged.

        Read from the log once, not from the run list.

        Raises:
            RunNotFound
        """
        known = self._owners.unchecked
        with suppress(LogUnavailable):  # a reader that comes back waits for the database
            known = await self._owners.current()
        if (owner := known.get(run_id)) is None:
            first = await self._database.query(read_first, run_id)
            if first is None:
                raise RunNotFound(f"there is no run {run_id}")
            owner = known[run_id] = owner_of(first)
        return owner

    async def get(
        self, run_id: str, *, at: int | None = None, wait_s: float = 0, deleted: bool = False
    ) -> RunAt:
        """The run's current state, or its state at an earlier seq; with `wait_s`, waits for its end.

        Args:
            deleted: also that of a deleted run.

        Raises:
            RunNotFound, RunDeleted, RunPurged
            InvalidCursor: `at` is beyond the head.
        """
        if wait_s:
            await wait_until_ended(self._log, self._feed, run_id, timeout_s=wait_s)
        found, run = await self._database.query(_read_run, run_id, at)
        head = _existing(run_id, found, deleted=deleted)
        if run is None or is_outdated(run):  # an earlier state, or the row is missing until a rebuild
            run = await self._database.query_history(_fold_run, run_id, at)
        if run.purged_at is not None:  # purged after the head was read
            raise RunPurged(run_id)
        if at is not None and not 0 < at <= head.seq:
            raise InvalidCursor(f"at={at} is not an event of run {run_id}: its events are 1 to {head.seq}")
        return RunAt(run, at or head.seq)

    async def find(self, query: RunQuery) -> RunsFound:
        """A page of the matching runs, newest first, without large values."""
        return await self._database.query_list(find_runs, query)

    async def stop(self, run_id: str, *, by: Actor, reason: str) -> RunAt:
        """Ask the run to stop. An ended run stays unchanged, and a second request has no effect.

        Raises:
            RunNotFound, RunDeleted, RunPurged
        """
        found = await self.get(run_id)
        if found.run.closed:
            return found
        try:
            request = encode(CancelRequested(by=by.user_id, reason=reason, key_id=by.key_id))
            last_seq = await self._log.append(run_id, [request])
        except RunClosed:
            return await self.get(run_id)
        return RunAt(evolve(found.run, request), last_seq)

    async def append(
        self, run_id: str, events: Sequence[Custom], *, by: Actor, expected_seq: int | None = None
    ) -> int:
        """Append a user's events; return the last seq once they are stored.

        Raises:
            RunNotFound, RunDeleted, RunPurged, RunClosed, WrongExpectedSeq, InvalidEvent, TooLarge
        """
        if len(events) > (most := self.limits.events_per_append):
            message = f"the append has {len(events):,} events; the limit is {most:,}"
            raise TooLarge("events_per_append", message)
        for event in events:
            what = f"the data of a {event.type} event"
            self._check_size("event_bytes", event.data, what, code="event_too_large")
        await self.head(run_id)
        posted = [Posted(each.type, each.data, by=by.user_id, key_id=by.key_id) for each in events]
        return await self._log.append(run_id, posted, expected_seq=expected_seq)

    async def add_input(self, run_id: str, content: str | list[dict[str, Any]], *, by: Actor) -> int:
        """Add a message to a run under way; returns its seq.

        Raises:
            RunNotFound, RunDeleted, RunPurged: and as `InputStore.add`.
            InputClosed: the run is to stop, so its agent would not take the message.
            TooLarge: the message is too large, or the run has too many.
        """
        self._check_size("input_bytes", content, "the content")
        run = (await self.get(run_id)).run
        if run.cancel_requested and not run.closed:
            raise InputClosed(f"run {run_id} is being stopped and takes no more messages")
        if run.added >= (most := self.limits.inputs_per_run) and not run.closed:
            message = f"people have added {run.added:,} messages to run {run_id}; the limit is {most:,}"
            raise TooLarge("inputs_per_run", message)
        return await self.inputs.add(run_id, content, by=by)

    async def delete(self, run_id: str, *, by: Actor) -> None:
        """Delete a closed run from the lists.

        Raises:
            RunNotFound, RunDeleted, RunPurged
            RunActive: it has not ended.
        """
        await self.head(run_id)
        await self._log.append(run_id, [Deleted(by=by.user_id, key_id=by.key_id)])

    async def events(
        self,
        run_id: str,
        after: int = 0,
        *,
        upto: int | None = None,
        limit: int = 1000,
        only: EventFilter | None = None,
        from_replica: bool = False,
    ) -> list[RecordedEvent]:
        """A page of the run's events up to `upto`; only an empty page means that no more exist.

        Args:
            from_replica: a read replica may answer.

        Raises:
            RunPurged
        """
        return await self._log.read(
            run_id, after=after, upto=upto, limit=limit, only=only, from_replica=from_replica
        )

    def pages(
        self,
        run_id: str,
        after: int = 0,
        *,
        limit: int = sys.maxsize,
        only: EventFilter | None = None,
        from_replica: bool = False,
    ) -> AsyncIterator[list[RecordedEvent]]:
        """The run's events that are stored so far, page by page; see `core.pages.pages`."""
        return pages(self._log, run_id, after=after, limit=limit, only=only, from_replica=from_replica)

    async def trace(self, run_id: str) -> Trace:
        """The run as a tree.

        Raises:
            RunPurged
            Busy: too many large reads are under way.
        """
        return await self._large_reads.call(partial(_read_trace, self._database, self._log, run_id))

    async def requests(
        self, run_id: str, *, after: int = 0, limit: int = MAX_LISTED, seq: int | None = None
    ) -> RequestPage:
        """A page of what the run's models were asked, without content; of one event, with `seq`.

        Raises:
            RunPurged
        """
        return await list_requests(self._log, run_id, after=after, limit=limit, seq=seq)

    async def request(
        self, run_id: str, n: int, *, reads_session: bool, answer: Callable[[ModelRequest], T]
    ) -> T:
        """Read the n-th request to a model of the run; return what `answer` makes of it, in a thread.

        Args:
            reads_session: whether the reader may read all runs of the run's session.

        Raises:
            RequestNotFound, RunPurged, TooLarge, Busy
        """

        async def read() -> T:
            return answer(await read_request(self._log, run_id, n, reads_session=reads_session))

        return await self._large_reads.call(read)

    def tail(self, run_id: str, *, after: int, only: EventFilter | None = None) -> Tail:
        """Follow the run: every event after `after`, once, then live until it ends."""
        return Tail(
            self._log, self._feed, run_id, after=after, only=only, idle_s=self._heartbeat_s,
            reads=self._shared_reads,
        )  # fmt: skip

    async def start_and_tail(
        self, new: NewRun, resources: ExitStack, *, only: EventFilter | None = None
    ) -> tuple[RunAt, Tail]:
        """Queue a run and follow it from its first event, which takes no read of the log.

        Args:
            resources: gets the tail; the caller closes it once the tail is no longer read.

        Raises: as `start`.
        """
        run_id = new_run_id()
        with ExitStack() as opened:
            tail = opened.enter_context(self.tail(run_id, after=0, only=only).before_its_run())
            started = await self.start(new, run_id=run_id)
            if started.run.run_id == run_id:
                resources.push(opened.pop_all())
            else:  # a repeated request gets the run of the first one
                tail = self.tail(started.run.run_id, after=0, only=only)
        return started, tail

    def _check_size(self, limit: str, value: Any, what: str, *, code: str = TooLarge.code) -> None:
        most = getattr(self.limits, limit)
        if (size := json_size(value)) > most:
            message = f"{what} has {size:,} bytes as JSON; the limit is {most:,} bytes"
            raise TooLarge(limit, message, code=code)


def _existing(run_id: str, head: Head | None, *, deleted: bool = False, purged: bool = False) -> Head:
    if head is None:
        raise RunNotFound(f"there is no run {run_id}")
    if head.purged and not purged:
        raise RunPurged(run_id)
    if head.deleted and not deleted:
        raise RunDeleted(f"run {run_id} was deleted")
    return head


def _read_run(connection: Connection, run_id: str, at: int | None) -> tuple[Head | None, Run | None]:
    head = read_head(connection, run_id)
    run = find_run(connection, run_id) if at is None else None
    if run is not None and run.truncated:
        run = whole(run, read_ends(connection, run_id))
    return head, run


def _fold_run(connection: Connection, run_id: str, at: int | None) -> Run:
    return fold(run_id, read_evolving(connection, run_id, at))


async def _read_trace(database: Database, log: RunLog, run_id: str) -> Trace:
    """The run as a tree, also with its ending if it is longer than a trace."""
    folding = TraceFold(run_id)
    async for page in pages(log, run_id, only=TRACED):
        for event in page:
            folding.add(event)
        if not folding.complete:
            for event in await database.query(read_ends, run_id):
                folding.add_ending(event)
            break
    return folding.trace
