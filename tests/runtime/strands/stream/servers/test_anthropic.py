"""Answers of servers that speak Anthropic's protocol whose faults its package and strands do not pass on."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest
from strands import tool
from strands.models.anthropic import AnthropicModel

from runstore.core.errors import AgentError
from runstore.core.events import Message, Reasoning, Token, ToolFailed, ToolFinished, Usage
from runstore.core.ports import AgentResult
from tests.runtime.recording import ListRecorder
from tests.runtime.strands_kit import agent, drive

Event = dict[str, Any]
USAGE = {"input_tokens": 7, "output_tokens": 1}


@tool
def add(a: int = 0, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@tool
def repeat(text: str) -> str:
    """Say a text."""
    return text


def start(**more: Any) -> Event:
    message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": []}
    return {"type": "message_start", "message": message | {"stop_reason": None, "stop_sequence": None} | more}


def block(*deltas: Event, index: int = 0, **content: Any) -> list[Event]:
    begun = {"type": "content_block_start", "index": index, "content_block": content}
    said = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [begun, *said, {"type": "content_block_stop", "index": index}]


def text(words: str) -> list[Event]:
    return block({"type": "text_delta", "text": words}, type="text", text="")


def call(name: str, input: Event, *pieces: str) -> list[Event]:
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return block(*deltas, type="tool_use", id="t1", name=name, input=input)


def end(reason: str = "end_turn", **more: Any) -> list[Event]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta} | more, {"type": "message_stop"}]


DONE = [start(usage=USAGE), *text("done"), *end(usage={"output_tokens": 2})]


async def run(*answers: list[Event], breaks: bool = False) -> tuple[ListRecorder, AgentResult]:
    """`breaks`: the connection breaks after each answer."""
    waiting = list(answers)

    async def body(events: list[Event]) -> AsyncIterator[bytes]:
        for each in events:
            yield f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode()
        if breaks:
            raise httpx.RemoteProtocolError("incomplete chunked read")

    def answer(request: httpx.Request) -> httpx.Response:
        content = body(waiting.pop(0))
        return httpx.Response(200, content=content, headers={"Content-Type": "text/event-stream"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    arguments = {"api_key": "k", "max_retries": 0, "http_client": http}
    model = AnthropicModel(client_args=arguments, model_id="c", max_tokens=9)
    assert isinstance(model.client, anthropic.AsyncAnthropic)
    return await drive(agent(model, add, repeat))


@pytest.mark.parametrize(
    ("begins", "ends", "counted"),
    [
        ({"usage": USAGE}, {"usage": {"output_tokens": 2}}, (7, 2)),
        ({}, {"usage": {"output_tokens": 2}}, (0, 2)),
        ({"usage": {}}, {"usage": {"output_tokens": 2}}, (0, 2)),
        ({"usage": {"input_tokens": None, "output_tokens": 0}}, {"usage": {"output_tokens": 2}}, (0, 2)),
        ({"usage": USAGE}, {}, (7, 0)),
        ({"usage": USAGE}, {"usage": None}, (7, 0)),
    ],
)
async def test_numbers_of_tokens_that_are_missing_are_zero(begins: Event, ends: Event, counted: Any) -> None:
    recorder, ended = await run([start(**begins), *text("Hello"), *end(**ends)])
    assert ended.result == {"text": "Hello", "stop_reason": "end_turn"}
    assert [(event.input_tokens, event.output_tokens) for event in recorder.of(Usage)] == [counted]


@pytest.mark.parametrize(
    ("input", "pieces"),
    [
        ({}, ("", '{"a": 1,', ' "b": 2}')), ({"a": 1, "b": 2}, ()), ({"a": 1, "b": 2}, ("",)),
        ({"a": 5}, ('{"a": 1, "b": 2}',)),
    ],
    ids=["in pieces", "at the start", "at the start, with an empty piece", "both"],
)  # fmt: skip
async def test_a_calls_input_is_read_wherever_it_stands(input: Event, pieces: tuple[str, ...]) -> None:
    calls = [start(usage=USAGE), *call("add", input, *pieces), *end("tool_use", usage=USAGE)]
    recorder, ended = await run(calls, DONE)
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "3"}]]
    assert ended.result["text"] == "done"


async def test_a_calls_input_may_hold_line_breaks() -> None:
    calls = [start(usage=USAGE), *call("repeat", {}, '{"text": "a\n', '\tb"}'), *end("tool_use", usage=USAGE)]
    recorder, _ = await run(calls, DONE)
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "a\n\tb"}]]


async def test_a_calls_input_that_is_cut_off_fails_the_tool() -> None:
    calls = [start(usage=USAGE), *call("add", {}, '{"a": 1'), *end("tool_use", usage=USAGE)]
    recorder, ended = await run(calls, DONE)
    wrong = [{"text": "the input of tool 'add' is not a JSON object"}]
    assert [event.output for event in recorder.of(ToolFailed)] == [wrong]
    assert ended.result["text"] == "done"


async def test_a_text_may_stand_in_the_start_of_its_block() -> None:
    more = {"type": "text_delta", "text": " is"}
    said = [start(usage=USAGE), *block(more, type="text", text="Paris"), *end(usage=USAGE)]
    recorder, ended = await run(said)
    assert ended.result["text"] == "".join(event.text for event in recorder.of(Token)) == "Paris is"


def begin(index: int | None, **content: Any) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": content}


def say(index: int | None, words: str) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": words}}


def think(index: int | None, words: str) -> Event:
    delta = {"type": "thinking_delta", "thinking": words}
    return {"type": "content_block_delta", "index": index, "delta": delta}


def put(index: int | None, piece: str) -> Event:
    delta = {"type": "input_json_delta", "partial_json": piece}
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stop(index: int | None) -> Event:
    return {"type": "content_block_stop", "index": index}


def tool_use(index: int | None, id: str = "t1") -> Event:
    return begin(index, type="tool_use", id=id, name="add", input={})


THINKING = {"type": "thinking", "thinking": "", "signature": ""}
TEXT = {"type": "text", "text": ""}
DISORDERED = {
    "a number is skipped": [
        begin(0, **THINKING), think(0, "Hm."), stop(0), begin(2, **TEXT), say(2, "So:"), stop(2),
        tool_use(5), put(5, '{"a": 1, "b": 2}'), stop(5),
    ],
    "one number for two blocks": [
        begin(0, **THINKING), think(0, "Hm."), begin(0, **TEXT), say(0, "So:"), stop(0),
        tool_use(0), put(0, '{"a": 1, "b": 2}'), stop(0),
    ],
    "no numbers": [
        begin(None, **THINKING), think(None, "Hm."), stop(None), begin(None, **TEXT), say(None, "So:"),
        stop(None), tool_use(None), put(None, '{"a": 1, "b": 2}'), stop(None),
    ],
    "thinking within a text": [
        begin(0, **TEXT), think(0, "Hm."), say(0, "So:"), stop(0),
        tool_use(1), put(1, '{"a": 1, "b": 2}'), stop(1),
    ],
    "no starts": [
        think(0, "Hm."), stop(0), say(1, "So:"), stop(1), tool_use(2), put(2, '{"a": 1, "b": 2}'), stop(2),
    ],
    "no ends": [
        begin(0, **THINKING), think(0, "Hm."), begin(1, **TEXT), say(1, "So:"), tool_use(2),
        put(2, '{"a": 1, "b": 2}'),
    ],
    "ends at the end": [
        begin(0, **THINKING), think(0, "Hm."), begin(1, **TEXT), say(1, "So:"), tool_use(2),
        put(2, '{"a": 1, "b": 2}'), stop(0), stop(1), stop(2),
    ],
    "an end that comes twice": [
        begin(0, **THINKING), think(0, "Hm."), stop(0), stop(0), begin(1, **TEXT), say(1, "So:"), stop(1),
        tool_use(2), put(2, '{"a": 1, "b": 2}'), stop(2), stop(2), stop(7),
    ],
    "a text while a call is under way": [
        begin(0, **THINKING), think(0, "Hm."), stop(0), tool_use(1), put(1, '{"a": 1,'), begin(2, **TEXT),
        say(2, "So:"), put(1, '"b": 2}'), stop(2), stop(1),
    ],
    "thinking in the start of its block": [
        begin(0, type="thinking", thinking="Hm.", signature="s"), stop(0), begin(1, **TEXT), say(1, "So:"),
        stop(1), tool_use(2), put(2, '{"a": 1, "b": 2}'), stop(2),
    ],
}  # fmt: skip


@pytest.mark.parametrize("blocks", DISORDERED.values(), ids=DISORDERED)
async def test_blocks_in_disorder_are_read(blocks: list[Event]) -> None:
    recorder, ended = await run([start(usage=USAGE), *blocks, *end("tool_use", usage=USAGE)], DONE)
    assert [event.text for event in recorder.of(Reasoning)] == ["Hm."]
    assert [event.text for event in recorder.of(Token)] == ["So:", "done"]
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "3"}]]
    first = recorder.of(Message)[0].message["content"]
    assert [next(iter(each)) for each in first] == ["reasoningContent", "text", "toolUse"]
    assert ended.result == {"text": "done", "stop_reason": "end_turn"}


async def test_calls_that_overlap_are_all_made() -> None:
    blocks = [
        tool_use(0, "t1"), tool_use(1, "t2"), put(0, '{"a": 1,'), put(1, '{"a": 3,'), put(0, '"b": 2}'),
        put(1, '"b": 4}'), stop(1), stop(0),
    ]  # fmt: skip
    recorder, _ = await run([start(usage=USAGE), *blocks, *end("tool_use", usage=USAGE)], DONE)
    outputs = {event.tool_use_id: event.output for event in recorder.of(ToolFinished)}
    assert outputs == {"t1": [{"text": "3"}], "t2": [{"text": "7"}]}


@pytest.mark.parametrize(
    "blocks", [[tool_use(0), put(0, '{"a": 1}')], [begin(0, **TEXT), say(0, "The")]], ids=["call", "text"]
)
async def test_an_answer_that_ends_within_a_block_has_broken_off(blocks: list[Event]) -> None:
    with pytest.raises(AgentError, match="broke off") as broken:
        await run([start(usage=USAGE), *blocks])
    assert broken.value.code == "model_unavailable"


@pytest.mark.parametrize("breaks", [False, True])
async def test_an_answer_whose_last_event_never_comes_is_complete(breaks: bool) -> None:
    called = [start(usage=USAGE), *call("add", {}, '{"a": 1, "b": 2}'), *end("tool_use", usage=USAGE)]
    recorder, ended = await run(called[:-1], DONE[:-1], breaks=breaks)
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "3"}]]
    assert ended.result == {"text": "done", "stop_reason": "end_turn"}


async def test_an_answer_whose_connection_breaks_has_broken_off() -> None:
    with pytest.raises(AgentError) as broken:
        await run([start(usage=USAGE), *text("The")], breaks=True)
    assert broken.value.code == "model_unavailable"
