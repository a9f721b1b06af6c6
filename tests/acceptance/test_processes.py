"""Two servers on one database, and a worker that did not hear that a run is its own."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from runstore.core.events import Queued, Started
from runstore.core.ids import new_run_id
from runstore.feed.memory import MemoryFeed
from tests.kit.database import open_sqlite_log
from tests.kit.server import ServerProcess, until
from tests.kit.waits import core_waits

AGENTS = """
import asyncio

async def polite(input):
    yield "hello "
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        yield "goodbye"
        raise

async def persistent(input):
    while True:
        yield "on "
        await asyncio.sleep(1)
"""
CONFIG = """
[server]
cancel_grace_s = 1

[agents.polite]
factory = "agents:polite"

[agents.persistent]
factory = "agents:persistent"
"""

ENFORCED_IN_S = 1 + 1.5  # the grace period, and what docs/how-to/deploying.md promises after it


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers on one database; only the first one runs agents."""
    with (
        closing(ServerProcess(tmp_path, CONFIG, AGENTS)) as one,
        closing(ServerProcess(tmp_path, CONFIG, AGENTS, no_worker=True)) as other,
    ):
        yield one.start(), other.start()


def talking(server: ServerProcess, agent: str) -> str:
    """A run of `server`'s."""
    run_id = server.begin(agent)
    next(frame for frame in server.frames(run_id) if frame.type == "llm.token")
    return run_id


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_a_stop_that_reaches_another_process_leaves_the_run_to_its_living_worker(
    two: tuple[ServerProcess, ServerProcess],
) -> None:
    one, other = two
    run_id = talking(one, "polite")
    assert other.http.post(f"/runs/{run_id}/stop").status_code == 202
    assert one.ended(run_id)["forced"] is False
    ending = one.events(run_id)[-3:]
    assert types(ending) == ["cancel.requested", "llm.token", "lifecycle.cancelled"]
    assert ending[1]["data"]["text"] == "goodbye"


@pytest.mark.slow
@pytest.mark.alone
def test_stops_of_a_frozen_workers_runs_are_enforced_by_another_process_in_time(
    two: tuple[ServerProcess, ServerProcess],
) -> None:
    one, other = two
    agents = (*["polite"] * 5, "persistent")  # five that are silent, and one that speaks on
    runs = [talking(one, agent) for agent in agents]
    os.kill(one.pid, signal.SIGSTOP)  # between two words: in a commit, it would hold the database's lock
    with core_waits(other.pid) as waits:
        for run_id in runs:
            assert other.http.post(f"/runs/{run_id}/stop").status_code == 202
        ended = [other.ended(run_id) for run_id in runs]
    assert {(run["status"], run["forced"]) for run in ended} == {("stopped", True)}
    os.kill(one.pid, signal.SIGCONT)
    lost = re.compile(r"run_lost .*run_id=(\S+)")
    until(lambda: {*lost.findall(one.log)} == {*runs}, "the worker learns that they are no longer its own")
    took = []
    for run_id in runs:
        requested, cancelled = other.events(run_id)[-2:]
        assert types([requested, cancelled]) == ["cancel.requested", "lifecycle.cancelled"]
        took.append((at(requested), at(cancelled)))
    waits.check(ENFORCED_IN_S, *took)


def at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


async def test_a_run_that_a_worker_has_by_the_log_alone_is_adopted(
    serve: Callable[..., ServerProcess],
) -> None:
    """A run after a COMMIT whose answer was lost: its worker is alive, but does not drive it."""
    server = serve(CONFIG, AGENTS)
    driven = talking(server, "polite")
    worker_id = server.events(driven)[1]["data"]["worker_id"]
    run_id = new_run_id()
    log = open_sqlite_log(server.database, MemoryFeed())
    await log.append(
        run_id,
        [
            Queued(agent="polite", user_id="local", input="hi"),
            Started(worker_id=worker_id, attempt=1, reason="claimed"),
        ],
        expected_seq=0,
    )
    await log.close()
    until(lambda: server.record(run_id)["attempt"] == 2, "the run is adopted")
    started = [event["data"] for event in server.events(run_id) if event["type"] == "lifecycle.started"]
    assert [(data["worker_id"], data["reason"]) for data in started] == [
        (worker_id, "claimed"),
        (worker_id, "adopted"),
    ]
    assert server.record(driven)["attempt"] == 1, "the worker itself is not taken for dead"
