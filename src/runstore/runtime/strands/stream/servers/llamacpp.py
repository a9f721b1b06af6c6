"""Mends answers in OpenAI's chat completions before strands' class for llama.cpp reads them.

It passes over each chunk that has a usage, although servers send text beside one, or a usage that is null. It
fails for parts that are null, and puts calls together by the server's index alone.
"""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from runstore.core.depth import check_decodable
from runstore.runtime.strands.stream.servers.openai import ToolCalls
from runstore.runtime.strands.stream.servers.wrapped import Wrapped


def mend_client(model: Any) -> None:
    """Let a model get mended answers. Safe to call twice."""
    if not isinstance(model.client, _Client):
        model.client = _Client(model.client)


class _Client(Wrapped):
    async def post(self, *arguments: Any, **options: Any) -> Any:
        return _Response(await self._wrapped.post(*arguments, **options))


class _Response(Wrapped):
    def aiter_lines(self) -> AsyncIterator[str]:
        return mended_lines(self._wrapped.aiter_lines())


async def mended_lines(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """The lines of a streamed answer; its usage stands alone in the last one."""
    calls, usage = ToolCalls(), None
    async for line in lines:
        name, _, data = line.partition(":")
        chunk = _decoded(data) if name == "data" else None
        if chunk is None:
            continue
        usage = chunk.pop("usage", None) or usage
        for choice in (chunk.get("choices") or ())[:1]:
            choice["delta"] = _mended(choice.get("delta") or {}, calls)
            yield _line({"choices": [choice]})
    if usage:
        yield _line({"usage": usage})


def _decoded(data: str) -> dict[str, Any] | None:
    try:
        check_decodable(data.encode(errors="replace"))
        value = json.loads(data)
    except (ValueError, RecursionError):  # also `[DONE]`, the last line
        return None
    return value if isinstance(value, dict) else None


def _line(value: Any) -> str:
    return f"data: {json.dumps(value)}"


def _mended(delta: dict[str, Any], calls: ToolCalls) -> dict[str, Any]:
    given = delta.get("tool_calls") or []
    pieces = [_piece(each) for each in given] if isinstance(given, list) else given
    mended = SimpleNamespace(tool_calls=pieces, function_call=_function(delta.get("function_call")))
    calls.mend(mended)
    made = [
        {
            "index": each.index,
            "id": each.id,
            "function": {"name": each.function.name, "arguments": each.function.arguments or ""},
        }
        for each in mended.tool_calls
    ]
    return {**delta, "tool_calls": made}


def _piece(given: Any) -> Any:
    """A piece of a call, as an object that `ToolCalls` can mend."""
    if not isinstance(given, dict):
        return given
    function = _function(given.get("function"))
    return SimpleNamespace(index=given.get("index"), id=given.get("id"), function=function)


def _function(given: Any) -> Any:
    if not isinstance(given, dict):
        return None
    return SimpleNamespace(name=given.get("name"), arguments=given.get("arguments"))
