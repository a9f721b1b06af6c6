"""`/metrics` counts agents that do not end, and runs that wait."""

from collections.abc import Callable

from tests.kit.metrics import sample
from tests.kit.server import ServerProcess, until

Serve = Callable[..., ServerProcess]

STUCK = """
import asyncio, time

from strands import tool

@tool
def sleep_long(task: str) -> str:
    '''Sleep for long.'''
    time.sleep(600)
    return task

async def deaf(input):
    while True:
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            pass
        yield "still here "
"""
STUCK_CONFIG = """
[agents.stuck]
model = "scripted"
tools = ["agents:sleep_long"]

[agents.deaf]
factory = "agents:deaf"

[agents.talker]
model = "scripted"
tokens = 100000
tokens_per_s = 20
"""


def test_a_thread_whose_run_was_stopped_is_abandoned(serve: Serve) -> None:
    server = serve(STUCK_CONFIG, STUCK)
    run_id = server.begin("stuck", "sleep")
    next(frame for frame in server.frames(run_id) if frame.type == "tool.started")
    assert sample(server.http, "runstore_threads_abandoned") == 0
    server.stop_run(run_id)
    until(lambda: sample(server.http, "runstore_threads_abandoned") == 1, "the thread works for no run")
    assert sample(server.http, "runstore_runs_forced_total") == 0


def test_an_agent_that_was_closed_by_force_and_goes_on_is_abandoned_and_late(serve: Serve) -> None:
    server = serve(STUCK_CONFIG, STUCK, cancel_grace_s=0.3)
    run_id = server.begin("deaf", "go on")
    next(frame for frame in server.frames(run_id) if frame.type == "llm.token")
    assert server.stop_run(run_id)["forced"] is True
    http = server.http
    until(lambda: sample(http, "runstore_runs_forced_total") == 1, "it was forced")
    refused = "runstore_late_events_refused_total"
    until(lambda: sample(http, refused, reason="run_closed") > 0, "what it says is refused")
    until(lambda: sample(http, "runstore_agents_abandoned") == 0, "the refusal ends it")


def test_runs_beyond_the_capacity_are_queued(serve: Serve) -> None:
    server = serve(STUCK_CONFIG, STUCK, capacity=1)
    for _ in range(3):
        server.begin("talker", "on and on")
    until(lambda: sample(server.http, "runstore_runs", state="active") == 1, "one has its place")
    assert sample(server.http, "runstore_runs", state="queued") == 2
