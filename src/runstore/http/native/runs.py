"""Runs: read, list, follow, stop, add to, delete."""

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from runstore.core import errors
from runstore.core.codec import ENCODER_VERSION, envelope
from runstore.core.errors import RunNotFound
from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES, Custom
from runstore.core.ids import parse_run_id
from runstore.core.limits import MAX_EVENTS_PER_APPEND, MAX_FILTER_TYPES
from runstore.core.ports import EventFilter
from runstore.core.run import STATUSES
from runstore.core.threads import in_own_thread
from runstore.core.trace import Trace
from runstore.http.bodies import Body
from runstore.http.errors import BadRequest, Forbidden
from runstore.http.following import Following, check_cursor
from runstore.http.json import RunId, Seq, json_list, json_response
from runstore.http.native.included import INCLUDES, EventPage, Includes, read_include
from runstore.http.native.records import RunPage, RunRecord, listed, record_response
from runstore.http.openai.stream import CHAT, CHUNKS
from runstore.http.operations import Answer, Call, operation
from runstore.http.requests import (
    FAMILIES,
    MAX_CURSOR_DIGITS,
    Parameter,
    Schema,
    has_already,
    prefers,
    read_choice,
    read_cursor,
    read_filter,
    read_number,
    read_seconds,
    read_time,
    whole,
)
from runstore.http.schemas import (
    CURSOR,
    JSON,
    LAST_EVENT_ID,
    LAST_EVENT_ID_PARAMETER,
    NAME,
    NOT_MODIFIED,
    NOTHING_LEFT,
    RUN_ID,
    STREAM,
    TEXT,
    TOO_MANY_STREAMS,
    UUID,
    json,
    stream,
)
from runstore.http.security.access import Access
from runstore.http.security.signing import of_run
from runstore.http.streaming.frames import Translation
from runstore.http.streaming.watched import ClientGone, WatchedAnswer
from runstore.projections.runs import RunQuery
from runstore.store.erasure import Erasure
from runstore.store.runs import RunStore

MAX_PAGE = 1_000  # runs or events of one page
MAX_WAIT_S = 300.0  # seconds, the maximum of ?wait=
MAX_REASON = 200  # characters
NDJSON = "application/x-ndjson"
# The formats of a stream. The first is the native one, and the default.
FORMATS: dict[str, Translation | None] = {"events": None, "openai": CHAT}


class StopBody(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)] = "user"


# The log itself checks these rules and refuses with its own codes; here they are only declared.
CustomType = Annotated[str, Meta(extra_json_schema={"pattern": f"^{CUSTOM_TYPE.pattern}$"})]


class ExternalEvent(Struct, frozen=True, forbid_unknown_fields=True):
    type: CustomType
    data: Any = None


ExternalEvents = Annotated[
    list[ExternalEvent], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_EVENTS_PER_APPEND})
]


class AppendBody(Struct, frozen=True, forbid_unknown_fields=True):
    """One event, or several that are stored together or not at all."""

    type: CustomType | UnsetType = UNSET
    data: Any = UNSET
    events: ExternalEvents | UnsetType = UNSET
    expected_seq: int | None = None


EITHER = Meta(
    extra_json_schema={
        "oneOf": [
            {"required": ["type"], "properties": {"events": False}},
            {"required": ["events"], "properties": {"type": False, "data": False}},
        ]
    }
)


class Appended(Struct, frozen=True):
    """`last_seq`: the seq of the last event that was added."""

    run_id: RunId
    last_seq: Seq


# ---- parameters and answers ----

LIMIT = Parameter("limit", whole(1, MAX_PAGE, 100))
LIMIT_OF_LINES = Parameter("limit", whole(1, 10**MAX_CURSOR_DIGITS, 10**MAX_CURSOR_DIGITS))
STATUS = Parameter("status", {"enum": list(STATUSES)})
PURGED = Parameter("purged", {"type": "boolean", "default": False}, "`true`: only purged runs")
DELETED = Parameter(
    "deleted",
    {"enum": ["true", "false", "any"], "default": "false"},
    "`true`: only deleted runs; `any`: these, too. For admins and auditors",
)
AT = Parameter("at", whole(1, 10**MAX_CURSOR_DIGITS - 1), "a seq: the run as it was after that event")
WAIT = Parameter(
    "wait",
    {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
    "seconds: the answer comes when the run has ended, or after this time",
)
MOMENT: Schema = {"type": "string", "format": "date-time"}

AFTER = Parameter("after", CURSOR, "a cursor: events with a greater seq")
ONE_TYPE = "|".join(
    [
        "|".join(re.escape(name) for name in EVENT_CLASSES),
        "|".join(re.escape(f"{family}*") for family in sorted(FAMILIES)),
        CUSTOM_TYPE.pattern,
        rf"{CUSTOM_TYPE.pattern.replace('{1,120}', '{0,119}')}\.\*",
    ]
)
TYPES = Parameter(
    "types",
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_FILTER_TYPES,
        "items": {"type": "string", "pattern": f"^(?:{ONE_TYPE})$"},
    },
    "only events of these types; terminal events always pass",
)
FORMAT = Parameter(
    "format",
    {"enum": list(FORMATS), "default": next(iter(FORMATS))},
    "`openai`: chunks of a chat completion; not with `types`",
)
LINES: Schema = {
    "type": "string",
    "description": "One EventRecord on each line: all events stored now, without waiting for more.",
}


PURGE = Parameter("purge", {"type": "boolean", "default": False}, "`true`: remove the run's events for good")
REASON = Parameter(
    "reason",
    {"type": "string", "minLength": 1, "maxLength": MAX_REASON},
    "needed with `purge=true`, for the audit log",
)
PSEUDONYM = Parameter(
    "pseudonym",
    {"type": "boolean", "default": False},
    "with `purge=true`: replace the names of user and session in what is left, also of a purged run",
)


class RunRoutes:
    """The routes below `/runs`."""

    tag = "runs"

    def __init__(self, store: RunStore, access: Access, following: Following, erasure: Erasure) -> None:
        self._store = store
        self._erasure = erasure
        self._purges = asyncio.Lock()  # one at a time: each has connections of its own
        self._access = access
        self._following = following
        self._includes = Includes(store)

    @operation(
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
                since=read_time(call.request, "since"),
                until=read_time(call.request, "until"),
                purged=purged,
                deleted=None if deleted == "any" else deleted == "true",
                before=list_cursor(after) if after is not None else None,
                limit=limit,
            )
        )
        data = await json_list(listed(run) for run in found.runs)
        return json_response(RunPage(data, found.next))  # type: ignore[arg-type]

    @operation(
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

    @operation(
        "GET",
        "/runs/{run_id}/events",
        parameters=(
            RUN_ID,
            AFTER,
            LAST_EVENT_ID,
            LAST_EVENT_ID_PARAMETER,
            Parameter("limit", LIMIT.schema, "for NDJSON any number; all events if not given"),
            TYPES,
            Parameter("If-None-Match", TEXT, "the ETag of a page", "header"),
        ),
        answers={
            200: Answer(
                description="a page, with an `ETag` once the run is closed; NDJSON if `Accept` prefers it",
                content={JSON: EventPage, NDJSON: LINES},
            ),
            304: NOT_MODIFIED,
        },
        problems=(errors.InvalidCursor,),
    )
    async def list_events(self, call: Call[None]) -> Response:
        """A run's events as pages or as NDJSON."""
        lined = prefers(call.request, NDJSON, JSON)
        run_id = await self._access.readable(call.request, "export" if lined else "events")
        after, only = read_cursor(call.request), read_filter(call.request)
        head = await self._store.head(run_id, deleted=call.user.reads_all)
        check_cursor(after, head.seq, run_id)
        headers = {"Vary": "Accept"}
        if lined:
            limit = read_number(call.request, LIMIT_OF_LINES)
            lines = self._lines(run_id, after, limit, only)
            return WatchedAnswer(lines, call.login, media_type=NDJSON, headers=headers)
        limit = read_number(call.request, LIMIT)
        if head.closed:
            headers["ETag"] = f'"{run_id}.{head.seq}.{after}.{limit}.{_tag(only)}.v{ENCODER_VERSION}"'
            if has_already(call.request, headers["ETag"]):
                return Response(status_code=304, headers=headers)
        page = await self._store.events(run_id, after=after, limit=limit, only=only)
        following = b"%d" % page[-1].seq if page and page[-1].seq < head.seq else b"null"
        body = b'{"data":[%b],"next":%b}' % (b",".join(map(envelope, page)), following)
        return Response(body, headers=headers, media_type="application/json")

    @operation(
        "GET",
        "/runs/{run_id}/stream",
        parameters=(RUN_ID, AFTER, LAST_EVENT_ID, LAST_EVENT_ID_PARAMETER, TYPES, FORMAT),
        answers={
            200: stream(
                "all events after the cursor, until the run ends", schema={"anyOf": [STREAM, CHUNKS]}
            ),
            204: NOTHING_LEFT,
        },
        problems=(errors.InvalidCursor, TOO_MANY_STREAMS),
        ticket=lambda path, query: of_run(path["run_id"].lower()),
    )
    async def follow_run(self, call: Call[None]) -> Response:
        """Follow a run: replay, then live."""
        run_id = await self._access.readable(call.request, "stream")
        after, only = read_cursor(call.request), read_filter(call.request)
        form = read_choice(call.request, FORMAT)
        translation = FORMATS[form] if form is not None else None
        if translation is not None and only is not None:
            raise BadRequest(f"types cannot be given with format={form}", code="invalid_parameter")
        return await self._following.follow(
            call.login, run_id, after=after, only=only, translation=translation
        )

    @operation(
        "GET",
        "/runs/{run_id}/trace",
        parameters=(RUN_ID,),
        answers={200: json("the tree", Trace)},
    )
    async def trace_run(self, call: Call[None]) -> Response:
        """A run as a tree of attempts, agents, and model and tool calls."""
        run_id = await self._access.readable(call.request, "record")
        await self._store.head(run_id, deleted=call.user.reads_all)
        return json_response(await self._store.trace(run_id))

    @operation(
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

    @operation(
        "POST",
        "/runs/{run_id}/events",
        parameters=(RUN_ID,),
        body=Body(AppendBody, EITHER, any_text=True),
        answers={201: json("the events are stored", Appended)},
        problems=(
            errors.InvalidEvent,
            errors.WrongExpectedSeq,
            errors.RunClosed,
            errors.EventTooLarge,
            errors.TooLarge,
        ),
    )
    async def append_events(self, call: Call[AppendBody]) -> Response:
        """Add events of your own to a run that has not ended."""
        run_id = await self._access.changeable(call.request)
        body = await call.body()
        events = [Custom(event.type, event.data) for event in _given(body)]
        last_seq = await self._store.append(
            run_id, events, by=call.login.actor, expected_seq=body.expected_seq
        )
        return json_response(Appended(run_id, last_seq), 201)

    @operation(
        "DELETE",
        "/runs/{run_id}",
        parameters=(RUN_ID, PURGE, REASON, PSEUDONYM),
        answers={204: Answer(description="the run is deleted, or its events are removed")},
        problems=(errors.InvalidQuery, errors.RunActive, errors.RunClosed, Forbidden),
    )
    async def delete_run(self, call: Call[None]) -> Response:
        """Take a closed run out of the lists; or purge it, as an admin."""
        purge = read_choice(call.request, PURGE) == "true"
        pseudonym = read_choice(call.request, PSEUDONYM) == "true"
        reason = call.request.query_params.get("reason")
        run_id = await self._access.changeable(call.request)
        if purge:
            await self._purge(call, run_id, reason, pseudonym=pseudonym)
        elif pseudonym or reason is not None:
            raise errors.InvalidQuery("pseudonym and reason need purge=true")
        else:
            await self._store.delete(run_id, by=call.login.actor)
        return Response(status_code=204)

    async def _purge(self, call: Call[None], run_id: str, reason: str | None, *, pseudonym: bool) -> None:
        if not call.user.admin:
            raise Forbidden("only an admin may purge runs")
        if reason is None:
            raise errors.InvalidQuery("purge=true needs a reason, for the audit log")
        head = await self._store.head(run_id, deleted=True, purged=pseudonym)
        if not head.closed:
            raise errors.RunActive(f"run {run_id} has not ended: stop it, then purge it")
        async with self._purges:
            purge = partial(self._erasure.purge_run, by=call.login.actor, reason=reason, pseudonym=pseudonym)
            await in_own_thread(purge, run_id)

    def _listed_user(self, call: Call[None], workspace: str | None) -> str | None:
        """The user whose runs are listed; None: all users."""
        user, asked = call.user, call.request.query_params.get("user_id")
        return asked or (None if user.reads_all or workspace else user.user_id)

    async def _lines(
        self, run_id: str, after: int, limit: int, only: EventFilter | None
    ) -> AsyncIterator[bytes]:
        left = limit
        while left and (
            page := await self._store.events(run_id, after=after, limit=min(left, MAX_PAGE), only=only)
        ):
            yield b"".join([envelope(event) + b"\n" for event in page])
            after, left = page[-1].seq, left - len(page)


def _given(body: AppendBody) -> list[ExternalEvent]:
    if isinstance(body.type, str) and body.events is UNSET:
        return [ExternalEvent(body.type, None if body.data is UNSET else body.data)]
    if isinstance(body.events, list) and body.type is UNSET and body.data is UNSET:
        return body.events
    raise BadRequest("the body must have either `type` and `data`, or `events`", code="invalid_body")


def list_cursor(text: str) -> str:
    """The `next` of an earlier page of a list that is sorted by id."""
    try:
        return parse_run_id(text)
    except RunNotFound:
        raise BadRequest("after must be the `next` of an earlier page", code="invalid_cursor") from None


def _tag(only: EventFilter | None) -> str:
    return "" if only is None else ",".join([*sorted(only.types), *only.prefixes])
