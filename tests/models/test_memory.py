"""Every provider accepts the conversation that it gets from a session."""

from typing import Any

import pytest

from tests.kit.server import ServerProcess
from tests.models.conftest import PROVIDERS
from tests.models.standins import ModelServer


def check_openai(messages: list[Any]) -> None:
    """Reference of chat completions: results follow their calls at once; every message says something."""
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting
        assert message.get("content") or message.get("tool_calls")
        waiting = {call["id"] for call in message.get("tool_calls", ())}
    assert messages[0]["role"] == "user"


def check_anthropic(messages: list[Any]) -> None:
    """Reference of messages: users begin, contents are not empty, all results come with the next message."""
    waiting: set[str] = set()
    assert messages[0]["role"] == "user"
    for message in messages:
        assert message["content"]
        blocks = [{"type": "text"}] if isinstance(message["content"], str) else message["content"]
        assert {each["tool_use_id"] for each in blocks if each["type"] == "tool_result"} == waiting
        waiting = {each["id"] for each in blocks if each["type"] == "tool_use"}
        assert all(each["signature"] for each in blocks if each["type"] == "thinking")


def check_ollama(messages: list[Any]) -> None:
    assert messages[0]["role"] == "user"
    assert all(message.get("content") or message.get("tool_calls") for message in messages)


CHECKS = {"openai": check_openai, "anthropic": check_anthropic, "ollama": check_ollama}
TURNS = ("finish", "talks", "finish", "thinks", "finish", "tool", "thinks", "talks")  # agents


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_session_of_several_agents_is_a_conversation_that_a_provider_takes(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    before = len(models.requests)
    for number, agent in enumerate(TURNS):
        body = {"model": f"{provider}-{agent}", "prompt": f"question {number}"}
        headers = {"X-Session-Id": f"all of {provider}"}
        assert server.http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    bodies = [request.body["messages"] for request in models.requests[before:]]
    for messages in bodies:
        CHECKS[provider](messages)
    assert [str(bodies[-1]).count(f"question {number}") for number in range(len(TURNS))] == [1] * len(TURNS)
