"""A Graph or Swarm whose worker died goes on from the log: a node that had its answer is not asked again."""

from collections import defaultdict
from collections.abc import Sequence
from json import dumps
from typing import Any

import pytest
from strands import Agent, tool
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.base import MultiAgentBase, MultiAgentResult, NodeResult, Status
from strands.session import FileSessionManager

import runstore
from runstore.core.codec import RecordedEvent
from runstore.core.errors import AgentError
from runstore.core.events import AgentFinished, AgentStarted, Message, Token, ToolFinished
from runstore.demo.model import ScriptedModel
from runstore.runtime.memory.resume import digest_of
from runstore.runtime.strands.recorders.nodes import HANDOFF
from tests.kit.slow import mostly_slow
from tests.runtime.recording import ListRecorder, again_after, read, spoken
from tests.runtime.strands_kit import Playbook, agent, cut, drive, say, think, use


class Desk:
    """Tools that count how often they really run, by the agent that has them."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def agent(self, name: str, *below: Agent) -> Agent:
        """One that calls its tool, or the agent below, and then says the result."""

        @tool(name=f"note_{name}")
        def note() -> str:
            """Count."""
            self.runs.append(name)
            return f"{name} has run."

        return agent(ScriptedModel(), *(below or (note,)), name=name)


def diamond(desk: Desk) -> Any:
    """A node, two at once after it, one that joins them, and an agent below one of the two."""
    builder = GraphBuilder()
    builder.add_node(desk.agent("first"), "first")
    builder.add_node(desk.agent("left"), "left")
    builder.add_node(desk.agent("right", desk.agent("clerk")), "right")
    builder.add_node(desk.agent("last"), "last")
    for edge in (("first", "left"), ("first", "right"), ("left", "last"), ("right", "last")):
        builder.add_edge(*edge)
    return builder.set_execution_timeout(60).build()


def loop(desk: Desk) -> Any:
    """Two nodes that take turns, three times each; the second is a Graph itself."""
    inner = GraphBuilder()
    inner.add_node(desk.agent("inner"), "inner")
    builder = GraphBuilder()
    builder.add_node(desk.agent("outer"), "outer")
    builder.add_node(inner.set_execution_timeout(60).build(), "nested")
    builder.add_edge("outer", "nested")
    builder.add_edge("nested", "outer", lambda state: len(state.execution_order) < 6)
    return builder.set_entry_point("outer").reset_on_revisit().set_execution_timeout(60).build()


def swarm(desk: Desk) -> Any:
    """The first hands over to the second, and the second back to the first, which says the end."""

    def member(name: str, *turns: Any) -> Agent:
        product = desk.agent(name)
        product.model = Turns(name, *turns)
        return product

    def hand(number: int, to: str) -> Any:
        return use(
            (f"h{number}", HANDOFF, {"agent_name": to, "message": f"to {to}", "context": {"n": number}})
        )

    one = member("one", [hand(1, "two"), say("over ", "to two")], [say("the ", "end")])
    return Swarm([one, member("two", [use(("n1", "note_two", {})), hand(2, "one"), say("back")])])


class Turns(Playbook):
    """Plays a visit by how many there were, and a turn by how many answers the visit has had."""

    def __init__(self, name: str, *visits: list[Any]) -> None:
        super().__init__()
        self._name = name
        self._visits = visits

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        visit = messages[0]["content"][0]["text"].count(self._name + " →")
        answers = sum(message["role"] == "assistant" for message in messages)
        for chunk in self._visits[visit][answers]:
            yield chunk


ORCHESTRATORS = {"diamond": diamond, "loop": loop, "swarm": swarm}


def memory(recorded: Sequence[RecordedEvent]) -> list[str]:
    """Every message, once; nodes that work at once come in any order."""
    messages = [event for event in read(recorded) if isinstance(event, Message)]
    return sorted(dumps([e.agent, e.call_id, e.message], sort_keys=True) for e in messages)


def finished(history: Sequence[RecordedEvent]) -> list[str]:
    """Whose tools have a result in the log."""
    done = [event for event in read(history) if isinstance(event, ToolFinished)]
    return [event.name.removeprefix("note_") for event in done if event.name.startswith("note_")]


@pytest.mark.parametrize("name", mostly_slow(ORCHESTRATORS, "swarm"))
async def test_wherever_its_worker_dies_it_comes_to_the_same_end(name: str) -> None:
    make = ORCHESTRATORS[name]
    whole = Desk()
    recorder, ended = await drive(make(whole))
    assert sorted(finished(recorder.recorded)) == sorted(whole.runs)
    for seq in range(2, len(recorder.recorded) + 1):
        history, desk = recorder.recorded[:seq], Desk()
        again, ended_again = await drive(make(desk), history=again_after(history, 2))
        assert sorted(desk.runs + finished(history)) == sorted(whole.runs), seq
        assert ended_again.result == ended.result, seq
        assert memory(again.recorded) == memory(recorder.recorded), seq
        assert spoken(again.recorded) == spoken(recorder.recorded), seq


@pytest.mark.parametrize("name", ORCHESTRATORS)
async def test_it_can_be_resumed_again_and_again(name: str) -> None:
    make = ORCHESTRATORS[name]
    recorder, ended = await drive(make(Desk()))
    history = recorder.recorded[:2]
    for attempt in range(2, 12):  # each is killed after some more of its events
        again, ended_again = await drive(make(Desk()), history=again_after(history, attempt))
        new = len(again.recorded) - len(history)
        history = again.recorded[: len(history) + 1 + new * attempt // 12]
        assert ended_again.result == ended.result
        assert memory(again.recorded) == memory(recorder.recorded), attempt
        assert spoken(again.recorded) == spoken(recorder.recorded), attempt


@pytest.mark.parametrize("name", ORCHESTRATORS)
async def test_the_text_of_a_node_stands_between_its_beginning_and_its_end(name: str) -> None:
    recorder, _ = await drive(ORCHESTRATORS[name](Desk()))
    begun: set[str] = set()
    messages: defaultdict[str, str] = defaultdict(str)
    for event in recorder.events:
        if isinstance(event, AgentStarted):
            begun.add(event.agent)
        elif isinstance(event, AgentFinished):
            begun.remove(event.agent)
        elif isinstance(event, Token):
            assert event.agent in begun
            messages[event.agent] += event.text
        elif isinstance(event, Message) and event.message["role"] == "assistant":
            said = "".join(block.get("text", "") for block in event.message["content"])
            assert messages.pop(event.agent, "") == said, "a message follows its own tokens"


async def test_usage_is_the_sum_over_all_attempts() -> None:
    recorder, ended = await drive(diamond(Desk()))
    last = [event.seq for event in recorder.recorded if event.type == "tool.finished"][2]
    _, again = await drive(diamond(Desk()), history=again_after(recorder.recorded[:last], 2))
    assert again.usage == ended.usage


def chain(desk: Desk, first: Playbook, *, once: bool = False) -> Any:
    """A node that speaks through a model of the test's, and one after it that calls its tool."""
    builder = GraphBuilder()
    builder.add_node(agent(first, name="first"), "first")
    second = desk.agent("second")
    if once:
        runstore.at_most_once(second.tool_registry.registry["note_second"])
    builder.add_node(second, "second")
    builder.add_edge("first", "second")
    return builder.set_execution_timeout(60).build()


async def after_the_second_tool(product: Any) -> list[RecordedEvent]:
    recorder, _ = await drive(product)
    return again_after(cut(recorder, lambda event: event.type == "tool.finished"), 2)


# An answer without words cannot be taken up: its node is asked again, and may say something else.
WORDLESS = think("hm")


async def test_a_node_that_gets_another_input_does_not_answer_it_with_its_old_answer() -> None:
    history = await after_the_second_tool(chain(Desk(), Playbook(WORDLESS)))
    desk = Desk()
    recorder, ended = await drive(chain(desk, Playbook(say("Words."))), history=history)
    assert desk.runs == ["second"], "its tool ran for another input"
    assert recorder.of(ToolFinished)[-1].tool_use_id in str(recorder.of(Message)[-2].message)
    assert ended.result["text"] == "second has run."
    desk = Desk()
    await drive(chain(desk, Playbook()), history=again_after(recorder.recorded[:-3], 3))
    assert desk.runs == [], "the third attempt goes on from the second"


async def test_a_node_that_would_call_a_tool_again_that_may_be_called_once_ends_the_run() -> None:
    history = await after_the_second_tool(chain(Desk(), Playbook(WORDLESS), once=True))
    desk = Desk()
    with pytest.raises(
        AgentError, match="'note_second' of agent 'demo/second' may be called at most once"
    ) as e:
        await drive(chain(desk, Playbook(say("Words.")), once=True), history=history)
    assert (e.value.code, desk.runs) == ("at_most_once", [])


def test_an_input_is_the_same_for_any_order_of_the_earlier_nodes() -> None:
    """strands gathers them from a set, whose order is another one in every process."""

    def digest(*texts: str) -> str:
        return digest_of([{"role": "user", "content": [{"text": text} for text in texts]}])

    assert digest("task", "of left", "of right") == digest("task", "of right", "of left")
    assert digest("task", "of left") != digest("task", "of right")


# Nodes that start again from the input


class Relay(MultiAgentBase):
    """An orchestrator that runstore does not know."""

    def __init__(self, node: Agent) -> None:
        super().__init__()
        self.id = "relay"
        self._node = node
        self.nodes = {"only": type("Node", (), {"executor": node})}

    async def invoke_async(self, task: Any, invocation_state: Any = None, **kwargs: Any) -> MultiAgentResult:
        result = NodeResult(await self._node.invoke_async(task), status=Status.COMPLETED)
        return MultiAgentResult(Status.COMPLETED, {"only": result})


@pytest.mark.parametrize("once", [False, True])
async def test_an_orchestrator_of_another_kind_starts_again_unless_a_tool_forbids_it(once: bool) -> None:
    def relay(desk: Desk) -> Any:
        node = desk.agent("only")
        if once:
            runstore.at_most_once(node.tool_registry.registry["note_only"])
        return Relay(node)

    recorder, ended = await drive(relay(Desk()))
    desk, history = Desk(), cut(recorder, lambda event: event.type == "tool.finished")
    if once:
        with pytest.raises(
            AgentError, match="has run, and a new attempt would start from the input"
        ) as error:
            await drive(relay(desk), history=history)
        assert (error.value.code, desk.runs) == ("at_most_once", [])
    else:
        _, again = await drive(relay(desk), history=history)
        assert (again.result, desk.runs) == (ended.result, ["only"])


async def test_a_graph_with_a_session_manager_of_its_own_starts_again(tmp_path: Any) -> None:
    def graph(desk: Desk, **settings: Any) -> Any:
        builder = GraphBuilder()
        builder.add_node(desk.agent("only"), "only")
        if settings:
            builder.set_session_manager(FileSessionManager(**settings))
        return builder.set_execution_timeout(60).build()

    history = await after_the_second_tool(graph(Desk()))
    desk = Desk()
    await drive(graph(desk, session_id="s", storage_dir=str(tmp_path)), history=history)
    assert desk.runs == ["only"]


async def test_a_run_of_an_older_release_starts_again() -> None:
    """Its log does not distinguish the visits to a node."""
    recorder, ended = await drive(diamond(Desk()))
    older = ListRecorder()
    for event in recorder.events[2:]:
        older.keep(AgentStarted(agent=event.agent) if isinstance(event, AgentStarted) else event)
    desk = Desk()
    _, again = await drive(diamond(desk), history=again_after(older.recorded, 2))
    assert sorted(desk.runs) == ["clerk", "first", "last", "left"]
    assert again.result == ended.result
