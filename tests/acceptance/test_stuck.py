"""Nothing hangs (G8), and every stop is bounded (G6), with one stuck agent and with twenty."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

import pytest

from tests.acceptance.stuck import (
    AGENTS,
    FAST_PER_S,
    LEVELS,
    MEMORY_MB,
    WORDS_PER_S,
    begun,
    configuration,
    marked,
)
from tests.kit.frames import Frame
from tests.kit.metrics import sample
from tests.kit.process import MARK
from tests.kit.process_tree import descendants
from tests.kit.server import ServerProcess, new_client, until
from tests.kit.slow import mostly_slow
from tests.kit.waits import Span, core_waits
from tests.models.standins import ModelServer
from tests.soak import SOAK

Serve = Callable[..., ServerProcess]

GRACE_S = 0.8  # a process at low priority gets its turn in this time
LEFT_S = 10.0  # from SIGTERM to the end
ANSWER_S = 0.25  # p99 of GET /healthz
LATE_S = 0.25  # p99 of a healthy run's words behind their schedule
BESIDE_FLOOD_S = 0.1  # the same beside a flood
ASK_EVERY_S = 0.01  # for GET /healthz
LOOK_S = 4.0
CROWD = 20
MAX_ABANDONED = 10
DATABASE_FILES = 48  # file and write-ahead log of all connections that a server can have, and a few more
DEAF = ("blocks", "logs_stuck", "busy", "regex", "talks_on", "swallows")
CANCELLABLE = ("never-answers", "stops-talking", "flood", "logs")
STUCK = ("async_sleep", "sync_wait", "swallows", "talks_on", "blocks", "busy", "logs_stuck", *CANCELLABLE)
STUCK_IN_PROCESS = (*STUCK, "regex", "forks")
EACH = [
    *(f"{kind}-loop" for kind in STUCK),
    *(f"{kind}-thread" for kind in STUCK),
    *(f"{kind}-process" for kind in STUCK_IN_PROCESS),
]
# Each level, with agents that hear nothing and agents that can be cancelled.
SOME = (
    "sync_wait-loop",
    "blocks-loop",
    "flood-loop",
    "talks_on-thread",
    "busy-thread",
    "regex-process",
    "forks-process",
)


@pytest.fixture(scope="module")
def models() -> Iterator[ModelServer]:
    with ModelServer() as standin:
        yield standin


@contextmanager
def leaving_nothing(server: ServerProcess) -> Iterator[ServerProcess]:
    """A server that leaves within its time at SIGTERM, and nothing behind."""
    server.variables[MARK] = str(server.folder)
    try:
        yield server.start()
        server.terminate()
        begun_at = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - begun_at < LEFT_S, server.log
        lines = [line for line in server.log.splitlines() if not line.startswith("expected")]
        broken = [n for n, line in enumerate(lines) if "Traceback" in line or "Error" in line]
        assert not broken, "\n".join(lines[max(0, broken[0] - 5) : broken[-1] + 5])[:20_000]
        until(lambda: not marked(server), "nothing is left of the server")
    finally:
        server.close()


@pytest.fixture(scope="module")
def one(models: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all agents that get stuck one by one: none of them may spoil it for the next."""
    folder = tmp_path_factory.mktemp("stuck")
    with leaving_nothing(
        ServerProcess(folder, configuration(models), AGENTS, cancel_grace_s=GRACE_S)
    ) as server:
        yield server


@pytest.fixture
def server(models: ModelServer, tmp_path: Path) -> Iterator[ServerProcess]:
    config = f"[server]\nmax_abandoned_threads = {MAX_ABANDONED}\n{configuration(models)}"
    with leaving_nothing(ServerProcess(tmp_path, config, AGENTS, cancel_grace_s=GRACE_S)) as server:
        yield server


def stopped(server: ServerProcess, run_id: str) -> tuple[Frame, Span]:
    """Stop a run; returns the ending that its subscriber has seen, and when it was asked for and written."""
    assert server.http.post(f"/runs/{run_id}/stop").is_success
    requested, ended = server.frames(run_id, types="cancel.requested")
    assert ended.type == "lifecycle.cancelled"
    return ended, (at(requested), at(ended))


def at(frame: Frame) -> float:
    return datetime.fromisoformat(frame.event["at"]).timestamp()


def stopped_in_time(server: ServerProcess, run_id: str) -> Frame:
    """Stop a run; returns the ending that its subscriber has seen."""
    with core_waits(server.pid, *descendants(server.pid)) as waits:
        ended, took = stopped(server, run_id)
    waits.check(GRACE_S, took)
    return ended


def all_stopped_in_time(server: ServerProcess, stuck: list[str], clients: Executor) -> None:
    with core_waits(server.pid) as waits:
        took = [took for _, took in clients.map(partial(stopped, server), stuck)]
    waits.check(GRACE_S, *took)


# One.


@pytest.mark.parametrize("agent", mostly_slow(EACH, *SOME))
def test_a_stuck_agent_is_stopped_in_time(one: ServerProcess, agent: str) -> None:
    run_id = begun(one, agent)
    ended = stopped_in_time(one, run_id)
    kind, _, level = agent.rpartition("-")
    if kind in DEAF:
        assert ended.data["forced"] is True
    if kind in CANCELLABLE and level != "process":  # whose priority is low: it may need longer
        assert ended.data.get("forced", False) is False
    assert one.ended(one.begin(f"quick-{level}"))["status"] == "success"


@pytest.mark.parametrize("level", LEVELS)
def test_an_agent_that_says_nothing_for_too_long_fails_with_timeout(one: ServerProcess, level: str) -> None:
    ended = one.ended(one.begin(f"idle-{level}"))
    assert (ended["status"], ended["error_code"]) == ("error", "timeout")
    assert "0.5 s" in ended["error"]


@pytest.mark.parametrize("level", LEVELS)
def test_an_agent_that_takes_too_long_fails_with_timeout_though_it_talks(
    one: ServerProcess, level: str
) -> None:
    ended = one.ended(one.begin(f"late-{level}"))
    assert (ended["status"], ended["error_code"]) == ("error", "timeout")


def test_an_agent_that_talks_is_not_idle(one: ServerProcess) -> None:
    run_id = one.begin("chatty")
    words = [frame for frame in one.frames(run_id) if frame.type == "llm.token"]
    assert len(words) == 15
    assert one.ended(run_id)["status"] == "success"


def test_an_agent_that_needs_too_much_memory_fails_and_says_so(one: ServerProcess) -> None:
    ended = one.ended(one.begin("leaks-process"))
    assert (ended["status"], ended["error_code"]) == ("error", "memory_limit")
    assert str(MEMORY_MB) in ended["error"]


def test_an_agent_whose_process_dies_fails_and_keeps_what_it_said(one: ServerProcess) -> None:
    run_id = one.begin("dies-process")
    ended = one.ended(run_id)
    assert (ended["status"], ended["error_code"]) == ("error", "agent_crashed")
    assert "SIGKILL" in ended["error"]
    assert "llm.token" in [event["type"] for event in one.events(run_id)]


@pytest.mark.parametrize(("agent", "code"), [("closes", "agent_crashed"), ("scribbles", "agent_error")])
def test_a_process_that_spoils_its_own_pipe_is_killed_and_its_run_fails(
    one: ServerProcess, agent: str, code: str
) -> None:
    ended = one.ended(one.begin(f"{agent}-process"))
    assert (ended["status"], ended["error_code"]) == ("error", code)


@pytest.mark.parametrize("level", LEVELS)
def test_an_error_without_a_text_ends_its_run_at_once(one: ServerProcess, level: str) -> None:
    ended = one.ended(one.begin(f"raises-{level}"))
    assert (ended["status"], ended["error_code"], ended["attempt"]) == ("error", "agent_error", 1)
    assert "Speechless" in ended["error"]


@pytest.mark.slow
def test_forty_stuck_threads_of_a_run_delay_no_other_of_its_threads(one: ServerProcess) -> None:
    assert one.ended(one.begin("crowds-process"))["status"] == "success"


def test_an_agent_gets_and_gives_the_same_at_every_level(one: ServerProcess) -> None:
    trace_id = 0x0AF7651916CD43DD8448EB211C80319C
    body = {"input": "héllo", "session_id": "s", "metadata": {"big": 2**70, "none": None}}
    headers = {"traceparent": f"00-{trace_id:032x}-b7ad6b7169203331-01"}
    told, errors = set(), set()
    for level in LEVELS:
        answer = one.http.post(f"/agents/tells-{level}/start", json=body, headers=headers)
        run_id = answer.json()["run_id"]
        errors.add(one.ended(run_id)["error"])
        told.add(next(e["data"]["text"] for e in one.events(run_id) if e["type"] == "llm.token"))
        until(lambda run_id=run_id: expected(one, run_id), "it is logged")  # type: ignore[misc]
    assert len(errors) == 1
    (words,) = told
    assert str(2**70) in words
    assert str(trace_id) in words


def expected(server: ServerProcess, run_id: str) -> bool:
    """Whether the error that an agent has logged is in the log, in one line with its stack."""
    found = [line for line in server.log.splitlines() if line.startswith("expected") and run_id in line]
    return len(found) == 1 and "RuntimeError: on purpose" in found[0]


THROWN_AWAY = re.compile(r"thrown away in (.*)\n")


def test_an_agent_that_does_not_leave_is_thrown_away_in_its_own_thread(one: ServerProcess) -> None:
    before = sample(one.http, "runstore_loops_blocked_total")
    stopped_in_time(one, begun(one, "stays-thread"))
    until(lambda: THROWN_AWAY.search(one.log), "it is thrown away, and the line that says so is whole")
    assert set(THROWN_AWAY.findall(one.log)) == {"runstore-agent"}
    until(lambda: sample(one.http, "runstore_loops_blocked_total") == before + 1, "it is counted")


def test_late_words_are_refused_and_counted(one: ServerProcess) -> None:
    late = {"name": "runstore_late_events_refused_total", "reason": "run_closed"}
    before = sample(one.http, **late)
    run_id = begun(one, "talks_on-loop")
    last_seq = one.ended(run_id)["last_seq"] if stopped_in_time(one, run_id) else 0
    until(lambda: sample(one.http, **late) > before, "what it said later is counted")
    assert one.record(run_id)["last_seq"] == last_seq


def test_the_stack_of_a_blocked_loop_is_logged_once_with_its_run(one: ServerProcess) -> None:
    before = sample(one.http, "runstore_loops_blocked_total")
    run_id = begun(one, "blocks-loop")
    until(lambda: lines(one, "loop_blocked", run_id), "the watchdog reports it")
    stopped_in_time(one, run_id)
    (line,) = lines(one, "loop_blocked", run_id)
    assert "blocks agents.py:" in line
    assert sample(one.http, "runstore_loops_blocked_total") == before + 1


def lines(server: ServerProcess, event: str, run_id: str) -> list[str]:
    found = [line for line in server.log.splitlines() if line.startswith(f"{event} ")]
    return [line for line in found if f"run_id={run_id}" in line]


def test_killed_processes_are_counted(one: ServerProcess) -> None:
    before = sample(one.http, "runstore_processes_killed_total")
    stopped_in_time(one, begun(one, "busy-process"))
    until(lambda: sample(one.http, "runstore_processes_killed_total") == before + 1, "the process is counted")


def test_a_line_of_a_megabyte_is_cut(one: ServerProcess) -> None:
    for level in ("loop", "process"):
        run_id = begun(one, f"logs-{level}")
        stopped_in_time(one, run_id)
        until(lambda run_id=run_id: logged(one, run_id), "the line is there")  # type: ignore[misc]
    assert 1_000 < max(len(line) for line in one.log.splitlines()) < 20_000


def logged(server: ServerProcess, run_id: str) -> bool:
    return any(line.startswith("xxx") and f"run_id={run_id}" in line for line in server.log.splitlines())


# Twenty at once.


class Look(NamedTuple):
    """How long `GET /healthz` takes, and how late a paced run's words come: p99 of LOOK_S, in seconds."""

    answer: float
    late: float


def look(server: ServerProcess, paced: str, per_s: int) -> Look:
    """Measure both at once, without the time that server and clients waited for a core."""
    with core_waits(os.getpid(), server.pid) as waits, ThreadPoolExecutor(2) as clients:
        answers = clients.submit(time_answers, server)
        words = clients.submit(time_words, server, paced, round(LOOK_S * per_s), per_s)
        measured = answers.result(), words.result()
    return Look(*(p99([waits.beyond(*span) for span in spans]) for spans in measured))


def time_answers(server: ServerProcess) -> list[Span]:
    took = []
    done_at = time.monotonic() + LOOK_S
    with new_client(str(server.http.base_url)) as http:
        while time.monotonic() < done_at:
            asked_at = time.time()
            assert http.get("/healthz").is_success
            took.append((asked_at, time.time()))
            time.sleep(ASK_EVERY_S)
    return took


def time_words(server: ServerProcess, run_id: str, words: int, per_s: int) -> list[Span]:
    """When the next words of a run are due by its pace, and when they come to a subscriber."""
    came: list[float] = []
    asked_at = time.time()
    for frame in server.frames(run_id, after=server.record(run_id)["last_seq"]):
        if frame.type == "llm.token":
            came.append(time.time())
            if len(came) == words:
                break
    begun_at = min(at - number / per_s for number, at in enumerate(came))
    return [(max(asked_at, begun_at + number / per_s), at) for number, at in enumerate(came)]


def p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]


def crowd(server: ServerProcess, agent: str, clients: Executor) -> list[str]:
    return list(clients.map(lambda _: begun(server, agent), range(CROWD)))


# Agents that wait are all alike to the others of their loop: `make soak` takes them all.
CROWDS = ("swallows-loop", "never-answers-loop", "flood-loop", "logs-loop", "regex-process", "forks-process")
MORE_CROWDS = ("async_sleep-loop", "sync_wait-loop", "stops-talking-loop", "busy-process") if SOAK > 1 else ()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("agent", mostly_slow(CROWDS + MORE_CROWDS))
def test_twenty_stuck_agents_delay_no_other_run(one: ServerProcess, agent: str) -> None:
    healthy = begun(one, "healthy-thread")
    with ThreadPoolExecutor(CROWD) as clients:
        stuck = crowd(one, agent, clients)
        during = look(one, healthy, WORDS_PER_S)
        assert during.answer < ANSWER_S
        assert during.late < LATE_S
        all_stopped_in_time(one, stuck, clients)
    assert one.stop_run(healthy)["forced"] is False


@pytest.mark.alone
@pytest.mark.slow
def test_a_flood_delays_neither_another_runs_words_nor_its_end(one: ServerProcess) -> None:
    healthy = begun(one, "fast-thread")
    flood = begun(one, "flood-loop")
    during = look(one, healthy, FAST_PER_S)
    assert during.answer < ANSWER_S
    assert during.late < BESIDE_FLOOD_S
    assert stopped_in_time(one, healthy).data.get("forced", False) is False
    stopped_in_time(one, flood)


@pytest.mark.alone
@pytest.mark.slow
def test_twenty_agents_that_need_too_much_memory_delay_no_other_run(one: ServerProcess) -> None:
    healthy = begun(one, "healthy-thread")
    greedy = [one.begin("leaks-process") for _ in range(CROWD)]
    during = look(one, healthy, WORDS_PER_S)
    assert during.answer < ANSWER_S
    assert during.late < LATE_S
    assert {one.ended(run_id)["error_code"] for run_id in greedy} == {"memory_limit"}
    stopped_in_time(one, healthy)


# Leftovers of stuck agents.


@pytest.mark.slow
def test_the_other_runs_of_a_blocked_loop_go_on_elsewhere(server: ServerProcess) -> None:
    innocent, paying = begun(server, "healthy-loop"), begun(server, "pays-loop")
    until(lambda: "tool.started" in kinds(server, paying), "its tool runs, which may be called once")
    culprit = begun(server, "blocks-loop")
    stream = (frame for frame in server.frames(innocent))
    moved = next(
        frame for frame in stream if frame.type == "lifecycle.started" and frame.data["attempt"] == 2
    )
    assert moved.data["reason"] == "handed_over"
    next(frame for frame in stream if frame.type == "llm.token")
    assert server.record(culprit)["attempt"] == 1
    assert server.stop_run(innocent)["forced"] is False
    assert server.ended(paying)["error_code"] == "at_most_once"
    assert kinds(server, paying).count("tool.started") == 1


def kinds(server: ServerProcess, run_id: str) -> list[str]:
    return [event["type"] for event in server.events(run_id)]


@pytest.mark.slow
def test_a_server_that_has_abandoned_too_many_threads_is_not_ready(server: ServerProcess) -> None:
    assert server.http.get("/readyz").status_code == 200
    for run_id in [begun(server, "sync_wait-loop") for _ in range(MAX_ABANDONED + 1)]:
        stopped_in_time(server, run_id)
    until(lambda: server.http.get("/readyz").status_code == 503, "it says so")
    assert "max_abandoned_threads" in server.http.get("/readyz").json()["error"]["message"]
    assert sample(server.http, "runstore_threads_abandoned") == MAX_ABANDONED + 1
    assert server.http.get("/healthz").status_code == 200


@pytest.mark.slow
def test_a_busy_thread_is_broken_off(server: ServerProcess) -> None:
    before = resources(server).threads
    for run_id in [begun(server, "busy-thread") for _ in range(3)]:
        stopped_in_time(server, run_id)
    until(lambda: sample(server.http, "runstore_threads_abandoned") == 0, "the threads have ended")
    until(lambda: resources(server).threads <= before + 2, "so they are no more")


class Resources(NamedTuple):
    """`files`: descriptors of the database, which each of a bounded number of threads opens at need.

    `descriptors`: all others.
    """

    threads: int
    descriptors: int
    files: int
    memory_mb: float


def resources(server: ServerProcess) -> Resources:
    status = Path(f"/proc/{server.pid}/status").read_text()
    number = dict(re.findall(r"^(\w+):\s+(\d+)", status, re.M))
    opened = [os.readlink(each) for each in Path(f"/proc/{server.pid}/fd").iterdir()]
    files = sum(name.startswith(str(server.database)) for name in opened)
    return Resources(int(number["Threads"]), len(opened) - files, files, int(number["RssAnon"]) / 1024)


LEFT_THREADS = {"blocks-process": 0, "sync_wait-loop": 1, "swallows-thread": 0}  # by each incident, at most


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("agent", mostly_slow(LEFT_THREADS))
def test_after_hundreds_of_incidents_the_server_is_as_it_was(server: ServerProcess, agent: str) -> None:

    def incidents(count: int) -> None:
        with ThreadPoolExecutor(CROWD) as clients:
            stuck = list(clients.map(lambda _: begun(server, agent), range(count)))
            all_stopped_in_time(server, stuck, clients)

    incidents(CROWD)
    server.hang_up()
    before = resources(server)
    for _ in range(4):
        incidents(100)
    until(lambda: sample(server.http, "runstore_runs", state="active") == 0, "all have ended")
    server.hang_up()  # a busy machine has had more requests at once, each on a connection that is kept
    until(
        lambda: resources(server).threads <= before.threads + 400 * LEFT_THREADS[agent] + 5,
        "their threads are gone",
    )
    until(lambda: resources(server).descriptors <= before.descriptors + 5, "their descriptors are closed")
    assert resources(server).files <= DATABASE_FILES
    # The remains of 100 agents take 26 MiB; up to 70 MiB of it wait for the garbage collector.
    assert resources(server).memory_mb < before.memory_mb + 90


@pytest.mark.slow
def test_kill_9_of_the_server_leaves_no_process(models: ModelServer, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, configuration(models), AGENTS)
    server.variables[MARK] = str(tmp_path)
    try:
        server.start()
        for kind in ("busy", "forks", "regex", "flood"):
            begun(server, f"{kind}-process")
        assert len(marked(server)) > 8
    finally:
        server.close()
    until(lambda: not marked(server), "nothing is left")


@pytest.mark.slow
def test_a_stopped_agent_takes_all_that_it_started_with_it(server: ServerProcess) -> None:
    assert server.ended(server.begin("quick-process"))["status"] == "success"
    until(lambda: len(marked(server)) == 2, "there are the server and its fork server")
    run_id = begun(server, "forks-process")
    until(lambda: len(marked(server)) == 6, "a keeper, the agent, its child, one that has left its group")
    stopped_in_time(server, run_id)
    until(lambda: len(marked(server)) == 2, "its children are gone")


def fork_server(server: ServerProcess) -> int:
    """Its process id, when it has no others forked."""
    until(lambda: len(marked(server)) == 2, "there are the server and its fork server")
    (pid,) = set(marked(server)) - {server.pid}
    return pid


@pytest.mark.slow
def test_the_fork_server_may_die(server: ServerProcess) -> None:
    assert server.ended(server.begin("quick-process"))["status"] == "success"
    forking = fork_server(server)
    running = begun(server, "healthy-process")
    os.kill(forking, signal.SIGKILL)
    assert server.ended(server.begin("quick-process"))["status"] == "success"
    assert server.stop_run(running)["status"] == "stopped"


@pytest.mark.slow
def test_the_fork_server_may_stand_still(server: ServerProcess) -> None:
    assert server.ended(server.begin("quick-process"))["status"] == "success"
    os.kill(fork_server(server), signal.SIGSTOP)
    waiting = [server.begin("quick-process") for _ in range(CROWD)]
    assert server.ended(server.begin("quick-loop"))["status"] == "success"
    assert stopped_in_time(server, waiting[0]).data.get("forced", False) is False


@pytest.mark.slow
def test_a_server_whose_output_is_not_read_exits_in_time(server: ServerProcess) -> None:
    server.terminate()
    assert server.wait() == 0
    server.start(prefix=[sys.executable, "-c", UNREAD])
    stopped_in_time(server, begun(server, "prints-loop"))


UNREAD = """
import os, sys
reader, writer = os.pipe()
os.set_inheritable(reader, True)
os.dup2(writer, 1)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
def test_an_agent_in_a_process_is_resumed_after_a_crash(server: ServerProcess) -> None:
    run_id = begun(server, "sync_wait-process")
    next(frame for frame in server.frames(run_id) if frame.type == "tool.started")
    server.kill()
    server.start()
    started = [frame for frame in first(server, run_id, 2) if frame.type == "lifecycle.started"]
    assert [frame.data["attempt"] for frame in started] == [1, 2]
    assert server.stop_run(run_id)["status"] == "stopped"


def first(server: ServerProcess, run_id: str, attempts: int) -> Iterator[Frame]:
    for frame in server.frames(run_id):
        yield frame
        attempts -= frame.type == "lifecycle.started"
        if not attempts:
            return
