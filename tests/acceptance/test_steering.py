"""Messages that people add to a run under way, through real processes: none is lost without a trace."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.kit.server import ServerProcess, until
from tests.kit.slow import slow

AGENTS = """
import asyncio
from pathlib import Path

from strands import Agent
from strands.hooks import AfterInvocationEvent, HookOrder

from runstore.demo.model import ScriptedModel

HERE = Path(__file__).parent

async def hold():
    if (HERE / "go").exists():
        (HERE / "again").touch()
    (HERE / "held").touch()
    while not (HERE / "go").exists():
        await asyncio.sleep(0.01)

async def end(event):
    '''Hold still after every other hook, when the agent is about to end.'''
    if event.resume is None:
        await hold()

def ending():
    agent = Agent(name="ending", model=ScriptedModel(), callback_handler=None)
    agent.add_hook(end, AfterInvocationEvent, order=HookOrder.SDK_LAST + 9)
    return agent

async def end_once(event):
    '''Hold still, for good when the agent is about to end again.'''
    await hold()
    while (HERE / "again").exists():
        await asyncio.sleep(0.01)

def brief():
    agent = Agent(name="brief", model=ScriptedModel(), callback_handler=None)
    agent.add_hook(end_once, AfterInvocationEvent, order=HookOrder.SDK_LAST + 9)
    return agent

async def listening(input, ctx):
    (HERE / "held").touch()
    while not (said := await ctx.added()):
        await asyncio.sleep(0.01)
    yield str(said)

async def deaf(input):
    await hold()
    yield "done"
"""
CONFIG = """
[server]
lease_s = 2

[agents.ending]
factory = "agents:ending"

[agents.brief]
factory = "agents:brief"
run_timeout_s = 4

[agents.alone]
factory = "agents:ending"
isolation = "process"

[agents.listening]
factory = "agents:listening"

[agents.listening_alone]
factory = "agents:listening"
isolation = "process"

[agents.deaf]
factory = "agents:deaf"
"""


def held(server: ServerProcess, tmp_path: Path, agent: str) -> str:
    """A run whose agent holds still."""
    run_id = server.begin(agent, "shirts")
    until((tmp_path / "held").exists, "the agent holds still")
    return run_id


def say(server: ServerProcess, run_id: str, content: str = "And socks.") -> int:
    said = server.http.post(f"/runs/{run_id}/inputs", json={"content": content})
    assert said.status_code == 201, said.text
    seq: int = said.json()["last_seq"]
    return seq


def of(server: ServerProcess, run_id: str, type: str) -> list[dict[str, Any]]:
    return [event["data"] for event in server.events(run_id) if event["type"] == type]


def started_at(server: ServerProcess, run_id: str) -> list[datetime]:
    events = server.events(run_id)
    return [datetime.fromisoformat(each["at"]) for each in events if each["type"] == "lifecycle.started"]


@pytest.mark.parametrize("agent", ["ending", slow("alone")])
def test_a_message_that_comes_as_the_agent_ends_is_taken_by_another_attempt(
    worker: ServerProcess, front: ServerProcess, tmp_path: Path, agent: str
) -> None:
    run_id = held(worker, tmp_path, agent)
    seq = say(front, run_id)
    (tmp_path / "go").touch()
    record = worker.ended(run_id)
    assert (record["status"], "unheard" in record) == ("success", False)
    assert [each["reason"] for each in of(worker, run_id, "lifecycle.started")] == ["claimed", "added"]
    assert [each["added"] for each in of(worker, run_id, "llm.input_replaced")] == [seq]
    assert len(of(worker, run_id, "llm.usage")) == 2
    assert "And socks." in str(record["result"])


@pytest.mark.parametrize("agent", ["listening", slow("listening_alone")])
@pytest.mark.parametrize("through", ["worker", "front"])
def test_an_agent_at_work_hears_a_message_through_any_process(
    worker: ServerProcess, front: ServerProcess, tmp_path: Path, agent: str, through: str
) -> None:
    """It has looked for messages before, and reads the log again only after a notice of some."""
    run_id = held(worker, tmp_path, agent)
    say(worker if through == "worker" else front, run_id)
    assert worker.ended(run_id)["result"] == {"text": "['And socks.']"}


def test_a_worker_that_dies_as_its_agent_ends_leaves_the_message_to_the_next(
    worker: ServerProcess, front: ServerProcess, tmp_path: Path
) -> None:
    run_id = held(worker, tmp_path, "ending")
    seq = say(front, run_id)
    worker.kill()
    (tmp_path / "go").touch()
    worker.start()
    assert worker.ended(run_id)["status"] == "success"
    assert [each["added"] for each in of(worker, run_id, "llm.input_replaced")] == [seq]


def test_a_message_to_a_function_that_asks_for_none_is_named(
    worker: ServerProcess, front: ServerProcess, tmp_path: Path
) -> None:
    run_id = held(worker, tmp_path, "deaf")
    said = [say(worker, run_id), say(front, run_id)]
    (tmp_path / "go").touch()
    assert worker.ended(run_id)["unheard"] == said
    assert of(worker, run_id, "lifecycle.completed")[0]["unheard"] == said
    [listed] = front.http.get("/runs").json()["data"]
    assert listed["unheard"] == said


def test_a_stop_ends_a_run_whose_message_no_agent_takes(worker: ServerProcess, tmp_path: Path) -> None:
    run_id = held(worker, tmp_path, "ending")
    say(worker, run_id)
    assert worker.stop_run(run_id)["status"] == "stopped"


@pytest.mark.slow
def test_an_attempt_for_a_message_has_only_the_time_that_is_left(
    worker: ServerProcess, tmp_path: Path
) -> None:
    """Messages would extend a run without end otherwise."""
    run_id = held(worker, tmp_path, "brief")
    [begun] = started_at(worker, run_id)
    say(worker, run_id)
    until(lambda: datetime.now(UTC) - begun > timedelta(seconds=2), "half of its time has passed")
    (tmp_path / "go").touch()
    record = worker.ended(run_id)
    assert (record["status"], record["error_code"]) == ("error", "timeout")
    _, again = started_at(worker, run_id)
    assert datetime.fromisoformat(record["completed_at"]) < again + timedelta(seconds=4)
