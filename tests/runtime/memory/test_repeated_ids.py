"""A conversation whose provider uses the same tool use ids in every turn: call_0, call_0, …"""

from typing import Any
from weakref import WeakSet

import pytest
from strands import Agent, tool
from strands.multiagent import GraphBuilder

from runstore.core.events import Queued
from runstore.core.model_requests import RequestFold
from runstore.core.run import fold
from runstore.runtime.memory.forks import fork_of
from runstore.runtime.memory.held import held_in
from runstore.runtime.memory.resume import recall
from runstore.runtime.strands.agent import StrandsAgent
from tests.kit.traces import trace_of
from tests.runtime.recording import ListRecorder, again_after, context, spoken
from tests.runtime.strands_kit import Playbook, agent, cut, drive, say, use

LARGE = 600_000  # characters: the results of two calls of one turn do not fit into one event


@tool
def look(word: str) -> str:
    """Look a word up.

    Args:
        word: The word.
    """
    return f"seen {word}"


@tool
def fetch(word: str) -> str:
    """Fetch something large.

    Args:
        word: Its letter.
    """
    return word * LARGE


def calls(name: str, *words: str) -> Any:
    return use(*((f"call_{n}", name, {"word": word}) for n, word in enumerate(words)))


def outcomes(messages: Any) -> list[str]:
    """The text of each tool result in a conversation, shortened."""
    return [
        block["toolResult"]["content"][0]["text"][:6]
        for message in messages
        for block in message["content"]
        if "toolResult" in block
    ]


@pytest.fixture
async def looked() -> ListRecorder:
    turns = [calls("look", "a"), calls("look", "b"), calls("look", "c"), say("Done.")]
    return (await drive(agent(Playbook(*turns), look)))[0]


@pytest.mark.parametrize(("finished", "expected"), [(1, ["seen a"]), (2, ["seen a", "seen b"])])
async def test_a_fork_has_the_results_of_each_turn(
    looked: ListRecorder, finished: int, expected: list[str]
) -> None:
    seqs = [event.seq for event in looked.recorded if event.type == "tool.finished"]
    events = looked.recorded[: seqs[finished - 1]]
    fork = fork_of(Queued(agent="demo", user_id="local", input="hi"), events, memory=[], asks=False)
    assert outcomes(fork.messages) == expected
    assert fork.seq == seqs[finished - 1]


async def test_a_fork_has_the_large_results_of_each_turn() -> None:
    turns = [calls("fetch", "a", "b"), calls("fetch", "c", "d"), say("Done.")]
    recorder, _ = await drive(agent(Playbook(*turns), fetch))
    queued = Queued(agent="demo", user_id="local", input="hi")
    fork = fork_of(queued, recorder.recorded, memory=[], asks=True)
    assert sorted(outcomes(fork.messages)[:2]) == ["aaaaaa", "bbbbbb"]
    assert sorted(outcomes(fork.messages)[2:]) == ["cccccc", "dddddd"]
    held = outcomes(message for _, _, message in held_in(recorder.recorded))
    assert sorted(held) == ["aaaaaa", "bbbbbb", "cccccc", "dddddd"]


async def test_agents_that_use_the_same_ids_keep_their_large_results_apart() -> None:
    """The clerk's calls finish while its caller's other calls, with the same ids, have finished before."""
    clerk = agent(Playbook(calls("fetch", "a", "b"), say("Clerk.")), fetch, name="clerk")
    both = use(
        ("call_0", "fetch", {"word": "c"}), ("call_1", "fetch", {"word": "d"}),
        ("call_2", "clerk", {"input": "go"}),
    )  # fmt: skip
    boss = agent(Playbook(both, say("Boss.")), fetch, clerk.as_tool(name="clerk", description="A clerk."))
    recorder, _ = await drive(boss)
    held = [outcomes([message]) for _, _, message in held_in(recorder.recorded)]
    assert sorted(map(sorted, filter(None, held))) == [
        ["Clerk.", "cccccc", "dddddd"], ["aaaaaa", "bbbbbb"],
    ]  # fmt: skip


def boss_of(boss: Playbook, clerk: Playbook) -> Agent:
    members = agent(clerk, look, name="clerk").as_tool(name="clerk", description="A clerk.")
    return agent(boss, members)


async def test_a_resumed_run_says_again_what_each_calls_agent_said() -> None:
    asks = [use(("call_0", "clerk", {"input": "go"})) for _ in range(2)]
    boss, clerk = Playbook(*asks, say("Done.")), Playbook(say("First."), say("Second."))
    recorder, _ = await drive(boss_of(boss, clerk))
    for finished, expected in ((1, "First."), (2, "Second.")):
        seqs = [event.seq for event in recorder.recorded if event.type == "tool.finished"]
        died = recorder.recorded[: seqs[finished - 1]]
        [conversation] = [each for place, each in recall(died).conversations.items() if place[1] is None]
        assert [token.text for token in conversation.said_below()] == [expected]
    again = ListRecorder(again_after(died, 2))
    await StrandsAgent(boss_of(Playbook(say("Done.")), Playbook()), context(2), WeakSet()).run(
        "hi", list(again.recorded), again
    )
    assert spoken(again.recorded)["demo/clerk"] == "First.Second."


async def test_a_resumed_node_says_again_what_each_calls_agent_said() -> None:
    """A node repeats all it said; so does an agent below it, in its turns' order."""

    def build(boss: Playbook, clerk: Playbook, last: Playbook) -> Any:
        graph = GraphBuilder()
        node = boss_of(boss, clerk)
        node.name = "one"
        graph.add_node(node, "one")
        graph.add_node(agent(last, name="two"), "two")
        graph.add_edge("one", "two")
        graph.set_entry_point("one").set_execution_timeout(60)
        return graph.build()

    asks = [use(("call_0", "clerk", {"input": "go"})) for _ in range(2)]
    boss, clerk = Playbook(*asks, say("Done.")), Playbook(say("First."), say("Second."))
    recorder, _ = await drive(build(boss, clerk, Playbook(say("Two."))))
    died = cut(recorder, lambda event: event.type == "agent.started")
    again = ListRecorder(again_after(died, 2))
    product = build(Playbook(), Playbook(), Playbook(say("Two.")))
    await StrandsAgent(product, context(2), WeakSet()).run("hi", list(again.recorded), again)
    assert spoken(again.recorded)["demo/one/clerk"] == "First.Second."


async def test_trace_record_and_requests_distinguish_the_turns(looked: ListRecorder) -> None:
    [attempt] = trace_of("run-1", looked.recorded).attempts
    [demo] = attempt.agents
    tools = [step for step in demo.steps if step.kind == "tool"]
    assert [(step.input, step.output[0]["text"], step.status) for step in tools] == [
        ({"word": word}, f"seen {word}", "success") for word in "abc"
    ]
    assert fold("run-1", looked.recorded).usage["input_tokens"] == 28
    folding = RequestFold()
    questions = [question for event in looked.recorded if (question := folding.add(event)) is not None]
    held = {seq: message for seq, _, message in held_in(looked.recorded)}
    last = [held[each.seq] for each in questions[-1].messages]
    assert outcomes(last) == ["seen a", "seen b", "seen c"]
