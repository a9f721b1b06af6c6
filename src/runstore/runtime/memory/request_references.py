"""Records what a run's models are asked, as references to what the log already holds.

A message is looked up where it can be: in the agent's last request, in the messages that it logged, in the
run's input, in the session's memory. Content that stands nowhere becomes an `llm.context`, once.
"""

import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from runstore.core.codec import EncodedEvent, RecordedEvent, decode, encode, json_size, to_json
from runstore.core.errors import AgentError, InvalidEvent
from runstore.core.events import (
    Context,
    ContextKind,
    MessageRange,
    Place,
    Request,
)
from runstore.core.model_requests import MAX_MESSAGES, RequestContent
from runstore.core.ports import RunContext
from runstore.runtime.memory.held import asked_in, digest_of_message, held_in

MAX_STATE_BYTES = 16_384  # bytes of a tool choice, and of a provider's state, in a request

Messages = list[dict[str, Any]]
Record = Callable[[EncodedEvent], Awaitable[None]]
Found = tuple[str, Any]  # the field of `MessageRange`, and what it refers to


class NextRequest(RequestContent, frozen=True, forbid_unknown_fields=True):
    """The next request to a model."""

    messages: Annotated[list[dict[str, Any]], Meta(max_length=MAX_MESSAGES)] = field(default_factory=list)


class _Agent(Struct):
    """The messages and contents of the agent at one place.

    `last`: the messages of its last request. `said`: digest → the number of that logged message.
    `contents`: kind → the last content and its digest.
    """

    last: Messages = []
    said: dict[bytes, int] = field(default_factory=dict)
    count: int = 0  # messages that it has logged in this attempt
    contents: dict[str, tuple[Any, str]] = field(default_factory=dict)


class Requests:
    """The model calls of one attempt of one run. Safe to use from any thread and event loop.

    Args:
        history: of earlier attempts.
        input: of the run.
        off: record nothing.
    """

    def __init__(
        self, context: RunContext, input: Any, history: Sequence[RecordedEvent], *, off: bool = False
    ) -> None:
        self.off = off
        self._input, self._history = input, history
        self._context_memory = context.memory, context.memory_held
        self._agents: dict[Place, _Agent] = {}
        self._elsewhere: dict[bytes, Found] = {}  # digest → where the log held it before this attempt
        self._contexts: set[str] = set()  # digests in the log
        self._indexed = False
        self._lock = threading.Lock()

    def log(self, place: Place, message: Mapping[str, Any]) -> None:
        """Note that an agent's complete message was logged."""
        if self.off:
            return
        digest = digest_of_message(message)
        with self._lock:
            agent = self._agents.setdefault(place, _Agent())
            agent.said[digest] = agent.count
            agent.count += 1

    def forget(self, place: Place) -> None:
        """Forget the last request of an agent whose work has ended."""
        if (agent := self._agents.get(place)) is not None:
            agent.last, agent.contents = [], {}

    async def ask(self, place: Place, request: NextRequest, record: Record) -> None:
        """Record a request of the agent at a place, after the contexts that it needs.

        Content that no event can hold is left out, and the request says so.
        """
        if self.off:
            return
        new: dict[str, EncodedEvent] = {}
        try:
            event = self._event(place, request, new)
        except (InvalidEvent, AgentError) as error:
            self.forget(place)  # readers see a request without messages as the last one
            new, event = {}, encode(_without_content(place, request, str(error)))
        for each in (*new.values(), event):
            await record(each)
        with self._lock:
            self._contexts.update(new)

    def _event(self, place: Place, request: NextRequest, new: dict[str, EncodedEvent]) -> EncodedEvent:
        """The event of a request. `new`: gets the contexts that are not in the log yet, by their digests."""
        with self._lock:
            self._prepare()
            agent = self._agents.setdefault(place, _Agent())
            digests = {
                kind: self._content(place, agent, kind, getattr(request, kind), new)
                for kind in ("parameters", "system", "tools", "output_schema")
            }
            messages = list(self._ranges(place, agent, request.messages, new))
        event = Request(
            agent=place.agent, call_id=place.call_id, model=request.model, provider=request.provider,
            tool_choice=_small(request.tool_choice), cache_blocks=request.cache_blocks,
            state=_small(request.state) or {}, messages=messages, **digests,
        )  # fmt: skip
        encoded = encode(event)
        agent.last = request.messages
        return encoded

    def _content(
        self, place: Place, agent: _Agent, kind: ContextKind, content: Any, new: dict[str, EncodedEvent]
    ) -> str | None:
        if not content:
            return None
        known = agent.contents.get(kind)
        if known is not None and known[0] == content:
            return known[1]
        digest = self._context(place, kind, content, new)
        agent.contents[kind] = content, digest
        return digest

    def _context(self, place: Place, kind: ContextKind, content: Any, new: dict[str, EncodedEvent]) -> str:
        """The digest of content that stands in an `llm.context`, which is made the first time."""
        data = to_json(content)
        digest = sha256(data).hexdigest()
        if digest not in self._contexts and digest not in new:
            context = Context(
                agent=place.agent, call_id=place.call_id, kind=kind, digest=digest, content=content
            )
            try:
                new[digest] = encode(context)
            except InvalidEvent:
                new[digest] = encode(replace(context, content=None, size=len(data)))
        return digest

    def _ranges(
        self, place: Place, agent: _Agent, messages: Messages, new: dict[str, EncodedEvent]
    ) -> Iterator[MessageRange]:
        """Where the messages are. Most requests begin with all messages of the last one."""
        known = len(agent.last)
        if known and messages[:known] == agent.last:
            yield MessageRange(last=(0, known))
            messages, last = messages[known:], []
        else:
            last = agent.last
        yield from _joined(self._find(place, agent, messages, last, new))

    def _find(
        self, place: Place, agent: _Agent, messages: Messages, last: Messages, new: dict[str, EncodedEvent]
    ) -> Iterator[Found]:
        """Where each message is, in `last` or elsewhere.

        `new`: gets the contexts of those that are nowhere.
        """
        at = 0
        for message in messages:
            found = _index(last, message, at)
            if found is not None:
                yield "last", found
                at = found + 1
                continue
            digest = sha256(to_json(message)).digest()
            if (number := agent.said.get(digest)) is not None:
                yield "said", number
            elif (elsewhere := self._elsewhere.get(digest)) is not None:
                yield elsewhere
            else:
                yield "context", self._context(place, "message", message, new)

    def _prepare(self) -> None:
        """Index what the log held before this attempt, at its first request."""
        if self._indexed:
            return
        self._indexed = True
        memory, held = self._context_memory
        for remembered, place in zip(memory, held, strict=False):
            if place is not None:
                self._elsewhere[digest_of_message(remembered)] = "held", (place[0], place[1:])
        for seq, number, message in held_in(self._history):
            self._elsewhere[digest_of_message(message)] = "held", (None, (seq, number))
        for event in self._history:
            if event.type == Context.type and isinstance(known := _event(event), Context):
                self._contexts.add(known.digest)
        self._history = ()
        for number, asked in enumerate(asked_in(self._input)):
            self._elsewhere[digest_of_message(asked)] = "input", number


def _joined(found: Iterable[Found]) -> Iterator[MessageRange]:
    """The places of messages, with neighbours joined."""
    open: MessageRange | None = None
    for kind, place in found:
        joined = None if open is None else _continued(open, kind, place)
        if joined is None and open is not None:
            yield open
        open = joined or _asked(kind, place)
    if open is not None:
        yield open


def _asked(kind: str, place: Any) -> MessageRange:
    match kind:
        case "held":
            run_id, held = place
            return MessageRange(run_id=run_id, held=[held])
        case "context":
            return MessageRange(context=place)
    return replace(MessageRange(), **{kind: (place, 1)})


def _continued(before: MessageRange, kind: str, place: Any) -> MessageRange | None:
    if kind == "held":
        run_id, held = place
        if before.held and before.run_id == run_id:
            return replace(before, held=[*before.held, held])
    elif kind != "context" and (part := getattr(before, kind)) is not None and sum(part) == place:
        return replace(before, **{kind: (part[0], part[1] + 1)})
    return None


def _without_content(place: Place, request: NextRequest, why: str) -> Request:
    return Request(
        agent=place.agent,
        call_id=place.call_id,
        model=request.model,
        provider=request.provider,
        left_out=why,
    )


def _index(messages: Messages, message: Mapping[str, Any], at: int) -> int | None:
    """The place of an equal message, from a place on."""
    for place in range(at, len(messages)):
        if messages[place] == message:
            return place
    return None


def _small(value: Any) -> Any:
    """A value, or its size if it is too large to be repeated in every request."""
    size = json_size(value) if value else 0
    return value if size <= MAX_STATE_BYTES else {"left_out": f"{size:,} bytes as JSON"}


def _event(recorded: RecordedEvent) -> Any:
    return decode(recorded.type, recorded.version, recorded.data)
