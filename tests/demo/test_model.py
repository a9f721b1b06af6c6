from typing import Any, Literal

import pytest
from pydantic import BaseModel
from strands import Agent, tool

from runstore.demo.input import tool_input
from runstore.demo.model import ScriptedModel


async def reply(model: ScriptedModel, input: Any, **settings: Any) -> tuple[list[str], Agent]:
    agent = Agent(model=model, callback_handler=None, **settings)
    said = [item["data"] async for item in agent.stream_async(input) if "data" in item]
    return said, agent


@tool
def search(query: str, limit: int, deep: bool, tags: list[str], site: str | None = None) -> str:
    """Search for something."""
    return f"{limit} hits for {query!r}, deep={deep}, tags={tags}, site={site}"


@tool
def count(number: int) -> str:
    """Count things."""
    return f"{number} things"


async def test_it_says_the_answer_to_the_last_user_text_in_pieces() -> None:
    said, _ = await reply(ScriptedModel(), "What is 2+2?")
    assert said == ["4"]
    said, _ = await reply(ScriptedModel(), "say it again")
    assert said == ["say ", "it ", "again"]


async def test_it_says_exactly_the_configured_number_of_tokens() -> None:
    said, agent = await reply(ScriptedModel(tokens=400), "ALPHA BETA")
    assert len(said) == 400
    assert agent.event_loop_metrics.accumulated_usage["outputTokens"] == 400


async def test_it_reports_the_words_of_input_and_output() -> None:
    _, agent = await reply(ScriptedModel(), "one two three")
    usage = agent.event_loop_metrics.accumulated_usage
    assert (usage["inputTokens"], usage["outputTokens"], usage["totalTokens"]) == (3, 3, 6)


async def test_it_calls_the_first_tool_once_and_says_its_result() -> None:
    said, agent = await reply(ScriptedModel(), "find 7 cats", tools=[search])
    assert agent.messages[1]["content"][0]["toolUse"] == {
        "toolUseId": "scripted-1",
        "name": "search",
        "input": {"query": "find 7 cats", "limit": 7, "deep": True, "tags": []},
    }
    assert "".join(said) == "7 hits for 'find 7 cats', deep=True, tags=[], site=None"


async def test_a_supervisor_calls_all_of_its_tools_at_once_and_says_all_results() -> None:
    said, agent = await reply(ScriptedModel(calls_all=True), "find 7 cats", tools=[search, count])
    uses = [block["toolUse"] for block in agent.messages[1]["content"]]
    assert [(use["toolUseId"], use["name"]) for use in uses] == [
        ("scripted-1", "search"),
        ("scripted-2", "count"),
    ]
    assert "".join(said).endswith("site=None 7 things")


async def test_the_tool_use_ids_of_a_conversation_go_on_counting() -> None:
    agent = Agent(model=ScriptedModel(), tools=[search], callback_handler=None)
    for _ in range(2):
        await agent.invoke_async("find cats")
    uses = [
        block["toolUse"] for message in agent.messages for block in message["content"] if "toolUse" in block
    ]
    assert [each["toolUseId"] for each in uses] == ["scripted-1", "scripted-2"]


async def test_with_tokens_it_cycles_the_words_of_the_tools_result() -> None:
    said, _ = await reply(ScriptedModel(tokens=50), "find cats", tools=[search])
    assert len(said) == 50


async def test_paced_words_keep_to_a_schedule_and_do_not_drift() -> None:
    now, slept = 100.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds + 0.02  # every sleep is late

    model = ScriptedModel(tokens=21, tokens_per_s=10, clock=lambda: now, sleep=sleep)
    said, _ = await reply(model, "tick")
    assert len(said) == 21
    assert slept[0] == pytest.approx(0.1)
    assert slept[1:] == pytest.approx([0.08] * 19)  # each makes up for the one before
    assert now == pytest.approx(102.02)


async def test_the_first_word_of_a_paced_answer_comes_at_once() -> None:
    async def sleep(seconds: float) -> None:
        raise AssertionError("slept before the first word")

    said, _ = await reply(ScriptedModel(tokens=1, tokens_per_s=0.001, sleep=sleep), "tick")
    assert said == ["tick"]


async def test_it_reads_the_text_of_a_multimodal_input() -> None:
    image = {"image": {"format": "png", "source": {"bytes": b"png"}}}
    said, _ = await reply(ScriptedModel(), [{"text": "Count from"}, image, {"text": "1 to 3"}])
    assert "".join(said) == "1 2 3"


class Person(BaseModel):
    name: str
    age: int


async def test_structured_output_is_filled_from_the_text() -> None:
    agent = Agent(model=ScriptedModel(), callback_handler=None, structured_output_model=Person)
    ended = await agent.invoke_async("Ada is 36")
    assert ended.structured_output == Person(name="Ada is 36", age=36)


async def test_the_models_own_structured_output_is_valid_too() -> None:
    prompt: Any = [{"role": "user", "content": [{"text": "Ada is 36"}]}]
    items = [item async for item in ScriptedModel().structured_output(Person, prompt)]
    assert items[-1]["output"] == Person(name="Ada is 36", age=36)


class Node(BaseModel):
    kind: Literal["leaf", "branch"]
    size: float
    parent: "Node | None"
    owner: Person
    notes: list[str]
    optional: int = 3


def test_a_tools_input_fits_its_schema() -> None:
    filled = tool_input(Node.model_json_schema(), "about 2.5 m")
    assert Node.model_validate(filled).owner.name == "about 2.5 m"
    assert filled["size"] == 2.5
    assert filled["kind"] == "leaf"
    assert "optional" not in filled


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "buy 3"),
        ({"type": "integer"}, 3),
        ({"type": ["null", "number"]}, 3),
        ({"type": "boolean"}, True),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, ["buy 3", "buy 3"]),
        ({"const": "x"}, "x"),
        ({}, "buy 3"),
    ],
)
def test_each_kind_of_property_is_filled(schema: dict[str, Any], expected: Any) -> None:
    whole = {"type": "object", "properties": {"it": schema}, "required": ["it"]}
    assert tool_input(whole, "buy 3") == {"it": expected}


def test_a_schema_that_contains_itself_comes_to_an_end() -> None:
    schema = {
        "$ref": "#/$defs/Loop",
        "$defs": {"Loop": {"properties": {"next": {"$ref": "#/$defs/Loop"}}, "required": ["next"]}},
    }
    assert "next" in tool_input(schema, "x")
