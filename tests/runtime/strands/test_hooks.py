"""The hooks of a run's agents, outside of a run."""

import asyncio
import gc
from typing import Any

import pytest

from runstore.runtime.memory.request_references import Requests
from runstore.runtime.memory.resume import Memory
from runstore.runtime.strands.closable_recorder import ClosableRecorder
from runstore.runtime.strands.hooks import Hooks
from tests.runtime.recording import ListRecorder, context
from tests.runtime.strands_kit import Playbook, agent, say


@pytest.mark.usefixtures("unlogged")
async def test_an_agent_that_the_garbage_collector_closes_raises_nothing() -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    before = asyncio.all_tasks()
    recorder, requests = ClosableRecorder(ListRecorder(), lambda: None), Requests(context(), "7 + 7?", ())
    hooks = Hooks(context(), recorder, Memory(), requests, remembering=True)
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
