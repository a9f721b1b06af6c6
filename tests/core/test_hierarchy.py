"""Valid and invalid hierarchies."""

from typing import Any

import msgspec
import pytest

from runstore.core.hierarchy import (
    MAX_HIERARCHY_BYTES,
    MAX_PROMPT,
    Hierarchy,
    agent_name,
    check_size,
    hierarchy_of,
    models_of,
    problems,
    tools_of,
    with_models,
)
from runstore.core.ids import new_run_id
from tests.kit.teams import hierarchy


def made(body: dict[str, Any]) -> Hierarchy:
    return msgspec.convert(body, Hierarchy)


def found(body: dict[str, Any]) -> list[str]:
    return [problem.field for problem in problems(made(body), {"scripted"}, {"search"})]


def test_a_hierarchy_of_known_names_has_no_problem() -> None:
    body = hierarchy(Red={"Ann": ["search"], "Bob": []}, Blue={"Ann": []})
    body["teams"][0]["workers"][0]["model"] = "scripted"
    assert found(body) == []


def test_each_problem_has_its_place() -> None:
    body = hierarchy(Red={"Ann": ["search", "dig", "search"], "Bob": []}, Blue={"Cid": ["dig"]})
    body["model"] = "none"
    body["teams"][1]["name"] = "Red"
    body["teams"][1]["model"] = "none"
    body["teams"][0]["workers"][1]["name"] = "Ann"
    body["teams"][1]["workers"][0]["model"] = "none"
    assert found(body) == [
        "$.model",
        "$.teams[1].name",
        "$.teams[0].workers[1].name",
        "$.teams[0].workers[0].tools[2]",
        "$.teams[0].workers[0].tools[1]",
        "$.teams[1].model",
        "$.teams[1].workers[0].model",
        "$.teams[1].workers[0].tools[0]",
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (hierarchy(**{"a-b": {"Ann": []}, "a_b": {"Ann": []}}), "$.teams[1].name"),
        (hierarchy(Red={"a-b-c": [], "a_b-c": []}), "$.teams[0].workers[1].name"),
        (hierarchy(Red={"Ann": ["look-up", "look_up"]}), "$.teams[0].workers[0].tools[1]"),
    ],
)
def test_names_that_differ_by_a_hyphen_only_are_one_tool(body: dict[str, Any], field: str) -> None:
    [problem] = problems(made(body), {"scripted"}, {"look-up", "look_up"})
    assert problem.field == field
    assert "'-' and '_' are the same in a tool's name" in problem.message


def test_a_problem_names_what_there_is() -> None:
    [problem] = problems(made(hierarchy(Red={"Ann": ["dig"]})), {"scripted"}, {"search", "read"})
    assert problem.message == "there is no tool 'dig'; there are read, search"
    [problem] = problems(made(hierarchy(Red={"Ann": ["dig"]})), {"scripted"}, ())
    assert problem.message == "there is no tool 'dig'; the server allows none"


def test_a_hierarchy_that_is_too_large_in_all_is_one_problem() -> None:
    body = hierarchy(Red={f"W{n}": [] for n in range(20)})
    for worker in body["teams"][0]["workers"]:
        worker["system_prompt"] = "p" * MAX_PROMPT
    [problem] = check_size(made(body))
    assert problem.field == "$"
    assert f"{MAX_HIERARCHY_BYTES:,}" in problem.message


def test_every_agent_has_a_model_once_they_are_spelled_out() -> None:
    body = hierarchy(Red={"Ann": []}, Blue={"Bob": []})
    body["teams"][0]["model"] = body["teams"][1]["workers"][0]["model"] = "own"
    settled = with_models(made(body), "default")
    assert settled.model == "default"
    assert [team.model for team in settled.teams] == ["own", "default"]
    assert [team.workers[0].model for team in settled.teams] == ["default", "own"]
    assert models_of(settled) == {"default", "own"}


def test_the_tools_of_a_hierarchy_are_those_of_all_workers() -> None:
    assert tools_of(made(hierarchy(Red={"Ann": ["a", "b"]}, Blue={"Bob": ["b", "c"]}))) == {"a", "b", "c"}


def test_a_runs_agent_name_names_its_hierarchy() -> None:
    hierarchy_id = new_run_id()
    assert hierarchy_of(agent_name(hierarchy_id)) == hierarchy_id
    assert hierarchy_of("demo") is None


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a.b", "ä", "a" * 65, "a\n", "a:b"])
def test_a_member_has_a_name_that_a_tool_can_have(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.teams\[0\]\.name"):
        made(hierarchy(**{name: {"Ann": []}}))
