"""The events, failures and results of an agent in its own process, as its run gets them."""

from collections.abc import Iterator
from typing import Any

import pytest
from strands import Agent, tool

from runstore import AgentSpec
from runstore.core.errors import AgentError
from runstore.core.events import ToolFailed, ToolFinished
from runstore.core.ports import AgentResult
from runstore.runtime.process.agent import ProcessAgent
from runstore.runtime.process.own_processes import OwnProcess
from runstore.runtime.process.processes import Processes
from tests.runtime.process.agents import (
    cancelling,
    echo,
    leaving_a_canceller,
    leaving_what_exits,
    needy,
    raising,
    stopping_the_loop,
)
from tests.runtime.recording import ListRecorder, context
from tests.runtime.strands_kit import Playbook, agent, say, use


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.close()


async def drive(
    processes: Processes, function: Any, input: Any = "hi", **settings: Any
) -> tuple[ListRecorder, AgentResult]:
    spec = AgentSpec(factory=f"{function.__module__}:{function.__name__}", isolation="process", **settings)
    recorder = ListRecorder()
    own = OwnProcess(processes, context().agent_name, spec)
    return recorder, await ProcessAgent(own, context()).run(input, [], recorder)


async def failure(processes: Processes, function: Any, input: Any = "hi", **settings: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await drive(processes, function, input, **settings)
    return caught.value


# Events


async def test_an_input_that_is_nested_too_deeply_is_refused(processes: Processes) -> None:
    deep: list[object] = []
    for _ in range(2_000):
        deep = [deep]
    assert (await failure(processes, echo, deep)).code == "invalid_input"


@tool
def fetch(letter: str) -> str:
    """Fetch a page."""
    return letter * (1_200_000 if letter == "z" else 300_000)


def fetching() -> Agent:
    calls = [(f"t{n}", "fetch", {"letter": letter}) for n, letter in enumerate("abcdz")]
    return agent(Playbook(use(*calls), say("read")), fetch)


async def test_large_results_of_tools_come_through_the_pipe(processes: Processes) -> None:
    recorder, ended = await drive(processes, fetching)
    assert ended.result["text"] == "read"
    assert sorted(event.output[0]["text"][0] for event in recorder.of(ToolFinished)) == list("abcd")
    assert "1,200,0" in recorder.of(ToolFailed)[0].output[0]["text"]


def calling() -> Agent:
    @tool
    def look_up() -> str:
        """Look up."""
        return "found"

    @tool
    async def ask() -> str:
        """Ask an agent, and hold the loop while it works in a thread of its own."""
        inner = agent(Playbook(use(("i1", "look_up", {})), say("four", "teen")), look_up)
        return str(inner("7 + 7?"))

    return agent(Playbook(use(("t1", "ask", {})), say("14")), ask)


async def test_an_agent_that_a_tool_calls_is_recorded_though_its_loop_waits(processes: Processes) -> None:
    recorder, ended = await drive(processes, calling)
    inner = [event for event in recorder.events if getattr(event, "agent", "") == "demo/ask"]
    assert [event.type for event in inner if event.type != "llm.context"] == [
        "agent.started", "llm.request", "llm.usage", "llm.message", "tool.started", "tool.finished",
        "llm.message", "llm.request", "llm.token", "llm.token", "llm.usage", "llm.message", "agent.finished",
    ]  # fmt: skip
    assert ended.usage["output_tokens"] == 3


# Its errors


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ("own_code", "no_paper", "out of paper"),
        ("own_cause", "agent_error", "ValueError: my own cause"),
        ("cycle", "agent_error", "ValueError: first"),
        ("mute", "agent_error", "Mute: (its __str__ raised RuntimeError)"),
        ("huge", "agent_error", "ValueError: xxx"),
        ("group", "agent_error", "two of them (2 sub-exceptions): ValueError: one; KeyError: 'other'"),
        ("alone", "no_ink", "out of ink"),
        ("odd_code", "5", "odd"),
        ("long_code", "c" * 100, "long"),
        ("mute_code", "agent_error", "mute"),
    ],
)
async def test_every_exception_ends_the_run_with_a_code_and_a_message(
    processes: Processes, error: str, code: str, words: str
) -> None:
    raised = await failure(processes, raising, error)
    assert raised.code == code
    assert words in str(raised)
    assert len(str(raised)) <= 1_000


async def test_an_agent_that_cancels_all_tasks_has_cancelled_itself(processes: Processes) -> None:
    raised = await failure(processes, cancelling)
    assert (raised.code, str(raised)) == ("agent_error", "the agent cancelled itself")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (leaving_a_canceller, "so far "), (stopping_the_loop, "on and on"), (leaving_what_exits, "on and on"),
    ],
)  # fmt: skip
async def test_an_agent_that_manipulates_its_loop_loses_no_ending(
    processes: Processes, function: Any, text: str
) -> None:
    _, ended = await drive(processes, function)
    assert ended.result["text"] == text


async def test_a_want_of_memory_is_found_wherever_it_stands(processes: Processes) -> None:
    assert (await failure(processes, needy, memory_limit_mb=1_000)).code == "memory_limit"


async def test_a_want_of_memory_without_a_limit_is_the_agents_error(processes: Processes) -> None:
    raised = await failure(processes, needy)
    assert raised.code == "agent_error"
    assert "of a TaskGroup" in str(raised)
