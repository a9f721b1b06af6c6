"""Messages between the server and a process that drives runs, each preceded by its length.

A process sends MessagePack, several messages at once: the server accepts only an agent's messages. It
receives pickled Python objects, with bytes and integers of any size, as it trusts the server.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from runstore.core.codec import EncodedEvent, RecordedEvent, encode
from runstore.core.depth import check_decodable
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
from runstore.runtime.catalog.teams import HierarchySettings

T = TypeVar("T")

LENGTH_BYTES = 4
MAX_BATCH_BYTES = 16 << 20  # bytes of a batch of messages from a process
CONTROL = ("lifecycle.", "cancel.", "input.", "run.")  # event types that agents must not write


class Open(Struct, frozen=True):
    """How this process builds its agents: sent once, before the first run.

    Args:
        path: Python's module search path.
        memory_limit_mb: of the whole process, in MiB.
    """

    agents: dict[str, AgentSpec]
    path: list[str]
    hierarchies: HierarchySettings = HierarchySettings()
    memory_limit_mb: int | None = None


class Begin(Struct, frozen=True):
    """Start an agent.

    Args:
        run: the number of the run in this process; all further messages about the run have it.
        traceparent: the server's span of the attempt; None if the server traces nothing.
        parent: the caller's span, for a process that traces although the server does not.
    """

    run: int
    context: RunContext
    definition: Mapping[str, Any]
    input: Any
    history: Sequence[RecordedEvent]
    traceparent: str | None = None
    parent: str | None = None


class Cancel(Struct, frozen=True):
    """Stop at the next safe point."""

    run: int


class Leave(Struct, frozen=True):
    """The run goes on without this process, which must stop its agent and say nothing more about it."""

    run: int


class Stored(Struct, frozen=True):
    """The run's oldest write-ahead event is stored."""

    run: int


class Added(Struct, frozen=True):
    """The messages that people have added to the run, in reply to its oldest `TakeAdded`."""

    run: int
    messages: list[AddedMessage]


class Taken(Struct, frozen=True):
    """The log has taken this many bytes of the run's events: the agent may say as much more."""

    run: int
    size: int


class Close(Struct, frozen=True):
    """Close what agents hold, and exit."""


class Offered(Struct, frozen=True, array_like=True, tag="offered", gc=False):
    """An event: its type, its data as JSON, and its time (UTC, milliseconds since 1970)."""

    run: int
    event: EventType
    data: bytes
    at: int = 0


class WriteAhead(Struct, frozen=True, array_like=True, tag="write_ahead", gc=False):
    """An event after which the agent waits for `Stored`."""

    run: int
    event: EventType
    data: bytes
    at: int = 0


class TakeAdded(Struct, frozen=True, array_like=True, tag="take_added"):
    """Ask for the messages that people have added, with a greater seq."""

    run: int
    after: int


class Ended(Struct, frozen=True, array_like=True, tag="ended", gc=False):
    """The agent's ending, as its event. The other fields: of its `AgentResult`."""

    run: int
    event: EventType
    data: bytes
    heard: int = 0
    hears: bool = False


class AsksInput(Struct, frozen=True, array_like=True, tag="asks_input"):
    """The agent's ending, if a person has to answer first: its requests, each as an event's data."""

    run: int
    requests: list[bytes]


class Moved(Struct, frozen=True, array_like=True, tag="moved"):
    """The run has to go on elsewhere, as another one holds the loop that they share."""

    run: int


class Logged(Struct, frozen=True, array_like=True, tag="logged"):
    """A line that code of the process logged. `run_id`: the run it worked for, if any."""

    level: int
    message: str
    run_id: str = ""


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """The code of all agents is imported."""


class Unusable(Struct, frozen=True, array_like=True, tag="unusable"):
    """The code of an agent cannot be used: the reason, and the setting that names it."""

    message: str
    setting: str | None


class Alive(Struct, frozen=True, array_like=True, tag="alive"):
    """A sign of life, several times a second, with what stuck agents hold."""

    abandoned_agents: int
    abandoned_threads: int
    blocked_loops: int


ToChild = Open | Begin | Cancel | Leave | Stored | Added | Taken | Close
OfRun = Offered | WriteAhead | TakeAdded | Ended | AsksInput | Moved
OfProcess = Logged | Ready | Unusable | Alive
ToServer = OfRun | OfProcess

_encoder = msgspec.msgpack.Encoder()
_read_to_server: msgspec.msgpack.Decoder[list[ToServer]] = msgspec.msgpack.Decoder(list[ToServer])
_read_event = {type: msgspec.json.Decoder(cls).decode for type, cls in EVENT_CLASSES.items()}
_versions = {type: cls.version for type, cls in EVENT_CLASSES.items()}
_read_request = msgspec.json.Decoder(InputRequested).decode
_read_json = msgspec.json.Decoder().decode


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


def for_server(batch: Sequence[ToServer]) -> bytes:
    """Encode messages as one batch, with its length."""
    return _with_length(_encoder.encode(batch))


def to_server(buffer: bytearray) -> Iterator[list[ToServer]]:
    """Remove the complete batches from the front of the received bytes.

    Raises:
        AgentError: a batch is malformed.
    """
    start = 0
    while len(buffer) - start >= LENGTH_BYTES:
        body = start + LENGTH_BYTES
        size = int.from_bytes(buffer[start:body], "big")
        if size > MAX_BATCH_BYTES:
            raise AgentError(f"the agent's process sent a message of {size:,} bytes")
        if len(buffer) < body + size:
            break
        start = body + size
        try:
            with memoryview(buffer)[body:start] as view:
                batch = _read_to_server.decode(view)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise AgentError(f"the agent's process sent a malformed message: {error}") from error
        yield batch
    del buffer[:start]


def trusted_event_of(message: Offered | WriteAhead) -> EncodedEvent:
    """The event that a trusted process sent, in the encoding of that process, which is not checked.

    Raises:
        AgentError: agents must not write it.
    """
    if message.event.startswith(CONTROL):
        raise AgentError(f"an agent cannot write {message.event[:100]!r}")
    return EncodedEvent(message.event, _versions.get(message.event, 1), False, message.at, message.data)


def event_of(message: Offered | WriteAhead) -> EncodedEvent:
    """The event that a process sent. The server computes its encoding and time itself.

    Raises:
        AgentError: it is malformed, or agents must not write it.
    """
    try:
        if message.event.startswith(CONTROL):
            raise InvalidEvent(f"an agent cannot write {message.event[:100]!r}")
        if message.event in EVENT_CLASSES:
            return encode(_checked(_read_event[message.event], message.data))
        if not CUSTOM_TYPE.fullmatch(message.event):
            raise InvalidEvent(f"there is no event type {message.event[:100]!r}")
        return encode(Custom(message.event, _checked(_read_json, message.data)))
    except (InvalidEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AgentError(f"the agent's process wrote a malformed event: {error}") from error


def result_of(ended: Ended | AsksInput) -> AgentResult | Asked:
    """The result of an agent that ended, or what it asks.

    Raises:
        AgentError: the agent failed, or its process sent a malformed ending.
    """
    try:
        if isinstance(ended, AsksInput):
            return Asked([_checked(_read_request, data) for data in ended.requests])
        ending = _checked(_read_event[ended.event], ended.data)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AgentError(f"the agent's process sent a malformed ending: {error}") from error
    if isinstance(ending, Completed):
        return AgentResult(ending.result, ending.usage, ended.heard, ending.unheard, ended.hears)
    if isinstance(ending, Failed):
        raise AgentError(ending.message, code=ending.code)
    raise AgentError(f"an agent's process cannot end with {ended.event[:100]!r}")


def _checked(decode: Callable[[bytes], T], data: bytes) -> T:
    check_decodable(data)
    return decode(data)


def _with_length(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "big") + body
