"""What the server and an agent's process say to each other: MessagePack, each message after its length.

The process is not trusted: the server takes from it what an agent may say, and nothing else.
"""

import time
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.codec import MAX_EVENT_BYTES, EncodedEvent, RecordedEvent
from runstore.core.errors import AgentError, EventTooLarge, InvalidEvent
from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES, EventType
from runstore.core.ports import RunContext
from runstore.runtime.agents import AgentSpec

LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 16 << 20  # of a process
CONTROL = ("lifecycle.", "cancel.", "run.")  # types that no agent writes


class Begin(Struct, frozen=True, array_like=True, tag="begin"):
    """What to do. `path`: where Python looks for modules."""

    context: RunContext
    spec: AgentSpec
    input: Any
    history: list[RecordedEvent]
    path: list[str]
    traceparent: str | None


class Cancel(Struct, frozen=True, array_like=True, tag="cancel"):
    """Stop at the next safe point."""


class Stored(Struct, frozen=True, array_like=True, tag="stored"):
    """What was to be written ahead is stored."""


class Said(Struct, frozen=True, array_like=True, tag="said", gc=False):
    """An event: its type, and its data as JSON."""

    event: EventType
    data: bytes


class WriteAhead(Struct, frozen=True, array_like=True, tag="write_ahead", gc=False):
    """An event, after which the agent waits for `Stored`."""

    event: EventType
    data: bytes


class Logged(Struct, frozen=True, array_like=True, tag="logged"):
    """A line that the agent's code logged."""

    logger: str
    level: int
    message: str


class Done(Struct, frozen=True, array_like=True, tag="done"):
    """The agent has come to its end."""

    result: dict[str, Any]
    usage: dict[str, int]


class Raised(Struct, frozen=True, array_like=True, tag="raised"):
    """The agent has failed."""

    code: str
    message: str


ToChild = Begin | Cancel | Stored
ToServer = Said | WriteAhead | Logged | Done | Raised

_encoder = msgspec.msgpack.Encoder()
_read_to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_read_to_server: msgspec.msgpack.Decoder[ToServer] = msgspec.msgpack.Decoder(ToServer)
_read_event = {type: msgspec.json.Decoder(cls) for type, cls in EVENT_CLASSES.items()}
_read_json = msgspec.json.Decoder()


def to_child(body: bytes) -> ToChild:
    """Read what the server said."""
    return _read_to_child.decode(body)


def to_server(buffer: bytearray) -> Iterator[ToServer]:
    """Take the whole messages of a process off the front of what was received.

    Raises:
        AgentError: it is none.
    """
    start = 0
    while len(buffer) - start >= LENGTH_BYTES:
        body = start + LENGTH_BYTES
        size = int.from_bytes(buffer[start:body], "big")
        if size > MAX_MESSAGE_BYTES:
            raise AgentError(f"the agent's process sent a message of {size:,} bytes")
        if len(buffer) < body + size:
            break
        start = body + size
        try:
            yield _read_to_server.decode(memoryview(buffer)[body:start])
        except msgspec.MsgspecError as error:
            raise AgentError(f"the agent's process sent what is no message: {error}") from error
    del buffer[:start]


def pack(message: ToChild | ToServer) -> bytes:
    """The message with its length."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def event_of(said: Said | WriteAhead) -> EncodedEvent:
    """What a process said, as an event that may be stored.

    Raises:
        AgentError: it is none, or none that an agent may write.
    """
    type, data = said.event, said.data
    cls = EVENT_CLASSES.get(type)
    try:
        if type.startswith(CONTROL) or (cls is None and not CUSTOM_TYPE.fullmatch(type)):
            raise InvalidEvent(f"an agent cannot write {type[:100]!r}")
        if len(data) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"a {type} event has {len(data):,} bytes of data")
        (_read_json if cls is None else _read_event[type]).decode(data)
    except (InvalidEvent, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AgentError(f"the agent's process wrote what is no event: {error}") from error
    return EncodedEvent(type, 1 if cls is None else cls.version, False, time.time_ns() // 1_000_000, data)
