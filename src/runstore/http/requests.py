"""Checks the query and the headers of requests. A fault is named in an answer with status 4xx."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct
from starlette.requests import Request

from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES
from runstore.core.limits import MAX_FILTER_TYPES
from runstore.core.ports import EventFilter
from runstore.http.errors import BadRequest

MAX_CURSOR_DIGITS = 18  # a seq is a 64-bit number
MAX_CURSOR = 10**MAX_CURSOR_DIGITS - 1
FILTERS = 256  # recently used filters that are cached
LAST_EVENT_ID = "lastEventId"  # the query parameter of EventSource polyfills, which spell it differently
# A polyfill's parameter: bytes to send before the first event, which old browsers need. Ignored.
PADDING = "evs_preamble"
FAMILIES = frozenset(name.partition(".")[0] + "." for name in EVENT_CLASSES) | {"custom."}

TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # a number as in JSON
QUALITY = re.compile(r"q\s*=\s*([01](?:\.[0-9]{0,9})?)")  # the quality of a media type in `Accept`
FLAGS = ("true", "false")
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


def check_parameters(
    request: Request, known: Sequence[str], repeated: Sequence[str], texts: Mapping[str, Schema]
) -> None:
    """Refuse unknown query parameters, those given twice unless they are `repeated`, and invalid text.

    Args:
        texts: the schemas of the parameters whose length is limited.
    """
    if b"%" in (query := request.scope["query_string"]):
        try:
            text = unquote_to_bytes(query).decode()
        except UnicodeDecodeError as error:
            raise BadRequest("the query is not UTF-8", code="invalid_parameter") from error
        if "\0" in text:
            raise BadRequest("the query must not hold the character NUL", code="invalid_parameter")
    for name in request.query_params:
        of_polyfill = LAST_EVENT_ID in known and (_is_last_event_id(name) or name == PADDING)
        if name not in known and not of_polyfill:
            names = ", ".join(known) or "none"
            raise BadRequest(
                f"unknown query parameter {name[:50]!r}; known: {names}", code="unknown_parameter"
            )
        if name in texts:
            least, most = texts[name].get("minLength", 0), texts[name]["maxLength"]
            if not least <= len(request.query_params[name]) <= most:
                message = f"{name} must have {least} to {most} characters"
                raise BadRequest(message, code="invalid_parameter")
        if name not in repeated and len(request.query_params.getlist(name)) > 1:
            raise BadRequest(f"query parameter {name!r} is given more than once", code="invalid_parameter")


def read_number(request: Request, parameter: Parameter) -> int:
    """A whole number within the parameter's bounds. If it is not given: its default, or else 0."""
    name, schema = parameter.name, parameter.schema
    text = request.query_params.get(name)
    low, high = schema["minimum"], schema["maximum"]
    if text is None:
        return int(schema.get("default", 0))
    if not _is_number(text) or not low <= int(text) <= high:
        raise BadRequest(
            f"{name}={text[:50]!r} must be a whole number from {low} to {high}", code="invalid_parameter"
        )
    return int(text)


def read_seconds(request: Request, parameter: Parameter) -> float:
    """Seconds, up to the parameter's maximum; 0 if not given."""
    name, high = parameter.name, parameter.schema["maximum"]
    text = request.query_params.get(name)
    if text is None:
        return 0
    seconds = float(text) if SECONDS.fullmatch(text) else -1
    if not 0 <= seconds <= high:
        raise BadRequest(f"{name}={text[:50]!r} must be seconds from 0 to {high:g}", code="invalid_parameter")
    return seconds


def read_period(request: Request) -> tuple[int | None, int | None]:
    """`since` and `until` as milliseconds since 1970."""
    since, until = read_time(request, "since"), read_time(request, "until")
    if since is not None and until is not None:
        check_order(request, in_order=since <= until)
    return since, until


def read_days(request: Request) -> tuple[str | None, str | None]:
    """`since` and `until` as days such as 2026-11-29."""
    since, until = read_day(request, "since"), read_day(request, "until")
    if since is not None and until is not None:
        check_order(request, in_order=since <= until)
    return since, until


def read_day(request: Request, name: str) -> str | None:
    """A day such as 2026-11-29."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return date.fromisoformat(text if len(text) == 10 else "").isoformat()
    except ValueError as error:
        raise BadRequest(
            f"{name}={text[:50]!r} must be a day such as 2026-11-29", code="invalid_parameter"
        ) from error


def check_order(request: Request, *, in_order: bool) -> None:
    """Refuse a period that ends before it begins."""
    if not in_order:
        since, until = (request.query_params[name][:50] for name in ("since", "until"))
        raise BadRequest(f"since={since!r} must not be later than until={until!r}", code="invalid_parameter")


def read_time(request: Request, name: str) -> int | None:
    """A time as milliseconds since 1970."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        at = msgspec.convert(text.replace(" ", "+"), datetime)  # a '+' that the URL did not escape
    except msgspec.ValidationError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadRequest(
            f"{name}={text[:50]!r} must be a time with its zone, as 2026-11-20T10:00:00Z",
            code="invalid_parameter",
        )
    return int(at.timestamp() * 1000)


def read_choice(request: Request, parameter: Parameter) -> str | None:
    """One of the values that the parameter may have."""
    name, text = parameter.name, request.query_params.get(parameter.name)
    choices = parameter.schema.get("enum", FLAGS)
    if text is not None and text not in choices:
        raise BadRequest(
            f"{name}={text[:50]!r} must be one of {', '.join(choices)}", code="invalid_parameter"
        )
    return text


def read_cursor(request: Request, otherwise: int = 0) -> int:
    """The reader's cursor: `Last-Event-ID`, else `?lastEventId=`, else `?after=`, else `otherwise`.

    Each given one must be valid. White space around a last event's id is ignored, and an empty one is
    skipped.
    """
    cursors = [read_seq(text) for text in read_ids(request)]
    return cursors[0] if cursors else otherwise


def read_seq(text: str) -> int:
    if not _is_number(text):
        message = (
            f"the cursor {text[:50]!r} must be a whole number: an event's seq, or its position in the log"
        )
        raise BadRequest(message, code="invalid_cursor")
    return int(text)


def read_ids(request: Request) -> list[str]:
    """The cursors that a reader gives, in order of precedence."""
    named = [text for name, text in request.query_params.items() if _is_last_event_id(name)]
    if len(named) > 1:
        raise BadRequest(f"{LAST_EVENT_ID} is given more than once", code="invalid_parameter")
    sent = request.headers.getlist("last-event-id")
    if len(sent) > 1:
        raise BadRequest("Last-Event-ID is given more than once", code="invalid_cursor")
    ids = [text.strip() for text in (*sent, *named)]
    cursors = [text for text in ids if text]
    if (after := request.query_params.get("after")) is not None:
        cursors.append(after)
    return cursors


def _is_last_event_id(name: str) -> bool:
    bare = name.lower().replace("-", "").replace("_", "")
    return bare.removeprefix("evs") == LAST_EVENT_ID.lower()


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


def read_filter(request: Request) -> EventFilter | None:
    """`?types=llm.token,lifecycle.*`"""
    text = request.query_params.get("types")
    return None if text is None else _filter(text)


@lru_cache(FILTERS)
def _filter(text: str) -> EventFilter:
    """Cached, so that streams with the same text share one filter."""
    names = text.split(",", MAX_FILTER_TYPES)
    if len(names) > MAX_FILTER_TYPES:
        raise BadRequest(f"at most {MAX_FILTER_TYPES} names are allowed in types", code="invalid_parameter")
    for name in names:
        prefix = name.removesuffix("*") if name.endswith(".*") else ""
        known_type = name in EVENT_CLASSES or CUSTOM_TYPE.fullmatch(name)
        if not (known_type or prefix in FAMILIES or CUSTOM_TYPE.fullmatch(prefix)):
            known = ", ".join([*EVENT_CLASSES, *sorted(f"{family}*" for family in FAMILIES)])
            raise BadRequest(
                f"types: unknown event type {name[:50]!r}; known: {known}", code="invalid_parameter"
            )
    return EventFilter.of(names)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_CURSOR_DIGITS
