"""strands' own providers, driven by a real server over HTTP, say what a model says on the wire."""

from typing import Any

import pytest

from tests.kit.frames import Frame, said
from tests.kit.server import ServerProcess
from tests.models.conftest import KEY, PROVIDERS
from tests.models.protocols import CACHED_TOKENS, INPUT_TOKENS
from tests.models.standins import THOUGHTS, WORDS, ModelServer

REASONING = ("openai", "anthropic")  # strands passes on no reasoning of Ollama's
HEADERS = {"openai": "authorization", "anthropic": "x-api-key"}


def of(frames: list[Frame], type: str) -> list[Any]:
    return [frame.data for frame in frames if frame.type == type]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_models_words_are_the_runs_tokens_one_by_one(server: ServerProcess, provider: str) -> None:
    frames = list(server.frames(server.begin(f"{provider}-talks")))
    assert tuple(token["text"] for token in of(frames, "llm.token")) == WORDS
    assert frames[-1].type == "lifecycle.completed"
    assert frames[-1].data["result"] == {"text": "".join(WORDS), "stop_reason": "end_turn"}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_models_usage_is_the_runs_usage_under_the_models_name(server: ServerProcess, provider: str) -> None:
    frames = list(server.frames(server.begin(f"{provider}-talks")))
    (usage,) = of(frames, "llm.usage")
    assert (usage["input_tokens"], usage["output_tokens"], usage["model"]) == (
        INPUT_TOKENS,
        len(WORDS),
        "talks",
    )
    assert frames[-1].data["usage"]["total_tokens"] == INPUT_TOKENS + len(WORDS)


@pytest.mark.parametrize("provider", REASONING)
def test_a_models_reasoning_comes_apart_from_what_it_says(server: ServerProcess, provider: str) -> None:
    frames = list(server.frames(server.begin(f"{provider}-thinks")))
    assert tuple(thought["text"] for thought in of(frames, "llm.reasoning")) == THOUGHTS
    assert said(frames) == "".join(WORDS)
    (usage,) = of(frames, "llm.usage")
    assert (usage["input_tokens"], usage["cache_read_tokens"]) == (INPUT_TOKENS, CACHED_TOKENS)
    assert usage.get("reasoning_tokens", 0) == (len(THOUGHTS) if provider == "openai" else 0)
    assert usage["duration_ms"] >= usage["first_token_ms"] >= 0
    assert frames[-1].data["usage"]["cache_read_tokens"] == CACHED_TOKENS
    blocks = of(frames, "llm.message")[-1]["message"]["content"]
    assert blocks[0]["reasoningContent"]["reasoningText"]["text"] == "".join(THOUGHTS)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_calls_a_tool_and_gets_its_result(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    question = f"What is 19 + 23, {provider}?"
    frames = list(server.frames(server.begin(f"{provider}-tool", question)))
    (started,), (finished,) = of(frames, "tool.started"), of(frames, "tool.finished")
    assert (started["name"], started["input"]) == ("add", {"a": 19, "b": 23})
    assert (finished["tool_use_id"], finished["output"]) == (started["tool_use_id"], [{"text": "42"}])
    assert said(frames) == "The tool said 42"
    assert frames[-1].data["usage"]["input_tokens"] == 2 * INPUT_TOKENS
    assert len(models.heard(question)) == 2


@pytest.mark.parametrize("provider", HEADERS)
def test_a_key_goes_to_the_model_and_into_no_event(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    run_id = server.begin(f"{provider}-talks", f"Who asks {provider}?")
    server.ended(run_id)
    (request,) = models.heard(f"Who asks {provider}?")
    assert KEY in request.headers[HEADERS[provider]]
    events = server.events(run_id)
    assert KEY not in str(events)
    assert events[0]["data"]["definition"]["model_args"]["client_args"]["api_key"] == "***"
