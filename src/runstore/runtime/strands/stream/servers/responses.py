"""Mends answers of OpenAI's Responses API before strands reads them.

strands takes a stream that breaks off for a complete answer, and drops refusals. It reads text from deltas
alone, and a call's arguments from events for the call's id, which servers leave out or give another id.
"""

from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

from runstore.core.errors import AgentError
from runstore.runtime.strands.stream.repair import BROKEN_OFF
from runstore.runtime.strands.stream.servers.wrapped import Wrapped, WrappedClient

ENDS = ("response.completed", "response.failed", "response.incomplete", "error")
FILTERED = SimpleNamespace(reason="content_filter")


def mending(sdk: Any) -> Any:
    """OpenAI's package, with clients that mend answers."""
    return _Sdk(sdk)


class _Sdk(Wrapped):
    def AsyncOpenAI(self, **arguments: Any) -> "_Client":
        return _Client(self._wrapped.AsyncOpenAI(**arguments))


class _Client(WrappedClient):
    @property
    def responses(self) -> "_Responses":
        return _Responses(self._wrapped.responses)


class _Responses(Wrapped):
    async def create(self, **request: Any) -> Any:
        answer = await self._wrapped.create(**request)
        return mended_events(answer) if request.get("stream") else answer


async def mended_events(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The events of a streamed answer: a refusal is text, and its end says so.

    Raises:
        AgentError: the stream broke off.
    """
    begun = refused = spoke = False
    calls = _Calls()
    async for event in events:
        begun = True
        spoke = spoke or event.type == "response.output_text.delta"
        if event.type == "response.refusal.delta":
            refused = True
            yield SimpleNamespace(type="response.output_text.delta", delta=event.delta)
        elif event.type == "response.completed":
            for part in () if spoke or refused else _parts_of(event.response):
                refused = refused or part.type == "refusal"
                text = part.refusal if part.type == "refusal" else part.text
                yield SimpleNamespace(type="response.output_text.delta", delta=text)
            yield _filtered(event) if refused else event
        else:
            for each in calls.mended(event):
                yield each
        if event.type in ENDS:
            return
    if begun:
        raise AgentError(BROKEN_OFF, code="model_unavailable")


class _Calls:
    """Names each call in all its events by the id that its result will have."""

    def __init__(self) -> None:
        self._ids: dict[str | None, str] = {}  # id of an item → that of its call

    def mended(self, event: Any) -> Iterator[Any]:
        """The events to use instead of this one."""
        item = getattr(event, "item", None)
        if item is not None and item.type == "function_call":
            if event.type == "response.output_item.added":
                yield self._begin(item)
            if event.type == "response.output_item.done":
                if item.call_id not in self._ids.values():
                    yield self._begin(item)
                yield _arguments(item.call_id, item.arguments)
        elif event.type == "response.function_call_arguments.done":
            yield _arguments(self._ids.get(event.item_id), event.arguments)
        elif event.type != "response.function_call_arguments.delta":  # all of them come once more
            yield event

    def _begin(self, item: Any) -> Any:
        self._ids[item.id] = item.call_id
        begun = SimpleNamespace(type=item.type, id=item.call_id, call_id=item.call_id, name=item.name)
        return SimpleNamespace(type="response.output_item.added", item=begun)


def _arguments(call_id: str | None, arguments: str) -> Any:
    done = "response.function_call_arguments.done"
    return SimpleNamespace(type=done, item_id=call_id, arguments=arguments)


def _parts_of(response: Any) -> Iterator[Any]:
    """The parts of an answer that have text."""
    for item in getattr(response, "output", None) or ():
        for part in item.content if item.type == "message" else ():
            if part.type in ("output_text", "refusal"):
                yield part


def _filtered(event: Any) -> Any:
    response = SimpleNamespace(usage=event.response.usage, incomplete_details=FILTERED)
    return SimpleNamespace(type="response.incomplete", response=response)
