"""OpenAI's messages become strands' messages, with everything in them that a model can use."""

from typing import Any

import msgspec
import pytest

from runstore.http.chat_input import chat_input
from runstore.http.errors import BadRequest
from runstore.http.openai_objects import ChatBody

PIXEL = "iVBORw0KGgo="


def read(*messages: Any) -> Any:
    return chat_input(msgspec.convert({"messages": list(messages)}, ChatBody))


def test_a_single_text_of_a_user_is_text() -> None:
    assert read({"role": "user", "content": "hi"}) == "hi"


def test_a_history_keeps_its_order_and_its_roles() -> None:
    assert read(
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho", "refusal": None, "audio": None},
        {"role": "user", "content": "again"},
    ) == [
        {"role": "system", "content": [{"text": "be brief"}]},
        {"role": "user", "content": [{"text": "hi"}]},
        {"role": "assistant", "content": [{"text": "ho"}]},
        {"role": "user", "content": [{"text": "again"}]},
    ]


def test_neighbours_of_one_role_are_one_message() -> None:
    assert read({"role": "user", "content": "a"}, {"role": "user", "content": "b"}) == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]}
    ]


def test_an_image_is_its_bytes() -> None:
    url = {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": url}]
    image = {"image": {"format": "png", "source": {"bytes": PIXEL}}}
    assert read({"role": "user", "content": parts}) == [
        {"role": "user", "content": [{"text": "what is it?"}, image]}
    ]


def test_tool_calls_and_their_results_stay_together() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert read(
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    )[1:] == [
        {
            "role": "assistant",
            "content": [{"toolUse": {"toolUseId": "c1", "name": "add", "input": {"a": 1}}}],
        },
        {
            "role": "user",
            "content": [{"toolResult": {"toolUseId": "c1", "status": "success", "content": [{"text": "2"}]}}],
        },
    ]


def test_arguments_that_are_no_object_are_named() -> None:
    call = {"id": "c1", "function": {"name": "add", "arguments": "[1"}}
    with pytest.raises(BadRequest) as wrong:
        read({"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "hi"})
    assert wrong.value.field == "$.messages[0].tool_calls[0].function.arguments"


def test_a_history_that_ends_with_a_tool_call_cannot_make_the_agent_run_it() -> None:
    call = {"id": "c1", "function": {"name": "delete_everything"}}
    with pytest.raises(BadRequest) as wrong:
        read({"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]})
    assert wrong.value.field == "$.messages[1].role"
