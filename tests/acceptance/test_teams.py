"""Runs of one hierarchy beside each other: each with its own words and ending, and nothing left of it."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from strands.agent._agent_as_tool import _AgentAsTool

from runstore.app import Runtime
from runstore.core.hierarchy import Hierarchy, agent_name
from runstore.core.new_run import NewRun
from runstore.core.run import Actor
from runstore.http.streaming.frames import native
from runstore.runtime.strands.hierarchy import SubAgentCall
from runstore.runtime.strands.recorders.closable_recorder import ClosableRecorder
from runstore.runtime.strands.recorders.hooks import Hooks
from runstore.runtime.strands.team import Delegate
from runstore.settings import load_settings
from tests.kit.database import make_database
from tests.kit.frames import Frame, joined, read_frames, said, seqs
from tests.kit.leftovers import OF_A_RUN, assert_nothing_left
from tests.kit.logs import assert_no_traceback
from tests.kit.metrics import sample
from tests.kit.polling import until as until_async
from tests.kit.server import DEADLINE_S, ServerProcess, serving, until
from tests.kit.slow import slow
from tests.kit.teams import EXECUTOR, Executor, hierarchy

# A synchronous tool, which strands runs on a thread of a pool, and which a run's logger and state reach.
AGENTS = """
import logging
import threading
import time

from strands import tool

log = logging.getLogger("agents")

@tool(context=True)
def whose(task: str, tool_context) -> str:
    '''Tell whose run this is.'''
    run = tool_context.invocation_state["runstore"]
    time.sleep(0.05)  # so that all runs' threads are at work at once
    log.warning("whose word=%s thread=%s", run.metadata["word"], threading.current_thread().name)
    return " ".join([run.metadata["word"], run.run_id])
"""
CONFIG = '[hierarchies.tools]\nwhose = "agents:whose"\n'
OFFICE = hierarchy(Red={"Ann": [], "Bob": ["whose"]}, Blue={"Cid": [], "Dan": ["whose"]})
AGENTS_OF_THE_OFFICE = {
    "global", "global/Red", "global/Blue",
    "global/Red/Ann", "global/Red/Bob", "global/Blue/Cid", "global/Blue/Dan",
}  # fmt: skip
ESSAY = "Write a very long essay about space exploration"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("teams"), CONFIG, AGENTS, log_format="json") as server:
        yield server
        assert_no_traceback(server.log)


@pytest.fixture(scope="module")
def office(server: ServerProcess) -> str:
    return Executor(server.http).create(OFFICE)


# Every event on a stream is its run's own.


class Told:
    """One run of many: the word that it must say, and the events of its stream."""

    def __init__(self, word: str, run_id: str, frames: list[Frame]) -> None:
        self.word = word
        self.run_id = run_id
        self.frames = frames

    @property
    def log_lines(self) -> re.Pattern[str]:
        return re.compile(f'"event": "whose word={self.word} .*')


async def run_at_once(server: ServerProcess, hierarchy_id: str, words: list[str]) -> list[Told]:
    """Start a run for each word, and follow all of them while they run."""
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=0
    )  # none that the server closes first
    async with httpx.AsyncClient(
        base_url=server.http.base_url, timeout=3 * DEADLINE_S, trust_env=False, limits=limits
    ) as http:

        async def run(word: str) -> Told:
            body = {
                "hierarchy_id": hierarchy_id,
                "task": f"Say '{word}' fifteen times",
                "metadata": {"word": word},
            }
            started = (await http.post(f"{EXECUTOR}/runs/start", json=body)).json()
            run_id = started["data"]["run_id"]
            async with http.stream("POST", f"{EXECUTOR}/runs/stream", json={"run_id": run_id}) as answer:
                return Told(word, run_id, list(read_frames([part async for part in answer.aiter_raw()])))

        return await asyncio.gather(*map(run, words))


@pytest.mark.parametrize("runs", [slow(2), slow(5), 10, slow(100)])
async def test_every_event_on_a_stream_is_its_runs_own(server: ServerProcess, office: str, runs: int) -> None:
    words = [f"word{runs:03}x{n:03}" for n in range(runs)]
    all_told = await run_at_once(server, office, words)
    for told in all_told:
        frames = told.frames
        assert seqs(frames) == list(range(1, len(frames) + 1))
        assert {frame.event["run_id"] for frame in frames} == {told.run_id}
        assert {f.data["agent"] for f in frames if "call_id" in f.data} < AGENTS_OF_THE_OFFICE
        spoken = {f.data["agent"] for f in frames if f.type == "llm.token"}
        assert spoken == AGENTS_OF_THE_OFFICE
        assert set(said(frames).replace(told.run_id, f" {told.run_id} ").split()) <= parts_of(told)
        assert frames[-1].type == "lifecycle.completed"
        text = joined(frames).decode()
        assert not [other.word for other in all_told if other is not told and other.word in text]
        assert not [other.run_id for other in all_told if other is not told and other.run_id in text]
    started = max(told.frames[1].event["at"] for told in all_told)
    ended = min(told.frames[-1].event["at"] for told in all_told)
    assert started < ended, "they ran at once"


def parts_of(told: Told) -> set[str]:
    """The words that its agents may say. The last word of an agent has no space, so two may be one."""
    return {told.word, told.run_id, told.word * 2, told.word * 3}


@pytest.mark.slow
async def test_each_runs_tools_on_threads_log_with_its_own_id(server: ServerProcess, office: str) -> None:
    words = [f"logged{n}x" for n in range(5)]
    for told in await run_at_once(server, office, words):
        until(lambda: ended_in_log(server, told.run_id), "its end is in the log")  # noqa: B023
        lines = [json.loads(line) for line in server.log.splitlines() if f"word={told.word} " in line]
        assert {line["run_id"] for line in lines} == {told.run_id}
        assert len(lines) == 2
        assert all("MainThread" not in line["event"] for line in lines)
        about = [json.loads(line) for line in server.log.splitlines() if told.run_id in line]
        assert {line["event"].split()[0] for line in about} == {"run_started", "whose", "run_ended"}


def ended_in_log(server: ServerProcess, run_id: str) -> bool:
    lines = [line for line in server.log.splitlines() if run_id in line]
    return any(json.loads(line)["event"] == "run_ended" for line in lines)


# Cancelling one of them.


def test_cancelling_one_run_leaves_the_others_alone(server: ServerProcess, office: str) -> None:
    executor = Executor(server.http)
    runs = [executor.start(office, ESSAY, metadata={"word": "essay"}) for _ in range(4)]
    short = executor.start(office, "What is 2+2?", metadata={"word": "sum"})
    until(lambda: said_something(server, runs[1]), "it is at work")
    assert executor.ask("runs/cancel", {"run_id": runs[1]}).status_code == 202
    assert executor.frames(runs[1])[-1].type == "lifecycle.cancelled"
    assert executor.frames(short)[-1].type == "lifecycle.completed"
    others = [executor.get(run_id) for run_id in (runs[0], runs[2], runs[3])]
    assert [(run["status"], run["cancel_requested"]) for run in others] == [("running", False)] * 3
    for run_id in (runs[0], runs[2], runs[3]):
        server.stop_run(run_id)


def said_something(server: ServerProcess, run_id: str) -> bool:
    return any(event["type"] == "llm.token" for event in server.events(run_id))


# Active runs, and leftovers.


def test_which_runs_are_active_can_be_asked(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    executor = Executor(server.http)
    hierarchy_id = executor.create()
    runs = [executor.start(hierarchy_id, ESSAY) for _ in range(10)]
    until(lambda: sample(server.http, "runstore_runs", state="active") == 10, "all have started")

    def running() -> list[set[str]]:
        native = server.http.get("/runs", params={"status": "running"}).json()["data"]
        own = executor.data("runs/list", {"status": "running"})["runs"]
        return [{run["run_id"] for run in listed} for listed in (native, own)]

    assert running() == [set(runs), set(runs)]
    with executor.stream(runs[0]) as frames:
        next(frames)
        assert sample(server.http, "runstore_runs_followed") == 1
        for run_id in runs:
            executor.data("runs/cancel", {"run_id": run_id})
        assert next(frame for frame in frames if frame.ends).type == "lifecycle.cancelled"
    for run_id in runs:
        executor.ended(run_id)
    assert running() == [set(), set()]
    for gauge in ("runstore_runs_followed", "runstore_agents_abandoned", "runstore_threads_abandoned"):
        until(lambda gauge=gauge: sample(server.http, gauge) == 0, f"{gauge} is 0")  # type: ignore[misc]
    for state in ("active", "queued"):
        until(
            lambda state=state: sample(server.http, "runstore_runs", state=state) == 0,  # type: ignore[misc]
            f"no run is {state}",
        )


OF_A_TEAM = OF_A_RUN | {Delegate, _AgentAsTool, Hooks, SubAgentCall, ClosableRecorder}


async def have_some_team_runs(runtime: Runtime) -> None:
    """Runs that end, and runs that are stopped, each with a reader."""
    stored = await runtime.hierarchies.create(
        msgspec.convert(hierarchy(Red={"Ann": [], "Bob": []}, Blue={"Cid": []}), Hierarchy),
        user_id="local",
        now=0,
    )

    async def start(task: str) -> str:
        agent = agent_name(stored.summary.hierarchy_id)
        definition = runtime.hierarchies.definition(stored.hierarchy)
        started = await runtime.store.start(NewRun(agent, task, user_id="local", definition=definition))
        return started.run.run_id

    async def follow(run_id: str) -> None:
        async for _ in native(runtime.store.tail(run_id, after=0)):
            pass

    stopped = [await start(ESSAY) for _ in range(3)]
    run_ids = [*stopped, *[await start("What is 2+2?") for _ in range(10)]]
    readers = [asyncio.create_task(follow(run_id)) for run_id in run_ids]
    await until_async(lambda: runtime.supervisor.running <= 3)
    for run_id in stopped:
        await runtime.store.stop(run_id, by=Actor("local"), reason="user")
    await asyncio.gather(*readers)
    await until_async(lambda: runtime.supervisor.running == 0)


@pytest.mark.slow
@pytest.mark.usefixtures("unlogged")
async def test_nothing_of_ended_team_runs_stays_in_the_process(tmp_path: Path) -> None:
    make_database(tmp_path / "runstore.db")
    config = tmp_path / "runstore.toml"
    config.write_text(f'[server]\ndatabase_url = "sqlite:///{tmp_path}/runstore.db"\n')
    await assert_nothing_left(load_settings(config), have_some_team_runs, rounds=3, kinds=OF_A_TEAM)


# A lost worker.

RESUMED = """
import asyncio
from pathlib import Path

def note(name):
    with open("calls", "a") as calls:
        calls.write(name + "\\n")

def first(task: str) -> str:
    '''The first.'''
    note("first")
    return "one"

async def second(task: str) -> str:
    '''The second, which waits.'''
    note("second")
    while not Path("let-second-return").exists():
        await asyncio.sleep(0.005)
    return "two"
"""
RESUMED_CONFIG = '[hierarchies.tools]\nfirst = "agents:first"\nsecond = "agents:second"\n'


def test_a_hierarchy_goes_on_after_kill_9_from_what_the_run_holds(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve(RESUMED_CONFIG, RESUMED)
    executor = Executor(server.http)
    hierarchy_id = executor.create(hierarchy(Red={"Ann": ["first"]}, Blue={"Bob": ["second"]}))
    run_id = executor.start(hierarchy_id, "go")

    def calls() -> list[str]:
        path = server.folder / "calls"
        return path.read_text().split() if path.exists() else []

    def red_has_reported() -> bool:
        return any(e["type"] == "tool.finished" and e["data"]["name"] == "Red" for e in server.events(run_id))

    until(lambda: calls().count("second") == 1 and red_has_reported(), "one team is done, the other is not")
    with executor.stream(run_id) as frames:
        seen = [next(frames) for _ in range(5)]
    executor.data("hierarchies/delete", {"hierarchy_id": hierarchy_id})
    server.kill()
    server.start()
    until(lambda: calls().count("second") == 2, "the second tool is at work again")
    (server.folder / "let-second-return").touch()

    run = executor.ended(run_id)
    assert (run["status"], run["attempt"], run["result"]["text"]) == ("success", 2, "one two")
    assert sorted(calls()) == ["first", "second", "second"]
    frames_after = executor.frames(run_id, after=seen[-1].seq)
    whole = [*seen, *frames_after]
    assert seqs(whole) == list(range(1, run["last_seq"] + 1))
    again = whole[next(n for n, f in enumerate(whole) if f.data.get("attempt") == 2) :]
    asked = {f.data["agent"] for f in again if f.type == "llm.usage"}
    assert asked == {"global/Blue/Bob", "global/Blue", "global"}, "the first team is not asked again"
    repeated = [f.data for f in again if f.type == "llm.token" and f.data["agent"].startswith("global/Red")]
    assert {data["text"] for data in repeated} == {"one"}, "its text comes from the log"
    assert len(repeated) == 2


@pytest.mark.slow
def test_a_team_that_is_killed_while_it_speaks_comes_to_the_same_result(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve()
    executor = Executor(server.http)
    run_id = executor.start(executor.create(OFFICE_WITHOUT_TOOLS), "Count from 1 to 15")
    with executor.stream(run_id) as frames:
        next(frame for frame in frames if frame.data.get("text") == "7 ")
    server.kill()
    server.start()
    run = executor.ended(run_id)
    counted: Any = " ".join(str(n) for n in range(1, 16))
    assert run["result"]["text"] == f"{counted} {counted}"
    assert run["attempt"] == 2


OFFICE_WITHOUT_TOOLS = hierarchy(Red={"Ann": []}, Blue={"Cid": []})
