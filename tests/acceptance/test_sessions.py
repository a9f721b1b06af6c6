"""Sessions on a real server: at most one active run each, under any race of clients, agents and `kill -9`."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

import httpx
import pytest

from tests.kit.server import DEADLINE_S, ServerProcess, new_client, run_command, serving, until
from tests.kit.slow import slow
from tests.kit.teams import Executor

GRACE_S = 1.0
CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.deaf]
factory = "agents:deaf"

[agents.hog]
factory = "agents:hog"

[agents.quick]
model = "scripted"

[agents.talker]
model = "scripted"
tokens = 30
tokens_per_s = 100
"""
AGENTS = """
import asyncio
import time

def silent():
    async def say_nothing(input):
        await asyncio.Event().wait()
        yield ""
    return say_nothing

def deaf():
    async def ignore_its_cancel(input):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
        yield ""
    return ignore_its_cancel

def hog():
    async def block_the_loop(input):
        time.sleep(3)
        yield ""
    return block_the_loop
"""
STRATEGIES = ["enqueue"] * 6 + ["interrupt", "reject", "parallel"]
AGENT_NAMES = ["quick"] * 6 + ["talker"] * 2 + ["deaf"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("sessions")
    with serving(folder, CONFIG, AGENTS, cancel_grace_s=GRACE_S) as server:
        yield server


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session of the test's own."""
    name: str = request.node.name
    return name


def has_started(server: ServerProcess, run_id: str) -> bool:
    return server.record(run_id)["started_at"] is not None


def begin_active(server: ServerProcess, agent: str, session: str) -> str:
    run_id = server.begin(agent, session_id=session)
    until(lambda: has_started(server, run_id), "the run has started")
    return run_id


def test_a_second_start_waits_for_the_first_run_and_does_not_end_it(
    server: ServerProcess, session: str
) -> None:
    first = begin_active(server, "silent", session)
    second = server.begin("quick", session_id=session)
    other = server.begin("quick", session_id=session + "-2")
    assert server.ended(other)["status"] == "success"
    assert server.record(second)["status"] == "queued"
    assert not server.record(first)["cancel_requested"]
    server.stop_run(first)
    assert server.ended(second)["status"] == "success"


def test_those_that_wait_run_one_after_the_other_in_their_order(server: ServerProcess, session: str) -> None:
    runs = [server.begin("quick", session_id=session) for _ in range(30)]
    records = [server.ended(run_id) for run_id in runs]
    pauses = [after(one["completed_at"], next_one["started_at"]) for one, next_one in pairwise(records)]
    assert min(pauses) >= timedelta()
    assert median(pauses) < timedelta(seconds=0.25), "turns are waited for, and not looked for"


def after(earlier: str, later: str) -> timedelta:
    return datetime.fromisoformat(later) - datetime.fromisoformat(earlier)


def test_an_interrupting_run_supersedes_the_active_one(server: ServerProcess, session: str) -> None:
    first = begin_active(server, "silent", session)
    second = server.begin("quick", session_id=session, multitask_strategy="interrupt")
    ended = server.ended(first)
    assert (ended["status"], ended["reason"]) == ("stopped", "superseded")
    assert ended["superseded_by"] == second
    record = server.ended(second)
    assert record["status"] == "success"
    assert record["started_at"] >= ended["completed_at"]


@pytest.mark.parametrize("agent", ["deaf", "hog"])
def test_a_stuck_agent_delays_the_next_run_for_its_grace_and_no_longer(
    server: ServerProcess, session: str, agent: str
) -> None:
    first = begin_active(server, agent, session)
    second = server.begin("quick", session_id=session, multitask_strategy="interrupt")
    until(lambda: has_started(server, second), "the next run has started", within_s=GRACE_S + 4)
    ended = server.ended(first)
    assert (ended["reason"], ended["forced"]) == ("superseded", True)
    assert server.record(second)["started_at"] >= ended["completed_at"]
    server.ended(second)


def test_a_busy_session_refuses_a_run_that_would_not_wait(server: ServerProcess, session: str) -> None:
    first = begin_active(server, "silent", session)
    body = {"input": "hi", "session_id": session, "multitask_strategy": "reject"}
    answer = server.http.post("/agents/quick/start", json=body)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "session_busy"
    assert first in answer.json()["error"]["message"]
    assert len(server.http.get("/runs", params={"session_id": session}).json()["data"]) == 1
    server.stop_run(first)
    assert server.http.post("/agents/quick/start", json=body).status_code == 202


def test_a_parallel_run_runs_beside_the_active_one(server: ServerProcess, session: str) -> None:
    first = begin_active(server, "silent", session)
    second = server.begin("quick", session_id=session, multitask_strategy="parallel")
    assert server.ended(second)["status"] == "success"
    assert not server.record(first)["cancel_requested"]
    server.stop_run(first)


def test_a_run_that_is_stopped_in_the_queue_delays_no_other(server: ServerProcess, session: str) -> None:
    first = begin_active(server, "silent", session)
    second, third = (server.begin("quick", session_id=session) for _ in range(2))
    assert server.stop_run(second)["started_at"] is None
    assert server.record(third)["status"] == "queued"
    server.stop_run(first)
    assert server.ended(third)["status"] == "success"


@pytest.mark.parametrize("strategy", ["", "rollback", None, 1])
def test_an_unknown_strategy_is_refused_with_its_field(server: ServerProcess, strategy: object) -> None:
    body = {"input": "hi", "session_id": "s", "multitask_strategy": strategy}
    answer = server.http.post("/agents/quick/start", json=body)
    assert answer.status_code == 400
    assert "$.multitask_strategy" in answer.json()["error"]["message"]


def test_the_command_line_names_a_strategy(server: ServerProcess, session: str) -> None:
    first = begin_active(server, "silent", session)
    url = str(server.http.base_url)
    done = run_command(
        "runs", "start", "quick", "hi", "--session-id", session, "--multitask-strategy", "interrupt",
        "--url", url, folder=server.folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert server.ended(first)["superseded_by"] == done.stdout.strip()
    server.ended(done.stdout.strip())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, slow(2)])
def test_clients_that_race_through_kills_never_make_two_runs_active(
    serve: Callable[..., ServerProcess], seed: int
) -> None:
    server = serve(CONFIG, AGENTS, cancel_grace_s=GRACE_S)
    for round in range(3):
        race(server, seed=10 * seed + round, kill=round < 2)
        if round < 2:
            server.start()
    for run in server.http.get("/runs", params={"agent": "deaf"}).json()["data"]:
        server.http.post(f"/runs/{run['run_id']}/stop")  # nothing else would end it
    until(lambda: not open_runs(server), "every run has ended", within_s=3 * DEADLINE_S)
    overlaps, started = activity(server)
    assert not overlaps
    assert started > 20
    assert query(server, "SELECT COUNT(*) FROM sessions") == [(0,)]
    for name in ("a", "b"):
        assert server.ended(server.begin("quick", session_id=name))["status"] == "success"


def race(server: ServerProcess, seed: int, *, kill: bool) -> None:
    """Eight clients start runs in two sessions with any strategy; the server may be killed in between."""
    url, enough = str(server.http.base_url), threading.Semaphore(0)

    def client(number: int) -> None:
        dice = random.Random(100 * seed + number)
        with new_client(url) as http, suppress(httpx.TransportError):
            for _ in range(12):
                begin = dice.choice([begin_natively, begin_chat, begin_team])
                run_id = begin(http, dice.choice(AGENT_NAMES), dice.choice("ab"), dice.choice(STRATEGIES))
                enough.release()
                if run_id is not None and dice.random() < 0.5:
                    http.get(f"/runs/{run_id}", params={"wait": 0.5})

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    if kill:
        for _ in range(60):
            assert enough.acquire(timeout=DEADLINE_S)
        server.kill()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def begin_natively(http: httpx.Client, agent: str, session: str, strategy: str) -> str | None:
    """Start a run; None when the session is busy."""
    body = {"input": "hi", "session_id": session, "multitask_strategy": strategy}
    return begun(http.post(f"/agents/{agent}/start", json=body), 202)


def begin_chat(http: httpx.Client, agent: str, session: str, strategy: str) -> str | None:
    """The same as a chat, whose stream is left at once."""
    sent = {"X-Session-Id": session, "X-Multitask-Strategy": strategy, "X-On-Disconnect": "continue"}
    body = {"prompt": "hi", "model": agent, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body, headers=sent) as answer:
        return begun(answer, 200)


def begin_team(http: httpx.Client, agent: str, session: str, strategy: str) -> str | None:
    """The same with a hierarchy, for every named agent."""
    executor = Executor(http)
    task = {"task": "hi", "session_id": session, "multitask_strategy": strategy}
    return begun(executor.ask("runs/start", {"hierarchy_id": executor.create(), **task}), 202)


def begun(answer: httpx.Response, status: int) -> str | None:
    assert answer.status_code in (status, 409), answer.read()
    return answer.headers.get("x-run-id")


def open_runs(server: ServerProcess) -> list[tuple[object, ...]]:
    return query(server, "SELECT run_id FROM open_runs")


def activity(server: ServerProcess) -> tuple[list[str], int]:
    """Reads the log in its order: where two runs of a session were active, and how many were started."""
    sessions: dict[object, str] = {}
    active: dict[str, set[object]] = {}
    overlaps, started = [], 0
    rows = query(
        server,
        "SELECT run_id, type, ends, json_extract(CAST(data AS TEXT), '$.session_id'),"
        " json_extract(CAST(data AS TEXT), '$.multitask_strategy') FROM events"
        " WHERE type LIKE 'lifecycle.%' ORDER BY position",
    )
    for run_id, type, ends, session, strategy in rows:
        if type == "lifecycle.queued" and strategy != "parallel":
            sessions[run_id] = str(session)
        if run_id not in sessions:
            continue
        runs = active.setdefault(sessions[run_id], set())
        if type == "lifecycle.started":
            started += 1
            runs.add(run_id)
            if len(runs) > 1:
                overlaps.append(f"{sessions[run_id]}: {runs}")
        elif ends:
            runs.discard(run_id)
    return overlaps, started


def query(server: ServerProcess, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()
