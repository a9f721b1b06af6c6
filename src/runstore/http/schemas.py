"""The parts that operations of several surfaces share."""

from typing import Any

from runstore.core import errors
from runstore.core.names import MAX_NAME
from runstore.core.records import EventRecord
from runstore.http.errors import Forbidden, Unauthorized
from runstore.http.operations import Problem, ResponseSpec
from runstore.http.query import last_event_id, limit
from runstore.http.requests import IDEMPOTENCY_KEY, MAX_CURSOR, Parameter, Schema, read_seq, whole
from runstore.http.streaming.frames import RETRY_MS
from runstore.http.streaming.sse import HEADERS as STREAM_HEADERS
from runstore.http.streaming.sse import MEDIA_TYPE as SSE

JSON = "application/json"
NDJSON = "application/x-ndjson"
ANY_TYPE = "*/*"
TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "maxLength": MAX_NAME}
UUID: Schema = {"type": "string", "format": "uuid"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
MAX_PAGE = 1_000  # runs or events of one page
MAX_REASON = 200  # characters of the reason of a stop or a purge

# ---- errors ----

OF_ALL: tuple[Problem, ...] = (
    (400, "unknown_host"),
    (400, "invalid_path"),
    (431, "headers_too_large"),
    (500, "internal_error"),
)
OF_GUARDED: tuple[Problem, ...] = (Unauthorized, errors.Busy, errors.InvalidName, errors.LogUnavailable)
OF_A_RUN: tuple[Problem, ...] = (errors.RunNotFound, errors.RunDeleted, errors.RunPurged, Forbidden)
OF_A_CHANGE: tuple[Problem, ...] = (Forbidden,)  # auditors change nothing
OF_STRICT: tuple[Problem, ...] = ((400, "unknown_parameter"), (400, "invalid_parameter"))
OF_A_BODY: tuple[Problem, ...] = (
    (400, "invalid_json"),
    (400, "invalid_body"),
    errors.EventTooDeep,
    (408, "body_timeout"),
    (413, "body_too_large"),
    (415, "unsupported_media_type"),
)
OF_A_START: tuple[Problem, ...] = (
    (400, "invalid_idempotency_key"),
    errors.IdempotencyConflict,
    errors.SessionBusy,
    errors.RunDeleted,  # the key started a run that is now deleted
    errors.RunPurged,
    errors.EventTooLarge,
    errors.TooLarge,
    errors.LimitExceeded,
)
TOO_MANY_STREAMS: Problem = errors.LimitExceeded

# ---- parameters ----


CURSOR = whole(0, MAX_CURSOR, 0)  # a seq or a position; 0: from the beginning
SEQ = whole(1, MAX_CURSOR)

LIMIT = limit(MAX_PAGE, 100)
LIMIT_OF_LINES = limit(MAX_CURSOR + 1, MAX_CURSOR + 1)
RUN_ID = Parameter("run_id", UUID, "the run", "path")
EVENT_ID: Schema = {"anyOf": [CURSOR, {"const": ""}]}
LAST_EVENT_ID = Parameter(
    "Last-Event-ID",
    EVENT_ID,
    "a cursor; takes precedence over `after`. An empty value counts as not given",
    "header",
)
LAST_EVENT_ID_PARAMETER = last_event_id(
    EVENT_ID,
    "the same, for clients that cannot send the header. Case, `-` and `_` in the name do not matter",
    read_seq,
)
START_HEADERS = (
    Parameter(
        "Idempotency-Key",
        {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
        "for 24 h the same key and body lead to the same run",
        "header",
    ),
    Parameter("traceparent", TEXT, "W3C Trace Context; an invalid one is ignored", "header"),
)

# ---- answers ----

RUN_HEADER = {"X-Run-Id": UUID}
FROM_HEADER = "$response.header.X-Run-Id"  # place of a run's id in an answer


def within(schema: Schema) -> Schema:
    """A text that is JSON."""
    return {"contentMediaType": JSON, "contentSchema": schema}


def component(content: type[Any]) -> Schema:
    """A struct's schema among the document's components."""
    return {"$ref": f"#/components/schemas/{content.__name__}"}


STREAM: Schema = {  # describes one event, not the whole body, as is usual before OpenAPI 3.2
    "type": "object",
    "description": "One server-sent event. Its data is an EventRecord. A line `:` is a heartbeat.",
    "properties": {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "the seq, which is the cursor"},
        "event": {"type": "string", "description": "the type"},
        "data": {"type": "string", **within(component(EventRecord))},
        "retry": {"const": RETRY_MS, "description": "only in a run's first event"},
    },
    "required": ["id", "event", "data"],
}
SEVERAL: Schema = {
    **STREAM,
    "description": "One server-sent event of one of the runs. `stream.opened` and `stream.gone` have seq 0.",
    "properties": {
        **STREAM["properties"],
        "id": {"type": "string", "description": "the reader's place in each run, which is the cursor"},
        "data": {"type": "string", "contentMediaType": JSON},
    },
}


def header(schema: Schema, *, required: bool = True) -> Schema:
    return {"required": required, "schema": schema}


def json(
    description: str, content: Any, headers: dict[str, Schema] | None = None, run_id: str = ""
) -> ResponseSpec:
    return ResponseSpec(
        description=description, content={JSON: content}, headers=headers or {}, run_id=run_id
    )


def stream(
    description: str, headers: dict[str, Schema] | None = None, run_id: str = "", schema: Schema = STREAM
) -> ResponseSpec:
    constant = {name: {"const": value} for name, value in STREAM_HEADERS.items()}
    return ResponseSpec(
        description=description,
        content={SSE: schema},
        headers={**constant, **(headers or {})},
        run_id=run_id,
    )


NOTHING_LEFT = ResponseSpec(
    description="the run is closed, and the cursor is at its end: there are no further events"
)
ETAG = {"ETag": TEXT}
NOT_MODIFIED = ResponseSpec(description="the same version as in `If-None-Match`", headers=ETAG)
