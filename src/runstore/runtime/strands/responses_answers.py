"""Mends answers of OpenAI's Responses API before strands reads them.

strands takes a stream that breaks off for a complete answer, and drops refusals.
"""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from runstore.core.errors import AgentError
from runstore.runtime.strands.repair import BROKEN_OFF
from runstore.runtime.strands.wrapped import Wrapped, WrappedClient

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
    begun = refused = False
    async for event in events:
        begun = True
        if event.type == "response.refusal.delta":
            refused = True
            yield SimpleNamespace(type="response.output_text.delta", delta=event.delta)
        elif event.type == "response.completed" and refused:
            response = SimpleNamespace(usage=event.response.usage, incomplete_details=FILTERED)
            yield SimpleNamespace(type="response.incomplete", response=response)
        else:
            yield event
        if event.type in ENDS:
            return
    if begun:
        raise AgentError(BROKEN_OFF, code="model_unavailable")
