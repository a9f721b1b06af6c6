"""Scripted models, and helpers that run an agent through StrandsAgent."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from weakref import WeakSet

from strands import Agent
from strands.models import Model

from runstore.core.codec import RecordedEvent
from runstore.core.ports import AgentResult
from runstore.runtime.strands.agent import Product, StrandsAgent
from tests.runtime.recording import ListRecorder, context

Chunk = dict[str, Any]
Turn = list[Chunk | BaseException]


class Playbook(Model):
    """Each model call plays the next turn. `calls` counts them; `heard` keeps the messages of each."""

    def __init__(self, *turns: Turn, model_id: str = "playbook") -> None:
        self.turns = list(turns)
        self.calls = 0
        self.heard: list[Any] = []
        self.config = {"model_id": model_id}

    def update_config(self, **model_config: Any) -> None:
        self.config.update(model_config)

    def get_config(self) -> dict[str, Any]:
        return self.config

    async def structured_output(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self.heard.append(messages)
        turn = self.turns[self.calls]
        self.calls += 1
        for chunk in turn:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk


def delta(**content: Any) -> Chunk:
    return {"contentBlockDelta": {"delta": content}}


def say(*words: str, stop: str = "end_turn") -> Turn:
    return [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockStart": {"start": {}}},
        *(delta(text=word) for word in words),
        {"contentBlockStop": {}},
        {"messageStop": {"stopReason": stop}},
        _usage(len(words)),
    ]


def think(*words: str) -> Turn:
    start: Turn = [{"contentBlockStart": {"start": {}}}]
    return start + [delta(reasoningContent={"text": word}) for word in words] + [{"contentBlockStop": {}}]


def use(*calls: tuple[str, str, dict[str, Any]]) -> Turn:
    """Call tools: (tool use id, name, input)."""
    turn: Turn = [{"messageStart": {"role": "assistant"}}]
    for use_id, name, arguments in calls:
        turn += [
            {"contentBlockStart": {"start": {"toolUse": {"toolUseId": use_id, "name": name}}}},
            delta(toolUse={"input": json.dumps(arguments)}),
            {"contentBlockStop": {}},
        ]
    return [*turn, {"messageStop": {"stopReason": "tool_use"}}, _usage(0)]


def _usage(said: int) -> Chunk:
    return {"metadata": {"usage": {"inputTokens": 7, "outputTokens": said, "totalTokens": 7 + said}}}


def agent(model: Model, *tools: Any, **settings: Any) -> Agent:
    return Agent(model=model, tools=list(tools), callback_handler=None, **settings)


async def drive(
    product: Product, input: Any = "hi", history: Sequence[RecordedEvent] = ()
) -> tuple[ListRecorder, AgentResult]:
    """Run to the end; a new attempt when there is a history."""
    recorder = ListRecorder(history)
    ended = await StrandsAgent(product, context(), WeakSet()).run(input, list(history), recorder)
    return recorder, ended


def cut(recorder: ListRecorder, last: Callable[[RecordedEvent], bool]) -> list[RecordedEvent]:
    """The log at the worker's death: up to the last event for which `last` is true."""
    seq = max(event.seq for event in recorder.recorded if last(event))
    return recorder.recorded[:seq]
