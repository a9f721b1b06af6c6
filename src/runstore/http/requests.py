"""What comes in, checked: bodies, query parameters, cursors. Whatever is wrong is named, with status 4xx."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request

from runstore.core.codec import TOO_DEEP
from runstore.core.depth import MAX_DEPTH, is_deeper
from runstore.core.errors import EventTooDeep
from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES
from runstore.core.limits import MAX_FILTER_TYPES
from runstore.core.names import holds_nul
from runstore.core.ports import EventFilter
from runstore.http.bodies import Bodies
from runstore.http.errors import BadRequest
from runstore.http.texts import holds_nul_character, place_of, place_of_half_a_pair

BODY_LEVELS = 3  # around a value: {"events": [{"data": value}]}
MAX_CURSOR_DIGITS = 18  # a seq is a 64-bit number
FILTERS = 256  # that are kept, of those in use lately
LAST_EVENT_ID = "lastEventId"  # as EventSource polyfills have it in the query, each in its own spelling
FAMILIES = frozenset(name.partition(".")[0] + "." for name in EVENT_CLASSES) | {"custom."}

PLACE = re.compile(r" - at `(\$[^`]*)`\Z")  # in msgspec's message, as `$.teams[0].name`; none: the body
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

T = TypeVar("T")


class Body(Struct, Generic[T], frozen=True):
    """How the JSON body of an operation is read.

    Args:
        cls: the struct that it becomes.
        schema: what its JSON Schema says besides.
        optional: without a body, the struct has its defaults.
        any_type: its media type does not matter if the request has an `Authorization` header. A browser
            sends none to another origin without asking first, so this is no form of a stranger's page.
        any_text: it may hold the character NUL, which no database takes in a name.
        mend: makes another JSON value of one that does not fit `cls`; that is tried once.
    """

    cls: type[T]
    schema: Meta | None = None
    optional: bool = False
    any_type: bool = False
    any_text: bool = False
    mend: Callable[[Any], Any] | None = None

    @property
    def described(self) -> Any:
        """The type that JSON Schemas are made of."""
        return self.cls if self.schema is None else Annotated[self.cls, self.schema]

    async def read(self, request: Request, bodies: Bodies) -> T:
        """The body of a request. A large one is decoded beside the loop.

        Raises:
            BadRequest: 415 its type is not JSON, 408 it stalls, 400 anything else that is wrong with it.
            TooLarge
            EventTooDeep: it is nested too deep.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        known = kind == "application/json" or (self.any_type and "authorization" in request.headers)
        return await bodies.read(request, partial(_decode, self, None if known else kind))


def _decode(body: Body[T], foreign: str | None, content: bytes) -> T:
    """`foreign`: the media type that it is sent as, if that is not JSON."""
    if not content and body.optional:
        return body.cls()
    if foreign is not None:
        raise BadRequest(
            f"the body must be application/json, not {foreign or 'of no type'}",
            code="unsupported_media_type",
            status=415,
        )
    try:
        decoded = _decoded(body, content)
    except RecursionError as error:
        raise EventTooDeep(TOO_DEEP.format("the body")) from error
    except msgspec.ValidationError as error:
        place = PLACE.search(str(error))
        message = f"the body is not as it should be: {error}"
        raise BadRequest(message, code="invalid_body", field=place[1] if place else "$") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if half := place_of_half_a_pair(content):
            message = f"{half[:200]} holds half of a surrogate pair, as \\ud83d alone, which is no UTF-8"
            raise BadRequest(message, code="invalid_body", field=half) from error
        raise BadRequest(f"the body is no JSON: {error}", code="invalid_json") from error
    if is_deeper(content, MAX_DEPTH + BODY_LEVELS):
        raise EventTooDeep(TOO_DEEP.format("the body"))
    if not body.any_text and holds_nul(content):
        nul = place_of(msgspec.json.decode(content), holds_nul_character) or "$"
        message = f"{nul[:200]} must not hold the character NUL (\\u0000)"
        raise BadRequest(message, code="invalid_body", field=nul)
    return decoded


def _decoded(body: Body[T], content: bytes) -> T:
    try:
        return msgspec.json.decode(content, type=body.cls)
    except msgspec.ValidationError:
        if body.mend is None:
            raise
        return msgspec.convert(body.mend(msgspec.json.decode(content)), body.cls)


def check_parameters(request: Request, known: Sequence[str], repeated: Sequence[str] = ()) -> None:
    """Refuse unknown query parameters, those given twice unless they are `repeated`, and invalid text."""
    if b"%" in (query := request.scope["query_string"]):
        try:
            text = unquote_to_bytes(query).decode()
        except UnicodeDecodeError as error:
            raise BadRequest("the query is not UTF-8", code="invalid_parameter") from error
        if "\0" in text:
            raise BadRequest("the query must not hold the character NUL", code="invalid_parameter")
    for name in request.query_params:
        if name not in known and not (LAST_EVENT_ID in known and _is_last_event_id(name)):
            names = ", ".join(known) or "none"
            raise BadRequest(
                f"unknown query parameter {name[:50]!r}; known: {names}", code="unknown_parameter"
            )
        if name not in repeated and len(request.query_params.getlist(name)) > 1:
            raise BadRequest(f"query parameter {name!r} is given more than once", code="invalid_parameter")


def read_number(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _is_number(text) or not low <= int(text) <= high:
        raise BadRequest(
            f"{name}={text[:50]!r} must be a whole number from {low} to {high}", code="invalid_parameter"
        )
    return int(text)


def read_seconds(request: Request, name: str, high: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return 0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= high:
        raise BadRequest(f"{name}={text[:50]!r} must be seconds from 0 to {high:g}", code="invalid_parameter")
    return seconds


def read_time(request: Request, name: str) -> int | None:
    """A time as milliseconds since 1970."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        at = msgspec.convert(text.replace(" ", "+"), datetime)  # a '+' that was not escaped in the URL
    except msgspec.ValidationError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadRequest(
            f"{name}={text[:50]!r} must be a time with its zone, as 2026-11-20T10:00:00Z",
            code="invalid_parameter",
        )
    return int(at.timestamp() * 1000)


def read_choice(request: Request, name: str, choices: Sequence[str]) -> str | None:
    text = request.query_params.get(name)
    if text is not None and text not in choices:
        raise BadRequest(
            f"{name}={text[:50]!r} must be one of {', '.join(choices)}", code="invalid_parameter"
        )
    return text


def read_cursor(request: Request, otherwise: int = 0) -> int:
    """Where a reader left off: `Last-Event-ID`, else `?lastEventId=`, else `?after=`, else `otherwise`.

    Each that is given must be a cursor; white space around a last event's id is not part of it, and an empty
    one is none.
    """
    cursors = [read_seq(text) for text in read_ids(request)]
    return cursors[0] if cursors else otherwise


def read_seq(text: str) -> int:
    if not _is_number(text):
        raise BadRequest(
            f"the cursor {text[:50]!r} is no seq: it must be a whole number", code="invalid_cursor"
        )
    return int(text)


def read_ids(request: Request) -> list[str]:
    """The ids after which a reader wants to go on, as it gives them; the first one counts."""
    named = [text for name, text in request.query_params.items() if _is_last_event_id(name)]
    if len(named) > 1:
        raise BadRequest(f"{LAST_EVENT_ID} is given more than once", code="invalid_parameter")
    ids = [text.strip() for text in (request.headers.get("last-event-id", ""), *named)]
    cursors = [text for text in ids if text]
    if (after := request.query_params.get("after")) is not None:
        cursors.append(after)
    return cursors


def _is_last_event_id(name: str) -> bool:
    return name.lower().replace("-", "").replace("_", "") == LAST_EVENT_ID.lower()


def has_already(request: Request, tag: str) -> bool:
    """Whether the client has what this ETag names: `If-None-Match` (RFC 9110, 13.1.2)."""
    known = request.headers.get("if-none-match", "")
    return tag in known or known.strip() == "*"


def read_header(request: Request, name: str, choices: Sequence[str] = ()) -> str | None:
    """A header that may be given once, with one of `choices` if there are any. It is read as UTF-8."""
    values = [_as_utf8(value) for value in request.headers.getlist(name)]
    if len(values) > 1:
        raise BadRequest(f"{name} is given more than once", code="invalid_header")
    if any("\0" in value for value in values):
        raise BadRequest(f"{name} must not hold the character NUL", code="invalid_header")
    if values and choices and values[0] not in choices:
        message = f"{name}: {values[0][:50]!r} must be one of {', '.join(choices)}"
        raise BadRequest(message, code="invalid_header")
    return values[0] if values else None


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
    """The caller's place in a trace, where the run's spans belong (W3C Trace Context, 3.2).

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
    """Of all streams with the same text there is one."""
    types, prefixes = set(), set()
    names = text.split(",", MAX_FILTER_TYPES)
    if len(names) > MAX_FILTER_TYPES:
        raise BadRequest(f"types may have {MAX_FILTER_TYPES} names", code="invalid_parameter")
    for name in names:
        prefix = name.removesuffix("*") if name.endswith(".*") else ""
        if name in EVENT_CLASSES or CUSTOM_TYPE.fullmatch(name):
            types.add(name)
        elif prefix in FAMILIES or CUSTOM_TYPE.fullmatch(prefix):
            prefixes.add(prefix)
        else:
            known = ", ".join([*EVENT_CLASSES, *sorted(f"{family}*" for family in FAMILIES)])
            raise BadRequest(
                f"types: unknown event type {name[:50]!r}; known: {known}", code="invalid_parameter"
            )
    return EventFilter(frozenset(types), tuple(sorted(prefixes)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_CURSOR_DIGITS
