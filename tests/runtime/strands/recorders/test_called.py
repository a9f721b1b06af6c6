"""Agents that the code of a tool calls are agents of the run: with path and call id, words and usage."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.multiagent import GraphBuilder

from runstore.core.errors import RunClosed
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    Message,
    Token,
    ToolFailed,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    Usage,
)
from runstore.runtime.memory.at_most_once import at_most_once, obstacle
from runstore.runtime.memory.resume import recall
from runstore.runtime.strands.agent import StrandsAgent
from tests.runtime.recording import ListRecorder, context
from tests.runtime.strands_kit import Playbook, agent, cut, drive, say, use

ASK = use(("t1", "ask", {}))
PLACE = ("demo/ask", "t1")


def expert(*turns: Any, **settings: Any) -> Agent:
    return agent(Playbook(*(turns or (say("four", "teen"),)), model_id="expert"), **settings)


def sync() -> Callable[..., Any]:
    @tool
    def ask() -> str:
        """Ask an expert."""
        return str(expert()("7 + 7?"))

    return ask


def awaited() -> Callable[..., Any]:
    @tool
    async def ask() -> str:
        """Ask an expert."""
        return str(await expert().invoke_async("7 + 7?"))

    return ask


def streamed() -> Callable[..., Any]:
    @tool
    async def ask() -> str:
        """Ask an expert."""
        return "".join([item["data"] async for item in expert().stream_async("7 + 7?") if "data" in item])

    return ask


def passed_on() -> Callable[..., Any]:
    @tool
    async def ask() -> Any:
        """Ask an expert."""
        async for item in expert().stream_async("7 + 7?"):
            yield item
        yield "fourteen"

    return ask


def sync_on_the_loop() -> Callable[..., Any]:
    @tool
    async def ask() -> str:
        """Ask an expert."""
        return str(expert()("7 + 7?"))

    return ask


def in_a_pool() -> Callable[..., Any]:
    @tool
    def ask() -> str:
        """Ask an expert."""
        with ThreadPoolExecutor() as pool:
            return str(pool.submit(expert(), "7 + 7?").result())

    return ask


def made_before() -> Callable[..., Any]:
    known = expert()

    @tool
    def ask() -> str:
        """Ask an expert."""
        return str(known("7 + 7?"))

    return ask


WAYS = [sync, awaited, streamed, passed_on, sync_on_the_loop, in_a_pool, made_before]


@pytest.mark.parametrize("way", WAYS)
async def test_an_agent_that_a_tool_calls_is_recorded_once(way: Callable[[], Any]) -> None:
    recorder, ended = await drive(agent(Playbook(ASK, say("14")), way()))
    told = [
        (event.type, event.call_id)
        for event in recorder.events
        if getattr(event, "agent", "") == PLACE[0] and event.type != "llm.context"
    ]
    assert told == [
        ("agent.started", "t1"), ("llm.request", "t1"), ("llm.token", "t1"), ("llm.token", "t1"),
        ("llm.usage", "t1"), ("llm.message", "t1"), ("agent.finished", "t1"),
    ]  # fmt: skip
    assert {started.agent: started.resumable for started in recorder.of(AgentStarted)} == {
        "demo": True, PLACE[0]: False
    }  # fmt: skip
    types = recorder.types()
    assert types.index("tool.started") < types.index("agent.started", 3) < types.index("tool.finished")
    assert [usage.model for usage in recorder.of(Usage)] == ["playbook", "expert", "playbook"]
    assert ended.usage == {"input_tokens": 21, "output_tokens": 3, "total_tokens": 24}
    assert recorder.of(ToolProgress) == [] or way is passed_on
    assert ended.result["text"] == "14"


class Meeting(Playbook):
    """Speaks when all agents of the meeting have arrived."""

    def __init__(self, barrier: asyncio.Barrier) -> None:
        super().__init__(say("four", "teen"))
        self.barrier = barrier

    async def stream(self, *args: Any, **kwargs: Any) -> Any:
        await self.barrier.wait()
        async for chunk in super().stream(*args, **kwargs):
            yield chunk


async def test_agents_at_work_at_once_have_paths_of_their_own_and_later_ones_the_tools() -> None:
    @tool
    async def ask() -> str:
        """Ask three experts at once, then another one."""
        names, barrier = ["Ann", "B o b", "Ann"], asyncio.Barrier(3)
        await asyncio.gather(*(agent(Meeting(barrier), name=name).invoke_async("?") for name in names))
        return str(await expert(name="Cid").invoke_async("?"))

    recorder, ended = await drive(agent(Playbook(ASK, say("14")), ask))
    began = [event.agent for event in recorder.of(AgentStarted)]
    assert began[1:3] == ["demo/ask", "demo/ask/B-o-b"]
    assert began[3] == "demo/ask/Ann"
    assert began[4] == "demo/ask"
    assert len(recorder.of(AgentFinished)) == 5
    assert ended.usage["output_tokens"] == 4 * 2 + 1
    assert {token.call_id for token in recorder.of(Token)} == {None, "t1"}


async def test_its_tools_are_recorded_and_the_agents_that_they_call_too() -> None:
    @tool
    def look_up() -> str:
        """Ask another agent."""
        return str(expert(say("deep"))("?"))

    @tool
    def ask() -> str:
        """Ask an expert, who asks another one."""
        return str(agent(Playbook(use(("i1", "look_up", {})), say("mid")), look_up)("?"))

    recorder, _ = await drive(agent(Playbook(ASK, say("top")), ask))
    started = [(event.agent, event.call_id, event.name) for event in recorder.of(ToolStarted)]
    assert started == [("demo", None, "ask"), ("demo/ask", "t1", "look_up")]
    assert [event.output[0]["text"].strip() for event in recorder.of(ToolFinished)] == ["deep", "mid"]
    said = [(token.agent, token.call_id, token.text) for token in recorder.of(Token)]
    assert said == [("demo/ask/look_up", "i1", "deep"), ("demo/ask", "t1", "mid"), ("demo", None, "top")]


async def test_an_agent_as_a_tool_of_one_is_recorded_too() -> None:
    @tool
    def ask() -> str:
        """Ask an expert, which has another expert as a tool."""
        helper = expert(say("deep"), name="helper")
        return str(agent(Playbook(use(("i1", "helper", {"input": "?"})), say("mid")), helper)("?"))

    recorder, ended = await drive(agent(Playbook(ASK, say("top")), ask))
    said = [(token.agent, token.call_id, token.text) for token in recorder.of(Token)]
    assert said == [("demo/ask/helper", "i1", "deep"), ("demo/ask", "t1", "mid"), ("demo", None, "top")]
    assert len(recorder.of(Usage)) == 5
    assert ended.usage["output_tokens"] == 3


async def test_the_nodes_of_a_graph_have_their_names() -> None:
    @tool
    async def ask() -> str:
        """Ask two, one after the other."""
        builder = GraphBuilder()
        builder.add_node(expert(say("one")), "first")
        builder.add_node(expert(say("two")), "second")
        builder.add_edge("first", "second")
        return str((await builder.set_max_node_executions(2).build().invoke_async("?")).status)

    recorder, _ = await drive(agent(Playbook(ASK, say("top")), ask))
    said = [(token.agent, token.call_id, token.text) for token in recorder.of(Token)]
    assert said[:2] == [("demo/ask/first", "t1", "one"), ("demo/ask/second", "t1", "two")]


async def test_one_agent_serves_run_after_run_and_no_run_sees_another() -> None:
    known = expert(*[say(f"word{n}") for n in range(3)])

    @tool
    def ask() -> str:
        """Ask the one."""
        return str(known("?"))

    recorders = [(await drive(agent(Playbook(ASK, say("top")), ask)))[0] for _ in range(2)]
    for number, recorder in enumerate(recorders):
        assert [token.text for token in recorder.of(Token)] == [f"word{number}", "top"]
    assert str(known("outside of a run")).strip() == "word2"


class Answer(BaseModel):
    number: int


class Structured(Playbook):
    async def structured_output(self, *args: Any, **kwargs: Any) -> Any:
        yield {"output": Answer(number=14)}


@pytest.mark.filterwarnings("ignore:.*structured_output.*deprecated")
async def test_an_object_that_an_agent_makes_is_its_message() -> None:
    @tool
    def ask() -> str:
        """Ask for an object."""
        return str(agent(Structured()).structured_output(Answer, "7 + 7?").number)

    recorder, _ = await drive(agent(Playbook(ASK, say("14")), ask))
    [said] = [event for event in recorder.of(Message) if event.agent == "demo/ask"]
    assert said.message["content"] == [{"text": '{"number":14}'}]
    assert [event.call_id for event in recorder.of(AgentFinished)] == ["t1", None]


async def test_an_agent_that_fails_is_its_tools_failure() -> None:
    @tool
    def ask() -> str:
        """Ask in vain."""
        return str(expert([ConnectionError("out of order")])("?"))

    recorder, ended = await drive(agent(Playbook(ASK, say("sorry")), ask))
    assert recorder.types().count("tool.failed") == 1
    assert [event.agent for event in recorder.of(AgentFinished)] == ["demo/ask", "demo"]
    assert ended.result["text"] == "sorry"


async def test_it_stops_when_its_run_does() -> None:
    heard = asyncio.Event()

    @tool
    async def ask() -> str:
        """Ask one that never answers."""
        heard.set()
        return str(await expert([*say("so")[:3], _never()]).invoke_async("?"))

    recorder = ListRecorder()
    product = StrandsAgent(agent(Playbook(ASK, say("top")), ask), context(), WeakSet())
    running = asyncio.create_task(product.run("hi", [], recorder))
    await heard.wait()
    recorder.refusal = RunClosed("run-1", 9)
    running.cancel()
    with pytest.raises((RunClosed, asyncio.CancelledError)):
        await running


def _never() -> Any:
    return {"contentBlockDelta": {"delta": {"text": "on "}}}


async def test_a_tool_of_its_that_may_be_called_once_is_not_called_by_a_new_attempt() -> None:
    @at_most_once
    @tool
    def pay() -> str:
        """Pay."""
        return "paid"

    @tool
    def send() -> str:
        """Ask one who pays."""
        return str(agent(Playbook(use(("i2", "pay", {})), say("done")), pay)("?"))

    @tool
    def ask() -> str:
        """Ask one who asks another one who pays."""
        return str(agent(Playbook(use(("i1", "send", {})), say("done")), send)("?"))

    recorder, _ = await drive(agent(Playbook(ASK, say("top")), ask))
    for last in (b'"pay"', b'"send"'):
        log = cut(recorder, lambda event, last=last: event.type == "tool.finished" and last in event.data)  # type: ignore[misc]
        failed = obstacle(log, repeats=False)
        assert failed is not None
        assert "tool 'pay' of agent 'demo/ask/send'" in failed.message
    assert obstacle(recorder.recorded, repeats=False) is None


async def test_the_names_of_the_configuration_hold_for_its_tools_too() -> None:
    """Nobody can be asked there, so a tool that needs an approval does not run."""
    ran = []

    @tool
    def pay() -> str:
        """Pay."""
        ran.append("pay")
        return "paid"

    @tool
    def book() -> str:
        """Book."""
        ran.append("book")
        return "booked"

    @tool
    def ask() -> str:
        """Ask one who pays and books."""
        return str(agent(Playbook(use(("i1", "pay", {}), ("i2", "book", {})), say("done")), pay, book)("?"))

    recorder = ListRecorder()
    built = agent(Playbook(ASK, say("top")), ask, pay, book)
    driven = StrandsAgent(
        built, context(), WeakSet(), approve=frozenset({"pay"}), at_most_once=frozenset({"book"})
    )
    await driven.run("hi", [], recorder)
    assert ran == ["book"]
    [failed] = recorder.of(ToolFailed)
    assert (failed.agent, failed.call_id, failed.name) == (*PLACE, "pay")
    assert "needs a person's approval" in failed.output[0]["text"]
    assert {event.name for event in recorder.of(ToolStarted) if event.at_most_once} == {"book"}


async def test_what_it_had_said_is_said_again_after_a_crash_when_its_call_was_over() -> None:
    recorder, _ = await drive(agent(Playbook(ASK, say("14")), sync()))
    log = cut(recorder, lambda event: event.type == "tool.finished")
    said = recall(log).conversations[("demo", None)].tokens_of_calls
    assert [(token.agent, token.text) for token in said[0, "t1"]] == [("demo/ask", "fourteen")]
