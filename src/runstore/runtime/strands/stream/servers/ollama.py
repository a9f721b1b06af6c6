"""Mends Ollama's answers before strands reads them.

strands fails for a stream that breaks off, as it adds up the tokens that the last line would have. It fails
for a last line without these numbers, too: Ollama leaves out those of a prompt that it has cached.
"""

from collections.abc import AsyncIterator
from typing import Any

from runstore.core.errors import AgentError
from runstore.runtime.strands.stream.repair import BROKEN_OFF
from runstore.runtime.strands.stream.servers.wrapped import Wrapped

COUNTS = ("prompt_eval_count", "eval_count", "total_duration")


def mending(package: Any) -> Any:
    """Ollama's package, with clients that mend answers."""
    return _Package(package)


class _Package(Wrapped):
    def AsyncClient(self, *arguments: Any, **options: Any) -> "_Client":
        return _Client(self._wrapped.AsyncClient(*arguments, **options))


class _Client(Wrapped):
    async def chat(self, **request: Any) -> Any:
        answer = await self._wrapped.chat(**request)
        return _whole(answer) if request.get("stream") else answer


async def _whole(lines: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The lines of a streamed answer.

    Raises:
        AgentError: the stream broke off.
    """
    done: bool | None = True  # also of an empty stream, which is no answer
    async for line in lines:
        done = line.done
        if done:
            for name in COUNTS:
                setattr(line, name, getattr(line, name, None) or 0)
        yield line
    if not done:
        raise AgentError(BROKEN_OFF, code="model_unavailable")
