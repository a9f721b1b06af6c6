"""Runs: list, read, trace, stop."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct
from starlette.responses import Response

from runstore.core import errors
from runstore.core.errors import RunNotFound
from runstore.core.folds.trace import Trace
from runstore.core.ids import parse_run_id
from runstore.core.run import STATUSES
from runstore.http.bodies import Body
from runstore.http.errors import BadRequest, Forbidden
from runstore.http.following import RunStreams
from runstore.http.json import json_list, json_response
from runstore.http.native.included import INCLUDES, Includes, read_include
from runstore.http.native.records import RunPage, RunRecord, listed, record_response
from runstore.http.operations import Call, Operation
from runstore.http.query import Query, QueryParameter, Text, choice, flag, moment, number, seconds
from runstore.http.schemas import LIMIT, MAX_REASON, NAME, RUN_ID, SEQ, TOO_MANY_STREAMS, UUID, json
from runstore.http.security.access import Access
from runstore.http.streaming.watched import ClientGone
from runstore.projections.runs import RunQuery
from runstore.store.runs import RunStore

MAX_WAIT_S = 300.0  # seconds, the maximum of ?wait=


class StopBody(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)] = "user"


AT = number(SEQ, "a seq: the run as it was after that event")


class RunListQuery(Query):
    """The parameters of the run list."""

    status = choice(STATUSES)
    user_id = Text(NAME, "the runs of this user; only admins and auditors may name another one")
    agent = Text(NAME, "the agent's name")
    session_id = Text(NAME)
    workspace_id = Text(NAME, "the runs of all members of this workspace")
    since = moment("created at this time or later")
    until = moment("created at this time or earlier")
    purged = flag("`true`: only purged runs")
    deleted = choice(
        ("true", "false", "any"),
        "`true`: only deleted runs; `any`: these, too. For admins and auditors",
        default="false",
    )
    limit = LIMIT
    after = Text(UUID, "the `next` of an earlier page")


class RunRecordQuery(Query):
    """The parameters of one run."""

    at = AT
    wait = seconds(MAX_WAIT_S, "seconds: the answer comes when the run has ended, or after this time")
    include = QueryParameter[Sequence[str]](
        {"type": "array", "minItems": 1, "items": {"enum": list(INCLUDES)}},
        "further fields of the record",
        read_include,
        default=(),
    )


class RunRoutes:
    """The routes below `/runs`."""

    tag = "runs"

    def __init__(self, store: RunStore, access: Access, following: RunStreams) -> None:
        self._store = store
        self._access = access
        self._following = following
        self._includes = Includes(store)

    @Operation(
        "GET",
        "/runs",
        query=RunListQuery,
        answers={200: json("a page of runs", RunPage)},
        problems=(errors.InvalidCursor, Forbidden),
    )
    async def list_runs(self, call: Call[RunListQuery]) -> Response:
        """List runs, newest first."""
        query, user, workspace = call.query, call.user, call.query.workspace_id
        self._access.check_workspace(user, workspace)
        if query.deleted != "false" and query.purged:
            raise BadRequest("deleted cannot be given with purged=true", code="invalid_parameter")
        listed_user = query.user_id or (None if user.reads_all or workspace else user.user_id)
        if query.deleted != "false" or (listed_user != user.user_id and workspace not in user.workspaces):
            await self._access.may_search(call.login, "list", call.request.query_params)
        found = await self._store.find(
            query.into(
                RunQuery,
                user_id=listed_user,
                deleted=None if query.deleted == "any" else query.deleted == "true",
                before=list_cursor(query.after) if query.after is not None else None,
            )
        )
        data = await json_list(listed(run) for run in found.runs)
        return json_response(RunPage(data, found.next))  # type: ignore[arg-type]

    @Operation(
        "GET",
        "/runs/{run_id}",
        parameters=(RUN_ID,),
        query=RunRecordQuery,
        answers={200: json("the run", RunRecord)},
        problems=(errors.InvalidCursor, TOO_MANY_STREAMS),
    )
    async def get_run(self, call: Call[RunRecordQuery]) -> Response:
        """One run, now or at an earlier event."""
        query = call.query
        run_id = await self._access.readable(call.request, "record")
        if query.wait:
            try:
                await self._following.until_ended(call.login, run_id, query.wait, call.request.receive)
            except ClientGone:
                return Response(status_code=204)  # the client has gone
        found = await self._store.get(run_id, at=query.at, deleted=call.user.reads_all)
        return record_response(found, included=await self._includes.read(found, query.include))

    @Operation(
        "GET",
        "/runs/{run_id}/trace",
        parameters=(RUN_ID,),
        answers={200: json("the tree", Trace)},
    )
    async def trace_run(self, call: Call[None]) -> Response:
        """A run as a tree of attempts, agents, and model and tool calls."""
        run_id, _ = await self._access.read_head(call.request, "record")
        return json_response(await self._store.trace(run_id))

    @Operation(
        "POST",
        "/runs/{run_id}/stop",
        parameters=(RUN_ID,),
        body=Body(StopBody, optional=True),
        answers={
            200: json("the run has ended", RunRecord),
            202: json("the request is stored, and the run's end follows within the grace period", RunRecord),
        },
    )
    async def stop_run(self, call: Call[StopBody]) -> Response:
        """Ask a run to stop."""
        run_id = await self._access.changeable(call.request)
        body = await call.body()
        found = await self._store.stop(run_id, by=call.login.actor, reason=body.reason)
        return record_response(found, 200 if found.run.closed else 202)


def list_cursor(text: str) -> str:
    """The `next` of an earlier page of a list that is sorted by id."""
    try:
        return parse_run_id(text)
    except RunNotFound:
        raise BadRequest("after must be the `next` of an earlier page", code="invalid_cursor") from None
