"""Stopping: a run ends within its grace period (G6), and the server within 5 s (G8), for every agent."""

import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.kit.frames import said
from tests.kit.logs import assert_no_traceback
from tests.kit.server import ServerProcess, serving, until
from tests.kit.slow import slow
from tests.kit.waits import core_waits, within

Serve = Callable[..., ServerProcess]

GRACE_S = 1.0
LIMIT_S = 5.0  # from SIGTERM to the end
CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.talker]
model = "scripted"
tokens = 100000
tokens_per_s = 200

[agents.short]
model = "scripted"
tokens = 20
tokens_per_s = 20

[agents.quick]
model = "scripted"

[agents.flood]
factory = "agents:flood"

[agents.deaf]
factory = "agents:deaf"

[agents.deaf_tool]
model = "scripted"
tools = ["agents:sleep_long"]

[agents.hog]
factory = "agents:hog"

[agents.limited]
factory = "agents:silent"
run_timeout_s = 0.5

[agents.limited_deaf]
factory = "agents:deaf"
run_timeout_s = 0.5
"""
AGENTS = """
import asyncio
import time

from strands import tool

async def silent(input):
    await asyncio.Event().wait()
    yield ""

async def flood(input):
    while True:
        yield "x" * 4096

async def deaf(input):
    while True:
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            pass
        yield "still here "

async def hog(input):
    yield "now "
    time.sleep(600)

@tool
def sleep_long(task: str) -> str:
    '''Sleep for long.'''
    time.sleep(600)
    return task
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One for all tests that stop only runs of their own."""
    with serving(tmp_path_factory.mktemp("stop"), CONFIG, AGENTS, cancel_grace_s=GRACE_S) as server:
        yield server


def say_something(server: ServerProcess, agent: str) -> str:
    """A run whose agent has begun to talk."""
    run_id = server.begin(agent, "on and on")
    next(frame for frame in server.frames(run_id) if frame.type == "llm.token")
    return run_id


def stop_within(server: ServerProcess, run_id: str, limit_s: float) -> tuple[dict[str, Any], float]:
    """Stop a run in time; returns its record, and how many seconds it took by the log's own times."""
    with core_waits(server.pid) as waits:
        ended = server.stop_run(run_id)
    at = {e["type"]: datetime.fromisoformat(e["at"]).timestamp() for e in server.events(run_id)}
    requested_at, cancelled_at = at["cancel.requested"], at["lifecycle.cancelled"]
    waits.check(limit_s, (requested_at, cancelled_at))
    return ended, cancelled_at - requested_at


# A run.


@pytest.mark.parametrize("agent", ["silent", "talker", "flood"])
def test_an_agent_that_can_be_cancelled_ends_within_its_grace(server: ServerProcess, agent: str) -> None:
    run_id = server.begin(agent, "on and on")
    until(lambda: server.record(run_id)["last_seq"] >= 3, "the agent has begun")
    ended, _ = stop_within(server, run_id, GRACE_S)
    assert ended["status"] == "stopped"
    assert ended["forced"] is False


def test_an_agent_that_ignores_its_cancel_is_closed_by_force(server: ServerProcess) -> None:
    run_id = say_something(server, "deaf")
    ended, took = stop_within(server, run_id, GRACE_S)
    assert ended["status"] == "stopped"
    assert ended["forced"] is True
    assert took >= GRACE_S


def test_later_events_of_a_closed_runs_agent_are_refused(server: ServerProcess) -> None:
    run_id = say_something(server, "deaf")
    other = say_something(server, "deaf")
    last_seq = server.stop_run(run_id)["last_seq"]
    said_before = server.record(other)["last_seq"]
    until(lambda: server.record(other)["last_seq"] > said_before + 20, "a deaf agent goes on")
    assert server.record(run_id)["last_seq"] == last_seq
    assert server.events(run_id)[-1]["type"] == "lifecycle.cancelled"


def test_a_tool_that_sleeps_does_not_delay_the_end_of_its_run(server: ServerProcess) -> None:
    run_id = server.begin("deaf_tool", "sleep")
    next(frame for frame in server.frames(run_id) if frame.type == "tool.started")
    ended, _ = stop_within(server, run_id, GRACE_S)
    assert ended["status"] == "stopped"


def test_an_agent_that_blocks_its_loop_is_closed_by_force(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, cancel_grace_s=GRACE_S)
    run_id = say_something(server, "hog")
    ended, _ = stop_within(server, run_id, GRACE_S)
    assert ended["status"] == "stopped"
    assert ended["forced"] is True


def test_while_an_agent_blocks_its_loop_the_server_answers_at_once(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS)
    say_something(server, "hog")
    took = []
    with core_waits(os.getpid(), server.pid) as waits:
        for _ in range(20):
            asked_at = time.time()
            assert server.http.get("/runs").is_success
            took.append((asked_at, time.time()))
    waits.check(0, *took)


def test_a_queued_run_that_is_stopped_never_starts(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, capacity=1)
    say_something(server, "talker")
    waiting = server.begin("quick", "hi")
    ended = server.stop_run(waiting)
    assert ended["status"] == "stopped"
    assert ended["started_at"] is None


@pytest.mark.parametrize("agent", ["limited", "limited_deaf"])
def test_a_run_that_takes_too_long_fails_with_timeout(server: ServerProcess, agent: str) -> None:
    ended = server.ended(server.begin(agent, "on and on"))
    assert ended["status"] == "error"
    assert ended["error_code"] == "timeout"
    assert "0.5 s" in ended["error"]


def test_six_stuck_tools_do_not_delay_another_run(server: ServerProcess) -> None:
    stuck = [server.begin("deaf_tool", "sleep") for _ in range(6)]
    for run_id in stuck:
        next(frame for frame in server.frames(run_id) if frame.type == "tool.started")
        server.stop_run(run_id)
    assert server.ended(server.begin("quick", "hi"))["status"] == "success"


# The server.


def leaves_within(server: ServerProcess, limit_s: float) -> int:
    with within(limit_s, server.pid):
        code = server.wait()
    return code


@pytest.mark.slow
def test_sigterm_ends_the_server_with_streams_open_and_runs_active(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS)
    runs = [say_something(server, agent) for agent in ("talker", "deaf", "talker")]
    runs += [server.begin_silent(), server.begin("deaf_tool", "sleep")]
    streams = [server.frames(run_id) for run_id in runs]
    for stream in streams:
        next(stream)
    server.terminate()
    assert leaves_within(server, LIMIT_S) == 0
    for stream in streams:
        assert not [frame for frame in stream if frame.ends], "the stream ended, the run did not"


def test_sigterm_ends_the_server_while_an_agent_blocks_its_loop(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS)
    say_something(server, "hog")
    server.terminate()
    assert leaves_within(server, LIMIT_S) == 0


@pytest.mark.slow
def test_sigterm_ends_the_server_while_a_client_reads_nothing(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS)
    run_id = say_something(server, "flood")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET /runs/{run_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        seen = server.record(run_id)["last_seq"]
        until(lambda: server.record(run_id)["last_seq"] > seen + 2_000, "8 MB more than the client reads")
        server.terminate()
        assert leaves_within(server, LIMIT_S) == 0


def test_sigterm_ends_the_server_while_a_client_waits_for_a_run(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, drain_s=0)
    run_id = server.begin_silent()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET /runs/{run_id}?wait=300 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert server.http.get("/healthz").is_success  # by now the other request is being answered
        server.terminate()
        assert leaves_within(server, LIMIT_S) == 0


def test_runs_that_end_within_the_drain_time_end_as_ever(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, drain_s=4)
    server.ended(server.begin("quick", "a run that ended before"))
    run_id = say_something(server, "short")
    server.terminate()
    assert server.wait() == 0
    server.start()
    record = server.record(run_id)
    assert (record["status"], record["attempt"]) == ("success", 1)


def test_an_idle_server_leaves_without_waiting_for_its_drain_time(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, drain_s=60)
    server.ended(server.begin("quick", "hi"))
    server.terminate()
    assert leaves_within(server, LIMIT_S) == 0


def test_runs_that_do_not_end_in_time_are_handed_over_to_the_next_start(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, drain_s=0)
    run_id = say_something(server, "short")
    server.terminate()
    assert server.wait() == 0
    server.start()
    assert server.ended(run_id)["status"] == "success"
    starts = [e["data"] for e in server.events(run_id) if e["type"] == "lifecycle.started"]
    assert [(start["attempt"], start["reason"]) for start in starts] == [(1, "claimed"), (2, "handed_over")]
    frames = list(server.frames(run_id))
    kept = [f for f in frames if not starts[1]["discard_after_seq"] < f.seq <= _seq_of_start(frames, 2)]
    assert said(kept).split() == ["on", "and", "on"] * 6 + ["on", "and"]


def _seq_of_start(frames: list[Any], attempt: int) -> int:
    return next(f.seq for f in frames if f.type == "lifecycle.started" and f.data["attempt"] == attempt)


@pytest.mark.slow
def test_handing_over_does_not_count_against_the_attempts(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, drain_s=0)
    run_id = server.begin_silent()
    for attempt in range(2, 5):
        server.terminate()
        assert server.wait() == 0
        server.start()
        until(lambda n=attempt: server.record(run_id)["attempt"] == n, "the run goes on")
    assert server.stop_run(run_id)["status"] == "stopped"


def test_a_stopping_server_takes_no_new_run(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, drain_s=60)
    say_something(server, "talker")
    server.terminate()
    until(lambda: "draining" in server.log, "the server drains")
    assert refused(server)


def refused(server: ServerProcess) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", server.port)) == errno.ECONNREFUSED


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_stops_a_draining_server_at_once(serve: Serve, number: int) -> None:
    server = serve(CONFIG, AGENTS, drain_s=60)
    say_something(server, "talker")
    stuck = server.begin("deaf_tool", "sleep")
    next(frame for frame in server.frames(stuck) if frame.type == "tool.started")
    server.process.send_signal(number)  # type: ignore[union-attr]
    until(lambda: "draining" in server.log, "the server drains")
    server.process.send_signal(number)  # type: ignore[union-attr]
    assert leaves_within(server, LIMIT_S) != 0
    assert_no_traceback(server.log)


def test_a_second_signal_does_not_wait_for_clients_either(serve: Serve) -> None:
    server = serve(CONFIG, AGENTS, drain_s=60)
    run_id = say_something(server, "flood")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET /runs/{run_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        seen = server.record(run_id)["last_seq"]
        until(lambda: server.record(run_id)["last_seq"] > seen + 2_000, "8 MB more than the client reads")
        server.terminate()
        until(lambda: refused(server), "the server has heard the first signal")
        server.terminate()
        assert leaves_within(server, LIMIT_S) != 0
