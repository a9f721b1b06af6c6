"""The log knows what a provider was asked, to the byte."""

from base64 import b64encode
from contextlib import suppress
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from strands.models.anthropic import AnthropicModel
from strands.models.ollama import OllamaModel
from strands.models.openai import OpenAIModel

from runstore.core.content import message_with_bytes
from tests.kit.server import ServerProcess
from tests.models.conftest import KEY, PROVIDERS
from tests.models.standins import ModelServer

URL = "http://provider.test/v1"
PIXEL = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
IMAGE = {"image": {"format": "png", "source": {"bytes": b64encode(PIXEL).decode()}}}


class Pair(BaseModel):
    """Two numbers."""

    a: int
    b: int


def model_of(provider: str, parameters: dict[str, Any], seen: list[bytes]) -> Any:
    """A model with the recorded parameters, at a provider that only notes what it gets."""

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        return httpx.Response(400, json={})

    transport = httpx.MockTransport(note)
    if provider == "ollama":
        return OllamaModel(URL, ollama_client_args={"transport": transport}, **parameters)
    args = {"http_client": httpx.AsyncClient(transport=transport), "api_key": KEY, "base_url": URL}
    build = OpenAIModel if provider == "openai" else AnthropicModel
    return build(client_args=args, **parameters)


async def sent(provider: str, request: dict[str, Any]) -> bytes:
    """The request to the provider if its model gets a recorded request."""
    assert request["complete"]
    system, seen = request["system"], []
    content = [{"text": system}] if isinstance(system, str) else system
    stream = model_of(provider, request["parameters"], seen).stream(
        [message_with_bytes(message) for message in request["messages"]],
        request["tools"],
        "\n".join(block["text"] for block in content) if content else None,
        system_prompt_content=content,
        tool_choice=request["tool_choice"],
        structured_output_model=Pair if request["output_schema"] else None,
    )
    with suppress(Exception):
        async for _ in stream:
            pass
    return seen[0]


def requests_of(server: ServerProcess, run_id: str) -> list[dict[str, Any]]:
    listed = server.http.get(f"/runs/{run_id}/requests").json()
    return [server.http.get(f"/runs/{run_id}/requests/{each['n']}").json() for each in listed["data"]]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_recorded_request_is_what_the_provider_received(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    """Tools, an image, and a history from a session that a conversation manager trims."""
    before = len(models.requests)
    runs: list[str] = []
    for number in range(4):
        input = [{"text": f"question {number}"}, IMAGE]
        options = {"session_id": f"asked {provider}"}
        runs.append(server.begin(f"{provider}-windowed", input, **options))
        assert server.ended(runs[-1])["status"] == "success"
    received = [request.sent for request in models.requests[before:]]
    asked = [request for run_id in runs for request in requests_of(server, run_id)]
    assert len(asked) == len(received) > len(runs)
    assert [await sent(provider, request) for request in asked] == received
    assert len(asked[-1]["messages"]) < 2 * len(runs)  # trimmed
    assert any(source.get("run_id") == runs[-2] for source in asked[-1]["sources"])
    assert KEY not in str([server.events(run_id) for run_id in runs])


@pytest.mark.filterwarnings("ignore:A ToolChoice was provided")  # strands' Ollama cannot pass it on
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_recorded_request_for_an_object_is_what_the_provider_received(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    """A tool, its result, and a last call that demands the object."""
    before = len(models.requests)
    run_id = server.begin(f"{provider}-object", "What are the numbers?")
    assert server.ended(run_id)["result"]["structured_output"] == {"a": 19, "b": 23}
    received = [request.sent for request in models.requests[before:]]
    asked = requests_of(server, run_id)
    assert len(asked) == len(received) == 3
    assert [await sent(provider, request) for request in asked] == received
    assert [request["tool_choice"] for request in asked] == [None, None, {"tool": {"name": "Pair"}}]
    schemas = [request["output_schema"] for request in asked]
    assert schemas == [None, None, Pair.model_json_schema() if provider == "anthropic" else None]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_messages_of_earlier_runs_are_not_stored_again(server: ServerProcess, provider: str) -> None:
    words = "unmistakable words"
    options = {"session_id": f"once {provider}"}
    for _ in range(3):
        run_id = server.begin(f"{provider}-windowed", words, **options)
        server.ended(run_id)
    assert requests_of(server, run_id)[-1]["messages"][0]["role"]
    assert str(server.events(run_id)).count(words) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_usage_names_the_providers_request_and_why_the_answer_ended(
    server: ServerProcess, provider: str
) -> None:
    run_id = server.begin(f"{provider}-talks", "Name your request.")
    server.ended(run_id)
    (usage,) = [event["data"] for event in server.events(run_id) if event["type"] == "llm.usage"]
    assert (usage["request_id"], usage["finish_reason"]) == ("req_1", "end_turn")
