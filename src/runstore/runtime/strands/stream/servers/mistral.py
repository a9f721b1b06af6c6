"""Mends Mistral's answers before strands reads them.

Reasoning models send their content as a list of parts, to which strands cannot add. Others send a call in
pieces, of which only the first one has the id by which strands puts them together.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

from runstore.runtime.strands.stream.servers.openai import ToolCalls
from runstore.runtime.strands.stream.servers.wrapped import Wrapped, WrappedClient

NO_ID = "null"  # the id that Mistral's package gives to a call without one


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
    calls, ids = ToolCalls(), dict[int, str]()
    async for chunk in chunks:
        for choice in (chunk.data.choices or ())[:1]:
            _mend(choice.delta)
            if isinstance(choice.delta.tool_calls, list):
                _mend_calls(choice.delta, calls, ids)
        yield chunk


def _mend_calls(delta: Any, calls: ToolCalls, ids: dict[int, str]) -> None:
    """Give each piece the id of its call. `ids`: of the calls so far, by their number."""
    for piece in delta.tool_calls:
        piece.id = None if piece.id in (None, "", NO_ID) else piece.id
    calls.mend(delta)
    for piece in delta.tool_calls:
        piece.id = ids.setdefault(piece.index, piece.id or f"call{piece.index:05}")
        piece.function.arguments = piece.function.arguments or ""


def _mend(delta: Any) -> None:
    """Make content in parts text. Reasoning, which strands has no place for here, is left out."""
    if isinstance(delta.content, list):
        delta.content = "".join(
            part.text for part in delta.content if isinstance(getattr(part, "text", None), str)
        )
