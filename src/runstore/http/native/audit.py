"""The audit log over HTTP: every user's events in the order of the whole log, for admins and auditors."""

import csv
import io
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from runstore.core import errors
from runstore.core.audit import AuditEvent, AuditItem, AuditQuery, audit_line
from runstore.core.events import AuditedRead
from runstore.core.ids import read_run_id
from runstore.core.ports import EventFilter
from runstore.core.printable import csv_cell
from runstore.core.records import raw_record_of
from runstore.core.times import timestamp
from runstore.http.errors import Forbidden
from runstore.http.json import Position, page_response
from runstore.http.native.event_types import event_types
from runstore.http.native.events import LINES
from runstore.http.operations import Call, Operation, ResponseSpec
from runstore.http.query import Query, Text, choice, cursor, moment, uuid
from runstore.http.requests import Schema, prefers, read_cursor
from runstore.http.schemas import (
    JSON,
    LAST_EVENT_ID,
    LAST_EVENT_ID_PARAMETER,
    LIMIT,
    LIMIT_OF_LINES,
    NAME,
    NDJSON,
    STREAM,
    TOO_MANY_STREAMS,
    component,
    stream,
    within,
)
from runstore.http.security.access import Access
from runstore.http.streaming.frames import RETRY
from runstore.http.streaming.sse import EventStream
from runstore.http.streaming.subscribers import Subscribers
from runstore.http.streaming.watched import WatchedAnswer
from runstore.store.audit import AuditLog

CSV = "text/csv"
LINED = {"ndjson": NDJSON, "csv": CSV}
FORMATS = ("json", *LINED)
VARY = {"Vary": "Accept"}
MAX_TEXT = 200  # characters of `contains`
COLUMNS = ("position", "run_id", "seq", "type", "at", "user_id", "agent", "by", "data")


class AuditFilters(Query):
    """The filters of the log."""

    types = event_types("only events of these types")
    user_id = Text(NAME, "only events of this user's runs")
    agent = Text(NAME, "only events of this agent's runs")
    session_id = Text(NAME, "only events of this session's runs")
    workspace_id = Text(NAME, "only events of this workspace's runs")
    run_id = uuid("only events of this run")
    since = moment("only events of this time or later")
    until = moment("only events of this time or earlier")
    contains = Text(
        {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
        "only events with this text in their data; case matters",
    )
    after = cursor("a cursor: events with a greater position")

    def filters(self) -> AuditQuery:
        run_id = read_run_id(self.run_id) if self.run_id is not None else None
        return self.into(AuditQuery, types=_types(self.types), run_id=run_id)


class AuditPageQuery(AuditFilters):
    """The same, and the form of the answer."""

    limit = Text(LIMIT.schema, "for NDJSON and CSV any number; all events if not given")
    format = choice(FORMATS, "takes precedence over `Accept`; `json` if neither is given")


class AuditStreamQuery(AuditFilters):
    """The same, and the cursor of a polyfill."""

    last_event_id = LAST_EVENT_ID_PARAMETER


class AuditEventPage(Struct, frozen=True):
    """Events of the whole log in their order. `next`: a position."""

    data: list[AuditEvent]
    next: Position | None


STREAMED: Schema = {
    **STREAM,
    "description": "One server-sent event. Its data is an AuditEvent. A line `:` is a heartbeat.",
    "properties": {
        **STREAM["properties"],
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "the position, the cursor"},
        "data": {"type": "string", **within(component(AuditEvent))},
    },
}


class AuditRoutes:
    """The routes below `/audit`."""

    tag = "audit"

    def __init__(self, audit: AuditLog, access: Access, subscribers: Subscribers) -> None:
        self._audit = audit
        self._access = access
        self._subscribers = subscribers

    @Operation(
        "GET",
        "/audit/events",
        query=AuditPageQuery,
        answers={
            200: ResponseSpec(
                description="a page; with NDJSON or CSV (by `Accept` or `format`) all events stored now",
                content={JSON: AuditEventPage, NDJSON: LINES, CSV: {"type": "string"}},
            )
        },
        problems=(errors.InvalidCursor, Forbidden),
    )
    async def list_audit_events(self, call: Call[AuditPageQuery]) -> Response:
        """All events in the order of the whole log."""
        request = call.request
        query, after = call.query.filters(), read_cursor(request, call.query.after)
        form = call.query.format or _preferred_format(request)
        limit = (LIMIT if form == "json" else LIMIT_OF_LINES).value(call.query.limit)
        what: AuditedRead = "audit" if form == "json" else "export"
        await self._access.may_search(call.login, what, request.query_params)
        await self._audit.check(after)
        if form == "json":
            page = await self._audit.page(query, after=after, limit=limit)
            return page_response(map(audit_line, page.items), page.upto if page.more else None, VARY)
        pages = self._audit.all(query, after=after, limit=limit)
        parts = _lines(pages) if form == "ndjson" else _rows(pages)
        return WatchedAnswer(parts, call.login, media_type=LINED[form], headers=VARY)

    @Operation(
        "GET",
        "/audit/events/stream",
        parameters=(LAST_EVENT_ID,),
        query=AuditStreamQuery,
        answers={200: stream("all events after the cursor, then live, without an end", schema=STREAMED)},
        problems=(errors.InvalidCursor, Forbidden, TOO_MANY_STREAMS),
    )
    async def follow_audit_events(self, call: Call[AuditStreamQuery]) -> Response:
        """Follow all events: replay, then live."""
        query = call.query.filters()
        after = read_cursor(call.request, call.query.last_event_id, call.query.after)
        await self._access.may_search(call.login, "stream", call.request.query_params)
        await self._audit.check(after)
        with ExitStack() as resources:
            resources.enter_context(self._subscribers.of_user(call.user.user_id))
            frames = _frames(self._audit.follow(query, after=after))
            return EventStream(frames, call.login, resources.pop_all())


def _types(only: EventFilter | None) -> tuple[str, ...]:
    return () if only is None else (*sorted(only.types), *(f"{prefix}*" for prefix in only.prefixes))


def _preferred_format(request: Request) -> str:
    return next((name for name, kind in LINED.items() if prefers(request, kind, JSON)), "json")


async def _lines(pages: AsyncIterator[list[AuditItem]]) -> AsyncGenerator[bytes, None]:
    async for items in pages:
        yield b"".join([audit_line(item) + b"\n" for item in items])


async def _rows(pages: AsyncIterator[list[AuditItem]]) -> AsyncGenerator[bytes, None]:
    """Lines of CSV (RFC 4180)."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    async for items in pages:
        rows.writerows(map(csv_cell, _values(item)) for item in items)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()  # the heading, if there is nothing else


async def _frames(pages: AsyncIterator[Sequence[AuditItem]]) -> AsyncIterator[bytes]:
    first = RETRY
    async for items in pages:
        yield b"".join([first, *map(_frame, items)]) if items else b""
        first = b"" if items else first


def _frame(item: AuditItem) -> bytes:
    event = item.event
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.position, event.type.encode(), audit_line(item))


def _values(item: AuditItem) -> tuple[object, ...]:
    event = item.event
    return (
        event.position, event.run_id, event.seq, event.type, timestamp(event.at), item.user_id, item.agent,
        item.by, bytes(raw_record_of(event).data).decode(),
    )  # fmt: skip
