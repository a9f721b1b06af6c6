"""Replays a run's fixture in a test of the agent, without a network.

from runstore.testing import replay_fixture

def test_a_refund_is_looked_up_first():
    replay_fixture("tests/refund.json", build_agent())
"""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

from runstore.core.codec import to_json
from runstore.core.content import message_with_bytes
from runstore.core.ids import new_run_id
from runstore.core.ports import RunContext
from runstore.runtime.replay.fixture import Fixture, read_fixture
from runstore.runtime.replay.follower import Follower, ReplayDifference
from runstore.store.replays import Replayed, run_beside

TIMEOUT_S = 60.0  # seconds that a replay may take, unless the test says otherwise
LEAVE_S = 5.0  # seconds for an agent to end after that
SHOWN = 2_000  # characters of a value in the message of a failed test


class FixtureDiffers(AssertionError):
    """The agent did something else than in its run. `difference`: the first one."""

    def __init__(self, message: str, difference: ReplayDifference | None) -> None:
        super().__init__(message)
        self.difference = difference


def replay_fixture(
    path: str | os.PathLike[str], agent: Any, *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Run a strands agent, Graph or Swarm on the fixture of a run; return the run's result.

    Its models give the recorded answers, and its tools the recorded results: no provider is asked, and no
    code of a tool runs. Hooks, plugins and the control flow are the agent's own. The models of the agent are
    replaced for good, so build a new agent for each test.

    Args:
        path: a file of `runstore fixture`.
        timeout_s: seconds after which the test fails.

    Raises:
        FixtureDiffers: the first difference, as an AssertionError: the agent lacks a tool, asks its model
            more or less often than in the run, or a hook changes a call, a result or the ending.
        ConfigError: the file is no fixture that this release reads.
        AgentError: the agent cannot be replayed: it has a session manager.
    """
    fixture = read_fixture(Path(path))
    done = _in_a_loop(lambda: _replay(fixture, agent, timeout_s), timeout_s + LEAVE_S)
    if not done.equal:
        raise FixtureDiffers(_message(Path(path), done), done.difference)
    return done.result


async def _replay(fixture: Fixture, product: Any, timeout_s: float) -> Replayed:
    from runstore.runtime.strands.agent import StrandsAgent
    from runstore.runtime.strands.fixture_model import FixtureModel

    run = fixture.run
    memory = [message_with_bytes(message) for message in run.memory]
    context = RunContext(new_run_id(), "fixture", run.agent, None, run.metadata, 1, memory=memory)
    agent = StrandsAgent(product, context, WeakSet(), record_requests=False)
    follower = Follower(run)
    agent.answer_from(follower)
    for path, each in agent.agents:
        each.model = FixtureModel(each, path, follower)
    return await run_beside(agent, run, follower, timeout_s)


def _in_a_loop(work: Callable[[], Any], timeout_s: float) -> Replayed:
    """Run in an event loop of its own, on another thread, as the test may run in one."""
    found: list[Replayed] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            found.append(asyncio.run(work()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="fixture", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not found:
        raise FixtureDiffers("the agent blocks its event loop", None)
    return found[0]


def _message(path: Path, done: Replayed) -> str:
    lines = [f"the agent differs from its run in {path}"]
    if (difference := done.difference) is not None:
        place = f"{difference.kind} of agent {difference.agent!r}"
        at = "" if difference.answer is None else f", answer {difference.answer}"
        lines += [
            f"  at:       {place}{at}",
            f"  recorded: {_shown(difference.recorded)}",
            f"  came:     {_shown(difference.came)}",
        ]
    if done.error is not None:
        lines.append(f"  error:    {done.error}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "(nothing)"
    text = value if isinstance(value, str) else to_json(value).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"
