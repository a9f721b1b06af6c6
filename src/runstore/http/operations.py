"""What each route takes and answers: the part of the OpenAPI document that is not in the structs."""

import re
from typing import Annotated, Any

from msgspec import Struct

from runstore.core import errors
from runstore.core.codec import RETRY_MS
from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES
from runstore.core.run import STATUSES
from runstore.http.agents import AgentPage, CodeBody, CodeStreamBody, StartBody, StreamBody
from runstore.http.errors import Forbidden, Unauthorized
from runstore.http.health import Health
from runstore.http.included import INCLUDES, EventPage
from runstore.http.requests import FAMILIES, IDEMPOTENCY_KEY, MAX_CURSOR_DIGITS
from runstore.http.runs import (
    EITHER,
    MAX_PAGE,
    MAX_WAIT_S,
    NDJSON,
    AppendBody,
    Appended,
    RunPage,
    RunRecord,
    StopBody,
)  # fmt: skip
from runstore.http.sse import HEADERS as STREAM_HEADERS
from runstore.http.sse import MEDIA_TYPE as SSE
from runstore.http.tickets import TicketAnswer, TicketBody

Schema = dict[str, Any]
Problem = type[errors.RunstoreError] | tuple[int, str]  # an error, or the status and code of one

JSON = "application/json"
TEXT: Schema = {"type": "string"}
UUID: Schema = {"type": "string", "format": "uuid"}


class Parameter(Struct, frozen=True):
    """`place`: `query`, `header` or `path`."""

    name: str
    schema: Schema
    description: str = ""
    place: str = "query"


class Answer(Struct, frozen=True, kw_only=True):
    """What comes when all is well.

    `content`: of each media type a struct or a schema. `run_id`: where in the answer the id of a run is that
    one can go on with.
    """

    description: str
    content: dict[str, Any] = {}
    headers: dict[str, Schema] = {}
    run_id: str = ""


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one route.

    `problems`: what it may answer besides the errors that all routes of its kind share. `strict`: it refuses
    query parameters that it does not know. `by_ticket`: a ticket is as good as a key.
    """

    id: str
    summary: str
    answers: dict[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    body_optional: bool = False
    problems: tuple[Problem, ...] = ()
    strict: bool = True
    by_ticket: bool = False


# ---- errors ----

OF_ALL: tuple[Problem, ...] = ((400, "unknown_host"), (431, "headers_too_large"), (500, "internal_error"))
OF_GUARDED: tuple[Problem, ...] = (Unauthorized, errors.LogUnavailable)
OF_A_RUN: tuple[Problem, ...] = (errors.RunNotFound, errors.RunDeleted, Forbidden)
OF_STRICT: tuple[Problem, ...] = ((400, "unknown_parameter"),)
OF_PARAMETERS: tuple[Problem, ...] = ((400, "invalid_parameter"),)
OF_A_BODY: tuple[Problem, ...] = (
    (400, "invalid_json"),
    (400, "invalid_body"),
    (413, "body_too_large"),
    (415, "unsupported_media_type"),
)
OF_A_START: tuple[Problem, ...] = (
    (400, "invalid_idempotency_key"),
    Forbidden,
    errors.AgentNotFound,
    errors.IdempotencyConflict,
    errors.RunDeleted,  # which this key started
    errors.EventTooLarge,
    (413, errors.LimitExceeded.code),
    (429, errors.LimitExceeded.code),
)
TOO_MANY_STREAMS: Problem = (429, errors.LimitExceeded.code)

# ---- parameters ----


def whole(low: int, high: int, default: int | None = None) -> Schema:
    bounds: Schema = {"type": "integer", "minimum": low, "maximum": high}
    return bounds if default is None else {**bounds, "default": default}


CURSOR = whole(0, 10**MAX_CURSOR_DIGITS - 1, 0)
PAGE = whole(1, MAX_PAGE, 100)
MOMENT: Schema = {"type": "string", "format": "date-time"}

RUN_ID = Parameter("run_id", UUID, "the run", "path")
AGENT = Parameter("agent", TEXT, "the agent's name", "path")
AFTER = Parameter("after", CURSOR, "a cursor: events with a greater seq")
LAST_EVENT_ID = Parameter(
    "Last-Event-ID",
    {"anyOf": [CURSOR, {"const": ""}]},
    "the same; it goes before `after`. Empty is as good as not given",
    "header",
)
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
    {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": f"^(?:{ONE_TYPE})$"}},
    "only events of these types; terminal events always pass",
)
START_HEADERS = (
    Parameter(
        "Idempotency-Key",
        {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
        "for 24 h the same key and body is the same run",
        "header",
    ),
    Parameter("traceparent", TEXT, "W3C Trace Context; a wrong one is ignored", "header"),
)

# ---- answers ----

RUN_HEADER = {"X-Run-Id": UUID}
ETAG = {"ETag": TEXT}
EVENT: Schema = {"contentMediaType": JSON, "contentSchema": {"$ref": "#/components/schemas/EventRecord"}}
STREAM: Schema = {  # as is the custom before OpenAPI 3.2: of one event, not of the whole body
    "type": "object",
    "description": "One server-sent event. Its data is that of an EventRecord. A line `:` is a heartbeat.",
    "properties": {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "the seq, which is the cursor"},
        "event": {"type": "string", "description": "the type"},
        "data": {"type": "string", **EVENT},
        "retry": {"const": RETRY_MS, "description": "of a run's first event"},
    },
    "required": ["id", "event", "data"],
}
LINES: Schema = {
    "type": "string",
    "description": "One EventRecord on each line: what is stored now, without waiting for more.",
}


def json(
    description: str, content: Any, headers: dict[str, Schema] | None = None, run_id: str = ""
) -> Answer:
    return Answer(description=description, content={JSON: content}, headers=headers or {}, run_id=run_id)


def stream(description: str, headers: dict[str, Schema] | None = None, run_id: str = "") -> Answer:
    constant = {name: {"const": value} for name, value in STREAM_HEADERS.items()}
    return Answer(
        description=description,
        content={SSE: STREAM},
        headers={**constant, **(headers or {})},
        run_id=run_id,
    )


NOT_MODIFIED = Answer(description="what `If-None-Match` names", headers=ETAG)

STARTED = json(
    "the run is stored, and starts as soon as there is a place for it",
    RunRecord,
    {"Location": {"type": "string", "format": "uri-reference"}, **RUN_HEADER},
    "$response.body#/run_id",
)
FOLLOWED = stream("the run's events, from the first one on", RUN_HEADER, "$response.header.X-Run-Id")

# ---- the routes ----

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/agents"): Operation(
        id="list_agents",
        summary="The agents that can be started",
        answers={200: json("all of them", AgentPage)},
    ),
    ("POST", "/agents/run-code/start"): Operation(
        id="start_code",
        summary="Run Python, where that is enabled",
        parameters=START_HEADERS,
        body=CodeBody,
        answers={202: STARTED},
        problems=OF_A_START,
    ),
    ("POST", "/agents/run-code/stream"): Operation(
        id="start_and_follow_code",
        summary="Run Python and follow it, where that is enabled",
        parameters=START_HEADERS,
        body=CodeStreamBody,
        answers={200: FOLLOWED},
        problems=OF_A_START,
    ),
    ("POST", "/agents/{agent}/start"): Operation(
        id="start_run",
        summary="Start a run",
        parameters=(AGENT, *START_HEADERS),
        body=StartBody,
        answers={202: STARTED},
        problems=OF_A_START,
    ),
    ("POST", "/agents/{agent}/stream"): Operation(
        id="start_and_follow_run",
        summary="Start a run and follow it",
        parameters=(AGENT, *START_HEADERS),
        body=StreamBody,
        answers={200: FOLLOWED},
        problems=OF_A_START,
    ),
    ("GET", "/runs"): Operation(
        id="list_runs",
        summary="List runs, newest first",
        parameters=(
            Parameter("status", {"enum": list(STATUSES)}),
            Parameter("agent", TEXT, "the agent's name"),
            Parameter("session_id", TEXT),
            Parameter("workspace_id", TEXT, "the runs of this workspace, whoever's they are"),
            Parameter("since", MOMENT, "created then or later"),
            Parameter("until", MOMENT, "created then or earlier"),
            Parameter("limit", PAGE),
            Parameter("after", UUID, "the `next` of an earlier page"),
        ),
        answers={200: json("a page of runs", RunPage)},
        problems=(errors.InvalidCursor, Forbidden),
    ),
    ("GET", "/runs/{run_id}"): Operation(
        id="get_run",
        summary="One run, now or at an earlier event",
        parameters=(
            RUN_ID,
            Parameter("at", whole(1, 10**MAX_CURSOR_DIGITS - 1), "a seq: the run as it was after that event"),
            Parameter(
                "wait",
                {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
                "seconds: answer when the run has ended, or after so long",
            ),
            Parameter(
                "include",
                {"type": "array", "minItems": 1, "items": {"enum": list(INCLUDES)}},
                "what the record is to have besides",
            ),
        ),
        answers={200: json("the run", RunRecord)},
        problems=(errors.InvalidCursor,),
    ),
    ("DELETE", "/runs/{run_id}"): Operation(
        id="delete_run",
        summary="Take a closed run out of the lists",
        parameters=(RUN_ID,),
        answers={204: Answer(description="it is deleted")},
        problems=(errors.RunActive, errors.RunClosed),
    ),
    ("GET", "/runs/{run_id}/events"): Operation(
        id="list_events",
        summary="A run's events as pages or as NDJSON",
        parameters=(
            RUN_ID,
            AFTER,
            LAST_EVENT_ID,
            Parameter("limit", PAGE, "of NDJSON any number; all if not given"),
            TYPES,
            Parameter("If-None-Match", TEXT, "the ETag of a page", "header"),
        ),
        answers={
            200: Answer(
                description="a page, with an `ETag` once the run is closed; NDJSON if `Accept` names it",
                content={JSON: EventPage, NDJSON: LINES},
            ),
            304: NOT_MODIFIED,
        },
        problems=(errors.InvalidCursor,),
    ),
    ("POST", "/runs/{run_id}/events"): Operation(
        id="append_events",
        summary="Add events of your own to a run that has not ended",
        parameters=(RUN_ID,),
        body=Annotated[AppendBody, EITHER],
        answers={201: json("they are stored", Appended)},
        problems=(
            errors.InvalidEvent,
            errors.WrongExpectedSeq,
            errors.RunClosed,
            errors.EventTooLarge,
            (413, errors.LimitExceeded.code),
        ),
    ),
    ("GET", "/runs/{run_id}/stream"): Operation(
        id="follow_run",
        summary="Follow a run: replay, then live",
        parameters=(RUN_ID, AFTER, LAST_EVENT_ID, TYPES),
        answers={
            200: stream("everything after the cursor, until the run ends"),
            204: Answer(description="the run is closed, and the cursor is at its end: there is nothing more"),
        },
        problems=(errors.InvalidCursor, TOO_MANY_STREAMS),
        by_ticket=True,
    ),
    ("POST", "/runs/{run_id}/stop"): Operation(
        id="stop_run",
        summary="Ask a run to stop",
        parameters=(RUN_ID,),
        body=StopBody,
        body_optional=True,
        answers={
            200: json("the run has ended", RunRecord),
            202: json("the request is stored, and the run's end follows within the grace period", RunRecord),
        },
    ),
    ("POST", "/runs/{run_id}/ticket"): Operation(
        id="create_ticket",
        summary="A ticket for the run's stream, for clients that cannot send headers",
        parameters=(RUN_ID,),
        body=TicketBody,
        body_optional=True,
        answers={201: json("the ticket", TicketAnswer, {"Cache-Control": {"const": "no-store"}})},
    ),
    ("GET", "/healthz"): Operation(
        id="check_health",
        summary="The process lives",
        answers={200: json("it does", Health)},
        strict=False,
    ),
    ("GET", "/readyz"): Operation(
        id="check_readiness",
        summary="The log takes writes",
        answers={200: json("it does", Health)},
        problems=((503, "not_ready"),),
        strict=False,
    ),
    ("GET", "/metrics"): Operation(
        id="read_metrics",
        summary="Numbers for Prometheus, in its text format or in OpenMetrics, for admins",
        answers={
            200: Answer(
                description="the metrics",
                content={"text/plain": TEXT, "application/openmetrics-text": TEXT},
                headers={"Cache-Control": {"const": "no-store"}},
            )
        },
        problems=(Forbidden,),
        strict=False,
    ),
    ("GET", "/openapi.json"): Operation(
        id="describe_api",
        summary="This document",
        parameters=(Parameter("If-None-Match", TEXT, "the ETag of an earlier answer", "header"),),
        answers={200: json("it", {"type": "object"}, ETAG), 304: NOT_MODIFIED},
    ),
}
