"""Agents of one run that work at once, whose models use the same tool use ids, as models that count do."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from strands import Agent, ToolContext, tool
from strands.hooks import BeforeToolCallEvent
from strands.multiagent import GraphBuilder

from runstore.core.events import AgentStarted, Message, ToolFailed, ToolFinished, ToolStarted
from runstore.runtime.memory.at_most_once import obstacle
from tests.runtime.recording import ListRecorder, again_after
from tests.runtime.story import Story, model
from tests.runtime.strands_kit import Chunk, Playbook, agent, cut, delta, drive, say, use


@pytest.fixture
def calls() -> Counter[str]:
    """How often each tool has done its work, by its argument."""
    return Counter()


@pytest.fixture
def look(calls: Counter[str]) -> Any:
    @tool
    def look(word: str = "nothing") -> str:
        """Look a word up.

        Args:
            word: The word.
        """
        calls[word] += 1
        return f"seen {word}"

    return look


def broken(use_id: str = "call_0", name: str = "look") -> list[Chunk | BaseException]:
    """A turn that calls a tool with arguments that break off."""
    return [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockStart": {"start": {"toolUse": {"toolUseId": use_id, "name": name}}}},
        delta(toolUse={"input": '{"word": '}),
        {"contentBlockStop": {}},
        {"messageStop": {"stopReason": "tool_use"}},
    ]


def graph_of(**nodes: Agent) -> Any:
    graph = GraphBuilder()
    for name, node in nodes.items():
        graph.add_node(node, name)
        graph.set_entry_point(name)
    return graph.set_execution_timeout(60).build()


async def test_a_broken_call_of_one_agent_is_not_taken_for_the_call_of_another(
    look: Any, calls: Counter[str]
) -> None:
    async def wait_for_the_other(event: BeforeToolCallEvent) -> None:
        while not calls["b"]:
            await asyncio.sleep(0)

    async def wait_for_its_call(event: BeforeToolCallEvent) -> None:
        while not first.calls:
            await asyncio.sleep(0)

    first, second = Playbook(broken(), say("A.")), Playbook(use(("call_0", "look", {"word": "b"})), say("B."))
    a, b = agent(first, look), agent(second, look)
    a.add_hook(wait_for_the_other, BeforeToolCallEvent)
    b.add_hook(wait_for_its_call, BeforeToolCallEvent)
    async with asyncio.timeout(60):
        recorder, _ = await drive(graph_of(a=a, b=b))
    assert calls == {"b": 1}
    [failed], [finished] = recorder.of(ToolFailed), recorder.of(ToolFinished)
    assert (failed.agent, finished.agent) == ("demo/a", "demo/b")


async def test_a_broken_call_is_not_made_by_a_new_attempt_either(look: Any, calls: Counter[str]) -> None:
    recorder, _ = await drive(agent(Playbook(broken(), say("Done.")), look))
    died = cut(recorder, lambda event: event.type == Message.type and b'"toolUse":' in event.data)
    again, ended = await drive(agent(Playbook(say("Done again.")), look), history=again_after(died, 2))
    assert ended.result["text"] == "Done again."
    assert calls == {}
    [failed] = again.of(ToolFailed)
    assert "not a JSON object" in failed.output[0]["text"]


async def test_no_person_is_asked_about_a_broken_call(look: Any, calls: Counter[str]) -> None:
    playing = model(broken(), say("Done."))
    assert await Story(lambda: agent(playing(), look), approve=["look"]).ends() == "Done."
    assert calls == {}


async def test_a_question_and_its_answer_are_of_one_of_two_agents_that_ask_the_same(
    calls: Counter[str],
) -> None:
    """Below two nodes of a Graph work agents as tools, whose calls have equal ids and arguments."""

    @tool(context=True)
    def look(tool_context: ToolContext) -> str:
        """Look around."""
        calls[tool_context.agent.name] += 1
        return "seen"

    clerks = {name: model(use(("call_0", "look", {})), say("Seen.")) for name in "ab"}
    bosses = {name: model(use(("call_0", "clerk", {"input": "go"})), say("Done.")) for name in "ab"}

    def build() -> Any:
        clerk = {name: agent(clerks[name](), look, name=name).as_tool(name="clerk") for name in "ab"}
        return graph_of(**{name: agent(bosses[name](), clerk[name]) for name in "ab"})

    story = Story(build, approve=["look"])
    asked = await story.asks()
    assert sorted(each.agent for each in asked) == ["demo/a/clerk", "demo/b/clerk"]
    story.answer(*({"approve": each.agent == "demo/b/clerk"} for each in asked))
    assert await story.ends()
    assert calls == {"b": 1}


@pytest.mark.parametrize("lost", ["a", "b"])
def test_a_call_is_repeated_only_with_the_tool_that_it_was_made_in(lost: str) -> None:
    """Tools of two nodes call agents, and one of these has charged a card when the worker is lost."""
    history = ListRecorder()
    for name in "ab":
        tool_of = {"agent": f"demo/{name}", "tool_use_id": "call_0", "name": "shop"}
        history.keep(ToolStarted(**tool_of))
        history.keep(AgentStarted(agent=f"demo/{name}/shop/clerk", call_id="call_0", resumable=False))
        if name == "b":
            charge = {"agent": "demo/b/shop/clerk", "call_id": "call_0", "tool_use_id": "x", "name": "charge"}
            history.keep(ToolStarted(**charge, at_most_once=True))
            history.keep(ToolFinished(**charge))
        if name != lost:
            history.keep(ToolFinished(**tool_of))
    found = obstacle(history.recorded, repeats=False)
    assert (found is not None) is (lost == "b")
