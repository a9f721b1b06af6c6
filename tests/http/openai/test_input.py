"""OpenAI's messages become strands' messages, with everything in them that a model can use."""

import re
import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from runstore.core.depth import MAX_DEPTH
from runstore.http.bodies import MAX_BODY_VALUES
from runstore.http.errors import BadRequest
from runstore.http.openai.images import read_image
from runstore.http.openai.input import ARGUMENTS_DEPTH, chat_input
from runstore.http.openai.mending import mended
from runstore.http.openai.objects import ChatBody

PIXEL = "iVBORw0KGgo="
BITMAP = "Qk1GAAAA"


def read(*messages: Any) -> Any:
    return chat_input(msgspec.convert(mended({"messages": list(messages)}), ChatBody))


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


def test_a_history_that_ends_with_a_tool_call_cannot_make_the_agent_run_it() -> None:
    call = {"id": "c1", "function": {"name": "delete_everything"}}
    with pytest.raises(BadRequest) as wrong:
        read({"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]})
    assert wrong.value.field == "$.messages[1].role"


# ---- what an interrupted answer leaves in a history ----

HI: dict[str, Any] = {"role": "user", "content": "hi"}
AGAIN: dict[str, Any] = {"role": "user", "content": "again"}
BOTH = [{"role": "user", "content": [{"text": "hi"}, {"text": "again"}]}]


@pytest.mark.parametrize(
    "empty",
    [
        {"content": ""}, {"content": None}, {"content": []}, {}, {"content": " \n"}, {"content": [""]},
        {"content": [{"type": "text", "text": ""}]}, {"content": [{"type": "text", "text": None}]},
        {"content": None, "tool_calls": []}, {"content": None, "tool_calls": None, "function_call": None},
        {"content": "", "reasoning_content": "Hm", "reasoning": "Hm"}, {"content": None, "refusal": ""},
        {"content": [{"type": "thinking", "thinking": "Hm", "signature": "s"}]},
        {"content": [{"type": "redacted_thinking", "data": "x"}]},
        {"content": [{"type": "reasoning", "text": "Hm"}, {"type": "reasoning_content", "x": 1}]},
    ],
)  # fmt: skip
def test_an_answer_that_says_nothing_is_left_out(empty: dict[str, Any]) -> None:
    assert read(HI, {"role": "assistant", **empty}, AGAIN) == BOTH
    assert read(HI, {"role": "assistant", **empty}) == "hi"


@pytest.mark.parametrize("role", ["system", "developer", "user"])
@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}], "\n"])
def test_an_empty_message_of_any_other_role_is_left_out_too(role: str, content: Any) -> None:
    assert read({"role": role, "content": content}, HI) == "hi"


def test_a_refusal_is_what_the_model_said() -> None:
    for said in (
        {"content": None, "refusal": "No."},
        {"content": [{"type": "refusal", "refusal": "No."}]},
    ):
        answer = read(HI, {"role": "assistant", **said}, AGAIN)[1]
        assert answer == {"role": "assistant", "content": [{"text": "No."}]}


def test_neighbours_are_joined_after_instructions_are_taken_out() -> None:
    assert read(HI, {"role": "system", "content": "be brief"}, AGAIN) == [
        {"role": "system", "content": [{"text": "be brief"}]},
        *BOTH,
    ]
    assert read(HI, {"role": "developer", "content": "be brief"}) == [
        {"role": "system", "content": [{"text": "be brief"}]},
        {"role": "user", "content": [{"text": "hi"}]},
    ]


def test_a_conversation_may_begin_with_an_answer() -> None:
    said = read({"role": "assistant", "content": "Welcome!"}, HI)
    assert [message["role"] for message in said] == ["assistant", "user"]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ([{"role": "user", "content": " "}], "messages[0].content"),
        ([HI, {"role": "assistant", "content": "ho"}], "messages[1].role"),
        ([HI, {"role": "assistant", "content": "ho"}, {"role": "user"}], "messages[2].content"),
        ([{"role": "system", "content": "be brief"}], "messages[0].role"),
        ([None], "messages[0]"),
        ([{"role": "system", "content": "be brief"}, None], "messages[0].role"),
    ],
)
def test_where_there_is_nothing_to_answer_is_named(messages: list[Any], field: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        read(*messages)
    assert wrong.value.field == f"$.{field}"


# ---- tool calls ----


def call(id: Any = "c1", arguments: Any = "{}", name: str = "add") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    "cut_off",
    [
        {"tool_calls": [None]},
        {"tool_calls": [{"id": "c1"}]},
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"arguments": ""}}]},
        {"tool_calls": [call(name="")]},
        {"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": None, "input": None}}]},
        {"function_call": {}},
    ],
)
def test_a_call_that_was_cut_off_before_its_name_is_left_out(cut_off: Any) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "?"}
    assert read(HI, {"role": "assistant", "content": "ho", **cut_off}, result, AGAIN)[1:] == [
        {"role": "assistant", "content": [{"text": "ho"}]},
        {"role": "user", "content": [{"text": "?"}, {"text": "again"}]},
    ]


@pytest.mark.parametrize("kind", ["think", "tool_call", "tool-call", "server_tool_use", "input_json_delta"])
def test_parts_that_clients_keep_of_an_answer_are_left_out(kind: str) -> None:
    parts = [{"type": kind, "think": "hm", "tool_call": {"id": "c1"}}, {"type": "text", "text": "ho"}]
    assert read(HI, {"role": "assistant", "content": parts}, AGAIN)[1]["content"] == [{"text": "ho"}]


def inputs(said: list[dict[str, Any]]) -> list[Any]:
    return [block["toolUse"]["input"] for each in said for block in each["content"] if "toolUse" in block]


@pytest.mark.parametrize(
    ("arguments", "input"),
    [
        ('{"a": 1}', {"a": 1}), ("", {}), (None, {}), ("  ", {}), ('{"a": "cut o', {}), ("[1", {}),
        ('"text"', {}), ("[1]", {}), ("null", {}), ("NaN", {}), ({"a": 1}, {"a": 1}), ("[" * 100_000, {}),
        ('{"a": "b\n\tc"}', {"a": "b\n\tc"}), (msgspec.json.encode('{"a": 1}').decode(), {"a": 1}),
        ('{}{"a": 1}', {"a": 1}), ('{"a": 1}{"a": 2}', {}),
        (r'{"a": "\d",}', {"a": r"\d"}), ("{'a': 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_arguments_that_are_not_an_object_become_an_empty_one(arguments: Any, input: Any) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "?"}
    assert inputs(read(HI, {"role": "assistant", "tool_calls": [call("c1", arguments)]}, result)) == [input]


def test_a_function_call_beside_tool_calls_is_the_same_call() -> None:
    both = {"role": "assistant", "function_call": {"name": "add", "arguments": "{}"}, "tool_calls": [call()]}
    said = read(HI, both, {"role": "tool", "tool_call_id": "c1", "content": "2"})
    assert [len(message["content"]) for message in said] == [1, 1, 1]
    nameless = {**both, "tool_calls": [call(name="")]}
    assert inputs(read(HI, nameless, {"role": "function", "name": "add", "content": "2"})) == [{}]


@pytest.mark.parametrize(
    "bare",
    [
        {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"},
        {"name": "add", "arguments": '{"a": 1}', "id": "c1"},
        {"name": "add", "args": {"a": 1}, "id": 5, "type": None},
    ],
)
def test_a_call_may_lack_the_object_around_its_function(bare: dict[str, Any]) -> None:
    result = {"role": "tool", "tool_call_id": bare["id"], "content": "2"}
    said = read(HI, {"role": "assistant", "content": "", "tool_calls": [bare]}, result)
    assert inputs(said) == [{"a": 1}]
    assert results(said[2]) == [(str(bare["id"]), "success", [{"text": "2"}])]


def test_a_result_may_name_its_tool_as_ollamas_clients_do() -> None:
    calls = {"role": "assistant", "tool_calls": [call(None, name="a"), call(None, name="b")]}
    answers = [{"role": "tool", "tool_name": name, "content": name} for name in ("b", "a")]
    said = read(HI, calls, *answers)
    names = {block["toolUse"]["toolUseId"]: block["toolUse"]["name"] for block in said[1]["content"]}
    assert [(names[id], content) for id, _, content in results(said[2])] == [
        ("b", [{"text": "b"}]), ("a", [{"text": "a"}]),
    ]  # fmt: skip


def test_the_text_input_of_a_custom_tool_is_kept() -> None:
    custom = {"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    result = {"role": "tool", "tool_call_id": "c1", "content": "?"}
    assert inputs(read(HI, {"role": "assistant", "tool_calls": [custom]}, result)) == [{"input": "ls"}]


def results(message: dict[str, Any]) -> list[tuple[str, str, Any]]:
    found = [block["toolResult"] for block in message["content"] if "toolResult" in block]
    return [(each["toolUseId"], each["status"], each["content"]) for each in found]


def test_a_call_without_a_result_was_interrupted() -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [call("c1"), call("c2")]}
    said = read(HI, calls, {"role": "tool", "tool_call_id": "c2", "content": "2"}, AGAIN)
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert results(said[2]) == [
        ("c2", "success", [{"text": "2"}]),
        ("c1", "error", [{"text": "Tool was interrupted."}]),
    ]
    assert said[2]["content"][-1] == {"text": "again"}
    assert read(HI, calls, {"role": "assistant", "content": "well"}, AGAIN)[2]["role"] == "user"


def of_calls(*ids: str, content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [call(id, name=id) for id in ids]}


def of_result(id: str, content: str = "?") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


def uses(message: dict[str, Any]) -> list[str]:
    return [
        block["toolUse"]["toolUseId"] if "toolUse" in block else block["text"] for block in message["content"]
    ]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([of_calls("a"), of_calls("b")], ["a", "b"]),
        ([of_calls("a"), of_calls("b", content="And:")], ["And:", "a", "b"]),
        ([of_calls("a", "b"), {"role": "assistant", "content": "I look."}], ["I look.", "a", "b"]),
        ([of_calls("a"), {"role": "assistant", "content": ""}, of_calls("b")], ["a", "b"]),
        ([of_calls("a"), {"role": "system", "content": "Be brief."}, of_calls("b")], ["a", "b"]),
    ],
    ids=["calls", "text and calls", "text", "nothing", "an instruction"],
)
def test_an_answer_in_several_messages_is_one_if_its_results_come_after_them(
    messages: list[Any], said: list[str]
) -> None:
    read_in = read(HI, *messages, of_result("a", "1"), of_result("b", "2"), AGAIN)
    asked, answer, last = [each for each in read_in if each["role"] != "system"]
    assert uses(answer) == said
    assert results(last) == [("a", "success", [{"text": "1"}]), ("b", "success", [{"text": "2"}])]
    assert (asked["content"], last["content"][-1]) == ([{"text": "hi"}], {"text": "again"})


def test_an_answer_after_a_call_that_has_no_result_later_is_another_one() -> None:
    said = read(HI, of_calls("a"), {"role": "assistant", "content": "well"}, AGAIN)
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant", "user"]
    earlier = read(
        HI, of_calls("a"), of_result("a"), of_calls("a"), {"role": "assistant", "content": "well"}, AGAIN
    )
    assert results(earlier[4])[0][1:] == ("error", [{"text": "Tool was interrupted."}])
    assert earlier[5]["content"] == [{"text": "well"}]


def test_results_come_first_wherever_the_client_has_put_them() -> None:
    said = read(
        HI, {"role": "assistant", "tool_calls": [call()]}, AGAIN, {"role": "tool", "tool_call_id": "c1"}
    )
    assert results(said[2]) == [("c1", "success", [])]
    assert said[2]["content"][-1] == {"text": "again"}


WELL = {"role": "assistant", "content": "well"}


@pytest.mark.parametrize("later", [[WELL], [AGAIN, WELL], [of_result("b", "2"), WELL]], ids=str)
def test_a_result_that_comes_after_the_next_answer_is_still_the_calls(later: list[Any]) -> None:
    said = read(HI, of_calls("a", "b"), *later, {**of_result("a", "1"), "status": "error"}, AGAIN)
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant", "user"]
    assert ("a", "error", [{"text": "1"}]) in results(said[2])
    assert said[3:] == [
        {"role": "assistant", "content": [{"text": "well"}]},
        {"role": "user", "content": [{"text": "again"}]},
    ]


def test_a_late_result_that_is_the_last_message_is_also_what_the_agent_answers() -> None:
    said = read(HI, of_calls("a"), AGAIN, WELL, of_result("a", "1"))
    assert results(said[2]) == [("a", "success", [{"text": "1"}])]
    assert said[4:] == [{"role": "user", "content": [{"text": "1"}]}]


def test_a_result_that_comes_before_its_call_is_the_calls() -> None:
    said = read(HI, of_result("a", "1"), of_calls("a", "b"), of_result("b", "2"), WELL, AGAIN)
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant", "user"]
    assert results(said[2]) == [("a", "success", [{"text": "1"}]), ("b", "success", [{"text": "2"}])]
    assert results(read(HI, of_result("a", "1"), of_calls("a"))[2]) == [("a", "success", [{"text": "1"}])]


def test_results_out_of_order_belong_to_calls_without_an_own_result_if_ids_repeat() -> None:
    cut = read(of_result("a", "0"), of_calls("a"), of_result("a", "1"), AGAIN)
    assert cut[0] == {"role": "user", "content": [{"text": "0"}]}
    assert results(cut[2]) == [("a", "success", [{"text": "1"}])]
    again = read(
        HI, of_calls("a"), AGAIN, of_calls("a"), of_result("a", "1"), WELL, of_result("a", "2"), AGAIN
    )
    assert [each[1:] for message in again for each in results(message)] == [
        ("success", [{"text": "2"}]), ("success", [{"text": "1"}]),
    ]  # fmt: skip


def test_a_result_whose_call_was_cut_off_is_text() -> None:
    assert read({"role": "tool", "tool_call_id": "gone", "content": "2"}, AGAIN) == [
        {"role": "user", "content": [{"text": "2"}, {"text": "again"}]}
    ]


def test_a_result_that_is_sent_twice_is_one() -> None:
    said = read(HI, of_calls("a"), of_result("a", "2"), of_result("a", "2"), AGAIN)
    assert said[2]["content"][1:] == [{"text": "again"}]
    assert read(HI, of_calls("a"), of_result("a", "2"), of_result("a", "2"))[2] == {
        **said[2],
        "content": said[2]["content"][:1],
    }
    other = read(HI, of_calls("a"), of_result("a", "2"), of_result("a", "3"), AGAIN)
    assert other[2]["content"][1:] == [{"text": "3"}, {"text": "again"}]


def test_functions_of_the_first_api_are_tools() -> None:
    said = read(
        HI,
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
        {"role": "function", "name": "add", "content": "2"},
    )
    use = said[1]["content"][0]["toolUse"]
    assert (use["name"], use["input"]) == ("add", {"a": 1})
    assert results(said[2]) == [(use["toolUseId"], "success", [{"text": "2"}])]


@pytest.mark.parametrize("id", [None, "", "same", "functions.a:0", "call_1|fc_2", "é", "c" * 65])
def test_calls_without_ids_of_their_own_get_them(id: Any) -> None:
    calls = {"role": "assistant", "tool_calls": [call(id, name="a"), call(id, name="b")]}
    answers = [{"role": "tool", "tool_call_id": id, "name": name, "content": name} for name in ("a", "b")]
    said = read(HI, calls, *answers)
    uses = [block["toolUse"] for block in said[1]["content"]]
    assert len({use["toolUseId"] for use in uses}) == 2
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", use["toolUseId"]) for use in uses)
    assert [(use["toolUseId"], "success", [{"text": use["name"]}]) for use in uses] == results(said[2])


# ---- fields of a wrong type, which a client sends again with every turn ----


@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
@pytest.mark.parametrize(
    "field", ["name", "tool_name", "refusal", "tool_calls", "function_call", "tool_call_id"]
)
def test_a_field_beside_the_words_may_be_of_any_type(field: str, role: str) -> None:
    plain = read(HI, {"role": role, "content": "ho"}, AGAIN)
    for wrong in (5, 1.5, False, True, [], {}, [5], {"a": 1}, "auto", None):
        assert read(HI, {"role": role, "content": "ho", field: wrong}, AGAIN) == plain, wrong


@pytest.mark.parametrize(
    "calls",
    [
        {}, "auto", 5, [5], [[]], ["c1"], [{"id": "c1", "function": 5}], [{"id": "c1", "function": "add"}],
        [{"id": "c1", "function": {"name": None}}], [{"id": "c1", "function": {"name": ["add"]}}],
        [{"id": "c1", "custom": False}], [{"id": {}, "function": []}],
    ],
)  # fmt: skip
def test_an_invalid_call_is_left_out(calls: Any) -> None:
    said = {"role": "assistant", "content": "ho", "tool_calls": calls}
    assert read(HI, said, AGAIN)[1] == {"role": "assistant", "content": [{"text": "ho"}]}


def test_ids_and_names_may_be_numbers_and_a_call_may_stand_alone() -> None:
    calls = {"role": "assistant", "tool_calls": {"id": 5, "function": {"name": 7, "arguments": 5}}}
    said = read(HI, calls, {"role": "tool", "tool_call_id": 5, "content": "?"})
    assert said[1]["content"] == [{"toolUse": {"toolUseId": "5", "name": "7", "input": {}}}]
    assert results(said[2]) == [("5", "success", [{"text": "?"}])]


@pytest.mark.parametrize("arguments", [5, 1.5, True, None, {}, [], [1]])
def test_arguments_may_be_of_any_type(arguments: Any) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "?"}
    assert inputs(read(HI, {"role": "assistant", "tool_calls": [call("c1", arguments)]}, result)) == [{}]


def test_the_input_of_a_custom_tool_that_is_not_text_becomes_its_json() -> None:
    custom = {"id": "c1", "custom": {"name": "shell", "input": ["ls", 5]}}
    said = read(HI, {"role": "assistant", "tool_calls": [custom]}, {"role": "tool", "tool_call_id": "c1"})
    assert inputs(said) == [{"input": '["ls",5]'}]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (5, "5"), (False, "false"), ({"a": 1}, '{"a":1}'), ([{"a": 1}, "b"], '{"a":1} b'),
        ([{"type": "text", "text": 5}], '{"type":"text","text":5}'), ([{"text": "a"}, 5], "a 5"),
        ({"type": "json", "value": 1}, '{"type":"json","value":1}'),
    ],
)  # fmt: skip
def test_a_tools_content_that_is_not_text_becomes_its_json(content: Any, text: str) -> None:
    said = read(
        HI, {"role": "assistant", "tool_calls": [call()]}, {**call(), "role": "tool", "content": content}
    )
    assert " ".join(block["text"] for block in results(said[2])[0][2]) == text


@pytest.mark.parametrize(
    "content",
    [
        5, False, {}, {"type": "file"}, [5, {"type": "audio"}, {"type": 5}],
        {"type": "refusal", "refusal": False}, [{"type": "text", "text": {"value": "no"}}],
    ],
)  # fmt: skip
def test_parts_of_an_answer_that_are_not_known_are_left_out(content: Any) -> None:
    assert read(HI, {"role": "assistant", "content": content}, AGAIN) == BOTH
    beside = [*(content if isinstance(content, list) else [content]), {"text": "ho"}]
    assert read(HI, {"role": "assistant", "content": beside}, AGAIN)[1]["content"] == [{"text": "ho"}]


def test_a_message_that_is_null_says_nothing() -> None:
    assert read(None, HI, None) == "hi"


@pytest.mark.parametrize("role", ["user", "system", "developer"])
@pytest.mark.parametrize("content", [5, False, {"type": "file"}, [{"type": "text", "text": 5}]])
def test_a_persons_content_is_never_left_out(role: str, content: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.messages\[0\]\.content"):
        read({"role": role, "content": content}, HI)


@pytest.mark.parametrize(
    "message",
    [{"role": 5, "content": "hi"}, {"role": "model", "content": "hi"}, {"content": "hi"}, 5, "hi", [HI]],
)
def test_an_invalid_message_is_named(message: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.messages\[1\]"):
        read(HI, message)


# ---- parts ----


def test_parts_of_the_responses_api_and_bare_strings_are_text() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}, "c"]
    assert read({"role": "user", "content": parts})[0]["content"] == [
        {"text": "a"},
        {"text": "b"},
        {"text": "c"},
    ]
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "ho", "annotations": []}]}
    assert read(HI, said, AGAIN)[1]["content"] == [{"text": "ho"}]


def test_a_single_part_of_text_is_text() -> None:
    assert read({"role": "user", "name": "ann", "content": [{"type": "text", "text": "hi"}]}) == "hi"


def test_reasoning_and_calls_among_the_parts_are_left_out_and_the_words_kept() -> None:
    parts = [
        {"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "ho"},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {}},
    ]  # fmt: skip
    said = read(HI, {"role": "assistant", "content": parts}, AGAIN)
    assert said[1] == {"role": "assistant", "content": [{"text": "ho"}]}


@pytest.mark.parametrize(
    "part", [{"type": "input_audio", "input_audio": {}}, {"type": "file"}, {"type": None, "text": "x"}, 7]
)
def test_a_part_that_is_not_known_is_named(part: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.messages\[0\]\.content\[0\]"):
        read({"role": "user", "content": [part]})


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_list_of_parts_may_stand_in_a_list(role: str) -> None:
    nested = {"role": role, "content": [[{"type": "text", "text": "a"}], "b", [[None, {"text": "c"}], []]]}
    assert read(HI, nested, AGAIN) == read(HI, {"role": role, "content": ["a", "b", "c"]}, AGAIN)
    assert read({"role": "user", "content": [[]]}, HI) == "hi"


def test_a_tools_list_of_parts_may_stand_in_a_list() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": [[{"type": "text", "text": "2"}]]}
    assert results(read(HI, {"role": "assistant", "tool_calls": [call()]}, result)[2])[0][2] == [
        {"text": "2"}
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"base64": PIXEL, "mime_type": "image/png"}, {"data": PIXEL, "mimeType": "image/png"},
        {"image": PIXEL}, {"image": f"data:image/png;base64,{PIXEL}", "mediaType": "image/png"},
        {"url": f"data:image/png;base64,{PIXEL}"},
        {"source_type": "base64", "data": PIXEL, "mime_type": "image/png"},
    ],
)  # fmt: skip
def test_an_image_may_have_the_fields_of_other_libraries(fields: dict[str, Any]) -> None:
    image = {"type": "image", **fields}
    assert read({"role": "user", "content": [image]}) == [{"role": "user", "content": [SHOWN]}]
    assert read(HI, {"role": "assistant", "content": [image]}, AGAIN)[1]["content"] == [MOVED]


@pytest.mark.parametrize("kind", ["image_url", "input_image"])
def test_the_url_of_an_image_may_stand_beside_its_type(kind: str) -> None:
    image = {"type": kind, "url": f"data:image/png;base64,{PIXEL}"}
    assert read({"role": "user", "content": [image]}) == [{"role": "user", "content": [SHOWN]}]


@pytest.mark.parametrize(
    "image",
    [{"type": "image"}, {"type": "image", "image": 5}, {"type": "image_url"}, {"type": "image", "url": ""}],
)
def test_an_image_without_data_is_refused(image: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        read({"role": "user", "content": [image]})


def test_a_part_alone_is_a_list_of_it() -> None:
    assert read({"role": "user", "content": {"type": "text", "text": "hi"}}) == "hi"
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    with pytest.raises(BadRequest) as wrong:
        read({"role": "user", "content": image})
    assert wrong.value.field == "$.messages[0].content.image_url.url"


def test_a_part_that_is_null_says_nothing() -> None:
    assert read({"role": "user", "content": [None, {"type": "text", "text": "hi"}, None]}) == "hi"
    assert read({"role": "assistant", "content": [None]}, HI) == "hi"


def test_a_part_without_a_type_is_text_if_it_has_one() -> None:
    assert read({"role": "user", "content": [{"text": "hi"}]}) == "hi"
    assert read({"role": "user", "content": {"text": "hi"}}) == "hi"
    for content, place in ((["hi", {"url": "x"}], "[1]"), ([{"text": None}], "[0]"), ({"content": "x"}, "")):
        with pytest.raises(BadRequest, match="needs its `type`") as wrong:
            read({"role": "user", "content": content})
        assert wrong.value.field == f"$.messages[0].content{place}"


@pytest.mark.parametrize("role", ["developer", "system"])
def test_an_image_of_an_instruction_is_named(role: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    with pytest.raises(BadRequest) as wrong:
        read({"role": role, "content": [image]}, HI)
    assert wrong.value.field == "$.messages[0].content[0]"


def test_a_tools_result_can_hold_an_image() -> None:
    image = {"type": "image_url", "image_url": f"data:image/png;base64,{PIXEL}"}
    result = {"role": "tool", "tool_call_id": "c1", "content": [image]}
    said = read(HI, {"role": "assistant", "tool_calls": [call()]}, result)
    assert results(said[2])[0][2][0]["image"]["format"] == "png"


# ---- images of models and tools ----

SHOWN = {"image": {"format": "png", "source": {"bytes": PIXEL}}}
MOVED = {"text": "The image is being provided in the following user message."}
IMAGES = {
    "image_url": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    "input_image": {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"},
    "image": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
}
UNREADABLE = [
    ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, "[image: https://example.com/a.png]"),
    ({"type": "image_url", "image_url": "http://example.com/a"}, "[image: http://example.com/a]"),
    ({"type": "image", "source": {"type": "url", "url": "https://example.com/a"}}, "[image: https://example.com/a]"),
    ({"type": "image_url", "image_url": {"url": "https://example.com/" + "a" * 9_000}}, "[image]"),
    ({"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,PHN2Zz4="}}, "[image]"),
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,a"}}, "[image]"),
    ({"type": "image_url", "image_url": {"url": ""}}, "[image]"),
    ({"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": BITMAP}}, "[image]"),
]  # fmt: skip


@pytest.mark.parametrize("part", IMAGES.values(), ids=IMAGES)
def test_an_image_is_accepted_in_each_form_of_its_part(part: Any) -> None:
    assert read({"role": "user", "content": [part]}) == [{"role": "user", "content": [SHOWN]}]
    said = read(HI, {"role": "assistant", "tool_calls": [call()]}, {"role": "tool", "content": [part]})
    assert results(said[2]) == [("c1", "success", [SHOWN])]


@pytest.mark.parametrize("part", IMAGES.values(), ids=IMAGES)
def test_a_models_image_is_shown_by_the_next_user_as_no_model_takes_its_own(part: Any) -> None:
    drawn = {"role": "assistant", "content": [{"type": "text", "text": "A cat:"}, part]}
    assert read(HI, drawn, AGAIN)[1:] == [
        {"role": "assistant", "content": [{"text": "A cat:"}, MOVED]},
        {"role": "user", "content": [SHOWN, {"text": "again"}]},
    ]
    calls = {**drawn, "tool_calls": [call()]}
    said = read(HI, calls, {"role": "tool", "tool_call_id": "c1", "content": "2"}, AGAIN)
    assert results(said[2]) == [("c1", "success", [{"text": "2"}])]
    assert said[2]["content"][1:] == [SHOWN, {"text": "again"}]


@pytest.mark.parametrize(("part", "text"), UNREADABLE)
def test_an_image_of_a_model_or_tool_that_cannot_be_read_is_text(part: Any, text: str) -> None:
    assert read(HI, {"role": "assistant", "content": [part]}, AGAIN)[1]["content"] == [{"text": text}]
    calls = {"role": "assistant", "tool_calls": [call(), call("c2")]}
    as_part = {"type": "tool_result", "tool_use_id": "c2", "content": [part]}
    said = read(
        HI,
        calls,
        {"role": "tool", "tool_call_id": "c1", "content": [part]},
        {"role": "user", "content": [as_part]},
    )
    assert results(said[2]) == [("c1", "success", [{"text": text}]), ("c2", "success", [{"text": text}])]


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ({"type": "url", "url": "https://example.com/a.png"}, "source.url"),
        ({"type": "base64", "media_type": "image/bmp", "data": BITMAP}, "source"),
    ],
)
def test_a_persons_image_that_cannot_be_read_is_refused(source: Any, place: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        read({"role": "user", "content": [{"type": "image", "source": source}]})
    assert wrong.value.field == f"$.messages[0].content[0].{place}"


# ---- calls and results as parts, in Anthropic's form ----


def used(id: Any = "c1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "add", "input": {"a": 1}, **fields}


def result_part(content: Any, id: Any = "c1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **fields}


@pytest.mark.parametrize(
    ("content", "blocks"),
    [
        ("2", [{"text": "2"}]), (None, []), ([], []), ("", []),
        ([{"type": "text", "text": "2"}, IMAGES["image"]], [{"text": "2"}, SHOWN]),
        ({"type": "text", "text": "2"}, [{"text": "2"}]), ({"a": 1}, [{"text": '{"a":1}'}]),
        ([{"type": "document", "x": 1}], [{"text": '{"type":"document","x":1}'}]), (5, [{"text": "5"}]),
    ],
)  # fmt: skip
def test_a_users_result_part_belongs_to_the_call_of_the_answer_before(content: Any, blocks: Any) -> None:
    said = read(
        HI,
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, used()]},
        {"role": "user", "content": [{"type": "text", "text": "again"}, result_part(content)]},
    )
    assert said[1]["content"] == [
        {"text": "Let me see."}, {"toolUse": {"toolUseId": "c1", "name": "add", "input": {"a": 1}}},
    ]  # fmt: skip
    assert results(said[2]) == [("c1", "success", blocks)]
    assert said[2]["content"][1:] == [{"text": "again"}]


def test_a_result_part_alone_is_a_turn_and_may_say_that_its_call_failed() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [call("c1"), call("c2")]}
    parts = [result_part("no", is_error=True), result_part(None, "c2", is_error="?")]
    said = read(HI, calls, {"role": "user", "content": parts})
    assert results(said[2]) == [("c1", "error", [{"text": "no"}]), ("c2", "success", [])]
    assert len(said) == 3


@pytest.mark.parametrize(
    ("status", "meaning"), [("error", "error"), ("success", "success"), (None, "success"), (5, "success")]
)
def test_a_tools_message_may_say_that_its_call_failed(status: Any, meaning: str) -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [call("c1")]}
    said = read(HI, calls, {"role": "tool", "tool_call_id": "c1", "content": "no", "status": status})
    assert results(said[2]) == [("c1", meaning, [{"text": "no"}])]


@pytest.mark.parametrize("role", ["user", "tool"])
def test_results_may_be_parts_of_a_tools_message_too_and_ids_numbers(role: str) -> None:
    said = read(
        HI,
        {"role": "assistant", "content": [used(1), used(2, input=5), used(3, name=None)]},
        {"role": role, "content": [result_part("a", 1), result_part("b", 2), result_part("c", 3)]},
    )
    assert results(said[2]) == [("1", "success", [{"text": "a"}]), ("2", "success", [{"text": "b"}])]
    assert said[2]["content"][2:] == [{"text": "c"}]
    assert inputs(said) == [{"a": 1}, {}]


def test_a_call_part_is_no_second_call_where_tool_calls_holds_it() -> None:
    both = {"role": "assistant", "content": [used()], "tool_calls": [call(arguments='{"a": 2}')]}
    assert inputs(read(HI, both, {"role": "tool", "tool_call_id": "c1", "content": "?"})) == [{"a": 2}]


def test_a_result_part_whose_call_was_cut_off_is_text() -> None:
    assert read({"role": "user", "content": [result_part("2", "gone")]}) == "2"
    with pytest.raises(BadRequest, match="the message is empty"):
        read({"role": "user", "content": [result_part("", "gone")]})


# ---- images ----


@pytest.mark.parametrize(
    ("url", "format"),
    [
        (f"data:image/png;base64,{PIXEL}", "png"), (f"data:image/jpg;base64,{PIXEL}", "jpeg"),
        (f"DATA:IMAGE/PNG;BASE64,{PIXEL}", "png"), (f"data:image/x-png;base64,{PIXEL}", "png"),
        (f"data:image/webp;charset=utf-8;base64,{PIXEL}", "webp"),
        (f"  data:image/gif;base64,{PIXEL}\n", "gif"),
        (f"data:image/jpeg;name=a%20cat.jpg;charset=UTF-8;base64, {PIXEL}", "jpeg"),
        (f"data:image/png; base64 ,{PIXEL[:4]}\r\n {PIXEL[4:]}", "png"),
        (f"data:image/png;base64,{PIXEL.rstrip('=')}", "png"),
        ("data:image/png;base64,iVBORw0KGgo%3D", "png"),
        ("data:image/png;base64,iVBO%0d%0aRw0KGgo%3d", "png"),
        (f'data:image/png;name="a,b";base64,{PIXEL}', "png"),
        (f'data:image/gif; name="a;base64,\\",b.gif" ;base64,{PIXEL}', "gif"),
        (f'data:image/png;name=5"cat;base64,{PIXEL}', "png"),
        (f"data:;base64,{PIXEL}", "png"), (f"data:application/octet-stream;base64,{PIXEL}", "png"),
        (f"data:image;base64,{PIXEL}", "png"), (f"data:image/*;base64,{PIXEL}", "png"),
        (f"data:undefined;base64,{PIXEL}", "png"), (f"data:text/plain;base64,{PIXEL}", "png"),
        (f"data:image/png;base64,data:image/png;base64,{PIXEL}", "png"),
    ],
)  # fmt: skip
def test_a_data_url_is_read_however_it_is_written(url: str, format: str) -> None:
    assert read_image(url) == (format, PIXEL)


def test_a_source_may_hold_a_data_url() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": f"data:image/png;base64,{PIXEL}"}
    [block] = read({"role": "user", "content": [{"type": "image", "source": source}]})[0]["content"]
    assert block == SHOWN


def test_url_safe_base64_becomes_the_standard_one() -> None:
    assert read_image("data:image/png;base64,-_-_") == ("png", "+/+/")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://example.com/cat.png", "must be a data: URL"), (PIXEL, "must be a data: URL"),
        ("data:image/png,abc", "must be a data: URL"), ("data:image/png;base64", "must be a data: URL"),
        ("data:image/svg+xml;base64,abcd", "not 'image/svg"), ("data:;base64,abcd", "not ''"),
        ("data:text/plain;base64,abcd", "not 'text/plain'"), ("data:image/png;base64,", "no image"),
        (f'data:image/png;name="a;base64",{PIXEL}', "must be a data: URL"),
        ("data:image/png;base64,a", "not base64"), ("data:image/png;base64,ab§d", "not base64"),
    ],
)  # fmt: skip
def test_an_invalid_image_is_an_error_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(BadRequest) as wrong:
        read({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    assert wrong.value.field == "$.messages[0].content[0].image_url.url"
    assert why in str(wrong.value)


# ---- input as long as a body may be ----

LONG = 8 << 20
IMAGE = "data:image/png"


def of_image(url: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


def of_arguments(arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [call(arguments=arguments)]}


def cpu_s_of_a_step_a_character() -> float:
    began, brackets = time.thread_time(), 0
    for character in "[" * LONG:
        brackets += character == "["
    return time.thread_time() - began


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(of_image(f"{IMAGE};base64," + "%41" * (LONG // 3)), id="escapes"),
        pytest.param(of_image(f"{IMAGE};base64," + "%2B" * (LONG // 3)), id="known escapes"),
        pytest.param(of_image(f"{IMAGE};base64," + "%" * LONG), id="percent signs"),
        pytest.param(of_image(f"{IMAGE};base64,é" + "A" * LONG), id="beyond ASCII"),
        pytest.param(of_image(f"{IMAGE};base64," + "A " * (LONG // 2)), id="blanks"),
        pytest.param(of_image(IMAGE + ";" * LONG + "base64,AAAA"), id="parameters"),
        pytest.param(of_image(IMAGE + ';a="b"' * (LONG // 6) + ";base64,AAAA"), id="quoted parameters"),
        pytest.param(of_arguments("[" * LONG), id="open lists"),
        pytest.param(of_arguments('{"a":' * (LONG // 5)), id="open objects"),
        pytest.param(of_arguments("[" * 3_000 + "]" * LONG), id="closed lists"),
        pytest.param(of_arguments("[" * 99 + '"' + r"\"" * (LONG // 2) + "\\"), id="a text without an end"),
        pytest.param(of_arguments('{"a": [' + "{}," * (LONG // 3) + "1]}"), id="many values"),
        pytest.param(of_arguments('{"a": ' + "9" * LONG + "}"), id="a number"),
        pytest.param(of_arguments('{"a": "' + r"\d" * (LONG // 2) + '"}'), id="escapes that JSON lacks"),
    ],
)
def test_no_message_takes_long_to_read(message: dict[str, Any]) -> None:
    began = time.thread_time()
    with suppress(BadRequest):
        read(HI, message, HI)
    cpu_s = time.thread_time() - began
    assert cpu_s < 5 * cpu_s_of_a_step_a_character()  # 8 times and more if each runs Python code


def test_arguments_of_a_tool_call_may_have_as_many_values_as_a_body() -> None:
    def values(count: int) -> str:
        return '{"a": [' + "1," * (count - 3) + "1]}"

    read(HI, of_arguments(values(MAX_BODY_VALUES)), HI)
    with pytest.raises(BadRequest) as refused:
        read(HI, of_arguments(values(2 * MAX_BODY_VALUES)), HI)
    assert refused.value.code == "body_too_large"


@pytest.mark.parametrize("levels", [ARGUMENTS_DEPTH + 1, 3_000])
@pytest.mark.parametrize("encoded", [True, False])
def test_arguments_that_are_nested_too_deep_have_their_deepest_part_as_text(
    levels: int, encoded: bool
) -> None:
    text = '{"a":' * levels + "1" + "}" * levels
    if not encoded and levels > MAX_DEPTH:
        return  # no body is nested so deep
    call = of_arguments(text if encoded else msgspec.json.decode(text))
    [input] = inputs(read(HI, call, {"role": "tool", "tool_call_id": "c1", "content": "?"}))
    for _ in range(ARGUMENTS_DEPTH):
        input = input["a"]
    assert input == '{"a":' * (levels - ARGUMENTS_DEPTH) + "1" + "}" * (levels - ARGUMENTS_DEPTH)
