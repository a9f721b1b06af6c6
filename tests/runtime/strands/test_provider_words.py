"""A provider's text about a failure is in the server's log, and in no event of the run."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any
from weakref import WeakSet

import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.hooks import AfterModelCallEvent
from strands.multiagent import GraphBuilder, Swarm
from structlog.testing import capture_logs

from runstore.core.errors import AgentError
from runstore.core.events import ToolFailed, ToolFinished, ToolProgress
from runstore.runtime.strands.agent import Product, StrandsAgent
from runstore.runtime.strands.provider_words import ProviderWords
from tests.runtime.recording import ListRecorder, context
from tests.runtime.strands_kit import Playbook, agent, say, use

WORDS = 'deployment "hunter2" of account\n10.0.0.7 is not open'  # nothing in it looks like a key
SENTENCE = "the model call failed"


class Answer(BaseModel):
    text: str


class Slow(Playbook):
    """A model that speaks when those beside it are at work as well."""

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for _ in range(100):
            await asyncio.sleep(0)
        async for chunk in super().stream(*args, **kwargs):
            yield chunk


class Refusing(Slow):
    """A model whose provider refuses each call."""

    def __init__(self) -> None:
        super().__init__([ValueError(WORDS)])

    async def structured_output(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise ValueError(WORDS)
        yield


def refused(name: str = "expert") -> Agent:
    return agent(Refusing(), name=name)


def pleased(name: str = "optimist") -> Agent:
    return agent(Slow(say("four", "teen")), name=name)


def graph(*nodes: Agent) -> Any:
    builder = GraphBuilder()
    for node in nodes:
        builder.add_node(node, node.name)
    builder.set_max_node_executions(10)
    return builder.build()


async def events_of(product: Product) -> ListRecorder:
    """The events of a run, whose outcome has no words of the provider either."""
    recorder = ListRecorder()
    [outcome] = await asyncio.gather(
        StrandsAgent(product, context(), WeakSet()).run("7 + 7?", [], recorder), return_exceptions=True
    )
    assert not is_quoted(str(outcome))
    return recorder


def is_quoted(text: str) -> bool:
    return "hunter2" in text or "10.0.0.7" in text


def calls(ask: Callable[..., Any]) -> Agent:
    return agent(Playbook(use(("t1", "ask", {})), say("I do not know.")), ask)


# ---- tools whose agents fail ----


@tool(name="ask")
async def beside_another() -> str:
    """Ask."""
    return str(await asyncio.gather(pleased().invoke_async("?"), refused().invoke_async("?")))


@tool(name="ask")
async def both() -> str:
    """Ask."""
    return str(await asyncio.gather(refused("a").invoke_async("?"), refused("b").invoke_async("?")))


@tool(name="ask")
async def gathered() -> str:
    """Ask."""
    answers = await asyncio.gather(
        pleased().invoke_async("?"), refused().invoke_async("?"), return_exceptions=True
    )
    raise RuntimeError(f"one of {answers} failed")


@tool(name="ask")
async def in_a_graph() -> str:
    """Ask."""
    return str(await graph(pleased(), refused()).invoke_async("?"))


@tool(name="ask")
async def in_a_swarm() -> str:
    """Ask."""
    result = await Swarm([refused()]).invoke_async("?")
    raise RuntimeError(str([node.result for node in result.results.values()]))


@tool(name="ask")
async def for_an_object() -> str:
    """Ask."""
    with pytest.warns(DeprecationWarning, match="structured_output_async"):
        return str(await refused().structured_output_async(Answer, "?"))


@tool(name="ask")
def in_other_words() -> str:
    """Ask."""
    try:
        return str(refused()("?"))
    except Exception as error:
        raise LookupError(f"nobody knows ({error})") from None


FAIL = [beside_another, both, gathered, in_a_graph, in_a_swarm, for_an_object, in_other_words]


@pytest.mark.parametrize("ask", FAIL, ids=lambda each: each._tool_func.__name__)
async def test_a_tool_whose_agent_fails_says_only_what_kind_of_failure_it_was(ask: Any) -> None:
    with capture_logs() as logged:
        recorder = await events_of(calls(ask))
    assert [failed.output for failed in recorder.of(ToolFailed)] == [[{"text": f"Agent error: {SENTENCE}"}]]
    assert not [event for event in recorder.recorded if is_quoted(event.data.decode())]
    assert is_quoted(str(logged))


# ---- tools that say themselves what their agents have failed of ----


@tool(name="ask")
def answered() -> str:
    """Ask."""
    try:
        return str(refused()("?"))
    except Exception as error:
        return f"Error: {error}"


@tool(name="ask")
def as_python_shows_it() -> dict[str, Any]:
    """Ask."""
    try:
        return {"status": "success", "content": [{"text": str(refused()("?"))}]}
    except Exception as error:
        return {"status": "success", "content": [{"json": {"errors": [f"{error!r}", str(error)]}}]}


@tool(name="ask")
def in_one_line() -> str:
    """Ask."""
    try:
        return str(refused()("?"))
    except Exception as error:
        return " ".join(str(error).split())


@tool(name="ask")
def in_short() -> str:
    """Ask."""
    try:
        return str(refused()("?"))
    except Exception as error:
        return str(error)[:36]


@tool(name="ask")
def with_a_traceback() -> str:
    """Ask."""
    try:
        return str(refused()("?"))
    except Exception:
        return traceback.format_exc()


SAY = [answered, as_python_shows_it, in_one_line, in_short, with_a_traceback]


@pytest.mark.parametrize("ask", SAY, ids=lambda each: each._tool_func.__name__)
async def test_a_tool_that_quotes_a_providers_words_quotes_a_sentence_about_them(ask: Any) -> None:
    recorder = await events_of(calls(ask))
    [finished] = recorder.of(ToolFinished)
    assert SENTENCE in str(finished.output)
    assert not [event for event in recorder.recorded if is_quoted(event.data.decode())]


@tool(name="ask")
async def progress() -> AsyncIterator[Any]:
    """Ask."""
    try:
        async for item in refused().stream_async("?"):
            if "force_stop" in item:
                yield item
    except Exception as error:
        yield {"error": error}
    yield "nobody knows"


async def test_a_tools_progress_has_no_words_of_a_provider() -> None:
    recorder = await events_of(calls(progress))
    shown = [str(said.output) for said in recorder.of(ToolProgress)]
    assert [SENTENCE in output for output in shown] == [True, True, False]
    assert not [event for event in recorder.recorded if is_quoted(event.data.decode())]


async def test_an_agents_text_after_a_failure_in_a_tool_is_the_models_own_text() -> None:
    """The model never gets the provider's words, so it cannot repeat them."""
    model = Playbook(use(("t1", "ask", {})), say("I do not know."))
    await events_of(agent(model, answered))
    assert not is_quoted(str(model.heard))


# ---- the run itself ----


@pytest.mark.parametrize(
    "product",
    [
        refused,
        lambda: graph(pleased(), refused()),
        lambda: graph(refused("a"), refused("b")),
        lambda: Swarm([refused()]),
    ],
    ids=["agent", "graph", "two_nodes", "swarm"],
)
async def test_a_run_ends_without_the_words_of_a_provider(product: Callable[[], Product]) -> None:
    recorder = await events_of(product())
    assert not [event for event in recorder.recorded if is_quoted(event.data.decode())]


@pytest.mark.parametrize("raised", [RuntimeError, AgentError, SystemExit])
async def test_an_exception_that_a_hook_makes_of_a_failure_has_no_words_of_a_provider(
    raised: type[BaseException],
) -> None:
    def give_up(event: AfterModelCallEvent) -> None:
        raise raised(f"the expert is away: {event.exception}")

    product = refused()
    product.add_hook(give_up, AfterModelCallEvent)
    with pytest.raises(AgentError) as failure:
        await StrandsAgent(product, context(), WeakSet()).run("7 + 7?", [], ListRecorder())
    assert "the expert is away" in str(failure.value)
    assert not is_quoted(str(failure.value))


@pytest.mark.parametrize(
    ("message", "text", "left"),
    [
        ("the model call was lost", "it says: the model call failed", "it says: the model call failed"),
        ("the model call failed at 10.0.0.7", "the model call failed at 10.0.0.7!", "the model call failed!"),
    ],
)
def test_a_sentence_that_begins_like_a_providers_words_stays_whole(
    message: str, text: str, left: str
) -> None:
    words = ProviderWords()
    words.add(ValueError(message), SENTENCE)
    assert words.replaced(text) == left
