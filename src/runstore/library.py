"""The log as a library: `async with runstore.open(url) as store:`, without HTTP."""

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from runstore.app import OpenLog, open_log, open_runtime
from runstore.core.audit import AuditEvent, AuditQuery, audit_event
from runstore.core.errors import (
    AgentNotFound,
    InvalidCursor,
    RunDeleted,
    RunPurged,
    RunstoreError,
)
from runstore.core.events import Custom, MultitaskStrategy
from runstore.core.ids import parse_run_id
from runstore.core.limits import MAX_FILTER_TYPES
from runstore.core.new_run import NewRun
from runstore.core.ports import EventFilter
from runstore.core.records import EventRecord, record_of
from runstore.core.run import Actor, Run
from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS, NamedRunCursors, StreamCursors
from runstore.database.opening import opened_database
from runstore.feed.joined_tail import GONE
from runstore.logs import log_as_library
from runstore.maintenance.projections import LocalProjections, Projections
from runstore.projections.projection import Projection
from runstore.projections.runs import RunQuery
from runstore.runtime.own_run import OwnRun, own_run
from runstore.runtime.replay.dialogues import SPOKEN_TYPES, RecordedRun, RunFold
from runstore.runtime.replay.fixture import fixture_file, fixture_of
from runstore.settings.program import Agents, program_settings
from runstore.store.replays import (
    TIMEOUT_S,
    Replayed,
    ReplayOptions,
    memory_in,
    replay,
    root_request,
)

LOCAL_USER = "local"  # the user of runs, unless a program names one


@asynccontextmanager
async def open(
    url: str,
    *,
    config: Path | str | None = None,
    agents: Agents | None = None,
    projections: Sequence[Projection] = (),
    shared_files: bool | None = None,
) -> AsyncIterator["LocalStore"]:
    """Open a database; with `config` or `agents`, run agents in this process.

    Args:
        url: sqlite:///FILE, postgresql+psycopg://… or mysql+pymysql://…
        config: a runstore.toml, for its agents and its settings, except host, port and database.
        agents: name → a function of a module, "package.module:function", or an AgentSpec.
        projections: of the program, besides those of runstore and of installed packages. If there are any, or
            the process runs agents, it keeps all projections up to date.
        shared_files: whether other users of the machine may open the database's files; None: as configured.

    Raises:
        ConfigError: the URL, the configuration, an agent or a projection is wrong, or others can open the
            files.
        SchemaMismatch: the database is newer than this release.
    """
    log_as_library()
    settings = program_settings(url, config, agents, shared_files, projections)
    if config is None and agents is None:
        async with open_log(settings) as opened:
            yield LocalStore(opened, runs_agents=False)
        return
    async with open_runtime(settings) as runtime:
        try:
            yield LocalStore(runtime, runs_agents=True)
        finally:
            runtime.feed.close()  # ends streams, so that they do not wait for the drain


@contextmanager
def open_projections(
    url: str, *, config: Path | str | None = None, projections: Sequence[Projection] = ()
) -> Iterator[Projections]:
    """The projections of a database, for a script. The database must exist.

    Args:
        url: as of `open`.
        config: a runstore.toml, for its prices and its read replica.
        projections: of the program, besides those of runstore and of installed packages.

    Raises:
        ConfigError: the URL, the configuration or a projection is wrong.
        SchemaMismatch: the database is of another release.
        LogUnavailable: it cannot be used now; also in the block.
    """
    settings = program_settings(url, config, None, None, projections)
    known = settings.find_projections()
    with opened_database(url, read_url=settings.server.database_read_url) as database:
        yield Projections(database, known)


class LocalStore:
    """The runs of a database that this process has open.

    projections: lists, rebuilds, verifies, operates and reads them.

    Every method that names a run raises RunNotFound, RunDeleted or RunPurged if it does not exist (any more),
    and LogUnavailable while the database cannot be used.
    """

    def __init__(self, opened: OpenLog, *, runs_agents: bool) -> None:
        self._store = opened.store
        self._log = opened.event_log
        self._audit = opened.audit
        self._leases = opened.leases
        self.projections = LocalProjections(opened.projections)
        self._runs_agents = runs_agents

    async def start(
        self,
        agent: str,
        input: Any,
        *,
        user_id: str = LOCAL_USER,
        session_id: str | None = None,
        workspace_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        multitask_strategy: MultitaskStrategy = "enqueue",
        idempotency_key: str | None = None,
    ) -> str:
        """Start a run of an agent; return its id once it is stored.

        Raises:
            AgentNotFound: there is no such agent, or the store was opened without agents.
            LimitExceeded, EventTooLarge, IdempotencyConflict, SessionBusy
        """
        if not self._runs_agents:
            raise AgentNotFound("the store was opened without agents: pass `config` or `agents` to open()")
        new = NewRun(
            agent=agent, input=input, user_id=user_id, session_id=session_id, workspace_id=workspace_id,
            metadata=metadata or {}, multitask_strategy=multitask_strategy, idempotency_key=idempotency_key,
        )  # fmt: skip
        return (await self._store.start(new)).run.run_id

    @asynccontextmanager
    async def begin(
        self,
        agent: str,
        input: Any = None,
        *,
        user_id: str = LOCAL_USER,
        session_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncIterator[OwnRun]:
        """Record a run of the program itself: the run ends with the block.

        An exception ends the run as failed, a cancellation as stopped. If the process dies, the next process
        that runs agents on this database ends the run as failed, with the code `worker_lost`.

        Raises:
            SessionBusy: the session has another active run.
        """
        new = NewRun(
            agent=agent, input=input, user_id=user_id, session_id=session_id, metadata=metadata or {}
        )
        async with own_run(self._log, self._leases, new) as run:
            yield run

    async def append(
        self,
        run_id: str,
        events: Sequence[Custom],
        *,
        by: str = LOCAL_USER,
        expected_seq: int | None = None,
    ) -> int:
        """Add events to an active run, all or none; return the last seq once they are stored.

        `by`: the user to whom they are attributed.

        Raises:
            RunClosed, WrongExpectedSeq, InvalidEvent, LimitExceeded
        """
        return await self._store.append(parse_run_id(run_id), events, by=Actor(by), expected_seq=expected_seq)

    async def read(
        self, run_id: str, *, after: int = 0, types: Sequence[str] | None = None
    ) -> AsyncIterator[EventRecord]:
        """The run's events that are stored so far, in order.

        Raises:
            InvalidCursor: `after` is ahead of the run.
        """
        run_id = await self._check(run_id, after)
        async for page in self._store.pages(run_id, after, only=_filter(types)):
            for event in page:
                yield record_of(event)

    async def tail(
        self, run_id: str, *, after: int = 0, types: Sequence[str] | None = None
    ) -> AsyncIterator[EventRecord]:
        """The run's events, each once and in order, live until the run ends or the store is closed.

        Raises:
            InvalidCursor: `after` is ahead of the run.
        """
        run_id = await self._check(run_id, after)
        following = self._store.tail(run_id, after=after, only=_filter(types))
        async for events in following.events():
            for event in events:
                yield record_of(event)
        if following.purged:
            raise RunPurged(run_id)

    async def follow(
        self, *run_ids: str, types: Sequence[str] | None = None, user_id: str = LOCAL_USER
    ) -> AsyncGenerator[EventRecord, None]:
        """The events of several runs, each run's in order, live until all have ended or the store is closed.

        Without `run_ids` it follows all active runs of a user from their beginnings, and each new one,
        without an end. A run whose events were deleted or purged yields an event `stream.gone`.

        Args:
            run_ids: up to 100 runs.
            user_id: the user whose runs to follow, without `run_ids`.

        Raises:
            RunNotFound, InvalidName
            ValueError: too many runs or types.
        """
        if len(run_ids) > MAX_FOLLOWED_RUNS:
            raise ValueError(f"up to {MAX_FOLLOWED_RUNS} runs may be followed at once, not {len(run_ids):,}")
        only, tails = _filter(types), self._store.joined_tails
        with ExitStack() as stack:
            new_runs = None
            cursors: StreamCursors
            if run_ids:
                cursors = NamedRunCursors({parse_run_id(run_id): 0 for run_id in run_ids})
            else:
                cursors = own = await tails.own_cursors(user_id)
                new_runs = stack.enter_context(tails.new_runs(user_id, own))
            lost: dict[str, RunstoreError] = {}
            for run_id in cursors.open():
                try:
                    await self._store.head(run_id)
                except (RunDeleted, RunPurged) as error:
                    lost[run_id] = error
            joined = tails.open(cursors, lost=lost, only=only, new_runs=new_runs)
            async for events in joined.events():
                for each in events:
                    if each.event.seq or each.event.type == GONE:
                        yield record_of(each.event)

    async def read_all(
        self, *, after: int = 0, only: AuditQuery | None = None
    ) -> AsyncGenerator[AuditEvent, None]:
        """The events of all runs that are stored so far, in order of position.

        No event appears later behind one that was read, so the last `position` is a cursor.

        Raises:
            InvalidCursor: `after` is ahead of the log.
            Busy: too many searches run.
        """
        await self._audit.check(after)
        async for items in self._audit.all(only or AuditQuery(), after=after, limit=sys.maxsize):
            for item in items:
                yield audit_event(item)

    async def follow_all(
        self, *, after: int = 0, only: AuditQuery | None = None
    ) -> AsyncGenerator[AuditEvent, None]:
        """The same, then new events as they come, until the store is closed.

        Raises:
            InvalidCursor: `after` is ahead of the log.
        """
        await self._audit.check(after)
        async for items in self._audit.follow(only or AuditQuery(), after=after):
            for item in items:
                yield audit_event(item)

    async def state(self, run_id: str, *, at: int | None = None, wait_s: float = 0) -> Run:
        """The run's current state, or its state after the seq `at`; with `wait_s`, waits for its end.

        Raises:
            InvalidCursor: `at` is beyond the run's head.
        """
        return (await self._store.get(parse_run_id(run_id), at=at, wait_s=wait_s)).run

    async def find(self, query: RunQuery | None = None) -> list[Run]:
        """The matching runs, newest first, up to the query's limit.

        Large values of a run are left out and named in its `truncated`; `state` has them.
        """
        query = query or RunQuery()
        runs: list[Run] = []
        while True:
            found = await self._store.find(replace(query, limit=query.limit - len(runs)))
            runs += found.runs
            if found.next is None or len(runs) >= query.limit:
                return runs
            query = replace(query, before=found.next)

    async def replay(
        self,
        run_id: str,
        *,
        model: str | None = None,
        live: bool = False,
        only_calls: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> Replayed:
        """Run an ended run's agent again, with tools answered from the log; nothing is written.

        Args:
            model: the id of another model of the same provider.
            live: go on after the first difference. Tools whose calls differ run for real.
            only_calls: compare tool calls and the ending, not what models say.
            timeout_s: seconds that it may take, up to a day.

        Raises:
            AgentNotFound: the store was opened without the run's agent.
            InvalidQuery, TooLarge: the run cannot be replayed.
            AgentError, ConfigError: the agent cannot be built, or has no replays.
        """
        options = ReplayOptions(model=model, live=live, only_calls=only_calls, timeout_s=timeout_s)
        return await replay(self._store.catalog, await self._recorded(run_id), options)

    async def fixture(self, run_id: str) -> bytes:
        """A run that ended well as the content of a file for `runstore.testing.replay_fixture`.

        Raises:
            InvalidQuery, TooLarge: the run is no fixture.
        """
        return fixture_file(fixture_of(await self._recorded(run_id)))

    async def _recorded(self, run_id: str) -> RecordedRun:
        folding = RunFold()
        async for event in self.read(run_id, types=SPOKEN_TYPES):
            folding.add(event)
        run = folding.run
        if run.remembers:
            page = await self._store.requests(run.run_id)
            run.memory = await self._store.request(
                run.run_id, root_request(page.data), reads_session=True,
                answer=partial(memory_in, input=run.input),
            )  # fmt: skip
        return run

    async def stop(self, run_id: str, *, by: str = LOCAL_USER, reason: str = "user") -> bool:
        """Ask a run to stop; False when it has ended already."""
        return not (await self._store.stop(parse_run_id(run_id), by=Actor(by), reason=reason)).run.closed

    async def delete(self, run_id: str, *, by: str = LOCAL_USER) -> None:
        """Delete an ended run from the lists.

        Raises:
            RunActive: it has not ended.
        """
        await self._store.delete(parse_run_id(run_id), by=Actor(by))

    async def _check(self, run_id: str, after: int) -> str:
        """The run's id in canonical form."""
        run_id = parse_run_id(run_id)
        head = await self._store.head(run_id)
        if not 0 <= after <= head.seq:
            raise InvalidCursor(
                f"the cursor {after} is not a seq of run {run_id}, whose last seq is {head.seq}"
            )
        return run_id


def _filter(types: Sequence[str] | None) -> EventFilter | None:
    if types is None:
        return None
    if len(types) > MAX_FILTER_TYPES:
        raise ValueError(f"at most {MAX_FILTER_TYPES} names are allowed in types, not {len(types):,}")
    return EventFilter.of(types)
