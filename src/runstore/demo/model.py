"""The scripted model: a strands model without an LLM. It repeats the input's words and calls tools.

It is deterministic, needs no key and no network, and runs in strands' own loop, including tools.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypedDict, TypeVar

import msgspec
from pydantic import BaseModel
from strands.models import Model
from strands.types.content import ContentBlock, ContentBlockStartToolUse, Messages
from strands.types.event_loop import Usage
from strands.types.streaming import StreamEvent
from strands.types.tools import ToolChoice, ToolSpec
from typing_extensions import override

from runstore.demo.input import tool_input
from runstore.demo.text import answer, echo

MAX_REPORTED = 2_000  # words of a tool's result that the answer repeats

T = TypeVar("T", bound=BaseModel)


class ScriptedConfig(TypedDict):
    """Configuration of a scripted model. Usage is reported under `model_id`."""

    model_id: str
    tokens: int | None
    tokens_per_s: float


class ScriptedModel(Model):
    """Streams `demo.text.answer` to the last user text, one word per chunk.

    Args:
        tokens: exactly this number of words; None: the whole answer.
        tokens_per_s: 0 streams without pauses. Otherwise word n comes n / tokens_per_s seconds after the
            first on `clock`, so that one late word does not delay the others.
        calls_all: call every tool at once, as a delegating supervisor does; otherwise only the first one.
    """

    def __init__(
        self,
        tokens: int | None = None,
        tokens_per_s: float = 0,
        *,
        calls_all: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.config = ScriptedConfig(model_id="scripted", tokens=tokens, tokens_per_s=tokens_per_s)
        self._calls_all = calls_all
        self._clock = clock
        self._sleep = sleep

    @override
    def update_config(self, **model_config: Any) -> None:
        self.config.update(model_config)  # type: ignore[typeddict-item]

    @override
    def get_config(self) -> ScriptedConfig:
        return self.config

    @override
    def stream(
        self,
        messages: Messages,
        tool_specs: list[ToolSpec] | None = None,
        system_prompt: str | None = None,
        *,
        tool_choice: ToolChoice | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[StreamEvent, None]:
        """One turn of the model: a tool call until the turn has a tool's result, then text."""
        turn = _turn(messages)
        specs = _tools_to_call(tool_specs or [], tool_choice, called=bool(turn.results))
        if specs:
            return self._call(specs if self._calls_all else specs[:1], turn.task, messages)
        tokens, report = self.config["tokens"], " ".join(turn.results)
        words = echo(report, tokens, MAX_REPORTED) if turn.results else answer(turn.task, tokens)
        return self._say(words, messages)

    @override
    async def structured_output(
        self, output_model: type[T], prompt: Messages, system_prompt: str | None = None, **kwargs: Any
    ) -> AsyncGenerator[dict[str, T | Any], None]:
        """The smallest object that the model's schema accepts, filled from the last user text."""
        filled = tool_input(output_model.model_json_schema(), _turn(prompt).task)
        yield {"output": output_model.model_validate(filled)}

    async def _say(self, words: list[str], messages: Messages) -> AsyncGenerator[StreamEvent, None]:
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        rate, start = self.config["tokens_per_s"], self._clock()
        for n, word in enumerate(words):
            if rate and (wait := start + n / rate - self._clock()) > 0:
                await self._sleep(wait)
            yield {"contentBlockDelta": {"delta": {"text": word}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}
        yield _usage(messages, output_tokens=len(words))

    async def _call(
        self, specs: Sequence[ToolSpec], task: str, messages: Messages
    ) -> AsyncGenerator[StreamEvent, None]:
        calls = sum("toolUse" in block for message in messages for block in message["content"])
        yield {"messageStart": {"role": "assistant"}}
        for number, spec in enumerate(specs, calls + 1):
            schema: Any = spec["inputSchema"]
            arguments = msgspec.json.encode(tool_input(schema.get("json", schema), task)).decode()
            tool_use: ContentBlockStartToolUse = {"name": spec["name"], "toolUseId": f"scripted-{number}"}
            yield {"contentBlockStart": {"start": {"toolUse": tool_use}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": arguments}}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use"}}
        yield _usage(messages, output_tokens=0)


class _Turn:
    """The input of a turn: the last plain user text, and the tool results since."""

    def __init__(self) -> None:
        self.task = ""
        self.results: list[str] = []


def _turn(messages: Messages) -> _Turn:
    turn = _Turn()
    for message in reversed(messages):
        if message["role"] != "user":
            continue
        results = [block["toolResult"] for block in message["content"] if "toolResult" in block]
        if not results:
            turn.task = " ".join(block["text"] for block in message["content"] if "text" in block)
            return turn
        found = [_text(item) for result in results for item in result["content"]]
        turn.results = turn.results or found or [""]
    return turn


def _text(item: Any) -> str:
    return str(item["text"] if "text" in item else item.get("json", ""))


def _tools_to_call(specs: list[ToolSpec], choice: Any, *, called: bool) -> list[ToolSpec]:
    if choice and "tool" in choice:
        return [spec for spec in specs if spec["name"] == choice["tool"]["name"]]
    return [] if called else specs


def _usage(messages: Messages, *, output_tokens: int) -> StreamEvent:
    input_tokens = sum(_words_in(block) for message in messages for block in message["content"])
    total = input_tokens + output_tokens
    usage = Usage(inputTokens=input_tokens, outputTokens=output_tokens, totalTokens=total)
    return {"metadata": {"usage": usage, "metrics": {"latencyMs": 0}}}


def _words_in(block: ContentBlock) -> int:
    if "toolResult" in block:
        return sum(len(_text(item).split()) for item in block["toolResult"]["content"])
    return len(block.get("text", "").split())
