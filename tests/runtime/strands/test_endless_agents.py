"""Agents that never stop calling their model: strands nests the calls until Python's recursion limit."""

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from strands import tool
from strands.middleware import InvokeModelStage
from strands.multiagent import GraphBuilder

from runstore import AgentError
from tests.runtime.strands_kit import Playbook, agent, drive, use

LIMIT = 400  # frames, instead of Python's 1,000: the time grows with their square
FEWEST = 50  # calls that an agent must be able to make then


@pytest.fixture(autouse=True)
def low_limit() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(LIMIT)
    yield
    sys.setrecursionlimit(before)


class Answer(BaseModel):
    """An answer."""

    word: str


@tool
def look() -> str:
    """Look."""
    return "seen"


class Endless(Playbook):
    """Calls a tool without end."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self.calls += 1
        for chunk in use((f"t{self.calls}", self.name, {})):
            yield chunk


async def passing_on(context: Any, call: Any) -> Any:
    async for event in call(context):
        yield event


def alone(model: Endless) -> Any:
    return agent(model, look)


def within_middleware(model: Endless) -> Any:
    made = agent(model, look)
    made.add_middleware(InvokeModelStage, passing_on)
    return made


def below(model: Endless) -> Any:
    inner = agent(model, look, name="inner")
    return agent(Playbook(use(("t", "inner", {"input": "Look."}))), inner.as_tool())


def called(model: Endless) -> Any:
    @tool
    async def ask() -> str:
        """Ask an agent."""
        return str(await agent(model, look).invoke_async("Look."))

    return agent(Playbook(use(("t", "ask", {}))), ask)


def node(model: Endless) -> Any:
    builder = GraphBuilder()
    builder.add_node(agent(model, look), "only")
    return builder.set_max_node_executions(1).build()


PRODUCTS = (alone, within_middleware, below, called, node)


@pytest.mark.parametrize("build", PRODUCTS, ids=[each.__name__ for each in PRODUCTS])
async def test_an_agent_that_goes_on_without_end_is_ended_with_the_limit_in_the_error(build: Any) -> None:
    model = Endless("look")
    with pytest.raises(AgentError, match=f"limit of {LIMIT} frames") as caught:
        await drive(build(model))
    assert caught.value.code == "too_many_model_calls"
    assert model.calls > FEWEST


async def test_an_object_that_is_refused_without_end_ends_the_run() -> None:
    model = Endless("Answer")
    with pytest.raises(AgentError) as caught:
        await drive(agent(model, structured_output_model=Answer))
    assert caught.value.code == "too_many_model_calls"
    assert model.calls > FEWEST
