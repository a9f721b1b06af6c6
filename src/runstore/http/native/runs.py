"""Runs: list, read, trace, stop."""

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
from runstore.http.requests import (
    Parameter,
    read_choice,
    read_number,
    read_period,
    read_seconds,
)
from runstore.http.schemas import LIMIT, MAX_REASON, MOMENT, NAME, RUN_ID, SEQ, TOO_MANY_STREAMS, UUID, json
from runstore.http.security.access import Access
from runstore.http.streaming.watched import ClientGone
from runstore.projections.runs import RunQuery
from runstore.store.runs import RunStore

MAX_WAIT_S = 300.0  # seconds, the maximum of ?wait=


class StopBody(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)] = "user"


STATUS = Parameter("status", {"enum": list(STATUSES)})
PURGED = Parameter("purged", {"type": "boolean", "default": False}, "`true`: only purged runs")
DELETED = Parameter(
    "deleted",
    {"enum": ["true", "false", "any"], "default": "false"},
    "`true`: only deleted runs; `any`: these, too. For admins and auditors",
)
AT = Parameter("at", SEQ, "a seq: the run as it was after that event")
WAIT = Parameter(
    "wait",
    {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
    "seconds: the answer comes when the run has ended, or after this time",
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
        parameters=(
            STATUS,
            Parameter(
                "user_id", NAME, "the runs of this user; only admins and auditors may name another one"
            ),
            Parameter("agent", NAME, "the agent's name"),
            Parameter("session_id", NAME),
            Parameter("workspace_id", NAME, "the runs of all members of this workspace"),
            Parameter("since", MOMENT, "created at this time or later"),
            Parameter("until", MOMENT, "created at this time or earlier"),
            PURGED,
            DELETED,
            LIMIT,
            Parameter("after", UUID, "the `next` of an earlier page"),
        ),
        answers={200: json("a page of runs", RunPage)},
        problems=(errors.InvalidCursor, Forbidden),
    )
    async def list_runs(self, call: Call[None]) -> Response:
        """List runs, newest first."""
        limit = read_number(call.request, LIMIT)
        after = call.request.query_params.get("after")
        user, workspace = call.user, call.request.query_params.get("workspace_id")
        self._access.check_workspace(user, workspace)
        purged = read_choice(call.request, PURGED) == "true"
        deleted = read_choice(call.request, DELETED) or "false"
        if deleted != "false" and purged:
            raise BadRequest("deleted cannot be given with purged=true", code="invalid_parameter")
        since, until = read_period(call.request)
        listed_user = self._listed_user(call, workspace)
        if deleted != "false" or (listed_user != user.user_id and workspace not in user.workspaces):
            await self._access.may_search(call.login, "list", call.request.query_params)
        found = await self._store.find(
            RunQuery(
                user_id=listed_user,
                status=read_choice(call.request, STATUS),  # type: ignore[arg-type]
                agent=call.request.query_params.get("agent"),
                session_id=call.request.query_params.get("session_id"),
                workspace_id=workspace,
                since=since,
                until=until,
                purged=purged,
                deleted=None if deleted == "any" else deleted == "true",
                before=list_cursor(after) if after is not None else None,
                limit=limit,
            )
        )
        data = await json_list(listed(run) for run in found.runs)
        return json_response(RunPage(data, found.next))  # type: ignore[arg-type]

    @Operation(
        "GET",
        "/runs/{run_id}",
        parameters=(
            RUN_ID,
            AT,
            WAIT,
            Parameter(
                "include",
                {"type": "array", "minItems": 1, "items": {"enum": list(INCLUDES)}},
                "further fields of the record",
            ),
        ),
        answers={200: json("the run", RunRecord)},
        problems=(errors.InvalidCursor, TOO_MANY_STREAMS),
    )
    async def get_run(self, call: Call[None]) -> Response:
        """One run, now or at an earlier event."""
        names = read_include(call.request)
        at = read_number(call.request, AT) or None
        wait_s = read_seconds(call.request, WAIT)
        run_id = await self._access.readable(call.request, "record")
        if wait_s:
            try:
                await self._following.until_ended(call.login, run_id, wait_s, call.request.receive)
            except ClientGone:
                return Response(status_code=204)  # the client has gone
        found = await self._store.get(run_id, at=at, deleted=call.user.reads_all)
        return record_response(found, included=await self._includes.read(found, names))

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

    def _listed_user(self, call: Call[None], workspace: str | None) -> str | None:
        """The user whose runs are listed; None: all users."""
        user, asked = call.user, call.request.query_params.get("user_id")
        return asked or (None if user.reads_all or workspace else user.user_id)


def list_cursor(text: str) -> str:
    """The `next` of an earlier page of a list that is sorted by id."""
    try:
        return parse_run_id(text)
    except RunNotFound:
        raise BadRequest("after must be the `next` of an earlier page", code="invalid_cursor") from None
