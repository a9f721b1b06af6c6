"""Events as server-sent events (WHATWG HTML, 9.2). Their text is written here, and read by clients only."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct

from runstore.core.codec import RecordedEvent, TailEvent, envelope_shape, is_posted, one_line
from runstore.core.events import EventType
from runstore.core.ports import EventFilter
from runstore.core.run import Run
from runstore.feed.joined_tail import JoinedTail
from runstore.feed.tail import Tail

RETRY_MS = 1000  # milliseconds that an EventSource waits before it reconnects
RETRY = b"retry: %d\n" % RETRY_MS  # the first line of the frame of a run's first event
_encode = msgspec.json.Encoder().encode


class ProtocolMessage(Struct, frozen=True, gc=False):
    """A message of another protocol, whose content becomes JSON.

    `seq`: the native event that it comes from, as the cursor; None: a reader cannot resume from it.
    """

    seq: int | None
    content: object


# Reads a page of a run's earlier events after a seq; empty when there are no more.
ReadEarlier = Callable[[int], Awaitable[Sequence[RecordedEvent]]]


class Translation(Struct, frozen=True):
    """Another protocol's stream of a run.

    Args:
        only: the events that it is made of.
        earlier: those of the events before the reader's cursor that later messages depend on.
        frames: makes the frames of a tail.
    """

    only: EventFilter
    earlier: EventFilter
    frames: Callable[[Tail, Run, ReadEarlier], AsyncIterator[bytes]]


async def native(tail: Tail) -> AsyncIterator[bytes]:
    """A run's events, each with its seq as the id."""
    async for events in tail.events():
        yield b"".join([event.frame or frame(event) for event in events])


async def joined(tail: JoinedTail) -> AsyncIterator[bytes]:
    """Several runs' events, each with the reader's cursors as the id."""
    async for events in tail.events():
        yield b"".join([_with_id(each.cursors.encode(), each.event) for each in events])


def frame(event: TailEvent) -> bytes:
    """The event's own frame, made once for all readers; the same bytes live, replayed, on any replica."""
    if not event.frame:
        second, ms = divmod(event.at, 1000)
        posted = is_posted(event.type, event.version)
        shape, data = _frame_shape(event.type, second, posted), event.data[1:] if posted else event.data
        made = shape % (event.seq, event.run_id.encode(), event.seq, ms, data)
        event.frame = RETRY + made if event.seq == 1 else made
    return event.frame


@lru_cache(maxsize=4096)
def _frame_shape(type: EventType, second: int, posted: bool) -> bytes:
    """A frame with an envelope, to be filled by `%` with: seq, as the id, and what `envelope_shape` takes."""
    name = type.encode().replace(b"%", b"%%")
    return b"id: %%d\nevent: %b\ndata: %b\n\n" % (name, envelope_shape(type, second, posted))


def _with_id(id: bytes, event: TailEvent) -> bytes:
    """The event's own frame with another id."""
    begin, own = RETRY if event.seq == 1 else b"", b"id: %d" % event.seq
    return b"%bid: %b%b" % (begin, id, frame(event)[len(begin) + len(own) :])


def message_frame(message: ProtocolMessage) -> bytes:
    """A message as a frame without a type."""
    id = b"" if message.seq is None else b"id: %d\n" % message.seq
    return b"%bdata: %b\n\n" % (id, one_line(_encode(message.content)))
