"""Runs: read, list, follow, stop, add to, delete."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from runstore.core.codec import ENCODER_VERSION, RecordedEvent, envelope, timestamp
from runstore.core.errors import RunNotFound
from runstore.core.events import CUSTOM_TYPE, Custom
from runstore.core.ids import parse_run_id
from runstore.core.limits import MAX_EVENTS_PER_APPEND
from runstore.core.ports import EventFilter
from runstore.core.records import EventRecord
from runstore.core.run import STATUSES, Run, Status
from runstore.http.errors import BadRequest
from runstore.http.fields import Count, RunId, Seq, Time
from runstore.http.json import json_list, json_response
from runstore.http.native.included import EventPage, Included, Includes, read_include
from runstore.http.requests import (
    check_parameters,
    has_already,
    read_body,
    read_choice,
    read_cursor,
    read_filter,
    read_number,
    read_seconds,
    read_time,
)  # fmt: skip
from runstore.http.security.access import Access
from runstore.http.security.users import login_of, user_of
from runstore.http.streaming.following import Following, check_cursor
from runstore.http.streaming.watched import ClientGone, WatchedAnswer
from runstore.projections.runs import RunQuery
from runstore.runtime.catalog.output_schema import SchemaWarning
from runstore.store.runs import RunAt, RunStore

MAX_PAGE = 1_000  # runs or events of one page
MAX_WAIT_S = 300.0  # of ?wait=
MAX_REASON = 200  # characters
NDJSON = "application/x-ndjson"
FORMATS = ("events", "openai")  # of a stream
NOTHING = Included()


class RunRecord(Struct, frozen=True):
    """A run as the API shows it."""

    run_id: RunId
    user_id: str
    agent_name: str
    session_id: str | None
    status: Status
    cancel_requested: bool
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    attempt: Count
    result: dict[str, Any] | None
    error: str | None
    error_code: str | None
    reason: str | None
    forced: bool
    superseded_by: RunId | None
    parent_run_id: RunId | None
    workspace_id: str | None
    usage: dict[str, Count]
    metadata: dict[str, Any]
    truncated: tuple[str, ...] | UnsetType = (
        UNSET  # in lists: which of these are left out, since they are large
    )
    last_seq: Seq | UnsetType = UNSET  # of a single run; a list does not read every log
    trace: EventPage | UnsetType = UNSET  # these are there for those who ask
    ops_log: list[EventRecord] | UnsetType = UNSET
    schema_warnings: list[SchemaWarning] | UnsetType | None = UNSET
    purged_at: Time | UnsetType = UNSET  # these of runs that were purged
    deleted: bool | UnsetType = UNSET
    counts: dict[str, Count] | UnsetType = UNSET


class RunPage(Struct, frozen=True):
    """Runs, newest first."""

    data: list[RunRecord]
    next: RunId | None


class StopBody(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)] = "user"


# What the log itself checks, and answers with codes of its own, is only told here.
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
    """`last_seq`: of the last event that was added."""

    run_id: RunId
    last_seq: Seq


class RunRoutes:
    """The routes below `/runs`."""

    def __init__(self, store: RunStore, access: Access, following: Following) -> None:
        self._store = store
        self._access = access
        self._following = following
        self._includes = Includes(store)

    async def list(self, request: Request) -> Response:
        check_parameters(
            request,
            ("status", "agent", "session_id", "workspace_id", "since", "until", "purged", "limit", "after"),
        )
        limit = read_number(request, "limit", 100, 1, MAX_PAGE)
        after = request.query_params.get("after")
        user, workspace = user_of(request), request.query_params.get("workspace_id")
        self._access.check_workspace(user, workspace)
        found = await self._store.find(
            RunQuery(
                user_id=None if user.admin or workspace else user.user_id,
                status=read_choice(request, "status", STATUSES),  # type: ignore[arg-type]
                agent=request.query_params.get("agent"),
                session_id=request.query_params.get("session_id"),
                workspace_id=workspace,
                since=read_time(request, "since"),
                until=read_time(request, "until"),
                purged=read_choice(request, "purged", ("true", "false")) == "true",
                before=list_cursor(after) if after is not None else None,
                limit=limit,
            )
        )
        data = await json_list(listed(run) for run in found.runs)
        return json_response(RunPage(data, found.next))  # type: ignore[arg-type]

    async def get(self, request: Request) -> Response:
        check_parameters(request, ("at", "wait", "include"))
        names = read_include(request)
        at = read_number(request, "at", 0, 1, 10**18) or None
        wait_s = read_seconds(request, "wait", MAX_WAIT_S)
        run_id = await self._access.readable(request)
        if wait_s:
            try:
                await self._following.until_ended(login_of(request), run_id, wait_s, request.receive)
            except ClientGone:
                return Response(status_code=204)  # which nobody reads
        found = await self._store.get(run_id, at=at)
        return record_response(found, included=await self._includes.read(found, names))

    async def events(self, request: Request) -> Response:
        check_parameters(request, ("after", "lastEventId", "limit", "types"))
        run_id = await self._access.readable(request)
        after, only = read_cursor(request), read_filter(request)
        head = await self._store.head(run_id)
        check_cursor(after, head.seq, run_id)
        if NDJSON in request.headers.get("accept", ""):
            limit = read_number(request, "limit", 10**18, 1, 10**18)
            lines = self._lines(run_id, after, limit, only)
            return WatchedAnswer(lines, login_of(request), media_type=NDJSON)
        limit = read_number(request, "limit", 100, 1, MAX_PAGE)
        headers = {}
        if head.closed:
            headers["ETag"] = f'"{run_id}.{head.seq}.{after}.{limit}.{_tag(only)}.v{ENCODER_VERSION}"'
            if has_already(request, headers["ETag"]):
                return Response(status_code=304, headers=headers)
        page = await self._store.events(run_id, after=after, limit=limit, only=only)
        following = b"%d" % page[-1].seq if page and page[-1].seq < head.seq else b"null"
        body = b'{"data":[%b],"next":%b}' % (b",".join(map(_line, page)), following)
        return Response(body, headers=headers, media_type="application/json")

    async def stream(self, request: Request) -> Response:
        check_parameters(request, ("after", "lastEventId", "types", "format", "ticket"))
        run_id = await self._access.readable(request)
        after, only = read_cursor(request), read_filter(request)
        as_chunks = read_choice(request, "format", FORMATS) == "openai"
        if as_chunks and only is not None:
            raise BadRequest("types cannot be given with format=openai", code="invalid_parameter")
        login = login_of(request)
        return await self._following.follow(login, run_id, after=after, only=only, as_chunks=as_chunks)

    async def stop(self, request: Request) -> Response:
        check_parameters(request, ())
        run_id = await self._access.changeable(request)
        body = await read_body(request, StopBody, optional=True)
        found = await self._store.stop(run_id, by=user_of(request).user_id, reason=body.reason)
        return record_response(found, 200 if found.run.closed else 202)

    async def append(self, request: Request) -> Response:
        check_parameters(request, ())
        run_id = await self._access.changeable(request)
        body = await read_body(request, AppendBody, any_text=True)
        events = [Custom(event.type, event.data) for event in _given(body)]
        last_seq = await self._store.append(run_id, events, expected_seq=body.expected_seq)
        return json_response(Appended(run_id, last_seq), 201)

    async def delete(self, request: Request) -> Response:
        check_parameters(request, ())
        await self._store.delete(await self._access.changeable(request), by=user_of(request).user_id)
        return Response(status_code=204)

    async def _lines(
        self, run_id: str, after: int, limit: int, only: EventFilter | None
    ) -> AsyncIterator[bytes]:
        left = limit
        while left and (
            page := await self._store.events(run_id, after=after, limit=min(left, MAX_PAGE), only=only)
        ):
            yield b"".join([_line(event) + b"\n" for event in page])
            after, left = page[-1].seq, left - len(page)


def record(run: Run, last_seq: int | UnsetType = UNSET, included: Included = NOTHING) -> RunRecord:
    return RunRecord(
        run_id=run.run_id, user_id=run.user_id, agent_name=run.agent_name, session_id=run.session_id,
        status=run.status, cancel_requested=run.cancel_requested, created_at=timestamp(run.created_at),
        started_at=timestamp(run.started_at) if run.started_at is not None else None,
        completed_at=timestamp(run.completed_at) if run.completed_at is not None else None,
        attempt=run.attempt, result=run.result, error=run.error, error_code=run.error_code, reason=run.reason,
        forced=run.forced, superseded_by=run.superseded_by, parent_run_id=run.parent_run_id,
        workspace_id=run.workspace_id, usage=run.usage, metadata=run.metadata, last_seq=last_seq,
        trace=included.trace, ops_log=included.ops_log, schema_warnings=included.schema_warnings,
        truncated=run.truncated,
    )  # fmt: skip


def listed(run: Run) -> RunRecord:
    """A run as lists show it; of one that was purged they are the only place."""
    if run.purged_at is None:
        return record(run)
    return replace(
        record(run, sum(run.counts.values())),
        purged_at=timestamp(run.purged_at), deleted=run.deleted, counts=run.counts,
    )  # fmt: skip


def record_response(
    found: RunAt, status: int = 200, headers: dict[str, str] | None = None, *, included: Included = NOTHING
) -> Response:
    return json_response(record(found.run, found.last_seq, included), status, headers)


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


def _line(event: RecordedEvent) -> bytes:
    return envelope(event.run_id.encode(), event.seq, event.type.encode(), event.at, event.data)
