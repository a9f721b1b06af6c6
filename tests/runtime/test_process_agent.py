"""What an agent in a process of its own says, fails with and returns, as its run gets it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from runstore.core.errors import AgentError
from runstore.core.ports import AgentResult
from runstore.runtime.agents import AgentSpec
from runstore.runtime.process_agent import ProcessAgent
from runstore.runtime.processes import Processes
from tests.runtime.recording import ListRecorder, context


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
async def test_whatever_it_raises_ends_it_with_a_code_and_a_message(
    processes: Processes, error: str, code: str, words: str
) -> None:
    raised = await failure(processes, raising, error)
    assert raised.code == code
    assert words in str(raised)
    assert len(str(raised)) <= 1_000


async def needy(input: str) -> AsyncIterator[str]:
    yield "x"
    try:
        raise MemoryError
    except MemoryError as error:
        raise ExceptionGroup("of a TaskGroup", [ValueError("no room"), error]) from own_cause()


async def test_a_want_of_memory_is_found_wherever_it_stands(processes: Processes) -> None:
    assert (await failure(processes, needy, memory_limit_mb=1_000)).code == "memory_limit"
