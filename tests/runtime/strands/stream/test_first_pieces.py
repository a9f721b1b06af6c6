"""The first piece of a call's input, beside its name, which strands' classes for two providers drop."""

import json
from typing import Any

import httpx
import pytest
from strands import tool
from strands.models.llamaapi import LlamaAPIModel
from strands.models.writer import WriterModel

from runstore.core.events import ToolFinished
from tests.runtime.strands_kit import agent, drive

Event = dict[str, Any]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


@tool
def add(a: int = 0, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


def of_writer(delta: Event, finish: str | None = None) -> Event:
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""} | delta, "finish_reason": finish}
    made = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return made | {"choices": [choice], "usage": USAGE}


def writer(*pieces: str) -> tuple[Any, list[list[Event]]]:
    calls = [
        of_writer(
            {"tool_calls": [{"index": 0, "id": "a"} | {"function": {"name": name, "arguments": piece}}]}
        )
        for name, piece in zip(("add", *[None] * 9), pieces, strict=False)
    ]
    answers = [[*calls, of_writer({}, "tool_calls")], [of_writer({"content": "done"}), of_writer({}, "stop")]]
    return WriterModel, answers


def of_llama(kind: str, delta: Event, **more: Any) -> Event:
    return {"event": {"event_type": kind, "delta": delta} | more}


def llama(*pieces: str) -> tuple[Any, list[list[Event]]]:
    def text(words: str) -> Event:
        return {"type": "text", "text": words}

    begun = of_llama("start", text(""))
    calls = [
        of_llama(
            "progress", {"type": "tool_call", "id": "a", "function": {"name": "add", "arguments": piece}}
        )
        for piece in pieces
    ]
    names = ("num_prompt_tokens", "num_completion_tokens", "num_total_tokens")
    counted = of_llama("metrics", text(""), metrics=[{"metric": name, "value": 1} for name in names])
    ended = [of_llama("complete", text(""), stop_reason=reason) for reason in ("tool_calls", "stop")]
    said = of_llama("progress", text("done"))
    return LlamaAPIModel, [[begun, *calls, ended[0], counted], [begun, said, ended[1], counted]]


@pytest.mark.filterwarnings("ignore:LlamaAPIModel:DeprecationWarning")
@pytest.mark.parametrize(
    "pieces", [('{"a": 1, "b": 2}',), ("", '{"a": 1,', ' "b": 2}'), ('{"a": 1,', ' "b": 2}')]
)
@pytest.mark.parametrize("provider", [writer, llama])
async def test_a_tool_gets_all_of_its_input(provider: Any, pieces: tuple[str, ...]) -> None:
    cls, answers = provider(*pieces)

    def answer(request: httpx.Request) -> httpx.Response:
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in answers.pop(0))
        return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})

    client = httpx.AsyncClient if cls is WriterModel else httpx.Client
    http = client(transport=httpx.MockTransport(answer))
    model = cls(client_args={"api_key": "k", "http_client": http}, model_id="m")
    recorder, ended = await drive(agent(model, add))
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "3"}]]
    assert ended.result["text"] == "done"
