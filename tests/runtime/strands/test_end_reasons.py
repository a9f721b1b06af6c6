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


async def test_an_error_that_says_generate_is_not_throttling() -> None:
    body = json.dumps({"object": "error", "message": "could not generate with these parameters"})
    error, _ = await failure(mistral(answering(body, "application/json", 400)))
    assert error.code == "model_refused"  # and the agent's retry strategy has not waited for minutes
