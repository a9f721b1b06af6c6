"""Messages between the server and an agent's process, each preceded by its length.

The server does not trust the process: it accepts only an agent's messages, as MessagePack. The process trusts
the server, and receives pickled Python objects, with bytes and integers of any size.
"""

import pickle
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.codec import EncodedEvent, RecordedEvent, encode
from runstore.core.errors import AgentError, InvalidEvent
from runstore.core.events import (
    CUSTOM_TYPE,
    EVENT_CLASSES,
    Completed,
    Custom,
    EventType,
    Failed,
    InputRequested,
)
from runstore.core.ports import AddedMessage, AgentResult, Asked, RunContext
from runstore.runtime.catalog.specs import AgentSpec

LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 16 << 20  # bytes of a message from a process
CONTROL = ("lifecycle.", "cancel.", "input.", "run.")  # event types that agents must not write


class Begin(Struct, frozen=True):
    """Start the agent. `path`: Python's module search path."""

    context: RunContext
    spec: AgentSpec
    input: Any
    history: list[RecordedEvent]
    path: list[str]
    traceparent: str | None


class Cancel(Struct, frozen=True):
    """Stop at the next safe point."""


class Stored(Struct, frozen=True):
    """The oldest write-ahead event is stored."""


class Added(Struct, frozen=True):
    """What people have added to the run, in reply to the oldest `TakeAdded`."""

    messages: list[AddedMessage]


class TakeAdded(Struct, frozen=True, array_like=True, tag="take_added"):
    """Ask for the messages that people have added, with a greater seq."""

    after: int


class Said(Struct, frozen=True, array_like=True, tag="said", gc=False):
    """An event: its type, and its data as JSON."""

    event: EventType
    data: bytes


class WriteAhead(Struct, frozen=True, array_like=True, tag="write_ahead", gc=False):
    """An event after which the agent waits for `Stored`."""

    event: EventType
    data: bytes


class Logged(Struct, frozen=True, array_like=True, tag="logged"):
    """A line that the agent's code logged."""

    level: int
    message: str


class Ended(Struct, frozen=True, array_like=True, tag="ended", gc=False):
    """The agent's ending, as its event."""

    event: EventType
    data: bytes


class AsksInput(Struct, frozen=True, array_like=True, tag="asks_input"):
    """The agent's ending, if a person has to answer first: its requests, each as an event's data."""

    requests: list[bytes]


ToChild = Begin | Cancel | Stored | Added
ToServer = Said | WriteAhead | Logged | Ended | AsksInput | TakeAdded

_encoder = msgspec.msgpack.Encoder()
_read_to_server: msgspec.msgpack.Decoder[ToServer] = msgspec.msgpack.Decoder(ToServer)
_read_event = {type: msgspec.json.Decoder(cls) for type, cls in EVENT_CLASSES.items()}
_read_request = msgspec.json.Decoder(InputRequested).decode
_read_json = msgspec.json.Decoder()


def for_child(message: ToChild) -> bytes:
    """Encode a message, with its length.

    Raises:
        AgentError: it holds an input that is nested too deeply.
    """
    try:
        return _with_length(pickle.dumps(message))
    except RecursionError:
        too_deep = "the run's input or metadata is nested too deeply for an agent in a process"
        raise AgentError(too_deep, code="invalid_input") from None


def to_child(body: bytes) -> ToChild:
    """Decode a message from the server."""
    message: ToChild = pickle.loads(body)  # noqa: S301 - our own server wrote it
    return message


def for_server(message: ToServer) -> bytes:
    """Encode a message, with its length."""
    return _with_length(_encoder.encode(message))


def to_server(buffer: bytearray) -> Iterator[ToServer]:
    """Remove the complete messages from the front of the received bytes.

    Raises:
        AgentError: a message is malformed.
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
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise AgentError(f"the agent's process sent a malformed message: {error}") from error
    del buffer[:start]


def event_of(said: Said | WriteAhead) -> EncodedEvent:
    """The event that a process sent. The server computes its encoding and time itself.

    Raises:
        AgentError: it is malformed, or agents must not write it.
    """
    try:
        if said.event.startswith(CONTROL):
            raise InvalidEvent(f"an agent cannot write {said.event[:100]!r}")
        if said.event in EVENT_CLASSES:
            return encode(_read_event[said.event].decode(said.data))
        if not CUSTOM_TYPE.fullmatch(said.event):
            raise InvalidEvent(f"there is no event type {said.event[:100]!r}")
        return encode(Custom(said.event, _read_json.decode(said.data)))
    except (InvalidEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AgentError(f"the agent's process wrote a malformed event: {error}") from error


def result_of(ended: Ended | AsksInput) -> AgentResult | Asked:
    """The result of an agent that ended, or what it asks.

    Raises:
        AgentError: the agent failed, or its process sent a malformed ending.
    """
    try:
        if isinstance(ended, AsksInput):
            return Asked([_read_request(data) for data in ended.requests])
        ending = _read_event[ended.event].decode(ended.data)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AgentError(f"the agent's process sent a malformed ending: {error}") from error
    if isinstance(ending, Completed):
        return AgentResult(ending.result, ending.usage)
    if isinstance(ending, Failed):
        raise AgentError(ending.message, code=ending.code)
    raise AgentError(f"an agent's process cannot end with {ended.event[:100]!r}")


def _with_length(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "big") + body
