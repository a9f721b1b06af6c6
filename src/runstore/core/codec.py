"""Encodes events once, and decodes them. The table stores these bytes, and every client gets them."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.depth import MAX_DEPTH, SHALLOW_BYTES, decoded, is_deeper
from runstore.core.errors import EventTooDeep, EventTooLarge, InvalidEvent
from runstore.core.events import CONTROL_TYPES, EVENT_CLASSES, Custom, Event, EventType, Posted, Unknown
from runstore.core.times import now_ms, utc_second

MAX_EVENT_BYTES = 1 << 20  # bytes of one event's data; larger output belongs in an artifact store
CUSTOM = "custom."
POSTED = 2  # version of a custom event that a user appended
ENCODER_VERSION = 1  # part of every ETag: pages change with the encoding
TOO_DEEP = f"{{}} is nested too deep: the limit is {MAX_DEPTH} nested lists and objects"

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTS: dict[tuple[EventType, int], Upcast] = {}  # (type, version) → data of the next version


class EncodedEvent(Struct, frozen=True, gc=False, array_like=True):
    """An event on its way into the log. `at`: UTC, milliseconds since 1970.

    Other processes decode the fields by position: a new field comes last, with a default.
    """

    type: EventType
    version: int
    ends: bool
    at: int
    data: bytes

    @property
    def control(self) -> bool:
        """Whether it moves its run: a lifecycle event, or a cancel request."""
        return self.ends or self.type in CONTROL_TYPES


class RecordedEvent(Struct, frozen=True, gc=False):
    """An event as stored in the log. `seq`: place in the run; `position`: place in the whole log."""

    run_id: str
    seq: int
    position: int
    type: EventType
    version: int
    ends: bool
    at: int
    data: bytes


class TailEvent(Struct, gc=False):
    """An event on its way to the readers of a run, who share it.

    `frame`: its server-sent event, kept from the first reader that needs it on; http/streaming makes it.
    """

    run_id: str
    seq: int
    type: EventType
    ends: bool
    at: int
    data: bytes
    version: int = 1
    frame: bytes = b""


def encode(event: Event | Custom, *, at: int | None = None) -> EncodedEvent:
    """Encode an event for storage.

    Lone surrogates (half of an emoji in a chunk) become U+FFFD, bytes become base64, and objects unknown to
    JSON become their string form.

    Raises:
        InvalidEvent: it cannot be written as JSON.
        EventTooLarge: its data exceeds MAX_EVENT_BYTES.
        EventTooDeep: a value in it is nested deeper than MAX_DEPTH.
    """
    if isinstance(event, Posted):
        data, version, ends = _posted(event), POSTED, False
    elif isinstance(event, Custom):
        data, version, ends = to_json(event.data), 1, False
    else:
        data, version, ends = to_json(event), event.version, event.ends
    if len(data) > SHALLOW_BYTES:  # longer than a token is
        _check(event, data)
    return EncodedEvent(event.type, version, ends, now_ms() if at is None else at, data)


def _posted(event: Posted) -> bytes:
    """The end of the envelope: see `envelope_shape`."""
    key = b"" if event.key_id is None else b'"key_id":%b,' % to_json(event.key_id)
    return b'{"by":%b,%b"data":%b}' % (to_json(event.by), key, to_json(event.data))


def json_size(value: Any) -> int:
    """The bytes of a value in an event. Raises as `to_json` does."""
    return len(to_json(value))


def check_depth(value: Any, what: str, *, levels: int = 0) -> None:
    """Refuse a value that is nested too deep.

    Args:
        what: names the value in the message.
        levels: lists and objects around it that do not count.

    Raises:
        EventTooDeep
        InvalidEvent: it cannot be written as JSON.
    """
    if is_deeper(to_json(value), MAX_DEPTH + levels):
        raise EventTooDeep(TOO_DEEP.format(what))


def decode(
    type: EventType, version: int, data: bytes, upcasts: Mapping[tuple[EventType, int], Upcast] = UPCASTS
) -> Event | Custom | Unknown:
    """Decode stored bytes as this release's event; older shapes are upcast, unknown types passed through."""
    cls = EVENT_CLASSES.get(type)
    if cls is None:
        if type.startswith(CUSTOM):
            posted = posted_of(type, version, data)
            content = decoded(msgspec.json.decode, data if posted is None else posted.data)
            return (
                Custom(type, content)
                if posted is None
                else Posted(type, content, by=posted.by, key_id=posted.key_id)
            )
        return Unknown(type, decoded(msgspec.json.decode, data))
    if version >= cls.version:
        event: Event = decoded(partial(msgspec.json.decode, type=cls), data)
        return event
    content = decoded(msgspec.json.decode, data)
    for step in range(version, cls.version):
        content = upcasts[type, step](content)
    return msgspec.convert(content, cls)


class PostedData(Struct, frozen=True):
    """The stored data of a `Posted` event, of which the value itself stays encoded."""

    by: str
    data: msgspec.Raw
    key_id: str | None = None


_read_posted = msgspec.json.Decoder(PostedData).decode


def posted_of(type: EventType, version: int, data: bytes) -> PostedData | None:
    """The stored data of a custom event that a user appended; None: it is another event."""
    return decoded(_read_posted, data) if is_posted(type, version) else None


def is_posted(type: EventType, version: int) -> bool:
    """Whether it is a custom event that a user appended."""
    return version >= POSTED and type.startswith(CUSTOM)


def envelope(event: RecordedEvent | TailEvent) -> bytes:
    """The event as one line of JSON: a line of NDJSON, an item of a page, the data of a stream's frame."""
    second, ms = divmod(event.at, 1000)
    posted = is_posted(event.type, event.version)
    shape = envelope_shape(event.type, second, posted)
    return shape % (event.run_id.encode(), event.seq, ms, event.data[1:] if posted else event.data)


@lru_cache(maxsize=4096)
def envelope_shape(type: EventType, second: int, posted: bool) -> bytes:
    """The common part of the envelopes of events of one type within a second.

    To be filled by `%` with: run's id, seq, milliseconds, and data; the data of a posted event without its
    first byte, as it holds the fields `by`, `key_id` and `data` of the envelope.
    """
    name, data = type.encode().replace(b"%", b"%%"), b"%b" if posted else b'"data":%b}'
    return b'{"run_id":"%%b","seq":%%d,"type":"%b","at":"%b.%%03dZ",' % (name, utc_second(second)) + data


def one_line(json: bytes) -> bytes:
    """JSON without the characters that end a line beyond ASCII: U+0085, U+2028 and U+2029.

    In a frame and in NDJSON they are ordinary (WHATWG HTML, 9.2.5), but not for Python's `splitlines`, and so
    for the `iter_lines` of httpx and requests.
    """
    if json.isascii() or not _has_line_end(json):
        return json
    for end, escape in _LINE_ENDS.items():
        json = json.replace(end, escape)
    return json


_LINE_ENDS = {end.encode(): b"\\u%04x" % ord(end) for end in "\x85\u2028\u2029"}
_has_line_end = re.compile(b"|".join(_LINE_ENDS)).search


def to_json(value: Any) -> bytes:
    """A value as encoded in an event, as `one_line`.

    Raises:
        InvalidEvent: it cannot be written as JSON.
        EventTooDeep: it is too deep to encode, or contains itself.
    """
    try:
        json = _ENCODER.encode(value)
        return json if json.isascii() else one_line(json)
    except RecursionError as error:
        raise EventTooDeep(TOO_DEEP.format("the event")) from error
    except (TypeError, ValueError):  # a lone surrogate is a ValueError
        pass
    try:
        plain = _mend(msgspec.to_builtins(value, enc_hook=_foreign, builtin_types=_MENDABLE))
        return one_line(_ENCODER.encode(plain))
    except RecursionError as error:
        raise EventTooDeep(TOO_DEEP.format("the event")) from error
    except (TypeError, ValueError) as error:
        raise InvalidEvent(f"the event cannot be written as JSON: {error}") from error


def _check(event: Event | Custom, data: bytes) -> None:
    what, size = f"a {event.type} event", len(data)
    if isinstance(event, Posted):
        size = len(to_json(event.data))
    if size > MAX_EVENT_BYTES:
        raise EventTooLarge(f"{what} has {size:,} bytes of data; the limit is {MAX_EVENT_BYTES:,} bytes")
    if isinstance(event, Custom):
        if is_deeper(data, MAX_DEPTH + isinstance(event, Posted)):
            raise EventTooDeep(TOO_DEEP.format(what))
    elif is_deeper(data, MAX_DEPTH + 1):  # the event itself is an object
        for field in event.__struct_fields__:
            check_depth(getattr(event, field), f"`{field}` of {what}", levels=event.levels(field))


def mended(text: str) -> str:
    """A text with adjacent halves of a surrogate pair joined, and U+FFFD for a lone half."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # pydantic, which strands and its tools use
    try:
        return dump(mode="json") if callable(dump) else str(value)
    except Exception as error:  # a foreign __str__ may raise anything
        kind = type(value).__name__
        raise InvalidEvent(f"a {kind} in the event cannot be written as JSON: {error}") from error


_ENCODER = msgspec.json.Encoder(enc_hook=_foreign)
_MENDABLE = (bytes, bytearray, memoryview)


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, dict):
        return {_mend(key if isinstance(key, str) else str(key)): _mend(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_mend(item) for item in value]
    return value
