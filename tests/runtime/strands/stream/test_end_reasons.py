"""Why answers ended, as providers' servers say it and strands' classes do not pass it on."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from weakref import WeakSet

import httpx
import openai
import pytest
from google.genai import types
from strands.models.gemini import GeminiModel
from strands.models.llamacpp import LlamaCppModel
from strands.models.mistral import MistralModel
from strands.models.ollama import OllamaModel
from strands.models.openai import OpenAIModel
from strands.models.openai_responses import OpenAIResponsesModel

from runstore.core.errors import AgentError
from runstore.core.events import Discarded, Usage
from runstore.runtime.strands.agent import StrandsAgent
from runstore.runtime.strands.results import NO_ANSWER
from runstore.runtime.strands.stream.servers.mended import mend_answers
from tests.runtime.recording import ListRecorder, context
from tests.runtime.strands_kit import agent, drive

Event = dict[str, Any]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
GEMINI_USAGE = {"prompt_token_count": 7, "candidates_token_count": 2, "total_token_count": 9}


def answering(body: str, type: str = "text/event-stream", status: int = 200) -> httpx.AsyncClient:
    """A client whose server answers every request so."""
    answer = httpx.Response(status, text=body, headers={"Content-Type": type})
    return httpx.AsyncClient(base_url="http://p.test", transport=httpx.MockTransport(lambda _: answer))


def stream(*events: Event) -> httpx.AsyncClient:
    """A client whose server streams these events, with their types, if they have some."""
    named = [f"event: {each['type']}\n" if "type" in each else "" for each in events]
    frames = [f"{name}data: {json.dumps(each)}\n\n" for name, each in zip(named, events, strict=True)]
    return answering("".join(frames))


def chunk(delta: Event | None = None, finish: str | None = None, **more: Any) -> Event:
    choice = {"index": 0, "delta": delta or {"content": ""}, "finish_reason": finish}
    made = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return made | {"choices": [choice]} | more


def chat(http: httpx.AsyncClient) -> OpenAIModel:
    client = openai.AsyncOpenAI(api_key="k", base_url="http://p.test/v1", max_retries=0, http_client=http)
    return OpenAIModel(client, model_id="m")


def responses(*events: Event) -> OpenAIResponsesModel:
    args = {"api_key": "k", "base_url": "http://p.test/v1", "max_retries": 0, "http_client": stream(*events)}
    return OpenAIResponsesModel(client_args=args, model_id="m")


def mistral(http: httpx.AsyncClient) -> MistralModel:
    return MistralModel(
        api_key="k", model_id="m", client_args={"async_client": http, "server_url": "http://p.test"}
    )


def llamacpp(*events: Event) -> LlamaCppModel:
    model = LlamaCppModel(base_url="http://p.test", model_id="m")
    model.client = stream(*events)
    return model


def line(text: str, **more: Any) -> Event:
    message = {"role": "assistant", "content": text}
    return {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False} | more


def ollama(*lines: Event) -> OllamaModel:
    body = "".join(json.dumps(each) + "\n" for each in lines)
    answer = httpx.Response(200, text=body, headers={"Content-Type": "application/x-ndjson"})
    transport = httpx.MockTransport(lambda _: answer)
    return OllamaModel("http://p.test", model_id="m", ollama_client_args={"transport": transport})


class GeminiClient:
    """Gemini's client, as far as strands' class uses it, with a scripted answer."""

    vertexai = False

    def __init__(self, *events: Event) -> None:
        self.aio = self.models = self
        self._events = [types.GenerateContentResponse.model_validate(event) for event in events]

    async def generate_content_stream(self, **request: Any) -> AsyncIterator[Any]:
        async def events() -> AsyncIterator[Any]:
            for event in self._events:
                yield event

        return events()


def gemini(*events: Event) -> GeminiModel:
    client: Any = GeminiClient(*events)
    return GeminiModel(client=client, model_id="m")


def candidate(text: str | None = None, finish: str | None = None) -> Event:
    content = None if text is None else {"role": "model", "parts": [{"text": text}]}
    return {"candidates": [{"index": 0, "content": content, "finish_reason": finish}]}


def by_openai(reason: str) -> OpenAIModel:
    return chat(stream(chunk({"content": "Paris is"}), chunk(finish=reason), chunk(choices=[], usage=USAGE)))


def by_mistral(reason: str) -> MistralModel:
    return mistral(stream(chunk({"content": "Paris is"}), chunk(finish=reason, usage=USAGE)))


def by_gemini(reason: str) -> GeminiModel:
    return gemini(candidate("Paris is"), candidate(finish=reason) | {"usage_metadata": GEMINI_USAGE})


def by_llamacpp(reason: str) -> LlamaCppModel:
    return llamacpp(chunk({"content": "Paris is"}), chunk(finish=reason))


async def result(model: Any) -> tuple[str, str]:
    _, ended = await drive(agent(model))
    return ended.result["text"], ended.result["stop_reason"]


async def failure(model: Any) -> tuple[AgentError, ListRecorder]:
    recorder = ListRecorder()
    with pytest.raises(AgentError) as caught:
        await StrandsAgent(agent(model), context(), WeakSet()).run("hi", [], recorder)
    return caught.value, recorder


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (by_openai, "error"),
        (by_openai, "network_error"),
        (by_openai, "insufficient_system_resource"),
        (by_openai, "abort"),
        (by_openai, "other"),
        (by_gemini, "OTHER"),
        (by_mistral, "error"),
        (by_llamacpp, "error"),
    ],
)
async def test_an_answer_that_its_provider_gave_up_is_a_failure(
    model: Callable[[str], Any], reason: str
) -> None:
    error, recorder = await failure(model(reason))
    assert (error.code, f"({reason.lower()})" in str(error)) == ("model_unavailable", True)
    assert [event.reason for event in recorder.of(Discarded)] == ["failed"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (by_gemini, "MALFORMED_FUNCTION_CALL"),
        (by_gemini, "UNEXPECTED_TOOL_CALL"),
        (by_openai, "function_call_filter: MALFORMED_FUNCTION_CALL"),
    ],
)
async def test_an_answer_that_its_provider_calls_malformed_is_a_failure(
    model: Callable[[str], Any], reason: str
) -> None:
    error, recorder = await failure(model(reason))
    assert error.code == "model_invalid_answer"
    assert [event.input_tokens for event in recorder.of(Usage)] == [7]  # the provider counts it nevertheless


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (by_openai, "sensitive"),
        (by_openai, "content_filter: PROHIBITED_CONTENT"),
        (by_gemini, "PROHIBITED_CONTENT"),
        (by_gemini, "SPII"),
        (by_gemini, "BLOCKLIST"),
        (by_gemini, "LANGUAGE"),
    ],
)
async def test_filters_have_many_names(model: Callable[[str], Any], reason: str) -> None:
    assert await result(model(reason)) == ("Paris is", "content_filtered")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (by_openai, "max_tokens"),
        (by_openai, "model_context_window_exceeded"),
        (by_openai, "token_limit"),
        (by_openai, "LENGTH"),
        (by_openai, "MAX_OUTPUT_TOKENS"),
        (by_mistral, "model_length"),
        (by_gemini, "MAX_TOKENS"),
    ],
)
async def test_limits_have_many_names(model: Callable[[str], Any], reason: str) -> None:
    assert await result(model(reason)) == ("Paris is", "max_tokens")


@pytest.mark.parametrize("model", [by_openai, by_mistral, by_llamacpp])
@pytest.mark.parametrize("reason", ["stop", "eos_token"])
async def test_any_other_reason_ends_a_complete_answer(model: Callable[[str], Any], reason: str) -> None:
    assert await result(model(reason)) == ("Paris is", "end_turn")


async def test_a_gateway_that_speaks_strands_words_ends_a_complete_answer() -> None:
    model = chat(stream(chunk({"content": "Paris is"}), chunk(finish="end_turn")))
    assert await result(model) == ("Paris is", "end_turn")


async def test_a_prompt_that_gemini_blocks_has_a_filtered_answer() -> None:
    blocked = {"prompt_feedback": {"block_reason": "PROHIBITED_CONTENT"}}
    assert await result(gemini(blocked)) == ("", "content_filtered")
    counted = {"usage_metadata": {"prompt_token_count": 7, "total_token_count": 7}}
    assert await result(gemini(blocked | counted)) == ("", "content_filtered")


async def test_geminis_reason_counts_though_the_usage_comes_after_it() -> None:
    last = {"usage_metadata": GEMINI_USAGE}
    assert await result(gemini(candidate("Paris is", "MAX_TOKENS"), last)) == ("Paris is", "max_tokens")


@pytest.mark.parametrize(
    "model",
    [
        ollama(line("Paris is")),
        ollama(line("Paris is"), {"error": "model runner has unexpectedly stopped"}),
        gemini(candidate("Paris is") | {"usage_metadata": GEMINI_USAGE}),
        llamacpp(chunk({"content": "Paris is"})),
        llamacpp(chunk({"content": "Paris is"}), {"error": {"code": 500, "message": "no memory"}}),
    ],
    ids=["ollama", "ollama's error", "gemini", "llamacpp", "llamacpp's error"],
)
async def test_an_answer_without_an_end_broke_off(model: Any) -> None:
    error, recorder = await failure(model)
    assert ("broke" in str(error), error.code) == (True, "model_unavailable")
    assert [event.reason for event in recorder.of(Discarded)] == ["failed"]


async def test_a_whole_answer_needs_no_reason_for_its_end() -> None:
    message = {"role": "assistant", "content": "Paris is"}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    answer |= {"choices": [{"index": 0, "message": message, "finish_reason": None}]}
    model = chat(answering(json.dumps(answer), "application/json"))
    model.update_config(params={"stream": False})
    assert await result(model) == ("Paris is", "end_turn")


async def test_a_llamacpp_models_usage_may_stand_beside_text() -> None:
    nothing = chunk(None, usage=None) | {"choices": [{"index": 0, "delta": None, "finish_reason": None}]}
    said = [
        chunk({"content": "Paris", "tool_calls": None}, usage=None),
        chunk({"content": " is"}, usage=USAGE),
    ]
    assert await result(llamacpp(nothing, *said, chunk(finish="length", usage=USAGE))) == (
        "Paris is",
        "max_tokens",
    )


async def test_a_llamacpp_models_calls_need_no_indexes() -> None:
    pieces = [calling("a", "add", '{"a"'), calling(None, "", ": 1}"), calling("b", "add", SECOND)]
    model = llamacpp(*pieces, chunk(finish="tool_calls"), chunk(choices=[], usage=USAGE))
    assert await calls_of(model) == [("a", FIRST), ("b", SECOND)]


async def test_an_ollama_model_may_leave_out_its_numbers_and_its_content() -> None:
    thought = line("") | {"message": {"role": "assistant", "thinking": "Hm."}}
    end = line("") | {"done": True, "done_reason": "stop"}
    assert await result(ollama(thought, line("Paris"), end)) == ("Paris", "end_turn")


# OpenAI's Responses API


def response(status: str, **more: Any) -> Event:
    counts: Event = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    counts |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    made: Event = {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": status,
        "output": [],
    }
    made |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": counts}
    return {"type": f"response.{status}", "sequence_number": 9, "response": made | more}


def piece(type: str, text: str) -> Event:
    place = {"item_id": "i", "output_index": 0, "content_index": 0, "sequence_number": 1}
    return {"type": f"response.{type}.delta", "delta": text, **place}


ASKED: Any = {"role": "user", "content": [{"text": "hi"}]}
CREATED = {**response("in_progress", usage=None), "type": "response.created"}


async def test_a_complete_response_is_an_answer() -> None:
    model = responses(CREATED, piece("output_text", "Paris"), response("completed"))
    assert await result(model) == ("Paris", "end_turn")


@pytest.mark.parametrize("said", [[], [piece("output_text", "Paris is")]], ids=["nothing", "half"])
async def test_a_response_that_is_not_completed_broke_off(said: list[Event]) -> None:
    error, _ = await failure(responses(CREATED, *said))
    assert ("broke off" in str(error), error.code) == (True, "model_unavailable")


async def test_a_server_that_speaks_another_protocol_gives_no_answer() -> None:
    error, _ = await failure(responses())
    assert str(error) == NO_ANSWER


async def test_a_refusal_in_a_response_is_text_and_says_so() -> None:
    model = responses(
        CREATED, piece("refusal", "I cannot "), piece("refusal", "help."), response("completed")
    )
    assert await result(model) == ("I cannot help.", "content_filtered")


@pytest.mark.parametrize(
    "end",
    [
        response("failed", error={"code": "server_error", "message": "an error within"}),
        {"type": "error", "code": "server_error", "message": "an error within", "param": None},
    ],
    ids=["failed", "error"],
)
async def test_a_response_that_fails_has_the_code_of_its_error(end: Event) -> None:
    error, _ = await failure(responses(CREATED, piece("output_text", "Paris is"), end))
    assert error.code == "model_unavailable"


def item(id: str | None, call_id: str, arguments: str, name: str = "add") -> Event:
    made = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    return made | {"id": id, "status": "completed"}


def of_item(kind: str, item: Event) -> Event:
    return {"type": f"response.output_item.{kind}", "output_index": 0, "sequence_number": 1, "item": item}


def of_arguments(kind: str, item_id: str | None, **more: Any) -> Event:
    place = {"item_id": item_id, "output_index": 0, "sequence_number": 1}
    return {"type": f"response.function_call_arguments.{kind}", **place} | more


async def calls_of(model: Any) -> list[tuple[str, str]]:
    """The ids and the inputs of the calls in a model's answer."""
    mend_answers(model)
    calls: list[tuple[str, str]] = []
    async for each in model.stream([ASKED]):
        if start := each.get("contentBlockStart", {}).get("start"):
            calls.append((start["toolUse"]["toolUseId"], ""))
        elif delta := each.get("contentBlockDelta"):
            calls[-1] = (calls[-1][0], calls[-1][1] + delta["delta"]["toolUse"]["input"])
    return calls


BEGUN = [of_item("added", item("i1", "a", "")), of_item("added", item("i2", "b", ""))]
FIRST, SECOND = '{"a": 1}', '{"a": 2}'
ARGUMENTS = {
    "in pieces": [
        *BEGUN, of_arguments("delta", "i1", delta='{"a"'), of_arguments("delta", "i2", delta=SECOND),
        of_arguments("delta", "i1", delta=": 1}"), of_arguments("done", "i1", arguments=FIRST),
        of_arguments("done", "i2", arguments=SECOND),
    ],
    "in the item alone": [
        *BEGUN, of_item("done", item("i1", "a", FIRST)), of_item("done", item("i2", "b", SECOND)),
    ],
    "in an item that has not begun": [
        of_item("done", item("i1", "a", FIRST)), of_item("done", item("i2", "b", SECOND)),
    ],
    "of another id": [
        *BEGUN, of_arguments("delta", "j1", delta=FIRST), of_arguments("delta", "j2", delta=SECOND),
        of_item("done", item("j1", "a", FIRST)), of_item("done", item("j2", "b", SECOND)),
    ],
    "without ids": [
        of_item("added", item(None, "a", "")), of_item("added", item(None, "b", "")),
        of_item("done", item(None, "a", FIRST)), of_item("done", item(None, "b", SECOND)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("events", ARGUMENTS.values(), ids=ARGUMENTS)
async def test_a_calls_arguments_are_read_wherever_a_response_has_them(events: list[Event]) -> None:
    model = responses(CREATED, *events, response("completed"))
    assert await calls_of(model) == [("a", FIRST), ("b", SECOND)]


def message(*parts: Event) -> Event:
    return {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": list(parts)}


SPOKEN = {"type": "output_text", "text": "Paris", "annotations": []}


async def test_the_text_of_a_response_may_come_at_its_end_alone() -> None:
    thought = {"type": "reasoning", "id": "r", "summary": []}
    end = response("completed", output=[thought, message(SPOKEN)])
    assert await result(responses(CREATED, end)) == ("Paris", "end_turn")
    assert await result(responses(CREATED, piece("output_text", "Paris"), end)) == ("Paris", "end_turn")


async def test_a_refusal_may_come_at_the_end_of_a_response_alone() -> None:
    end = response("completed", output=[message({"type": "refusal", "refusal": "No."})])
    assert await result(responses(CREATED, end)) == ("No.", "content_filtered")


# Mistral's parts and errors


async def test_a_mistral_models_content_in_parts_is_its_text() -> None:
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
    said = [chunk({"content": thought}), chunk({"content": [{"type": "text", "text": "Paris"}]})]
    assert await result(mistral(stream(*said, chunk(finish="stop", usage=USAGE)))) == ("Paris", "end_turn")
    whole = {"role": "assistant", "content": [*thought, {"type": "text", "text": "Paris"}]}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE}
    answer |= {"choices": [{"index": 0, "message": whole, "finish_reason": "stop"}]}
    model = mistral(answering(json.dumps(answer), "application/json"))
    model.update_config(stream=False)
    assert await result(model) == ("Paris", "end_turn")


def calling(id: str | None, name: str, arguments: str, **more: Any) -> Event:
    call = {"function": {"name": name, "arguments": arguments}} | more
    return chunk({"tool_calls": [call if id is None else call | {"id": id}]})


@pytest.mark.parametrize("no_id", [None, "", "null"])
async def test_a_mistral_models_call_in_pieces_is_one_call(no_id: str | None) -> None:
    pieces = [
        calling("a", "add", '{"a"'), calling(no_id, "", ": 1}"),
        calling("b", "add", ""), calling(no_id, "", SECOND),
    ]  # fmt: skip
    model = mistral(stream(*pieces, chunk(finish="tool_calls", usage=USAGE)))
    assert await calls_of(model) == [("a", FIRST), ("b", SECOND)]


async def test_a_mistral_models_calls_without_pieces_are_as_they_were() -> None:
    model = mistral(
        stream(calling("a", "add", FIRST), calling("b", "add", SECOND), chunk(finish="tool_calls"))
    )
    assert await calls_of(model) == [("a", FIRST), ("b", SECOND)]


async def test_an_error_that_says_generate_is_not_throttling() -> None:
    body = json.dumps({"object": "error", "message": "could not generate with these parameters"})
    error, _ = await failure(mistral(answering(body, "application/json", 400)))
    assert error.code == "model_refused"  # and the agent's retry strategy has not waited for minutes
