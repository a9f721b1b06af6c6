"""Runs that could be lost between agents that break out, threads that never come back, and full places."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx
import pytest

from tests.kit.server import ServerProcess, serving, until

AGENTS = """
import asyncio
import os
import time

import strands

class Breakout(BaseException):
    pass

async def cancels_itself(input):
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task
    yield ""

async def raises_cancelled(input):
    raise asyncio.CancelledError
    yield ""

async def breaks_out(input):
    raise Breakout("out")
    yield ""

def factory_breaks_out():
    raise Breakout("out")

@strands.tool
def breaking(word: str) -> str:
    '''Breaks out.'''
    raise Breakout("out")

@strands.tool
def sleeps(word: str) -> str:
    '''Never returns.'''
    time.sleep(600)

@strands.tool
def quick(word: str) -> str:
    '''Returns.'''
    return "done"

async def silent(input):
    await asyncio.Event().wait()
    yield ""

async def forks(input, ctx):
    child = 0 if ctx.attempt > 1 else os.fork()
    if child == 0 and ctx.attempt == 1:
        time.sleep(600)
        os._exit(0)
    yield f"{child}."
    await asyncio.Event().wait()
"""
CONFIG = """
[agents.cancels_itself]
factory = "agents:cancels_itself"
[agents.raises_cancelled]
factory = "agents:raises_cancelled"
[agents.breaks_out]
factory = "agents:breaks_out"
[agents.factory_breaks_out]
factory = "agents:factory_breaks_out"
[agents.breaking]
model = "scripted"
tools = ["agents:breaking"]
[agents.sleeps]
model = "scripted"
tools = ["agents:sleeps"]
[agents.quick]
model = "scripted"
tools = ["agents:quick"]
[agents.silent]
factory = "agents:silent"
[agents.forks]
factory = "agents:forks"
"""
Serve = Callable[..., ServerProcess]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One for all agents that break out: none of them may spoil it for the next."""
    with serving(tmp_path_factory.mktemp("breakouts"), CONFIG, AGENTS) as server:
        yield server


@pytest.mark.parametrize("agent", ["cancels_itself", "raises_cancelled", "breaks_out", "factory_breaks_out"])
def test_an_agent_that_breaks_out_of_its_task_ends_its_run(server: ServerProcess, agent: str) -> None:
    record = server.ended(server.begin(agent))
    assert (record["status"], record["error_code"]) == ("error", "agent_error")


def test_a_tool_that_breaks_out_is_a_failed_tool(server: ServerProcess) -> None:
    run_id = server.begin("breaking")
    assert server.ended(run_id)["status"] == "success"
    events = server.http.get(f"/runs/{run_id}/events", params={"types": "tool.*", "limit": 1000}).json()[
        "data"
    ]
    assert [event["type"] for event in events if event["type"].startswith("tool.")] == [
        "tool.started",
        "tool.failed",
    ]


@pytest.mark.slow
def test_tools_that_never_return_do_not_delay_other_runs(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS)
    stuck = [server.begin("sleeps") for _ in range(70)]
    for run_id in stuck:
        until(lambda run_id=run_id: started_tools(server, run_id) == 1, "the tool has started")
    assert server.ended(server.begin("quick"))["status"] == "success"
    for run_id in stuck:
        server.http.post(f"/runs/{run_id}/stop")
    for run_id in stuck:
        assert server.ended(run_id)["status"] == "stopped"
    assert server.ended(server.begin("quick"))["status"] == "success"


def test_runs_that_were_active_go_on_before_the_queue(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, capacity=6)
    active = [server.begin("silent") for _ in range(6)]
    for run_id in active:
        until(lambda run_id=run_id: attempt(server, run_id) == 1, "the run has started")
    queued = [server.begin("silent") for _ in range(6)]
    server.kill()
    server.start()
    for run_id in active:
        until(lambda run_id=run_id: attempt(server, run_id) == 2, "the run has been adopted")
    assert {attempt(server, run_id) for run_id in queued} == {0}


def test_a_process_that_an_agent_forked_keeps_nothing_of_a_killed_server(serve: Serve) -> None:
    """It has copies of all descriptors, such as those of the worker's lock and of readers' connections."""
    server = serve(CONFIG, AGENTS)
    run_id = server.begin("forks")
    with server.http.stream("GET", f"/runs/{run_id}/stream", params={"types": "llm.token"}) as stream:
        lines = stream.iter_lines()
        token = next(line for line in lines if line.startswith("data: "))
        child = int(json.loads(token.removeprefix("data: "))["data"]["text"].rstrip("."))
        try:
            server.kill()
            with suppress(httpx.TransportError):
                list(lines)  # ends with the connection
            server.start()
            until(lambda: attempt(server, run_id) == 2, "the run has been adopted")
        finally:
            os.kill(child, signal.SIGKILL)


def started_tools(server: ServerProcess, run_id: str) -> int:
    events = server.http.get(f"/runs/{run_id}/events", params={"types": "tool.started"}).json()["data"]
    return sum(event["type"] == "tool.started" for event in events)


def attempt(server: ServerProcess, run_id: str) -> int:
    number: int = server.http.get(f"/runs/{run_id}").json()["attempt"]
    return number
