"""Answers that break their provider's protocol, as servers that speak OpenAI's protocol send them."""

import datetime
import json
from typing import Any

import pytest
from strands import tool
from strands.types.tools import ToolResult

from runstore.core.errors import AgentError
from runstore.core.events import Message, Token, ToolFailed, ToolFinished, ToolStarted, Usage
from tests.runtime.recording import ListRecorder
from tests.runtime.strands_kit import Chunk, Playbook, Turn, agent, delta, drive, say

STARTED: Chunk = {"messageStart": {"role": "assistant"}}
BLOCK: Chunk = {"contentBlockStart": {"start": {}}}
BLOCK_END: Chunk = {"contentBlockStop": {}}
USAGE: Chunk = {"metadata": {"usage": {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9}}}


def stop(reason: str) -> Chunk:
    return {"messageStop": {"stopReason": reason}}


def call(use_id: str | None, name: str | None, *pieces: Any) -> Turn:
    begun: Chunk = {"contentBlockStart": {"start": {"toolUse": {"toolUseId": use_id, "name": name}}}}
    return [begun, *(delta(toolUse={"input": piece}) for piece in pieces), BLOCK_END]


@tool
def add(a: int = 0, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


async def run(*turns: Turn, tools: tuple[Any, ...] = (add,)) -> tuple[ListRecorder, dict[str, Any], Playbook]:
    model = Playbook(*turns)
    recorder, ended = await drive(agent(model, *tools))
    return recorder, ended.result, model


async def test_an_answer_without_a_reason_for_its_end_counts_if_its_usage_has_come() -> None:
    recorder, result, _ = await run([STARTED, BLOCK, delta(text="Hello"), stop("end_turn"), USAGE])
    assert result == {"text": "Hello", "stop_reason": "end_turn"}
    assert [event.message for event in recorder.of(Message)] == [
        {"role": "assistant", "content": [{"text": "Hello"}]}
    ]


@pytest.mark.parametrize("end", [[stop("end_turn")], []], ids=["of the message", "of the stream"])
async def test_an_answer_that_ends_within_a_block_and_has_no_usage_broke_off(end: Turn) -> None:
    with pytest.raises(AgentError, match="broke off") as caught:
        await run([STARTED, BLOCK, delta(text="Hello"), *end])
    assert caught.value.code == "model_unavailable"


@pytest.mark.parametrize("use_id", [None, ""])
async def test_calls_without_ids_are_made(use_id: str | None) -> None:
    calls = [*call(use_id, "add", '{"a": 1}'), *call(use_id, "add", '{"a": 2}')]
    recorder, result, _ = await run([STARTED, *calls, stop("tool_use"), USAGE], say("done"))
    assert result["text"] == "done"
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "1"}], [{"text": "2"}]]
    assert len({event.tool_use_id for event in recorder.of(ToolStarted)} - {use_id}) == 2


@pytest.mark.parametrize(
    "name",
    [
        " add\n", "functions.add", "default_api:add", "tools.add", "add<|channel|>commentary",
        "functions.add<|x|>",
    ],
)  # fmt: skip
async def test_a_tools_name_may_have_a_models_template_around_it(name: str) -> None:
    recorder, _, _ = await run([STARTED, *call("t1", name, '{"a": 1}'), stop("tool_use"), USAGE], say("ok"))
    assert [(event.name, event.output) for event in recorder.of(ToolFinished)] == [("add", [{"text": "1"}])]
    assert recorder.of(Message)[0].message["content"][0]["toolUse"]["name"] == "add"


@pytest.mark.parametrize("name", ["functions.sum", "server2:add", "browser.add", "my.functions.add"])
async def test_a_name_that_means_no_tool_is_unknown(name: str) -> None:
    recorder, _, model = await run([STARTED, *call("t1", name, "{}"), stop("tool_use"), USAGE], say("ok"))
    assert not recorder.of(ToolStarted)
    assert model.heard[1][-1]["content"][0]["toolResult"]["status"] == "error"


async def test_two_calls_of_one_id_get_two() -> None:
    calls = [*call("c", "add", '{"a": 1}'), *call("c", "add", '{"a": 2}')]
    recorder, _, model = await run([STARTED, *calls, stop("tool_use"), USAGE], say("done"))
    ids = [event.tool_use_id for event in recorder.of(ToolStarted)]
    assert len(set(ids)) == 2
    results = [block["toolResult"]["toolUseId"] for block in model.heard[1][-1]["content"]]
    assert sorted(results) == sorted(ids)


async def test_a_stop_for_tools_without_a_call_is_the_end_of_a_text() -> None:
    _, result, model = await run([STARTED, BLOCK, delta(text="Hello"), BLOCK_END, stop("tool_use"), USAGE])
    assert (result, model.calls) == ({"text": "Hello", "stop_reason": "end_turn"}, 1)


@pytest.mark.parametrize(
    "calls", [[], call("c", "", "{}"), call("c", None)], ids=["none", "blank", "nameless"]
)
async def test_a_stop_for_tools_with_neither_call_nor_text_is_an_error_and_no_loop(calls: Turn) -> None:
    with pytest.raises(AgentError, match="named none") as caught:
        await run([STARTED, *calls, stop("tool_use"), USAGE])
    assert caught.value.code == "model_invalid_answer"


@pytest.mark.parametrize("input", ['{"a": 1', '{"a": 1}}', "[1]", "7", '"x"'])
async def test_a_tool_whose_input_is_no_object_fails_instead_of_being_called_without_it(input: str) -> None:
    recorder, result, _ = await run([STARTED, *call("c", "add", input), stop("tool_use"), USAGE], say("done"))
    assert result["text"] == "done"
    wrong = [{"text": "the input of tool 'add' is not a JSON object"}]
    assert [event.output for event in recorder.of(ToolFailed)] == [wrong]
    assert recorder.of(ToolFinished) == []


@pytest.mark.parametrize(
    "pieces",
    [
        ('{"a": ', '1, "b": 2}'),
        (json.dumps('{"a": 1, "b": 2}'),),
        ({"a": 1, "b": 2},),
        ("{}", '{"a": 1, "b": 2}'),
    ],
    ids=["in pieces", "encoded twice", "not encoded", "after an empty object"],
)
async def test_an_object_is_read_however_it_is_encoded(pieces: tuple[Any, ...]) -> None:
    recorder, _, _ = await run([STARTED, *call("c", "add", *pieces), stop("tool_use"), USAGE], say("done"))
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "3"}]]


async def test_line_breaks_and_tabs_in_a_text_need_not_be_escaped() -> None:
    @tool
    def say_it(text: str) -> str:
        """Say a text."""
        return text

    turn = [STARTED, *call("c", "say_it", '{"text": "one\n', '\n\ttwo"}'), stop("tool_use"), USAGE]
    recorder, _, model = await run(turn, say("done"), tools=(say_it,))
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "one\n\n\ttwo"}]]
    assert model.heard[1][1]["content"][0]["toolUse"]["input"] == {"text": "one\n\n\ttwo"}


@pytest.mark.parametrize("pieces", [(), ("",), (None,), ("null",), ("{}",)])
async def test_a_call_may_have_no_input(pieces: tuple[Any, ...]) -> None:
    recorder, _, _ = await run([STARTED, *call("c", "add", *pieces), stop("tool_use"), USAGE], say("done"))
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "0"}]]


async def test_numbers_of_tokens_that_are_missing_are_zero() -> None:
    counts = {"inputTokens": None, "outputTokens": 2.0, "totalTokens": float("nan")}
    turn = [STARTED, BLOCK, delta(text="Hello"), BLOCK_END, stop("end_turn"), {"metadata": {"usage": counts}}]
    recorder, result, _ = await run(turn)
    assert result["text"] == "Hello"
    assert [(event.input_tokens, event.output_tokens) for event in recorder.of(Usage)] == [(0, 2)]


async def test_content_in_parts_is_its_text() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hel"}, "lo"]
    recorder, result, _ = await run([STARTED, BLOCK, delta(text=parts), BLOCK_END, stop("end_turn"), USAGE])
    assert result["text"] == "Hello"
    assert [event.text for event in recorder.of(Token)] == ["Hello"]


async def test_content_that_is_no_text_is_an_invalid_answer() -> None:
    with pytest.raises(AgentError, match="neither text nor a list") as caught:
        await run([STARTED, BLOCK, delta(text=42), BLOCK_END, stop("end_turn"), USAGE])
    assert caught.value.code == "model_invalid_answer"


async def test_the_model_gets_characters_whole_that_it_sent_in_halves() -> None:
    said = [delta(text="Hi \ud83d"), delta(text="\ude00"), delta(text="\ud83d")]
    turn: Turn = [STARTED, BLOCK, *said, BLOCK_END, *call("c", "add", '{"a": 1}'), stop("tool_use"), USAGE]
    recorder, _, model = await run(turn, say("done"))
    assert model.heard[1][1]["content"][0] == {"text": "Hi 😀\ufffd"}
    assert "".join(event.text for event in recorder.of(Token)) == "Hi 😀\ufffddone"


async def test_the_model_gets_a_tools_result_as_the_log_has_it() -> None:
    @tool
    def odd(kind: str) -> ToolResult:
        """Return what JSON cannot hold."""
        content: Any = {
            "half": [{"text": "x\ud83dy"}],
            "time": [{"json": {"at": datetime.datetime(2020, 1, 1), "ratio": float("nan")}}],
            "plain": "as it is",
        }[kind]
        return {"toolUseId": "", "status": "success", "content": content}

    kinds = ("half", "time", "plain")
    calls = [chunk for kind in kinds for chunk in call(kind, "odd", json.dumps({"kind": kind}))]
    recorder, _, model = await run([STARTED, *calls, stop("tool_use"), USAGE], say("done"), tools=(odd,))
    results = {r["toolUseId"]: r["content"] for r in (b["toolResult"] for b in model.heard[1][-1]["content"])}
    assert results == {
        "half": [{"text": "x\ufffdy"}],
        "time": [{"json": {"at": "2020-01-01T00:00:00", "ratio": None}}],
        "plain": [{"text": "as it is"}],
    }
    assert {event.tool_use_id: event.output for event in recorder.of(ToolFinished)} == results


@pytest.mark.parametrize(
    ("content", "blocks"),
    [
        (None, []), ("as text", [{"text": "as text"}]), (["a", "b"], [{"text": "a"}, {"text": "b"}]),
        ({"text": "alone"}, [{"text": "alone"}]), ([{"foo": 1}, 2], [{"json": {"foo": 1}}, {"json": 2}]),
    ],
)  # fmt: skip
async def test_a_tools_content_becomes_blocks_that_models_take(content: Any, blocks: Any) -> None:
    @tool
    def odd() -> ToolResult:
        """Return something else than a list of blocks."""
        return {"toolUseId": "", "status": "success", "content": content}

    turn = [STARTED, *call("c", "odd", "{}"), stop("tool_use"), USAGE]
    recorder, _, model = await run(turn, say("done"), tools=(odd,))
    assert model.heard[1][-1]["content"][0]["toolResult"]["content"] == blocks
    assert [event.output for event in recorder.of(ToolFinished)] == [blocks]


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
async def test_an_answer_that_bedrock_calls_malformed_is_a_failure(reason: str) -> None:
    with pytest.raises(AgentError, match=reason) as caught:
        await run([STARTED, BLOCK, delta(text="Hello"), BLOCK_END, stop(reason), USAGE])
    assert caught.value.code == "model_invalid_answer"


@pytest.mark.parametrize("reason", ["error", "cancelled", "my_own"])
async def test_a_model_of_ones_own_may_have_reasons_of_its_own(reason: str) -> None:
    _, result, _ = await run([STARTED, BLOCK, delta(text="Hello"), BLOCK_END, stop(reason), USAGE])
    assert result == {"text": "Hello", "stop_reason": reason}
