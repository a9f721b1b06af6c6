"""The requests to a run's models: a fold over its events that finds the event of each message. Pure.

A request names its new messages only; all others are those of the agent's last one. So a conversation is in
the log once, however many model calls it takes.
"""

from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct, field

from runstore.core.codec import RecordedEvent, decode
from runstore.core.events import Context, Message, MessageRange, Place, Queued, Redacted, Request, Started
from runstore.core.ports import EventFilter

MAX_MESSAGES = 100_000  # messages of one request; a faulty agent could refer to one message many times

T = TypeVar("T")
REQUEST_EVENTS = EventFilter(
    frozenset(cls.type for cls in (Queued, Started, Message, Redacted, Context, Request))
)


class MessagePlace(NamedTuple):
    """The place of one message. `seq`: the event that holds it, or its last part. `run_id`: None for its own.

    `number`: of the messages in that event. `context`: the digest of the `llm.context` instead.
    """

    seq: int = 0
    number: int = 0
    run_id: str | None = None
    context: str | None = None


class RecordedRequest(Struct, frozen=True):
    """One request of a run, with the place of each of its messages. `n`: 1, 2, … in the order of the log."""

    n: int
    seq: int
    at: int
    request: Request
    messages: list[MessagePlace]


class _Spoken(Struct, frozen=True):
    """Whose message an event holds, and whether it is the last part of it."""

    agent: str = ""
    call_id: str | None = None
    more: bool = False


class _Tombstone(Struct, frozen=True):
    agent: str = ""
    call_id: str | None = None
    message: bool = False


_read_spoken = msgspec.json.Decoder(_Spoken).decode
_read_tombstone = msgspec.json.Decoder(_Tombstone).decode


class RequestFold(Struct):
    """Folds a run's events, in order, into its requests. It needs only REQUEST_EVENTS."""

    count: int = 0
    _said: dict[Place, list[int]] = field(default_factory=dict)  # seqs of whole messages in this attempt
    _last: dict[Place, list[MessagePlace]] = field(default_factory=dict)

    def add(self, event: RecordedEvent) -> RecordedRequest | None:
        """Take the run's next event; return its request if it is an `llm.request`."""
        if event.type == Started.type:
            self._said.clear()
            self._last.clear()
        elif event.type == Message.type:
            spoken = _read_spoken(event.data)
            if not spoken.more:
                self._said.setdefault(Place(spoken.agent, spoken.call_id), []).append(event.seq)
        elif event.type == Redacted.type:
            buried = _read_tombstone(event.data)
            if buried.message:
                self._said.setdefault(Place(buried.agent, buried.call_id), []).append(event.seq)
        elif event.type == Request.type:
            request = decode(event.type, event.version, event.data)
            if isinstance(request, Request):
                return self._ask(event, request)
        return None

    def _ask(self, event: RecordedEvent, request: Request) -> RecordedRequest:
        self.count += 1
        held: list[MessagePlace] = []
        for asked in request.messages:
            held += self._held(request.place, asked, MAX_MESSAGES - len(held))
            if len(held) == MAX_MESSAGES:
                break
        self._last[request.place] = held
        return RecordedRequest(self.count, event.seq, event.at, request, held)

    def _held(self, place: Place, asked: MessageRange, most: int) -> list[MessagePlace]:
        """The places of the first `most` messages of a range; slices, as a range may name all of the last."""
        if asked.last is not None:
            return _part(self._last.get(place, []), asked.last, most)
        if asked.said is not None:
            return [MessagePlace(seq) for seq in _part(self._said.get(place, []), asked.said, most)]
        if asked.input is not None:
            first, count = asked.input
            return [MessagePlace(1, number) for number in range(first, first + min(count, most))]
        if asked.context is not None:
            return [MessagePlace(context=asked.context)]
        return [MessagePlace(seq, number, asked.run_id) for seq, number in asked.held[:most]]


def _part(all: list[T], part: tuple[int, int], most: int) -> list[T]:
    first, count = part
    return all[max(0, first) : max(0, first) + min(max(0, count), most)]


class RequestSummary(Struct, frozen=True, kw_only=True):
    """One model call of a run. `n`: 1, 2, … in the order of the log. `messages`: their number."""

    n: int
    seq: int
    at: str
    agent: str
    call_id: str | None = None
    model: str | None = None
    provider: str | None = None
    messages: int = 0
    left_out: str | None = None


class RequestPage(Struct, frozen=True):
    """A page of a run's model calls, in order. `next`: the number to go on after."""

    data: list[RequestSummary]
    next: int | None = None


class MessageSource(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The event that holds a message. `run_id`: of an earlier run of the session.

    `left_out`: why the message is missing: it was redacted, its run was deleted or purged, the reader may not
    read that run (`withheld`), it is no run of this session (`missing`), or it was too large for an event, of
    `size` bytes and with this SHA-256.
    """

    seq: int
    run_id: str | None = None
    left_out: str | None = None
    size: int = 0
    sha256: str | None = None


class RequestContent(Struct, frozen=True, kw_only=True):
    """The content of a request to a model. Messages are in strands' form. `parameters`: without secrets."""

    model: str | None = None
    provider: str | None = None
    parameters: Any = None
    system: Any = None
    tools: Any = None
    output_schema: Any = None
    tool_choice: Any = None
    cache_blocks: int = 0
    state: dict[str, Any] = {}
    messages: list[Any] = []


class _NumberedRequest(RequestContent, frozen=True):
    """The number and the origin of a request. Fields by position precede the others in JSON."""

    n: int
    seq: int
    at: str
    agent: str
    call_id: str | None = None


class ModelRequest(_NumberedRequest, frozen=True, kw_only=True):
    """A request to a model. Messages are as strands has them, with bytes as base64.

    `sources`: where each message is stored. A message that can no longer be read is null. `complete`: no
    content is missing.
    """

    sources: list[MessageSource] = []
    complete: bool = True
    left_out: str | None = None
