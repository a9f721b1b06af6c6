"""Fixtures: runs as files, replayed on agents without a provider, as users' tests do."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from pydantic import BaseModel
from strands import Agent, tool
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    AfterToolCallEvent,
    BeforeModelCallEvent,
)
from strands.multiagent import GraphBuilder

from runstore.core.errors import ConfigError, InvalidQuery, TooLarge
from runstore.core.events import Failed
from runstore.core.records import record_of
from runstore.runtime.replay import dialogues
from runstore.runtime.replay import fixture as fixtures
from runstore.runtime.replay.dialogues import recorded_run
from runstore.runtime.replay.fixture import fixture_file, fixture_of, read_fixture
from runstore.testing import FixtureDiffers, replay_fixture
from tests.runtime.recording import ListRecorder
from tests.runtime.replay.test_follower import run_of
from tests.runtime.strands_kit import Playbook, agent, drive, say, think, use


class Silent(Playbook):
    """A model that must not be asked."""

    def stream(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("the agent's own model was asked")


@tool
def search(q: str) -> str:
    """Search."""
    raise AssertionError("the real tool was called")


@tool(name="search")
def working_search(q: str) -> str:
    """Search."""
    return f"found {q}"


DEEP = "[" * 90 + "]" * 90
TURNS = [use(("1", "search", {"q": "x"}), ("2", "search", {"q": "y"})), say("It is ", "x.")]


async def written(folder: Path, product: Any) -> Path:
    """The fixture of the product's run."""
    file = folder / "run.json"
    file.write_bytes(fixture_file(fixture_of(await run_of(product))))
    return file


async def test_an_agent_that_is_the_same_passes_and_its_result_is_returned(tmp_path: Path) -> None:
    file = await written(tmp_path, agent(Playbook(*TURNS), working_search))
    result = replay_fixture(file, agent(Silent(), search))
    assert result == {"text": "It is x.", "stop_reason": "end_turn"}
    assert replay_fixture(str(file), agent(Silent(), search)) == result


async def test_reasoning_and_signatures_are_given_again(tmp_path: Path) -> None:
    signed = think("hm")
    signed.insert(2, {"contentBlockDelta": {"delta": {"reasoningContent": {"signature": "s"}}}})
    file = await written(tmp_path, agent(Playbook([*signed, *say("ok")])))
    said = agent(Silent())
    replay_fixture(file, said)
    assert said.messages[-1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}, {"text": "ok"},
    ]  # fmt: skip


async def test_a_missing_tool_fails_readably(tmp_path: Path) -> None:
    file = await written(tmp_path, agent(Playbook(*TURNS), working_search))
    with pytest.raises(FixtureDiffers) as failed:
        replay_fixture(file, agent(Silent()))
    assert str(failed.value).splitlines() == [
        f"the agent differs from its run in {file}",
        "  at:       tool of agent 'demo', answer 1",
        "  recorded: search",
        "  came:     (nothing)",
    ]
    assert failed.value.difference is not None


async def test_a_hook_that_changes_a_result_fails(tmp_path: Path) -> None:
    file = await written(tmp_path, agent(Playbook(*TURNS), working_search))
    changed = agent(Silent(), search)

    def shorten(event: AfterToolCallEvent) -> None:
        event.result = {**event.result, "content": [{"text": "…"}]}

    changed.add_hook(shorten, AfterToolCallEvent)
    with pytest.raises(FixtureDiffers, match="result of agent 'demo', answer 1"):
        replay_fixture(file, changed)


async def test_an_agent_that_stops_earlier_fails(tmp_path: Path) -> None:
    file = await written(tmp_path, agent(Playbook(*TURNS), working_search))
    lazy = agent(Silent(), search)

    def refuse(event: BeforeModelCallEvent) -> None:
        if len(event.agent.messages) > 1:
            event.cancel = "That is enough."

    lazy.add_hook(refuse, BeforeModelCallEvent)
    with pytest.raises(FixtureDiffers, match="message of agent 'demo', answer 2"):
        replay_fixture(file, lazy)


async def test_an_agent_that_asks_its_model_once_more_fails(tmp_path: Path) -> None:
    file = await written(tmp_path, agent(Playbook(say("ok"))))
    eager = agent(Silent())

    def insist(event: AfterInvocationEvent) -> None:
        event.resume = "And then?"

    eager.add_hook(insist, AfterInvocationEvent)
    with pytest.raises(FixtureDiffers, match="message of agent 'demo', answer 2") as failed:
        replay_fixture(file, eager)
    assert "asked once more" in str(failed.value)


async def test_an_agent_that_never_ends_fails_after_the_timeout(tmp_path: Path) -> None:
    file = await written(tmp_path, agent(Playbook(say("ok"))))
    endless = agent(Silent())

    def insist(event: AfterModelCallEvent) -> None:
        event.retry = True

    endless.add_hook(insist, AfterModelCallEvent)
    with pytest.raises(FixtureDiffers, match="timeout: the replay took more than"):
        replay_fixture(file, endless, timeout_s=0.2)


async def test_agents_as_tools_and_graphs_are_replayed(tmp_path: Path) -> None:
    def chief(*models: Any) -> Agent:
        helper = agent(
            models[1], working_search if isinstance(models[1], Playbook) else search, name="helper"
        )
        return agent(models[0], helper.as_tool())

    asked = [use(("1", "helper", {"input": "x?"})), say("It is x.")]
    file = await written(tmp_path, chief(Playbook(*asked), Playbook(*TURNS)))
    assert replay_fixture(file, chief(Silent(), Silent()))["text"] == "It is x."

    def graph(*models: Any) -> Any:
        builder = GraphBuilder()
        for name, model in zip(("one", "two"), models, strict=True):
            builder.add_node(agent(model, working_search), name)
        builder.add_edge("one", "two")
        builder.set_entry_point("one")
        builder.set_execution_timeout(60)
        return builder.build()

    file = await written(tmp_path, graph(Playbook(*TURNS), Playbook(say("done"))))
    assert replay_fixture(file, graph(Silent(), Silent()))["text"] == "done"


class Weather(BaseModel):
    """The weather."""

    degrees: int


async def test_an_object_is_made_again(tmp_path: Path) -> None:
    made = agent(Playbook(use(("1", "Weather", {"degrees": 7}))), structured_output_model=Weather)
    file = await written(tmp_path, made)
    again = replay_fixture(file, agent(Silent(), structured_output_model=Weather))
    assert again["structured_output"] == {"degrees": 7}

    class Weather2(BaseModel):
        """The weather."""

        degrees: int
        wind: int = 0

    Weather2.__name__ = "Weather"
    with pytest.raises(FixtureDiffers, match="ending"):
        replay_fixture(file, agent(Silent(), structured_output_model=Weather2))


async def test_a_redacted_message_is_not_in_the_file_and_gets_a_placeholder(tmp_path: Path) -> None:
    run = await run_of(agent(Playbook(say("my secret"))))
    answer = run.dialogues[0].answers[0]
    answer.content, answer.redacted, run.withheld = [], True, 1
    run.result = {"text": "hidden"}
    file = tmp_path / "run.json"
    file.write_bytes(fixture_file(fixture_of(run)))
    assert "secret" not in file.read_text()
    assert json.loads(file.read_text())["withheld"] == 1
    assert replay_fixture(file, agent(Silent()))["text"] == "(redacted)"


async def test_a_fixture_has_neither_user_nor_session_nor_definition(tmp_path: Path) -> None:
    found = json.loads((await written(tmp_path, agent(Playbook(say("ok"))))).read_text())
    assert found.keys() == {"runstore_fixture", "run_id", "agent", "input", "dialogues", "result"}


async def test_a_run_that_failed_or_has_not_ended_is_no_fixture() -> None:
    recorder, _ = await drive(agent(Playbook(say("ok"))))
    with pytest.raises(InvalidQuery, match="has not ended"):
        fixture_of(recorded_run(map(record_of, recorder.recorded)))
    recorder.keep(Failed(code="timeout", message="late"))
    with pytest.raises(InvalidQuery, match="ended with the status 'error'"):
        fixture_of(recorded_run(map(record_of, recorder.recorded)))
    with pytest.raises(InvalidQuery, match="not the events of a run"):
        recorded_run(map(record_of, ListRecorder().recorded[1:]))
    strange = replace(record_of(recorder.recorded[0]), data={"agent": 7})
    with pytest.raises(InvalidQuery, match=r"event 1 of run run-1 is no lifecycle\.queued of this release"):
        recorded_run([strange])


async def test_the_events_of_a_run_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, _ = await drive(agent(Playbook(say("ok"))))
    for name, limit in (("MAX_EVENTS", 3), ("MAX_BYTES", 100)):
        with monkeypatch.context() as patched:
            patched.setattr(dialogues, name, limit)
            with pytest.raises(TooLarge, match="too large"):
                recorded_run(map(record_of, recorder.recorded))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no fixture"),
        ("{}", "is no fixture"),
        ("nonsense", "is no fixture"),
        ('{"runstore_fixture": 2}', "of version 2"),
        ('{"runstore_fixture": 1, "run_id": "x"}', "is no fixture"),
        (f'{{"runstore_fixture": 1, "run_id": "x", "agent": "a", "input": {DEEP}}}', "too deep"),
        ('{"runstore_fixture": 1, "input": ' + "[" * 90_000, "is no fixture"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_fixture_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_fixture(file)


async def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is no fixture"):
        read_fixture(tmp_path / "absent.json")
    run = await run_of(agent(Playbook(say("ok"))))
    file = tmp_path / "run.json"
    file.write_bytes(fixture_file(fixture_of(run)))
    monkeypatch.setattr(fixtures, "MAX_FIXTURE_BYTES", 100)
    with pytest.raises(TooLarge):
        fixture_file(fixture_of(run))
    with pytest.raises(ConfigError, match="at most 100"):
        read_fixture(file)
