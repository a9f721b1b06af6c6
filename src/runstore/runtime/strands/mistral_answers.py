"""Mends Mistral's answers before strands reads them.

Reasoning models send their content as a list of parts, to which strands cannot add.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

from runstore.runtime.strands.wrapped import Wrapped, WrappedClient


def mending(client: Callable[..., Any]) -> Callable[..., Any]:
    """The class of Mistral's client; its clients mend answers."""

    def mending_client(**arguments: Any) -> _Client:
        return _Client(client(**arguments))

    return mending_client


class _Client(WrappedClient):
    @property
    def chat(self) -> "_Chat":
        return _Chat(self._wrapped.chat)


class _Chat(Wrapped):
    async def stream_async(self, **request: Any) -> AsyncIterator[Any]:
        return _mended(await self._wrapped.stream_async(**request))

    async def complete_async(self, **request: Any) -> Any:
        answer = await self._wrapped.complete_async(**request)
        for choice in answer.choices or ():
            _mend(choice.message)
        return answer


async def _mended(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for chunk in chunks:
        for choice in chunk.data.choices or ():
            _mend(choice.delta)
        yield chunk


def _mend(delta: Any) -> None:
    """Make content in parts text. Reasoning, which strands has no place for here, is left out."""
    if isinstance(delta.content, list):
        delta.content = "".join(
            part.text for part in delta.content if isinstance(getattr(part, "text", None), str)
        )
