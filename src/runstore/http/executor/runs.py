"""Runs of hierarchies: start, follow, stop, read."""

from functools import partial
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import asdict
from starlette.responses import Response

from runstore.core import errors
from runstore.core.hierarchy import AGENT, agent_name, hierarchy_of
from runstore.core.new_run import Name, RunOptions
from runstore.core.run import Status
from runstore.http.bodies import Body
from runstore.http.executor.answers import Limit, answer, success
from runstore.http.executor.hierarchies import OF_A_HIERARCHY, own
from runstore.http.following import RunStreams
from runstore.http.json import HierarchyId, RunId, json_list
from runstore.http.native.records import RunRecord, record
from runstore.http.native.runs import list_cursor
from runstore.http.operations import Call, Operation
from runstore.http.requests import MAX_CURSOR, read_cursor
from runstore.http.schemas import (
    LAST_EVENT_ID,
    MAX_REASON,
    NOTHING_LEFT,
    OF_A_RUN,
    OF_A_START,
    RUN_HEADER,
    START_HEADERS,
    TOO_MANY_STREAMS,
    stream,
)
from runstore.http.security.access import Access
from runstore.http.streaming.sse import OnDisconnect, cancel_run
from runstore.projections.runs import RunQuery
from runstore.store.hierarchies import HierarchyNotFound, HierarchyStore, InvalidHierarchy, parse_hierarchy_id
from runstore.store.runs import RunAt, RunStore

RUN_ID_IN_BODY = "$response.body#/data/run_id"


class StartTeamBody(RunOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hierarchy's task, with the options of its run."""

    hierarchy_id: HierarchyId
    task: Annotated[str, Meta(min_length=1)]


class RunBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a run."""

    run_id: RunId


class FollowBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a run. `on_disconnect` says whether it goes on when the client disconnects."""

    run_id: RunId
    after: Annotated[int, Meta(ge=0, lt=MAX_CURSOR + 1)] = 0
    on_disconnect: OnDisconnect = "continue"


class CancelBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Names the run to stop."""

    run_id: RunId
    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)] = "user"


class ListRunsBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Filters for runs of hierarchies. `after`: the `next` of an earlier page."""

    hierarchy_id: HierarchyId | None = None
    status: Status | None = None
    session_id: Name | None = None
    limit: Limit = 100
    after: RunId | None = None


class TeamRunRecord(RunRecord, frozen=True, kw_only=True):
    """A run as on the native surface. `hierarchy_id`: null for a run of any other agent."""

    hierarchy_id: HierarchyId | None


class TeamRunPage(Struct, frozen=True):
    """Runs of hierarchies, newest first."""

    runs: list[TeamRunRecord]
    next: RunId | None


class TeamRunRoutes:
    """The routes below `/api/executor/v1/runs`."""

    tag = "hierarchies"

    def __init__(
        self, store: RunStore, hierarchies: HierarchyStore, access: Access, following: RunStreams
    ) -> None:
        self._store = store
        self._hierarchies = hierarchies
        self._access = access
        self._following = following

    @Operation(
        "POST",
        "/runs/start",
        parameters=START_HEADERS,
        body=Body(StartTeamBody),
        answers={202: success("the run is stored", TeamRunRecord, RUN_HEADER, RUN_ID_IN_BODY)},
        problems=(*OF_A_START, *OF_A_HIERARCHY, InvalidHierarchy),
    )
    async def start_team_run(self, call: Call[StartTeamBody]) -> Response:
        """Start a run of a hierarchy."""
        body, user = await call.body(), call.user
        self._access.check_workspace(user, body.workspace_id)
        stored = await own(self._hierarchies, user, body.hierarchy_id)
        definition = self._hierarchies.definition(stored.hierarchy)
        agent = agent_name(stored.summary.hierarchy_id)
        started = await self._store.start(call.new_run(agent, body.task, body, definition=definition))
        return _run(started, 202, {"X-Run-Id": started.run.run_id})

    @Operation(
        "POST",
        "/runs/stream",
        parameters=(LAST_EVENT_ID,),
        body=Body(FollowBody),
        answers={200: stream("all events after the cursor, until the run ends"), 204: NOTHING_LEFT},
        problems=(*OF_A_RUN, errors.InvalidCursor, TOO_MANY_STREAMS),
        reads=True,
    )
    async def follow_team_run(self, call: Call[FollowBody]) -> Response:
        """Follow a run: replay, then live."""
        body, login = await call.body(), call.login
        run_id = await self._access.may_read(login, body.run_id, "stream")
        left = None
        if body.on_disconnect == "cancel":
            await self._access.may_change(login.user, run_id)
            left = partial(cancel_run, self._store, run_id, login.actor)
        return await self._following.follow(
            login, run_id, after=read_cursor(call.request, body.after), left=left
        )

    @Operation(
        "POST",
        "/runs/cancel",
        body=Body(CancelBody),
        answers={
            200: success("the run has ended", TeamRunRecord),
            202: success(
                "the request is stored, and the run's end follows within the grace period", TeamRunRecord
            ),
        },
        problems=OF_A_RUN,
    )
    async def cancel_team_run(self, call: Call[CancelBody]) -> Response:
        """Ask a run to stop."""
        body, user = await call.body(), call.user
        run_id = await self._access.may_change(user, body.run_id)
        found = await self._store.stop(run_id, by=call.login.actor, reason=body.reason)
        return _run(found, 200 if found.run.closed else 202)

    @Operation(
        "POST",
        "/runs/get",
        body=Body(RunBody),
        answers={200: success("the run", TeamRunRecord)},
        problems=OF_A_RUN,
        reads=True,
    )
    async def get_team_run(self, call: Call[RunBody]) -> Response:
        """One run."""
        body = await call.body()
        run_id = await self._access.may_read(call.login, body.run_id, "record")
        return _run(await self._store.get(run_id, deleted=call.user.reads_all))

    @Operation(
        "POST",
        "/runs/list",
        body=Body(ListRunsBody, optional=True),
        answers={200: success("a page of runs", TeamRunPage)},
        problems=(errors.InvalidCursor, HierarchyNotFound),
        reads=True,
    )
    async def list_team_runs(self, call: Call[ListRunsBody]) -> Response:
        """List runs of hierarchies, newest first."""
        body = await call.body()
        user, agent = call.user, None
        if user.reads_all:
            query = {name: str(value) for name, value in asdict(body).items() if value is not None}
            await self._access.may_search(call.login, "list", query)
        if body.hierarchy_id is not None:
            agent = agent_name(parse_hierarchy_id(body.hierarchy_id))
        found = await self._store.find(
            RunQuery(
                user_id=None if user.reads_all else user.user_id,
                status=body.status,
                agent=agent,
                agent_prefix=AGENT,
                session_id=body.session_id,
                before=list_cursor(body.after) if body.after is not None else None,
                limit=body.limit,
            )
        )
        runs = await json_list(_record(record(run)) for run in found.runs)
        return answer(TeamRunPage(runs, found.next))  # type: ignore[arg-type]


def _run(found: RunAt, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return answer(_record(record(found.run, found.last_seq)), status, headers)


def _record(run: RunRecord) -> TeamRunRecord:
    return TeamRunRecord(**asdict(run), hierarchy_id=hierarchy_of(run.agent_name))
