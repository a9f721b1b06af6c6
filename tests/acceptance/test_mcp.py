"""Agents with MCP clients: their servers end with the run, and do not delay other runs."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import StdioServerParameters, stdio_client
from strands import Agent, tool
from strands.multiagent import GraphBuilder, Swarm
from strands.tools.mcp import MCPClient

from runstore import AgentSpec
from runstore.app import Runtime, open_runtime
from runstore.core.new_run import NewRun
from runstore.core.run import Actor
from runstore.demo.model import ScriptedModel
from runstore.settings import ServerSettings, Settings
from tests.kit.database import make_database
from tests.kit.polling import until
from tests.kit.slow import slow

SERVER = Path(__file__).parents[1] / "kit" / "mcp_server.py"
FOLDER = Path()  # of the test that runs


def client(*options: str, **settings: Any) -> MCPClient:
    """A client of a new server, which notes its process id."""
    server = StdioServerParameters(
        command=sys.executable, args=["-S", str(SERVER), str(FOLDER / "pids"), *options]
    )
    return MCPClient(lambda: stdio_client(server), **settings)


def agent(*tools: Any, name: str = "inner") -> Agent:
    return Agent(model=ScriptedModel(tokens=2), tools=list(tools), name=name, callback_handler=None)


@tool
async def wait() -> str:
    """Wait without end."""
    await asyncio.Event().wait()
    return "never"


@tool
async def hold() -> str:
    """Keep running until the test is over."""
    while not (FOLDER / "over").exists():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return "over"


@tool
def ask() -> str:
    """Ask an agent that is made for it."""
    return str(agent(client())("one two"))


def alone() -> Agent:
    return agent(client())


def below() -> Agent:
    return agent(agent(client(), name="middle"))


def graph() -> Any:
    builder = GraphBuilder()
    builder.add_node(agent(client(), name="first"), "first")
    builder.add_node(agent(client(), name="second"), "second")
    builder.add_edge("first", "second")
    return builder.set_max_node_executions(2).build()


def swarm() -> Swarm:
    return Swarm([agent(client(), name="first"), agent(client(), name="second")])


def asking() -> Agent:
    return agent(ask)


async def generator(input: str) -> AsyncIterator[str]:
    made = await asyncio.to_thread(agent, client())
    yield str(made.tool_names)


def broken() -> Agent:
    agent(client())
    raise RuntimeError("out of order")


def misspelled() -> Agent:
    return agent(
        client(),
        MCPClient(lambda: stdio_client(StdioServerParameters(command=sys.executable, args=["-c", "pass"]))),
    )


def waiting() -> Agent:
    return agent(wait, client())


def holding() -> Agent:
    return agent(hold, client())


async def gated() -> Agent:
    return agent(client("--gate", str(FOLDER / "gate")))


def stubborn() -> Agent:
    return agent(client("--stubborn"))


def silent_list() -> Agent:
    return agent(client("--silent", "tools/list", startup_timeout=1))


def dead_list() -> Agent:
    return agent(client("--dies", "tools/list"))


def silent_call() -> Agent:
    return agent(client("--silent", "tools/call"))


def dead_call() -> Agent:
    return agent(client("--dies", "tools/call"))


SHARED: list[MCPClient] = []


def sharing() -> Agent:
    return agent(SHARED[0])


async def ticking(input: str) -> AsyncIterator[str]:
    yield "tick "
    while not (FOLDER / "go").exists():
        await asyncio.sleep(0.01)
    yield "tock"


FACTORIES = (
    alone, below, graph, swarm, asking, generator, broken, misspelled, waiting, holding, gated, stubborn,
    sharing, ticking, silent_list, dead_list, silent_call, dead_call,
)  # fmt: skip
AGENTS = {each.__name__: AgentSpec(factory=f"{__name__}:{each.__name__}") for each in FACTORIES}
AGENTS["timed_call"] = AgentSpec(factory=f"{__name__}:silent_call", run_timeout_s=1)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(sys.modules[__name__], "FOLDER", tmp_path)
    database = make_database(tmp_path / "runstore.db")
    return Settings(ServerSettings(database_url=f"sqlite:///{database}", cancel_grace_s=0.2), AGENTS)


@pytest.fixture
async def runtime(settings: Settings, tmp_path: Path) -> AsyncIterator[Runtime]:
    async with open_runtime(settings) as runtime:
        yield runtime
        (tmp_path / "over").touch()


def servers(folder: Path) -> list[int]:
    """Those that have been started."""
    return [int(pid) for pid in (folder / "pids").read_text().split()] if (folder / "pids").exists() else []


def alive(folder: Path) -> list[int]:
    return [pid for pid in servers(folder) if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def start(runtime: Runtime, name: str) -> str:
    return (await runtime.store.start(NewRun(name, "one two", user_id="local"))).run.run_id


async def ended(runtime: Runtime, run_id: str) -> Any:
    return (await runtime.store.get(run_id, wait_s=60)).run


@pytest.mark.filterwarnings("ignore:.*_set_close_event")  # strands' own, of a server that does not start
@pytest.mark.parametrize(
    ("name", "status", "started"),
    [
        ("alone", "success", 1),
        slow("below", "success", 1),
        slow("graph", "success", 2),
        ("swarm", "success", 2),
        slow("asking", "success", 1),
        slow("generator", "success", 1),
        ("broken", "error", 1),
        ("misspelled", "error", 1),
        ("stubborn", "success", 1),
    ],
)
async def test_the_servers_of_a_runs_agents_end_with_it(
    runtime: Runtime, tmp_path: Path, name: str, status: str, started: int
) -> None:
    run = await ended(runtime, await start(runtime, name))
    assert run.status == status, run.error
    assert len(servers(tmp_path)) == started
    await until(lambda: not alive(tmp_path))
    assert name != "misspelled" or run.error.endswith("(1 sub-exception): MCPError: Connection closed")


@pytest.mark.parametrize("name", ["waiting", "holding"])
async def test_they_end_with_a_run_that_is_stopped_also_by_force(
    runtime: Runtime, tmp_path: Path, name: str
) -> None:
    run_id = await start(runtime, name)
    await until(lambda: len(alive(tmp_path)) == 1)
    await runtime.store.stop(run_id, by=Actor("local"), reason="user")
    assert (await ended(runtime, run_id)).status == "stopped"
    await until(lambda: not alive(tmp_path))


async def test_they_end_with_a_run_that_is_stopped_while_they_start(runtime: Runtime, tmp_path: Path) -> None:
    run_id = await start(runtime, "gated")
    await until(lambda: len(alive(tmp_path)) == 1)
    await runtime.store.stop(run_id, by=Actor("local"), reason="user")
    assert (await ended(runtime, run_id)).status == "stopped"
    (tmp_path / "gate").touch()
    await until(lambda: not alive(tmp_path))


@pytest.mark.slow
async def test_they_end_with_the_process(settings: Settings, tmp_path: Path) -> None:
    async with open_runtime(settings) as runtime:
        for name in ("waiting", "holding"):
            await start(runtime, name)
        await until(lambda: len(alive(tmp_path)) == 2)
    assert alive(tmp_path) == []
    (tmp_path / "over").touch()


async def test_a_client_that_runs_share_is_stopped_under_none_of_them(
    runtime: Runtime, tmp_path: Path
) -> None:
    SHARED[:] = [client()]
    for _ in range(3):
        runs = [await start(runtime, "sharing") for _ in range(4)]
        for run_id in runs:
            await ended(runtime, run_id)
            types = [event.type for event in await runtime.store.events(run_id, after=0)]
            assert (types.count("tool.finished"), types.count("tool.failed")) == (1, 0)
    await until(lambda: not alive(tmp_path))


async def test_a_server_that_starts_slowly_delays_no_other_run(runtime: Runtime, tmp_path: Path) -> None:
    await runtime.store.catalog.check()
    first = await start(runtime, "ticking")
    second = await start(runtime, "gated")
    await until(lambda: len(alive(tmp_path)) == 1)
    (tmp_path / "go").touch()
    run = await ended(runtime, first)
    assert (run.status, run.attempt) == ("success", 1)  # else it would have been moved from a blocked loop
    (tmp_path / "gate").touch()
    assert (await ended(runtime, second)).status == "success"


# strands' own: of a server that does not start, and of one whose silence has been cut off.
@pytest.mark.filterwarnings("ignore:.*_set_close_event")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("silent_list", "error", "agent_error"),
        ("dead_list", "error", "agent_error"),
        ("timed_call", "error", "timeout"),
        ("dead_call", "success", None),
    ],
)
async def test_a_server_that_falls_silent_or_dies_ends_its_run_in_time_and_leaves_nothing(
    runtime: Runtime, tmp_path: Path, name: str, status: str, code: str | None
) -> None:
    run_id = await start(runtime, name)
    run = await ended(runtime, run_id)
    assert (run.status, run.error_code) == (status, code), run.error
    assert name != "silent_list" or "did not list its tools within 6 s" in run.error, run.error
    await until(lambda: not alive(tmp_path))
    if name == "dead_call":  # its model hears of it
        events = await runtime.store.events(run_id, after=0)
        assert [event.type for event in events].count("tool.failed") == 1


async def test_a_run_whose_server_falls_silent_is_stopped(runtime: Runtime, tmp_path: Path) -> None:
    run_id = await start(runtime, "silent_call")

    async def calls() -> bool:
        events = await runtime.store.events(run_id, after=0)
        return any(event.type == "tool.started" for event in events)

    await until(calls)
    await runtime.store.stop(run_id, by=Actor("local"), reason="user")
    assert (await ended(runtime, run_id)).status == "stopped"
    await until(lambda: not alive(tmp_path))
