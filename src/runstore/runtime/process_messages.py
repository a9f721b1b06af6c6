"""What the server and an agent's process say to each other: MessagePack, each message after its length.

The process is not trusted: the server takes from it what an agent may say, and nothing else.
"""

from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.codec import MAX_EVENT_BYTES, EncodedEvent, RecordedEvent
from runstore.core.errors import AgentError, EventTooLarge, InvalidEvent
from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES, EventType
from runstore.core.ports import RunContext
from runstore.runtime.agents import AgentSpec

LENGTH_BYTES = 4
MAX_BATCH_BYTES = 256 << 10  # events that are sent as one message, about
MAX_MESSAGE_BYTES = 16 << 20  # of a process
CONTROL = ("lifecycle.", "cancel.", "run.")  # types that no agent writes

Said = tuple[EventType, bytes]  # type and data


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


class Events(Struct, frozen=True, array_like=True, tag="events"):
    """What the agent says."""

    said: list[Said]


class WriteAhead(Struct, frozen=True, array_like=True, tag="write_ahead"):
    """One event, after which the agent waits for `Stored`."""

    said: Said


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
ToServer = Events | WriteAhead | Logged | Done | Raised

_encoder = msgspec.msgpack.Encoder()
_read_to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_read_to_server: msgspec.msgpack.Decoder[ToServer] = msgspec.msgpack.Decoder(ToServer)
_read_event = {type: msgspec.json.Decoder(cls) for type, cls in EVENT_CLASSES.items()}
_read_json = msgspec.json.Decoder()


def to_child(body: bytes) -> ToChild:
    """Read what the server said."""
    return _read_to_child.decode(body)


def to_server(body: bytes) -> ToServer:
    """Read what a process said.

    Raises:
        msgspec.MsgspecError: it is no message.
    """
    return _read_to_server.decode(body)


def pack(message: ToChild | ToServer) -> bytes:
    """The message with its length."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def event_of(said: Said, at: int) -> EncodedEvent:
    """What a process said, as an event that may be stored.

    Raises:
        AgentError: it is none, or none that an agent may write.
    """
    type, data = said
    cls = EVENT_CLASSES.get(type)
    try:
        if type.startswith(CONTROL) or (cls is None and not CUSTOM_TYPE.fullmatch(type)):
            raise InvalidEvent(f"an agent cannot write {type[:100]!r}")
        if len(data) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"a {type} event has {len(data):,} bytes of data")
        (_read_json if cls is None else _read_event[type]).decode(data)
    except (InvalidEvent, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AgentError(f"the agent's process wrote what is no event: {error}") from error
    return EncodedEvent(type, 1 if cls is None else cls.version, False, at, data)
