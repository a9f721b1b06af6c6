"""The events, failures and results of an agent in its own process, as its run gets them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from strands import Agent, tool

from runstore import AgentSpec
from runstore.core.errors import AgentError
from runstore.core.events import ToolFailed, ToolFinished
from runstore.core.ports import AgentResult
from runstore.runtime.process.agent import ProcessAgent
from runstore.runtime.process.processes import Processes
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
    spec = AgentSpec(factory=f"{__name__}:{function.__name__}", isolation="process", **settings)
    recorder = ListRecorder()
    return recorder, await ProcessAgent(processes, spec, context()).run(input, [], recorder)


async def failure(processes: Processes, function: Any, input: Any = "hi", **settings: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await drive(processes, function, input, **settings)
    return caught.value


# Events


async def echo(input: object) -> AsyncIterator[str]:
    yield str(input)


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


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("I say nothing")


def cycle() -> Exception:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def own_cause() -> Exception:
    error = ValueError("my own cause")
    error.__context__ = error.__cause__ = error
    return error


ERRORS = {
    "own_code": AgentError("out of paper", code="no_paper"),
    "own_cause": own_cause(),
    "cycle": cycle(),
    "mute": Mute(),
    "huge": ValueError("x" * 10_000_000),
    "group": ExceptionGroup("two of them", [ValueError("one"), KeyError("other")]),
    "alone": ExceptionGroup("unhandled errors in a TaskGroup", [AgentError("out of ink", code="no_ink")]),
    "odd_code": AgentError("odd", code=5),  # type: ignore[arg-type]
    "long_code": AgentError("long", code="c" * 2_000_000),
}


async def raising(input: str) -> AsyncIterator[str]:
    yield "so far "
    raise ERRORS[input]


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
    ],
)
async def test_every_exception_ends_the_run_with_a_code_and_a_message(
    processes: Processes, error: str, code: str, words: str
) -> None:
    raised = await failure(processes, raising, error)
    assert raised.code == code
    assert words in str(raised)
    assert len(str(raised)) <= 1_000


async def cancelling(input: str) -> AsyncIterator[str]:
    yield "so far "
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0)


async def leaving_a_canceller(input: str) -> AsyncIterator[str]:
    async def cancel() -> None:
        while True:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

    yield "so far "
    logging.getLogger("of the agent").warning("x" * 8_000)
    left.append(asyncio.create_task(cancel()))


async def stopping_the_loop(input: str) -> AsyncIterator[str]:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    yield "on and on"


async def leaving_what_exits(input: str) -> AsyncIterator[str]:
    async def leave() -> None:
        raise SystemExit(3)

    left.append(asyncio.create_task(leave()))
    await asyncio.sleep(0)
    yield "on and on"


left: list[asyncio.Task[None]] = []


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


async def needy(input: str) -> AsyncIterator[str]:
    yield "x"
    try:
        raise MemoryError
    except MemoryError as error:
        raise ExceptionGroup("of a TaskGroup", [ValueError("no room"), error]) from own_cause()


async def test_a_want_of_memory_is_found_wherever_it_stands(processes: Processes) -> None:
    assert (await failure(processes, needy, memory_limit_mb=1_000)).code == "memory_limit"


async def test_a_want_of_memory_without_a_limit_is_the_agents_error(processes: Processes) -> None:
    raised = await failure(processes, needy)
    assert raised.code == "agent_error"
    assert "of a TaskGroup" in str(raised)
