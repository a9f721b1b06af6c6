"""Mends Anthropic's answers before its package reads them.

Servers that speak its protocol leave out usages, for which the package fails, and so it does for line breaks
in a call's input that are not escaped. They put a call's input, or a text, into the start of its block, where
strands does not look: it would call the tool without its input.
"""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any

from runstore.core.arguments import read_arguments
from runstore.runtime.strands.servers.wrapped import Wrapped

COUNTS = ("input_tokens", "output_tokens")


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
        async for event in self._wrapped:
            for each in mending.events(event):
                yield each


class _Mending:
    """Mends the events of one answer."""

    def __init__(self) -> None:
        self._types = sys.modules["anthropic"].types
        self._inputs: dict[int, Any] = {}  # of calls that have begun with one
        self._pieces: dict[int, list[str]] = {}  # of the inputs of calls

    def events(self, event: Any) -> Iterator[Any]:
        """The events to use instead of this one. A call's input comes in one piece, at its end."""
        if event.type == "message_start":
            event.message.usage = self._counted(event.message.usage, self._types.Usage)
        elif event.type == "message_delta":
            event.usage = self._counted(event.usage, self._types.MessageDeltaUsage)
        elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            self._pieces.setdefault(event.index, []).append(event.delta.partial_json or "")
            return
        elif event.type == "content_block_stop":
            begun, pieces = self._inputs.pop(event.index, None), self._pieces.pop(event.index, ())
            if input := _readable("".join(pieces)) or (json.dumps(begun) if begun else ""):
                yield self._delta(event.index, type="input_json_delta", partial_json=input)
        yield event
        if event.type == "content_block_start":
            yield from self._begun(event)

    def _counted(self, usage: Any, cls: Any) -> Any:
        """A usage whose counts are numbers; those of a message's end may be missing."""
        usage = cls.model_construct() if usage is None else usage
        for name in COUNTS:
            if getattr(usage, name, None) is None and (cls is self._types.Usage or name == "output_tokens"):
                setattr(usage, name, 0)
        return usage

    def _begun(self, event: Any) -> Iterator[Any]:
        block = event.content_block
        if block.type == "tool_use" and isinstance(block.input, dict) and block.input:
            self._inputs[event.index], block.input = block.input, {}
        elif block.type == "text" and block.text:
            text, block.text = block.text, ""
            yield self._delta(event.index, type="text_delta", text=text)

    def _delta(self, index: int, **delta: Any) -> Any:
        event = {"type": "content_block_delta", "index": index, "delta": delta}
        return self._types.RawContentBlockDeltaEvent.model_validate(event)


def _readable(input: str) -> str:
    """A call's input as JSON, if it can be read as that; else unchanged."""
    try:
        return json.dumps(read_arguments(input)) if input.strip() else ""
    except ValueError:
        return input
