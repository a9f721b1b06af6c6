"""The model of a fixture: it gives the recorded answers, and asks no provider."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from strands import Agent
from strands.models import Model
from typing_extensions import override

from runstore.core.content import with_bytes
from runstore.core.errors import AgentError
from runstore.core.events import Place
from runstore.core.folds.transcript import message_text
from runstore.runtime.replay.dialogues import Answer
from runstore.runtime.replay.follower import Follower
from runstore.runtime.strands.hierarchy import call_of
from runstore.runtime.strands.stream.chunks import Chunk

REDACTED = "(redacted)"  # stands for an answer that is withheld


class FixtureModel(Model):
    """Answers one agent from the dialogues of a run.

    Args:
        path: of the agent, outside of tool calls.
    """

    def __init__(self, agent: Agent, path: str, follower: Follower) -> None:
        self._agent = agent
        self._path = path
        self._follower = follower

    @override
    def update_config(self, **model_config: Any) -> None:
        pass

    @override
    def get_config(self) -> dict[str, Any]:
        return {"model_id": "fixture"}

    @override
    def structured_output(self, *arguments: Any, **options: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Refuse: strands does not pass such an object through the messages that a log has."""
        raise AgentError("a fixture has no answers for Agent.structured_output; use structured_output_model")

    @override
    async def stream(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        call = call_of(self._agent)
        place = call.place if call is not None else Place(self._path)
        await asyncio.sleep(0)  # a provider takes its time: a loop around it can be cancelled
        for chunk in chunks_of(self._follower.next_answer(place)):
            yield chunk


def chunks_of(answer: Answer) -> Iterator[Chunk]:
    """An answer as a provider streams it, one chunk for each block."""
    yield {"messageStart": {"role": "assistant"}}
    for block in answer.content if not answer.redacted else [{"text": REDACTED}]:
        yield from _of_block(with_bytes(block))
    used = any("toolUse" in block for block in answer.content)
    yield {"messageStop": {"stopReason": answer.finish_reason or ("tool_use" if used else "end_turn")}}
    # An answer that used no tokens would count as a failure of its provider.
    usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
    yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 0}}}


def _of_block(block: Mapping[str, Any]) -> Iterator[Chunk]:
    start: dict[str, Any] = {}
    deltas: list[dict[str, Any]] = []
    if (use := block.get("toolUse")) is not None:
        start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
        deltas = [{"toolUse": {"input": json.dumps(use["input"])}}]
    elif (reasoning := block.get("reasoningContent")) is not None:
        deltas = [{"reasoningContent": each} for each in _of_reasoning(reasoning)]
    elif text := message_text({"content": [block]}):
        deltas = [{"text": text}]
    else:
        raise AgentError(f"an answer has a block that a fixture cannot repeat: {', '.join(block)}")
    yield {"contentBlockStart": {"start": start}}
    for delta in deltas:
        yield {"contentBlockDelta": {"delta": delta}}
    yield {"contentBlockStop": {}}


def _of_reasoning(reasoning: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    thought = reasoning.get("reasoningText", {})
    if text := thought.get("text"):
        yield {"text": text}
    if signature := thought.get("signature"):
        yield {"signature": signature}
    if (redacted := reasoning.get("redactedContent")) is not None:
        yield {"redactedContent": redacted}
