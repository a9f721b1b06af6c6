"""The events of a run: pages of them, their stream, and events that users add."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from runstore.core import errors
from runstore.core.codec import ENCODER_VERSION, RecordedEvent, envelope
from runstore.core.events import CUSTOM_TYPE, Custom
from runstore.core.limits import MAX_EVENTS_PER_APPEND
from runstore.core.ports import EventFilter
from runstore.http.bodies import Body
from runstore.http.errors import BadRequest
from runstore.http.following import RunStreams, check_cursor
from runstore.http.json import RunId, Seq, json_response, page_response
from runstore.http.native.event_types import event_types
from runstore.http.native.included import EventPage
from runstore.http.openai.stream import CHAT, CHUNKS
from runstore.http.operations import Call, Operation, ResponseSpec
from runstore.http.query import Query, Text, choice, cursor
from runstore.http.requests import Parameter, Schema, has_already, prefers, read_cursor
from runstore.http.schemas import (
    JSON,
    LAST_EVENT_ID,
    LAST_EVENT_ID_PARAMETER,
    LIMIT,
    LIMIT_OF_LINES,
    NDJSON,
    NOT_MODIFIED,
    NOTHING_LEFT,
    RUN_ID,
    STREAM,
    TEXT,
    TOO_MANY_STREAMS,
    json,
    stream,
)
from runstore.http.security.access import Access
from runstore.http.security.signing import of_run
from runstore.http.streaming.frames import Translation
from runstore.http.streaming.watched import WatchedAnswer
from runstore.store.runs import RunStore

# The formats of a stream. The first is the native one, and the default.
FORMATS: dict[str, Translation | None] = {"events": None, "openai": CHAT}

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


TYPES = event_types("only events of these types; terminal events always pass")
LINES: Schema = {
    "type": "string",
    "description": "One EventRecord on each line: all events stored now, without waiting for more.",
}


class EventsQuery(Query):
    """Which events of a run."""

    after = cursor("a cursor: events with a greater seq")
    last_event_id = LAST_EVENT_ID_PARAMETER
    limit = Text(LIMIT.schema, "for NDJSON any number; all events if not given")
    types = TYPES


class StreamQuery(Query):
    """Which events of a run are followed, and in which format."""

    after = EventsQuery.after
    last_event_id = LAST_EVENT_ID_PARAMETER
    types = TYPES
    format = choice(
        tuple(FORMATS), "`openai`: chunks of a chat completion; not with `types`", default=next(iter(FORMATS))
    )


class EventRoutes:
    """`/runs/{run_id}/events` and `/runs/{run_id}/stream`"""

    tag = "runs"

    def __init__(self, store: RunStore, access: Access, following: RunStreams) -> None:
        self._store = store
        self._access = access
        self._following = following

    @Operation(
        "GET",
        "/runs/{run_id}/events",
        parameters=(
            RUN_ID,
            LAST_EVENT_ID,
            Parameter("If-None-Match", TEXT, "the ETag of a page", "header"),
        ),
        query=EventsQuery,
        answers={
            200: ResponseSpec(
                description="a page, with an `ETag` once the run is closed; NDJSON if `Accept` prefers it",
                content={JSON: EventPage, NDJSON: LINES},
            ),
            304: NOT_MODIFIED,
        },
        problems=(errors.InvalidCursor,),
    )
    async def list_events(self, call: Call[EventsQuery]) -> Response:
        """A run's events as pages or as NDJSON."""
        lined = prefers(call.request, NDJSON, JSON)
        run_id = await self._access.readable(call.request, "export" if lined else "events")
        query, only = call.query, call.query.types
        after = read_cursor(call.request, query.last_event_id, query.after)
        head = await self._store.head(run_id, deleted=call.user.reads_all)
        check_cursor(after, head.seq, run_id)
        headers = {"Vary": "Accept"}
        if lined:
            limit = LIMIT_OF_LINES.value(query.limit)
            pages = self._store.pages(run_id, after, limit=limit, only=only, from_replica=True)
            return WatchedAnswer(_lines(pages), call.login, media_type=NDJSON, headers=headers)
        limit = LIMIT.value(query.limit)
        if head.closed:
            headers["ETag"] = f'"{run_id}.{head.seq}.{after}.{limit}.{_tag(only)}.v{ENCODER_VERSION}"'
            if has_already(call.request, headers["ETag"]):
                return Response(status_code=304, headers=headers)
        page = await self._store.events(run_id, after=after, limit=limit, only=only)
        following = page[-1].seq if page and page[-1].seq < head.seq else None
        return page_response(map(envelope, page), following, headers)

    @Operation(
        "GET",
        "/runs/{run_id}/stream",
        parameters=(RUN_ID, LAST_EVENT_ID),
        query=StreamQuery,
        answers={
            200: stream(
                "all events after the cursor, until the run ends", schema={"anyOf": [STREAM, CHUNKS]}
            ),
            204: NOTHING_LEFT,
        },
        problems=(errors.InvalidCursor, TOO_MANY_STREAMS),
        ticket=lambda path, query: of_run(path["run_id"].lower()),
    )
    async def follow_run(self, call: Call[StreamQuery]) -> Response:
        """Follow a run: replay, then live."""
        run_id = await self._access.readable(call.request, "stream")
        query, only = call.query, call.query.types
        after, translation = (
            read_cursor(call.request, query.last_event_id, query.after),
            FORMATS[query.format],
        )
        if translation is not None and only is not None:
            raise BadRequest(f"types cannot be given with format={query.format}", code="invalid_parameter")
        return await self._following.follow(
            call.login, run_id, after=after, only=only, translation=translation
        )

    @Operation(
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


async def _lines(pages: AsyncIterator[list[RecordedEvent]]) -> AsyncGenerator[bytes, None]:
    async for page in pages:
        yield b"".join([envelope(event) + b"\n" for event in page])


def _given(body: AppendBody) -> list[ExternalEvent]:
    if isinstance(body.type, str) and body.events is UNSET:
        return [ExternalEvent(body.type, None if body.data is UNSET else body.data)]
    if isinstance(body.events, list) and body.type is UNSET and body.data is UNSET:
        return body.events
    raise BadRequest("the body must have either `type` and `data`, or `events`", code="invalid_body")


def _tag(only: EventFilter | None) -> str:
    return "" if only is None else ",".join([*sorted(only.types), *only.prefixes])
