"""The hooks of a run's agents, outside of a run."""

import asyncio
import gc
from typing import Any

import pytest
from strands.hooks import AfterModelCallEvent, BeforeModelCallEvent, MessageAddedEvent

from runstore.core.errors import AgentError
from runstore.core.events import ToolFailed
from runstore.runtime.memory.request_references import Requests
from runstore.runtime.memory.resume import Memory
from runstore.runtime.strands.recorders.closable_recorder import ClosableRecorder
from runstore.runtime.strands.recorders.hooks import Hooks
from runstore.runtime.strands.recorders.recording import Recording
from tests.runtime.recording import ListRecorder, context
from tests.runtime.strands_kit import Playbook, agent, drive, say, use


@pytest.mark.usefixtures("unlogged")
async def test_an_agent_that_the_garbage_collector_closes_raises_nothing() -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    before = asyncio.all_tasks()
    recorder, requests = ClosableRecorder(ListRecorder(), lambda: None), Requests(context(), "7 + 7?", ())
    hooks = Hooks(Recording(context(), recorder, Memory(), requests, remembering=True))
    dropped = agent(Playbook(say("four", "teen")))
    hooks.install(dropped, "demo")
    stream = dropped.stream_async("7 + 7?")
    async for item in stream:
        if "data" in item:
            break
    dropped.stream = stream  # type: ignore[attr-defined]  # so that they are dropped together
    del dropped, stream, item
    gc.collect()
    async with asyncio.timeout(10):
        while not (closing := asyncio.all_tasks() - before):
            await asyncio.sleep(0)
        while closing:
            await asyncio.wait(closing)
            closing = asyncio.all_tasks() - before
    gc.collect()  # of tasks with errors that nothing retrieves
    assert errors == []


@pytest.mark.parametrize("kind", [BeforeModelCallEvent, AfterModelCallEvent, MessageAddedEvent])
async def test_an_error_of_a_hook_is_not_an_error_of_the_model(kind: Any) -> None:
    def refuse(event: Any) -> None:
        raise RuntimeError("no budget is left")

    asking = agent(Playbook(say("fourteen")))
    asking.add_hook(refuse, kind)
    with pytest.raises(AgentError, match="RuntimeError: no budget is left") as caught:
        await drive(asking)
    assert caught.value.code == "agent_error"


async def test_an_error_of_a_hook_in_a_tools_agent_is_the_tools() -> None:
    def refuse(event: Any) -> None:
        raise RuntimeError("no budget is left")

    inner = agent(Playbook(say("fourteen")), name="inner")
    inner.add_hook(refuse, BeforeModelCallEvent)
    outer = agent(
        Playbook(use(("c", "inner", {"input": "7 + 7?"})), say("done")), inner.as_tool(name="inner")
    )
    recorder, _ = await drive(outer)
    assert "no budget is left" in str([event.output for event in recorder.of(ToolFailed)])


async def test_a_model_that_a_hook_asks_fails_as_a_model() -> None:
    async def ask(event: Any) -> None:
        await agent(Playbook([ValueError("account hunter2 is closed")])).invoke_async("7 + 7?")

    asking = agent(Playbook(say("fourteen")))
    asking.add_hook(ask, BeforeModelCallEvent)
    with pytest.raises(AgentError) as caught:
        await drive(asking)
    assert caught.value.code == "model_error"
    assert "hunter2" not in str(caught.value)
