"""Checks the headers of requests. A fault is named in an answer with status 4xx."""

import re
from typing import Any

from msgspec import Struct
from starlette.requests import Request

from runstore.http.errors import BadRequest

MAX_CURSOR_DIGITS = 18  # a seq is a 64-bit number
MAX_CURSOR = 10**MAX_CURSOR_DIGITS - 1
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
QUALITY = re.compile(r"q\s*=\s*([01](?:\.[0-9]{0,9})?)")  # the quality of a media type in `Accept`
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


Schema = dict[str, Any]


class Parameter(Struct, frozen=True):
    """A parameter of a request.

    Args:
        location: `query`, `header` or `path`.
        repeated: it may be given more than once.
    """

    name: str
    schema: Schema
    description: str = ""
    location: str = "query"
    repeated: bool = False


def whole(low: int, high: int, default: int | None = None) -> Schema:
    """The schema of a whole number."""
    bounds: Schema = {"type": "integer", "minimum": low, "maximum": high}
    return bounds if default is None else {**bounds, "default": default}


def read_cursor(request: Request, *given: int | None) -> int:
    """The reader's cursor: `Last-Event-ID`, else the first given one, else 0."""
    last = read_last_event_id(request)
    cursors = (None if last is None else read_seq(last), *given)
    return next((each for each in cursors if each is not None), 0)


def read_last_event_id(request: Request) -> str | None:
    """The header `Last-Event-ID`. White space around it is ignored, and an empty one counts as not given."""
    sent = request.headers.getlist("last-event-id")
    if len(sent) > 1:
        raise BadRequest("Last-Event-ID is given more than once", code="invalid_cursor")
    return sent[0].strip() or None if sent else None


def read_seq(text: str) -> int:
    if not is_number(text):
        message = (
            f"the cursor {text[:50]!r} must be a whole number: an event's seq, or its position in the log"
        )
        raise BadRequest(message, code="invalid_cursor")
    return int(text)


def is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_CURSOR_DIGITS


def has_already(request: Request, tag: str) -> bool:
    """Whether the client already has the version that this ETag names: `If-None-Match` (RFC 9110, 13.1.2)."""
    known = request.headers.get("if-none-match", "")
    return tag in known or known.strip() == "*"


def prefers(request: Request, media_type: str, other: str) -> bool:
    """Whether `Accept` names a media type, and gives it no lower quality than `other` (RFC 9110, 12.5.1)."""
    qualities: dict[str, float] = {}
    for part in ",".join(request.headers.getlist("accept")).split(","):
        named, *parameters = [each.strip().lower() for each in part.split(";")]
        given = [QUALITY.fullmatch(each) for each in parameters]
        qualities[named] = next((float(found[1]) for found in given if found), 1.0)
    wanted = qualities.get(media_type, 0.0)
    ranges = (other, f"{other.partition('/')[0]}/*", "*/*")
    return wanted > 0 and wanted >= next((qualities[each] for each in ranges if each in qualities), 0.0)


def read_header(request: Request, parameter: Parameter) -> str | None:
    """A header that may be given once, within the parameter's bounds. It is read as UTF-8."""
    name, schema = parameter.name, parameter.schema
    values = [_as_utf8(value) for value in request.headers.getlist(name)]
    if len(values) > 1:
        raise BadRequest(f"{name} is given more than once", code="invalid_header")
    if any("\0" in value for value in values):
        raise BadRequest(f"{name} must not hold the character NUL", code="invalid_header")
    if not values:
        return None
    [value] = values
    choices, most = schema.get("enum"), schema.get("maxLength")
    if choices is not None and value not in choices:
        message = f"{name}: {value[:50]!r} must be one of {', '.join(choices)}"
        raise BadRequest(message, code="invalid_header")
    if most is not None and not 0 < len(value) <= most:
        raise BadRequest(f"{name} must have 1 to {most} characters", code="invalid_header")
    return value


def _as_utf8(value: str) -> str:
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def read_idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not IDEMPOTENCY_KEY.fullmatch(keys[0]):
        raise BadRequest(
            "Idempotency-Key must be given once, with 1 to 255 visible ASCII characters",
            code="invalid_idempotency_key",
        )
    return keys[0]


def read_traceparent(request: Request) -> str | None:
    """The caller's trace context, under which the run's spans belong (W3C Trace Context, 3.2).

    An invalid header is ignored (4.3: the trace then begins here). Of a future version only the fields of
    version 00 are read, as 3.2.4 demands.
    """
    values = request.headers.getlist("traceparent")
    found = TRACEPARENT.match(values[0].strip()) if len(values) == 1 else None
    if found is None:
        return None
    rest = found.string[found.end() :]
    return found[0] if not rest or (found[1] != "00" and rest.startswith("-")) else None
