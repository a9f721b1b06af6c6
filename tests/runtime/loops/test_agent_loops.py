"""The loops that agents share."""

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import structlog

from runstore.runtime.loops.agent_loops import AgentLoop
from runstore.runtime.loops.tool_threads import ToolThreads


@pytest.fixture
def agents() -> Iterator[AgentLoop]:
    loop = AgentLoop("runstore-agents", ToolThreads(10, "tool"))
    yield loop
    loop.stop()
    assert loop.join(5)


async def exits() -> None:
    sys.exit(3)


def test_an_agent_that_exits_does_not_end_the_loop_of_the_others(agents: AgentLoop) -> None:
    started, go_on, done = threading.Event(), asyncio.Event(), threading.Event()

    async def other() -> None:
        started.set()
        await go_on.wait()
        done.set()

    agents.submit(other())
    assert started.wait(5)
    with structlog.testing.capture_logs() as lines:
        exited = agents.submit(exits())
        with pytest.raises(SystemExit):
            exited.result(5)
        agents.call(go_on.set)
        assert done.wait(5)
    assert [line["event"] for line in lines] == ["agent_exited"]


async def cancels_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0)


def test_a_run_cancels_its_own_tasks_and_none_of_another_run(agents: AgentLoop) -> None:
    started, go_on = threading.Event(), asyncio.Event()

    async def other() -> str:
        started.set()
        await go_on.wait()
        return "done"

    async def with_one_of_its_own() -> None:
        own = asyncio.create_task(other())
        await asyncio.sleep(0)
        own.cancel()
        with pytest.raises(asyncio.CancelledError):
            await own
        await cancels_all()

    with structlog.contextvars.bound_contextvars(run_id="other"):
        waiting = agents.submit(other())
    assert started.wait(5)
    with structlog.contextvars.bound_contextvars(run_id="bad"):
        cancelled = agents.submit(with_one_of_its_own())
    with pytest.raises(concurrent.futures.CancelledError):
        cancelled.result(5)
    agents.call(go_on.set)
    assert waiting.result(5) == "done"


CHANGES: dict[str, Callable[[asyncio.AbstractEventLoop], Awaitable[None] | None]] = {
    "task factory": lambda loop: loop.set_task_factory(lambda *_, **__: None),  # type: ignore[arg-type,return-value]
    "executor": lambda loop: loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1)),
    "end of the executor": lambda loop: loop.shutdown_default_executor(),
    "error handler": lambda loop: loop.set_exception_handler(lambda *_: None),
    "debug": lambda loop: loop.set_debug(True),
    "end of generators": lambda loop: loop.shutdown_asyncgens(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_run_changes_no_setting_that_other_runs_of_its_loop_need(
    agents: AgentLoop, change: Callable[[asyncio.AbstractEventLoop], Awaitable[None] | None]
) -> None:
    started, go_on = threading.Event(), asyncio.Event()

    async def words() -> AsyncIterator[str]:
        yield "one"
        yield await asyncio.to_thread(lambda: threading.current_thread().name)

    async def other() -> list[str]:
        said = []
        async for word in words():
            said.append(word)
            started.set()
            await go_on.wait()
        return said

    async def changes() -> None:
        made = change(asyncio.get_running_loop())
        if made is not None:
            await made

    async def settings() -> tuple[object, ...]:
        loop = asyncio.get_running_loop()
        return loop.get_task_factory(), loop.get_exception_handler(), loop.get_debug()

    before = agents.submit(settings()).result(5)
    waiting = agents.submit(other())
    assert started.wait(5)
    agents.submit(changes()).result(5)
    agents.call(go_on.set)
    assert waiting.result(5) == ["one", "tool-0"]
    assert agents.submit(settings()).result(5) == before


def test_a_setting_that_is_refused_again_and_again_is_one_warning(agents: AgentLoop) -> None:
    async def changes() -> None:
        for _ in range(3):
            asyncio.get_running_loop().set_debug(True)
            await asyncio.get_running_loop().shutdown_asyncgens()

    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            agents.submit(changes()).result(5)
    assert [line["call"] for line in lines] == ["set_debug", "shutdown_asyncgens"]


def test_agents_do_not_run_on_the_callers_loop_or_thread(agents: AgentLoop) -> None:
    threads: list[str] = []

    async def where() -> None:
        threads.append(threading.current_thread().name)

    agents.submit(where()).result(5)
    assert threads == ["runstore-agents"]


def test_a_loop_may_be_stopped_twice() -> None:
    loop = AgentLoop("runstore-agents", ToolThreads(10, "tool"))
    loop.stop()
    assert loop.join(5)
    loop.stop()
    assert loop.join(5)


def test_a_loop_ends_though_it_still_closes_a_generator() -> None:
    loop, closing, tasks = AgentLoop("runstore-agents", ToolThreads(10, "tool")), threading.Event(), []

    async def speaks() -> AsyncIterator[str]:
        try:
            yield "so far"
        finally:
            closing.set()
            await asyncio.Event().wait()

    async def leaves() -> None:
        said = speaks()
        await anext(said)
        tasks.append(asyncio.create_task(said.aclose()))  # as asyncio does with a generator that nobody has

    loop.submit(leaves())
    assert closing.wait(5)
    loop.stop()
    assert loop.join(5)  # an error of its thread would fail the test
