"""Mends Anthropic's answers before its package reads them.

Servers that speak its protocol leave out usages, for which the package fails, and so it does for line
breaks in a call's input that are not escaped. Their connections end, or break, before the last event.
They put a call's input, or a text, into the start of its block, where strands does not look: it would
call the tool without its input. Their blocks skip a number, share one, lack their start or end, or
overlap, while the package and strands expect one block after the other.
"""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, NamedTuple

from runstore.core.arguments import read_arguments
from runstore.runtime.strands.stream.servers.wrapped import Wrapped, until_broken

COUNTS = ("input_tokens", "output_tokens")
SAID = {  # each kind of delta that says something, and the kind of its block
    "text_delta": "text",
    "citations_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
}
IN_STARTS = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}
BEGINS = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


def mend_client(model: Any) -> None:
    """Let a model get mended answers. Safe to call twice."""
    if not isinstance(model.client, _Client):
        model.client = _Client(model.client)


class _Client(Wrapped):
    @property
    def messages(self) -> "_Messages":
        return _Messages(self._wrapped.messages)


class _Messages(Wrapped):
    def stream(self, **request: Any) -> "_Opening":
        return _Opening(self._wrapped.stream(**request))


class _Opening(Wrapped):
    async def __aenter__(self) -> Any:
        stream = await self._wrapped.__aenter__()
        if hasattr(stream, "_raw_stream"):
            stream._raw_stream = _Events(stream._raw_stream)
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        return await self._wrapped.__aexit__(kind, error, trace)


class _Events(Wrapped):
    async def __aiter__(self) -> AsyncIterator[Any]:
        mending = _Mending()
        async for event in until_broken(aiter(self._wrapped), _ends):
            for each in mending.events(event):
                yield each
        for each in mending.rest():
            yield each


class _Held(NamedTuple):
    """A block that is passed on as a whole, at its end: a call of a tool."""

    start: Any
    pieces: list[str]


class _Mending:
    """Mends the events of one answer. Its blocks get new numbers, and come one after the other."""

    def __init__(self) -> None:
        self._types = sys.modules["anthropic"].types
        self._held: dict[Any, _Held] = {}  # the server's number → a held block
        self._open: tuple[Any, str] | None = None  # the number and kind of the text or thinking under way
        self._count = 0  # blocks so far
        self._ended = False  # the reason for the end has come, after which only `message_stop` follows
        self._stopped = False

    def events(self, event: Any) -> Iterator[Any]:
        """The events to use instead of this one."""
        if event.type == "content_block_start":
            yield from self._begin(event)
        elif event.type == "content_block_delta":
            yield from self._add(event)
        elif event.type == "content_block_stop":
            yield from self._end(event.index)
        else:
            if event.type == "message_start":
                event.message.usage = self._counted(event.message.usage, self._types.Usage)
            elif event.type == "message_delta":
                for index in (*self._held, *((self._open[0],) if self._open else ())):
                    yield from self._end(index)
                event.usage = self._counted(event.usage, self._types.MessageDeltaUsage)
                self._ended |= _ends(event)
            self._stopped |= event.type == "message_stop"
            yield event

    def rest(self) -> Iterator[Any]:
        """The events that the stream lacks at its end: the starts of calls without ends, and a stop."""
        for held in self._held.values():
            yield from self._start(held.start)
        if self._ended and not self._stopped:
            yield self._types.RawMessageStopEvent(type="message_stop")

    def _begin(self, event: Any) -> Iterator[Any]:
        yield from self._end(event.index)
        block = event.content_block
        if block.type not in BEGINS:
            self._held[event.index] = _Held(event, [])
            return
        yield from self._close()
        self._open = (event.index, block.type)
        said = {name: text for name in IN_STARTS if (text := getattr(block, name, None))}
        for name in said:
            setattr(block, name, "")
        yield from self._start(event)
        for name, text in said.items():
            yield self._delta(type=IN_STARTS[name], **{name: text})

    def _add(self, event: Any) -> Iterator[Any]:
        index, delta = event.index, event.delta
        if delta.type not in SAID:
            if index in self._held and delta.type == "input_json_delta":
                self._held[index].pieces.append(delta.partial_json or "")
            return
        if self._open != (index, SAID[delta.type]):
            yield from self._close()
            self._open = (index, SAID[delta.type])
            yield from self._start(self._event("start", content_block=BEGINS[SAID[delta.type]]))
        event.index = self._count - 1
        yield event

    def _end(self, index: Any) -> Iterator[Any]:
        """End a block, if it is under way."""
        if self._open and self._open[0] == index:
            yield from self._close()
        if (held := self._held.pop(index, None)) is None:
            return
        yield from self._close()
        block, begun = held.start.content_block, None
        if isinstance(getattr(block, "input", None), dict):
            begun, block.input = block.input, {}
        yield from self._start(held.start)
        if input := _readable("".join(held.pieces)) or (json.dumps(begun) if begun else ""):
            yield self._delta(type="input_json_delta", partial_json=input)
        yield self._event("stop")

    def _close(self) -> Iterator[Any]:
        """End the text or thinking under way."""
        if self._open:
            self._open = None
            yield self._event("stop")

    def _start(self, event: Any) -> Iterator[Any]:
        event.index, self._count = self._count, self._count + 1
        yield event

    def _delta(self, **delta: Any) -> Any:
        return self._event("delta", delta=delta)

    def _event(self, name: str, **content: Any) -> Any:
        """An event of the newest block."""
        cls = getattr(self._types, f"RawContentBlock{name.title()}Event")
        event = {"type": f"content_block_{name}", "index": self._count - 1, **content}
        return cls.model_validate(event)

    def _counted(self, usage: Any, cls: Any) -> Any:
        """A usage whose counts are numbers; those of a message's end may be missing."""
        usage = cls.model_construct() if usage is None else usage
        for name in COUNTS:
            if getattr(usage, name, None) is None and (cls is self._types.Usage or name == "output_tokens"):
                setattr(usage, name, 0)
        return usage


def _ends(event: Any) -> bool:
    """Whether an event has the reason for the answer's end."""
    return event.type == "message_delta" and event.delta.stop_reason is not None


def _readable(input: str) -> str:
    """A call's input as JSON, if it can be read as that; else unchanged."""
    try:
        return json.dumps(read_arguments(input)) if input.strip() else ""
    except ValueError:
        return input
