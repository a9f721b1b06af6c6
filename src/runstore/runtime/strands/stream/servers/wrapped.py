"""An object in place of another one, some of whose attributes it replaces."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import httpx


class Wrapped:
    """Everything else is the wrapped object's."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class WrappedClient(Wrapped):
    """A wrapped client whose connections an `async with` closes."""

    async def __aenter__(self) -> Self:
        await self._wrapped.__aenter__()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._wrapped.__aexit__(*failure)


async def until_broken(parts: AsyncIterator[Any], ends: Callable[[Any], bool]) -> AsyncIterator[Any]:
    """The parts of an answer, without the error of a connection that breaks after a part that `ends` it."""
    ended = False
    try:
        async for part in parts:
            ended = ended or ends(part)
            yield part
    except httpx.TransportError:
        if not ended:
            raise
