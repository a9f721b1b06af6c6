"""Mends Gemini's answers before strands reads them.

strands takes the reason for the end from the last event, which may lack it. It does not notice that a
prompt was blocked, since such an answer has no candidate.
"""

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from runstore.core.errors import AgentError
from runstore.runtime.strands.stream.end_reasons import BLOCKED
from runstore.runtime.strands.stream.repair import BROKEN_OFF
from runstore.runtime.strands.stream.servers.wrapped import Wrapped


def mending(get_client: Callable[..., Any]) -> Callable[..., Any]:
    """A method that returns the client, with mended answers."""

    def get_mending_client(self: Any) -> Any:
        return _Client(get_client(self))

    return get_mending_client


class _Client(Wrapped):
    @property
    def aio(self) -> "_Aio":
        return _Aio(self._wrapped.aio)


class _Aio(Wrapped):
    @property
    def models(self) -> "_Models":
        return _Models(self._wrapped.models)


class _Models(Wrapped):
    async def generate_content_stream(self, **request: Any) -> AsyncIterator[Any]:
        return mended_events(await self._wrapped.generate_content_stream(**request))


async def mended_events(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The events of a streamed answer. The last one has the reason for the end, and the usage.

    Raises:
        AgentError: the stream broke off. Its usage is no sign of the end, since every event has one.
    """
    reason = usage = None
    has_content = blocked = False
    async for event in events:
        usage = event.usage_metadata or usage
        feedback = event.prompt_feedback
        blocked = blocked or (feedback is not None and feedback.block_reason is not None)
        for candidate in (event.candidates or ())[:1]:
            reason = candidate.finish_reason or reason
            has_content = has_content or bool(candidate.content and candidate.content.parts)
        yield event
    if has_content and not blocked and reason is None:
        raise AgentError(BROKEN_OFF, code="model_unavailable")
    last = SimpleNamespace(content=None, finish_reason=BLOCKED if blocked else reason)
    yield SimpleNamespace(candidates=[last], usage_metadata=usage)
