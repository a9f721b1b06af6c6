"""Answers of servers that speak OpenAI's chat completions whose faults strands' class does not pass on."""

import json
from codecs import BOM_UTF8
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from strands import tool
from strands.models.openai import OpenAIModel

from runstore.core.arguments import read_arguments
from runstore.core.errors import AgentError
from runstore.core.events import Message, Token, ToolFinished, Usage
from runstore.core.ports import AgentResult
from runstore.runtime.strands.stream.servers import openai as openai_server
from runstore.runtime.strands.stream.servers.mended import mend_answers
from runstore.runtime.strands.stream.servers.openai import ToolCalls, mended_completion
from tests.runtime.recording import ListRecorder
from tests.runtime.strands_kit import agent, drive

Chunk = dict[str, Any] | None
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> Chunk:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    } | more


def call(
    index: int | None, id: str | None, name: str | None, arguments: str | dict[str, str | int] | None
) -> Chunk:
    function = {"name": name, "arguments": arguments}
    return chunk({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})


COUNTED = chunk(choices=[], usage=USAGE)
SAID = [chunk({"role": "assistant", "content": "done"}), chunk(finish="stop"), COUNTED]


@tool
def add(a: int = 0, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@tool
def name(of: str = "") -> str:
    """Name something."""
    return f"a name of {of}"


@tool
def shown(of: Any) -> str:
    """Show a value."""
    return repr(of)


class Answer(BaseModel):
    """An answer."""

    word: str


async def broken_off(chunks: list[Chunk]) -> AsyncIterator[bytes]:
    """A stream whose connection breaks after these chunks."""
    for each in chunks:
        yield f"data: {json.dumps(each)}\n\n".encode()
    raise httpx.RemoteProtocolError("incomplete chunked read")


async def run(*answers: Any, **settings: Any) -> tuple[ListRecorder, AgentResult, list[Any]]:
    """Run an agent whose provider answers so: a list as a stream, a tuple as a whole in spite of one.

    Bytes have the type of JSON; other bytes come one after the other. Also what the provider was asked.
    """
    waiting, asked = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        next = waiting.pop(0)
        if isinstance(next, dict):
            return httpx.Response(200, json=next)
        if isinstance(next, tuple):
            return httpx.Response(200, json=next[0])
        if isinstance(next, AsyncIterator):
            return httpx.Response(200, content=next)
        if isinstance(next, bytes):
            return httpx.Response(200, content=next, headers={"Content-Type": "application/json"})
        lines = [f"data: {json.dumps(each)}\n\n" for each in next] + ["data: [DONE]\n\n"]
        return httpx.Response(200, text="".join(lines), headers={"Content-Type": "text/event-stream"})

    client = openai.AsyncOpenAI(
        api_key="k", base_url="http://provider.test/v1", max_retries=0,
        http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
    )  # fmt: skip
    whole = any(isinstance(each, dict) for each in answers)
    model = OpenAIModel(client, model_id="m", params={"stream": False} if whole else {})
    recorder, ended = await drive(agent(model, add, name, shown, **settings))
    return recorder, ended, asked


def text_of(recorder: ListRecorder) -> str:
    return "".join(event.text for event in recorder.of(Token))


async def test_a_refusal_is_text_and_says_so() -> None:
    refusal = [
        chunk({"role": "assistant", "content": None, "refusal": "I "}),
        chunk({"refusal": "will not."}),
    ]
    recorder, ended, _ = await run([*refusal, chunk(finish="stop"), COUNTED])
    assert ended.result == {"text": "I will not.", "stop_reason": "content_filtered"}
    assert text_of(recorder) == "I will not."
    [said] = recorder.of(Message)
    assert said.message["content"] == [{"text": "I will not."}]


async def test_a_refused_object_is_not_asked_for_again() -> None:
    refusal = [chunk({"refusal": "No."}), chunk(finish="stop"), COUNTED]
    _, ended, asked = await run(refusal, structured_output_model=Answer)
    assert (ended.result, len(asked)) == ({"text": "No.", "stop_reason": "content_filtered"}, 1)


async def test_a_refusal_in_a_whole_answer_is_text() -> None:
    message = {"role": "assistant", "content": None, "refusal": "I will not."}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    _, ended, _ = await run(whole | {"usage": USAGE})
    assert ended.result == {"text": "I will not.", "stop_reason": "content_filtered"}


async def test_an_answer_is_complete_though_its_connection_breaks_after_its_end() -> None:
    called = [call(0, "t1", "add", '{"a": 1, "b": 2}'), chunk(finish="tool_calls")]
    recorder, ended, _ = await run(broken_off(called), broken_off(SAID[:-1]))
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "3"}]]
    assert ended.result == {"text": "done", "stop_reason": "end_turn"}


async def test_an_answer_whose_connection_breaks_has_broken_off() -> None:
    with pytest.raises(AgentError) as broken:
        await run(broken_off(SAID[:1]))
    assert broken.value.code == "model_unavailable"


MARKS = {
    "apart": [BOM_UTF8], "in two pieces": [BOM_UTF8[:1], BOM_UTF8[1:]], "before a line": [BOM_UTF8 + b"\n"],
    "byte by byte": [b"\xef", b"\xbb", b"\xbf", b"\n"], "lines": [b"\n", b"", b"\n", b"\n", b"\n"],
}  # fmt: skip


@pytest.mark.parametrize("marks", MARKS.values(), ids=MARKS)
@pytest.mark.parametrize("is_whole", [False, True], ids=["stream", "whole"])
async def test_an_answer_may_begin_with_a_byte_order_mark(marks: list[bytes], is_whole: bool) -> None:
    async def marked() -> AsyncIterator[bytes]:
        for mark in marks:
            yield mark
        if is_whole:
            yield json.dumps(whole({"role": "assistant", "content": "done"})[0]).encode()
            return
        for each in SAID:
            yield f"data: {json.dumps(each)}\n\n".encode()

    _, ended, _ = await run(marked())
    assert ended.result["text"] == "done"


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_text_after_the_reason_for_the_end_is_part_of_the_answer(reason: str) -> None:
    said = [
        chunk({"content": "The capital "}),
        chunk({"content": "is "}, reason),
        chunk({"content": "Paris."}),
    ]
    recorder, ended, _ = await run([*said, COUNTED])
    assert text_of(recorder) == ended.result["text"] == "The capital is Paris."
    assert ended.result["stop_reason"] == {"stop": "end_turn", "length": "max_tokens"}[reason]
    assert [event.input_tokens for event in recorder.of(Usage)] == [7]


async def test_a_usage_beside_text_counts_once() -> None:
    said = [chunk({"content": "Hel"}, usage=USAGE), chunk({"content": "lo"}, "stop", usage=USAGE)]
    recorder, ended, _ = await run(said)
    assert ended.result["text"] == "Hello"
    assert [event.output_tokens for event in recorder.of(Usage)] == [2]


@pytest.mark.parametrize(
    "where",
    [
        {"x_groq": {"id": "r", "usage": USAGE}},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]},
    ],
    ids=["Groq", "Moonshot"],
)
async def test_a_usage_may_stand_elsewhere(where: dict[str, Any]) -> None:
    recorder, _, _ = await run([chunk({"content": "Hello"}), chunk(finish="stop", **where)])
    assert [(event.input_tokens, event.output_tokens) for event in recorder.of(Usage)] == [(7, 2)]


@pytest.mark.parametrize(
    "said", [{"message": {"content": "Paris"}}, {"text": "Paris"}], ids=["message", "text"]
)
async def test_a_chunk_may_have_a_message_or_a_text_in_place_of_a_delta(said: dict[str, Any]) -> None:
    _, ended, _ = await run([chunk(choices=[{"index": 0, "finish_reason": "stop"} | said], usage=USAGE)])
    assert ended.result == {"text": "Paris", "stop_reason": "end_turn"}


async def test_a_chunks_message_that_cannot_be_read_is_passed_over() -> None:
    odd = chunk(choices=[{"index": 0, "message": "Paris", "finish_reason": None}])
    _, ended, _ = await run([odd, *SAID])
    assert ended.result["text"] == "done"


async def test_events_with_blank_data_keep_a_stream_open() -> None:
    lines = [b"data: %b\n\n" % json.dumps(each).encode() for each in SAID]
    _, ended, _ = await run(b"data:\n\n" + b"data: \n\n".join(lines))
    assert ended.result == {"text": "done", "stop_reason": "end_turn"}


WHOLE = [call(0, "x", "add", '{"a": 1}'), call(0, "y", "name", '{"of": "b"}')]
CALLS = {
    "one index, two ids": WHOLE,
    "no index": [call(None, "x", "add", '{"a": 1}'), call(None, "y", "name", '{"of": "b"}')],
    "one index, no ids": [call(0, None, "add", '{"a": 1}'), call(0, "", "name", '{"of": "b"}')],
    "one index and one id": [call(0, "x", "add", '{"a": 1}'), call(0, "x", "name", '{"of": "b"}')],
    "in pieces": [
        call(0, "x", "add", ""), call(0, None, None, '{"a"'), call(0, "x", None, ": 1}"),
        call(0, "y", "name", None), call(0, "y", None, '{"of": '), call(0, "", "", '"b"}'),
    ],
    "pieces in turns": [
        call(0, "x", "add", '{"a"'), call(0, "y", "name", '{"of": '),
        call(0, "x", None, ": 1}"), call(0, "y", None, '"b"}'),
    ],
    "name and id in each piece": [
        call(0, "x", "add", '{"a"'), call(0, "x", "add", ": 1}"), call(0, "x", "add", ""),
        call(1, "y", "name", '{"of": "b"'), call(1, "y", "name", "}"),
    ],
    "a new id in each piece": [
        call(0, "x", "add", ""), call(0, "z", None, '{"a"'), call(0, "w", "", ": 1}"),
        call(1, "y", "name", '{"of": "b"}'),
    ],
    "a name in pieces": [
        call(0, "x", "a", ""), call(0, "x", "dd", '{"a": 1}'),
        call(1, "y", "na", '{"of"'), call(1, None, "me", ': "b"}'),
    ],
    "a name and an id that come late": [
        call(0, None, None, '{"a"'), call(0, "x", "add", ": 1}"), call(1, "y", "name", '{"of": "b"}'),
    ],
    "a function_call before it": [
        chunk({"function_call": {"name": "add", "arguments": '{"a"'}}),
        chunk({"function_call": {"arguments": ": 1}"}}), call(0, "y", "name", '{"of": "b"}'),
    ],
    "arguments after an empty object": [
        call(0, "x", "add", "{}"), call(0, None, None, '{"a": 1}'), call(1, "y", "name", '{"of": "b"}'),
    ],
    "an empty object, a name and an id in each piece": [
        call(0, "x", "add", "{}"), call(0, "x", "add", '{"a"'), call(0, "x", "add", ": 1}"),
        call(1, "y", "name", '{"of": "b"}'),
    ],
    "no ids, and names before the arguments": [
        call(0, None, "add", ""), call(0, None, None, '{"a": 1}'),
        call(0, None, "name", ""), call(0, None, None, '{"of": "b"}'),
    ],
    "arguments that are not text": [call(0, None, "add", {"a": 1}), call(0, None, "name", {"of": "b"})],
    "pieces without a function": [
        call(0, "x", "add", '{"a": 1}'), chunk({"tool_calls": [{"index": 0, "function": None}]}),
        call(1, "y", "name", '{"of": "b"}'),
    ],
}  # fmt: skip


@pytest.mark.parametrize("pieces", CALLS.values(), ids=CALLS)
async def test_two_calls_are_two_under_any_indexes(pieces: list[Chunk]) -> None:
    recorder, ended, asked = await run([*pieces, chunk(finish="tool_calls"), COUNTED], SAID)
    assert ended.result["text"] == "done"
    finished = {event.name: event.output for event in recorder.of(ToolFinished)}
    assert finished == {"add": [{"text": "1"}], "name": [{"text": "a name of b"}]}
    assert [each["role"] for each in asked[1]["messages"]] == ["user", "assistant", "tool", "tool"]


ONCE = '{"a": 1, "b": 2}'
REPEATED = {
    "at the end": [
        call(0, "x", "add", '{"a": 1'),
        call(0, "x", None, ', "b": 2}'),
        call(0, "x", "add", ONCE),
    ],
    "encoded twice": [call(0, "x", "add", ONCE), call(0, "x", "add", json.dumps(ONCE))],
    "in other words": [call(0, "x", "add", ONCE), call(0, "x", "add", '{"b":2,"a":1}')],
    "twice": [call(0, "x", "add", ONCE), call(0, "x", "add", ONCE), call(0, "x", "add", ONCE)],
}


@pytest.mark.parametrize("pieces", REPEATED.values(), ids=REPEATED)
async def test_a_call_that_is_said_again_is_made_once(pieces: list[Chunk]) -> None:
    recorder, _, asked = await run([*pieces, chunk(finish="tool_calls"), COUNTED], SAID)
    assert [event.output for event in recorder.of(ToolFinished)] == [[{"text": "3"}]]
    assert [each["role"] for each in asked[1]["messages"]] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("values", [("a", "b"), (1, True), (0, False)], ids=repr)
async def test_two_calls_of_one_id_and_tool_are_two_if_their_arguments_differ(
    values: tuple[Any, Any],
) -> None:
    pieces = [call(0, "x", "shown", json.dumps({"of": value})) for value in values]
    recorder, _, _ = await run([*pieces, chunk(finish="tool_calls"), COUNTED], SAID)
    outputs = [event.output for event in recorder.of(ToolFinished)]
    assert outputs == [[{"text": repr(value)}] for value in values]


async def test_a_call_in_many_named_pieces_takes_time_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []

    def read(text: str) -> Any:
        parsed.append(len(text))
        return read_arguments(text)

    monkeypatch.setattr(openai_server, "read_arguments", read)
    calls, text = ToolCalls(), json.dumps({"a": "word " * 2_000})
    for piece in text.split(" "):
        function = SimpleNamespace(name="add", arguments=f"{piece} ")
        calls.mend(SimpleNamespace(tool_calls=[SimpleNamespace(index=0, id="x", function=function)]))
    assert sum(parsed) <= len(text)


@pytest.mark.parametrize("content", [[{"type": "text", "text": "Hm."}], "Hm."])
def test_a_refusal_beside_content_ends_the_answer(content: Any) -> None:
    message = SimpleNamespace(content=content, refusal="No.")
    answer = SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])
    mended_completion(answer)
    assert answer.choices[0].finish_reason == "content_filter"
    assert message.content == ("Hm.No." if isinstance(content, str) else content)


NOTHING = {
    "null": None,
    "no choices": {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"},
    "choices null": chunk(choices=None),
    "a null delta": chunk(choices=[{"index": 0, "delta": None, "finish_reason": None}]),
    "a filter's note": chunk(choices=[{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]),
}


@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
async def test_chunks_that_say_nothing_are_passed_over(nothing: Chunk) -> None:
    said = [nothing, chunk({"content": "Hel"}), nothing, chunk({"content": "lo"}), chunk(finish="stop")]
    recorder, ended, _ = await run([*said, nothing, COUNTED, nothing])
    assert ended.result == {"text": "Hello", "stop_reason": "end_turn"}
    assert [event.input_tokens for event in recorder.of(Usage)] == [7]


async def test_a_reason_beside_a_null_delta_ends_the_answer() -> None:
    end = chunk(choices=[{"index": 0, "delta": None, "finish_reason": "length"}])
    _, ended, _ = await run([chunk({"content": "Hel"}), end])
    assert ended.result == {"text": "Hel", "stop_reason": "max_tokens"}


async def test_only_one_of_several_answers_counts() -> None:
    def of(index: int, text: str) -> Chunk:
        return chunk(choices=[{"index": index, "delta": {"content": text}, "finish_reason": None}])

    said = [of(1, "Hel"), of(0, "No"), of(1, "lo"), of(0, "!")]
    _, ended, _ = await run(
        [*said, chunk(choices=[{"index": 1, "delta": {}, "finish_reason": "stop"}]), COUNTED]
    )
    assert ended.result == {"text": "Hello", "stop_reason": "end_turn"}


@pytest.mark.parametrize("calls", [{"index": 0, "id": "x"}, "add", ["add"]])
async def test_calls_of_another_form_break_the_protocol(calls: Any) -> None:
    with pytest.raises(AgentError) as caught:
        await run([chunk({"tool_calls": calls}), chunk(finish="tool_calls"), COUNTED])
    assert caught.value.code == "model_invalid_answer"


def whole(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> tuple[dict[str, Any]]:
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE}
    return (answer | {"choices": [{"index": 0, "message": message, "finish_reason": finish}]} | more,)


async def test_a_server_may_ignore_that_it_is_asked_for_a_stream() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
        {"id": "b", "type": "function", "function": {"name": "name", "arguments": {"of": "x"}}},
    ]
    called = whole({"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls")
    recorder, ended, _ = await run(called, whole({"role": "assistant", "content": "done"}, None))
    assert [event.output for event in recorder.of(ToolFinished)] == [
        [{"text": "3"}],
        [{"text": "a name of x"}],
    ]
    assert (ended.result["text"], text_of(recorder)) == ("done", "done")
    assert [event.input_tokens for event in recorder.of(Usage)] == [7, 7]


async def test_a_whole_answer_in_place_of_a_stream_may_be_cut_or_refused() -> None:
    _, ended, _ = await run(whole({"role": "assistant", "content": "Paris is"}, "length"))
    assert ended.result == {"text": "Paris is", "stop_reason": "max_tokens"}
    _, ended, _ = await run(whole({"role": "assistant", "content": None, "refusal": "I cannot."}))
    assert ended.result == {"text": "I cannot.", "stop_reason": "content_filtered"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"message": "no credit", "code": 402}, "model_refused"),
        ({"message": "overloaded", "code": 503}, "model_unavailable"),
        ({"message": "wrong key", "type": "authentication_error"}, "model_auth"),
        ("it does not work", "model_error"),
    ],
)
async def test_an_error_with_the_status_of_a_success_is_an_error(error: Any, code: str) -> None:
    with pytest.raises(AgentError) as caught:
        await run(({"error": error},))
    assert caught.value.code == code


BARE_ERRORS = [  # of vLLM, SGLang, FastAPI, DashScope, Baidu and MiniMax
    (
        {"object": "error", "message": "no such thing", "type": "BadRequestError", "code": 400},
        "model_refused",
    ),
    ({"object": "error", "message": "busy", "code": 503}, "model_unavailable"),
    ({"detail": "it does not work"}, "model_error"),
    ({"code": "invalid_api_key", "message": "wrong"}, "model_auth"),
    ({"error_code": 110, "error_msg": "Access token invalid"}, "model_error"),
    ({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}, "model_error"),
]


@pytest.mark.parametrize(("error", "code"), BARE_ERRORS)
@pytest.mark.parametrize("before", [[], [chunk({"content": "Paris is"})]], ids=["at once", "after text"])
async def test_an_error_in_a_stream_may_lack_the_object_around_it(
    before: list[Chunk], error: dict[str, Any], code: str
) -> None:
    for answer in ([*before, error], (error,)):
        with pytest.raises(AgentError) as caught:
            await run(answer)
        assert caught.value.code == code


async def test_json_that_is_no_answer_breaks_the_protocol() -> None:
    for body in ({}, {"choices": "none"}, {"choices": []}):
        with pytest.raises(AgentError) as caught:
            await run((body,))
        assert caught.value.code == "model_invalid_answer"


@pytest.mark.parametrize("before", [b"", b"\n", b": hello\n\n"], ids=["nothing", "a line", "a comment"])
async def test_a_stream_may_be_called_json(before: bytes) -> None:
    _, ended, _ = await run(before + b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in SAID))
    assert ended.result == {"text": "done", "stop_reason": "end_turn"}


async def test_a_stream_that_is_called_json_is_read_as_it_comes() -> None:
    async def body() -> AsyncIterator[bytes]:
        for text in ("one ", "two ", "three"):
            sent.append(text)
            yield b"data: %b\n\n" % json.dumps(chunk({"content": text})).encode()

    sent: list[str] = []
    answer = httpx.Response(200, content=body(), headers={"Content-Type": "application/json"})
    transport = httpx.MockTransport(lambda _: answer)
    client = openai.AsyncOpenAI(
        api_key="k", base_url="http://provider.test/v1", http_client=httpx.AsyncClient(transport=transport)
    )
    model = OpenAIModel(client, model_id="m")
    mend_answers(model)
    chunks = model.stream([{"role": "user", "content": [{"text": "hi"}]}])
    said = [each async for each in _texts(chunks, until="one ")]
    assert (said, sent) == (["one "], ["one "])
    assert [each async for each in _texts(chunks)] == ["two ", "three"]


async def _texts(chunks: AsyncIterable[Any], until: str | None = None) -> AsyncIterator[str]:
    async for each in chunks:
        if text := each.get("contentBlockDelta", {}).get("delta", {}).get("text"):
            yield text
            if text == until:
                return


@pytest.mark.parametrize("length", [1, 40, -1])
async def test_a_whole_answer_that_is_cut_breaks_the_protocol(length: int) -> None:
    [answer] = whole({"role": "assistant", "content": "Paris"})
    with pytest.raises(AgentError) as caught:
        await run(json.dumps(answer).encode()[:length])
    assert caught.value.code == "model_invalid_answer"


@pytest.mark.parametrize(
    "body",
    [b'{"choices": [{"message": {"content": "\xff"}}]}', b'{"x": ' + b"[" * 99_999],
    ids=["bytes", "deep"],
)
async def test_bytes_that_are_no_json_break_the_protocol(body: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        await run(body)
    assert caught.value.code == "model_invalid_answer"


async def test_half_a_character_in_a_whole_answer_is_replaced() -> None:
    [answer] = whole({"role": "assistant", "content": "Paris \ud83d"})
    recorder, ended, _ = await run(json.dumps(answer).encode())
    assert ended.result["text"] == text_of(recorder) == "Paris \ufffd"


async def test_a_stream_that_another_package_has_wrapped_is_mended() -> None:
    class Traced:
        response = "its own"

        async def __aiter__(self) -> AsyncIterator[Any]:
            yield SimpleNamespace(choices=[SimpleNamespace(index=0, delta=said, finish_reason="stop")])

    async def create(**request: Any) -> Traced:
        return Traced()

    @asynccontextmanager
    async def get_client(model: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))

    said = SimpleNamespace(content=None, refusal="No.", tool_calls=None)
    async with openai_server.mending(get_client)(None) as client:
        chunks = [each async for each in await client.chat.completions.create(stream=True)]
    assert (said.content, chunks[-1].choices[0].finish_reason) == ("No.", "content_filter")
