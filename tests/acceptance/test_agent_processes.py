"""Servers whose agents share processes (`agent_processes`): what crashes, blocks and floods stays there."""

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.kit.cluster import WorkerProcess
from tests.kit.metrics import sample
from tests.kit.process import run_command
from tests.kit.process_tree import descendants, runs
from tests.kit.server import ServerProcess, serving, until
from tests.kit.slow import slow
from tests.kit.waits import within

Serve = Callable[..., ServerProcess]

GRACE_S = 0.8
CONFIG = f"""
[server]
cancel_grace_s = {GRACE_S}

[agents.talker]
model = "scripted"
tokens = 100000
tokens_per_s = 50

[agents.words]
factory = "agents:words"

[agents.does]
factory = "agents:does"

[agents.does-in-thread]
factory = "agents:does"
isolation = "thread"

[agents.short]
model = "scripted"

[agents.asks]
factory = "agents:asks"

[agents.payer]
model = "scripted"
tools = ["agents:pay"]
approve = ["pay"]
memory = "session"

[agents.own]
factory = "agents:words"
isolation = "process"

[agents.once]
factory = "agents:words"
on_worker_lost = "fail"
"""
# The login runs in the process that serves: it names the modules that the process has imported.
LOGIN = """
import sys

from runstore import User

def login(request):
    with open("modules", "w") as file:
        file.write(" ".join(sys.modules))
    return User("me")
"""
AGENTS = """
import asyncio
import os
import re
import time
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from strands import tool

provider = TracerProvider()
spans = Path(__file__).with_name("spans").open("a")
exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

@tool
def pay(word: str) -> str:
    '''Pay something.

    Args:
        word: What.
    '''
    return f"paid {word} in {os.getpid()}"

async def asks(input, ctx):
    yield f"pid {os.getpid()} "
    size = await ctx.ask("Which size?", schema={"enum": ["S", "M"]})
    yield f"{size} {await ctx.added()}"

async def words(input, ctx):
    yield f"pid {os.getpid()} of attempt {ctx.attempt} "
    if ctx.attempt == 1:
        await asyncio.Event().wait()
    yield "done"

async def does(input, ctx):
    yield f"pid {os.getpid()} "
    if input == "sleep":
        time.sleep(3600)
    elif input == "spin":
        while True:
            pass
    elif input == "regex":
        re.match(r"(a+)+$", "a" * 40 + "b")
    elif input == "deaf":
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
    elif input == "die":
        os._exit(3)
    elif input == "flood":
        while True:
            yield "x" * 1_000
    elif input == "log":
        print("printed")
        import logging
        logging.warning("warned of %s", ctx.run_id)
    yield "done"
"""


class NotForked(ServerProcess):
    forked = False


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    servers: list[ServerProcess] = []

    def start(config: str = CONFIG, agents: str = AGENTS, **options: Any) -> ServerProcess:
        kind = ServerProcess if options.pop("forked", True) else NotForked
        servers.append(kind(tmp_path, config, agents, **{"agent_processes": 1, **options}))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


def pid_of(server: ServerProcess, run_id: str) -> int:
    """The process in which a run's agent has spoken last."""

    def spoken() -> list[str]:
        texts = [event["data"].get("text", "") for event in server.events(run_id)]
        return [pid for text in texts for pid in re.findall(r"pid (\d+)", text)]

    until(lambda: bool(spoken()), "the agent has spoken")
    return int(spoken()[-1])


def types(server: ServerProcess, run_id: str) -> list[str]:
    events = server.events(run_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return [event["type"] for event in events]


def attempts(server: ServerProcess, run_id: str) -> list[str]:
    return [e["data"]["reason"] for e in server.events(run_id) if e["type"] == "lifecycle.started"]


def wait_ready(server: ServerProcess) -> None:
    until(lambda: server.http.get("/readyz").status_code == 200, "a process takes runs")


# Guarantees


@pytest.mark.slow
def test_the_serving_process_never_imports_strands(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "login.py").write_text(LOGIN)
    config = CONFIG.replace("[server]", '[server]\nauthenticate = "login:login"')
    server = serve(config, forked=False)  # the process that tests fork servers from has imported strands
    pid_of(server, server.begin("does"))
    talking = server.begin("talker")
    until(lambda: "llm.token" in types(server, talking), "a strands agent has spoken")
    modules = (server.folder / "modules").read_text().split()
    assert "runstore.process" in modules
    assert not [module for module in modules if module.split(".")[0] in ("strands", "agents", "botocore")]


def test_a_server_is_ready_when_a_process_takes_runs(serve: Serve) -> None:
    waits = "import time\nfrom pathlib import Path\nwhile not Path('go').exists(): time.sleep(0.01)\n"
    server = serve(agents=waits + AGENTS)
    answer = server.http.get("/readyz")
    assert (answer.status_code, "no agent process" in answer.text) == (503, True)
    run_id = server.begin("does")
    assert types(server, run_id) == ["lifecycle.queued"]
    (server.folder / "go").touch()
    assert server.ended(run_id)["status"] == "success"
    assert server.http.get("/readyz").status_code == 200


def test_agents_of_all_levels_are_at_work_outside_of_the_server(serve: Serve) -> None:
    server = serve()
    shared = {pid_of(server, server.begin(agent)) for agent in ("does", "does-in-thread", "words")}
    own = pid_of(server, server.begin("own"))
    assert len(shared) == 1
    assert {own, *shared} <= set(descendants(server.pid))
    assert own not in shared
    assert sample(server.http, "runstore_agent_processes") == 1


def test_runs_are_spread_over_the_processes(serve: Serve) -> None:
    server = serve(agent_processes=2)
    until(lambda: sample(server.http, "runstore_agent_processes_available") == 2, "both take runs")
    found = Counter(pid_of(server, server.begin("words")) for _ in range(6))
    assert sorted(found.values()) == [3, 3]


def test_what_agents_print_and_log_is_in_the_servers_log(serve: Serve) -> None:
    server = serve()
    run_id = server.begin("does", "log")
    server.ended(run_id)
    until(lambda: "printed" in server.log, "it is printed")
    until(lambda: re.search(f"warned of {run_id} .*run_id={run_id}", server.log) is not None, "it is logged")


def test_an_agent_that_cannot_be_imported_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text('[agents.a]\nfactory = "agents:nothing"\n')
    (tmp_path / "agents.py").write_text("x = 1")
    for command in ("serve", "worker"):
        options = ["--port", "0"] if command == "serve" else []
        done = run_command(command, "--agent-processes", "1", *options, folder=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "runstore.toml:2" in done.stderr
        assert "nothing" in done.stderr


def test_a_run_waits_for_answers_and_gets_added_messages(serve: Serve) -> None:
    server = serve()
    run_id = server.begin("asks")
    [asked] = server.waiting(run_id)["pending_inputs"]
    assert server.http.post(f"/runs/{run_id}/inputs", json={"content": "and soon"}).is_success
    answer = {"answer": "M"}
    assert server.http.post(f"/runs/{run_id}/inputs/{asked['request_id']}", json=answer).is_success
    assert server.ended(run_id)["result"]["text"].endswith("M ['and soon']")
    assert attempts(server, run_id) == ["claimed", "input"]


def test_a_tool_runs_after_its_approval_and_the_session_remembers_it(serve: Serve) -> None:
    server = serve()
    run_id = server.begin("payer", "rent", session_id="s")
    [asked] = server.waiting(run_id)["pending_inputs"]
    answer = {"answer": {"approve": True}}
    assert server.http.post(f"/runs/{run_id}/inputs/{asked['request_id']}", json=answer).is_success
    assert server.ended(run_id)["status"] == "success"
    [finished] = [e["data"] for e in server.events(run_id) if e["type"] == "tool.finished"]
    paid_in = int(re.findall(r"paid rent in (\d+)", str(finished))[0])
    assert paid_in in descendants(server.pid)
    following = server.begin("payer", "hi", session_id="s")
    until(lambda: "llm.request" in types(server, following), "the model is asked")
    [asked_model] = [e for e in server.events(following) if e["type"] == "llm.request"]
    assert asked_model["data"]["messages"][0]["run_id"] == run_id


def test_an_attempt_is_a_span_of_the_process_that_traces(serve: Serve) -> None:
    server = serve()
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    answer = server.http.post("/agents/short/start", json={"input": "hi"}, headers={"traceparent": parent})
    run_id = answer.json()["run_id"]
    server.ended(run_id)

    def spans() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (server.folder / "spans").read_text().splitlines()]

    until(lambda: any(span["name"] == "run short" for span in spans()), "the span has ended")
    [attempt] = [span for span in spans() if span["name"] == "run short"]
    assert attempt["attributes"]["runstore.run_id"] == run_id
    assert attempt["attributes"]["runstore.status"] == "success"
    assert attempt["parent_id"] == f"0x{'b' * 16}"
    below = [span for span in spans() if span["parent_id"] == attempt["context"]["span_id"]]
    assert below, "strands' own spans are its children"
    assert {span["context"]["trace_id"] for span in spans()} == {f"0x{'a' * 32}"}


# Stops


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "input"),
    [
        ("does", "sleep"),
        ("does-in-thread", "spin"),
        slow("does", "deaf"),
        slow("does", "spin"),
        slow("does", "regex"),
        slow("does-in-thread", "deaf"),
        slow("does-in-thread", "sleep"),
        slow("does-in-thread", "regex"),
    ],
)
def test_a_stuck_run_ends_within_its_grace_and_no_other_run_with_it(
    serve: Serve, agent: str, input: str
) -> None:
    server = serve()
    other = server.begin("words")
    first = pid_of(server, other)
    run_id = server.begin(agent, input)
    pid_of(server, run_id)
    with within(GRACE_S, server.pid, *descendants(server.pid)):
        record = server.stop_run(run_id)
    assert (record["status"], record["forced"]) == ("stopped", True)
    following = server.begin("does")  # on another loop, or in another process
    assert server.ended(following)["status"] == "success"
    record = server.record(other)
    assert record["status"] in ("running", "success"), record
    if input == "deaf" or (agent == "does-in-thread" and input != "regex"):
        assert pid_of(server, other) == first
        assert attempts(server, other) == ["claimed"]


def test_a_run_that_waits_is_cancelled_by_its_agent(serve: Serve) -> None:
    server = serve()
    run_id = server.begin("words")
    pid_of(server, run_id)
    record = server.stop_run(run_id)
    assert (record["status"], record["forced"]) == ("stopped", False)
    assert types(server, run_id)[-1] == "lifecycle.cancelled"


@pytest.mark.slow
def test_the_other_runs_of_a_blocked_loop_go_on_in_their_next_attempt(serve: Serve) -> None:
    server = serve()
    others = [server.begin("words") for _ in range(5)]
    for run_id in others:
        pid_of(server, run_id)
    blocking = server.begin("does", "sleep")
    pid_of(server, blocking)
    for run_id in others:
        assert server.ended(run_id)["status"] == "success"
        assert attempts(server, run_id) == ["claimed", "handed_over"]
    assert server.record(blocking)["status"] == "running"
    assert "loop_blocked" in server.log
    assert sample(server.http, "runstore_loops_blocked_total") == 1


@pytest.mark.slow
def test_a_process_that_holds_pythons_lock_is_killed_and_its_other_runs_go_on(serve: Serve) -> None:
    server = serve(agent_processes=2)
    until(lambda: sample(server.http, "runstore_agent_processes_available") == 2, "both take runs")
    others = [server.begin("words") for _ in range(4)]
    pids = {run_id: pid_of(server, run_id) for run_id in others}
    culprit = server.begin("does", "regex")
    held = pid_of(server, culprit)
    beside = [run_id for run_id, pid in pids.items() if pid == held]
    assert len(beside) == 2
    server.stop_run(culprit)
    for run_id in beside:
        assert server.ended(run_id)["status"] == "success"
        assert attempts(server, run_id) == ["claimed", "adopted"]
    for run_id in others:
        if run_id not in beside:
            assert attempts(server, run_id) == ["claimed"]
    assert "agent_process_blocked" in server.log


# Crashes


def test_the_runs_of_a_killed_process_are_adopted_at_once(serve: Serve) -> None:
    server = serve()
    run_ids = [server.begin("words") for _ in range(20)]
    pid = {pid_of(server, run_id) for run_id in run_ids}.pop()
    once = server.begin("once")
    pid_of(server, once)
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for run_id in run_ids:
        assert server.ended(run_id)["status"] == "success"
    took = time.monotonic() - killed
    for run_id in run_ids:
        kinds = types(server, run_id)
        assert attempts(server, run_id) == ["claimed", "adopted"]
        assert [kind for kind in kinds if kind.startswith("lifecycle.")] == [
            "lifecycle.queued", "lifecycle.started", "lifecycle.started", "lifecycle.completed",
        ]  # fmt: skip
        assert pid_of(server, run_id) != pid
    assert server.ended(once)["error_code"] == "worker_lost"
    assert took < 10
    assert re.search("agent_process_lost .*SIGKILL", server.log)
    assert sample(server.http, "runstore_agent_processes_lost_total") == 1


def test_a_run_that_ends_its_process_again_and_again_is_given_up(serve: Serve) -> None:
    server = serve()
    run_id = server.begin("does", "die")
    assert server.ended(run_id)["error_code"] == "worker_lost"
    assert attempts(server, run_id) == ["claimed", "adopted", "adopted"]
    assert server.ended(server.begin("does"))["status"] == "success"


def test_processes_that_crash_together_start_again_at_different_times(serve: Serve) -> None:
    server = serve()
    server.ended(server.begin("does", "die"))

    def pauses() -> list[float]:
        return [float(s) for s in re.findall(r"agent_process_lost .*restart_in_s=([\d.]+)", server.log)]

    until(lambda: len(pauses()) == 3, "each crash is logged")
    longest = [0.1, 0.2, 0.4]
    assert all(most / 2 <= pause <= most for most, pause in zip(longest, pauses(), strict=True))
    assert pauses() != longest


def test_a_run_that_is_stopped_while_its_process_dies_is_stopped(serve: Serve) -> None:
    server = serve()
    run_id = server.begin("does", "deaf")
    pid = pid_of(server, run_id)
    assert server.http.post(f"/runs/{run_id}/stop").is_success
    os.kill(pid, signal.SIGKILL)
    assert server.ended(run_id)["status"] == "stopped"
    assert attempts(server, run_id) == ["claimed"]


@pytest.mark.slow
def test_nothing_outlives_a_killed_server(serve: Serve) -> None:
    server = serve(agent_processes=2)
    run_ids = [server.begin("words") for _ in range(4)]
    for run_id in run_ids:
        pid_of(server, run_id)
    processes = descendants(server.pid)
    assert len(processes) >= 5  # the fork server, two keepers, two processes
    server.kill()
    until(lambda: not any(runs(pid) for pid in processes), "all of them have ended")
    server.start()
    for run_id in run_ids:
        assert server.ended(run_id)["status"] == "success"
        assert attempts(server, run_id) == ["claimed", "adopted"]


# Departures


@pytest.mark.slow
def test_sigterm_hands_over_runs_that_do_not_end_in_time(serve: Serve) -> None:
    server = serve(drain_s=0.2)
    run_ids = [server.begin("words") for _ in range(3)]
    for run_id in run_ids:
        pid_of(server, run_id)
    stuck = server.begin("does-in-thread", "sleep")
    pid_of(server, stuck)
    processes = descendants(server.pid)
    server.terminate()
    assert server.wait() == 0
    assert not any(runs(pid) for pid in processes)
    server.start()
    for run_id in run_ids:
        assert server.ended(run_id)["status"] == "success"
        assert attempts(server, run_id) == ["claimed", "handed_over"]


def test_a_signal_to_all_processes_lets_runs_end_as_ever(serve: Serve) -> None:
    server = serve(drain_s=30)
    run_id = server.begin("words")
    os.kill(pid_of(server, run_id), signal.SIGTERM)  # as from a service manager
    other = server.begin("does")
    assert server.ended(other)["status"] == "success"
    assert attempts(server, run_id) == ["claimed"]


# Floods


@pytest.mark.slow
def test_an_agent_that_floods_fills_no_memory_and_delays_no_other_run(serve: Serve) -> None:
    server = serve()
    wait_ready(server)
    floods = [server.begin("does", "flood") for _ in range(5)]
    until(lambda: all(server.record(run_id)["last_seq"] > 100 for run_id in floods), "all of them flood")
    took = []
    for _ in range(5):
        started = time.monotonic()
        assert server.ended(server.begin("does"))["status"] == "success"
        took.append(time.monotonic() - started)
    resident_kib = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())[0])
    for run_id in floods:
        assert server.stop_run(run_id)["status"] == "stopped"
    assert sorted(took)[2] < 5
    assert resident_kib < 400 << 10


@pytest.mark.slow
def test_a_worker_drives_runs_in_agent_processes(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG, AGENTS, no_worker=True) as server:
        run_id = server.begin("words")
        assert types(server, run_id) == ["lifecycle.queued"]
        with closing(WorkerProcess(tmp_path, agent_processes=1)) as worker:
            pid = pid_of(server, run_id) if worker.start() else 0
            assert pid in descendants(worker.pid)
            os.kill(pid, signal.SIGKILL)
            assert server.ended(run_id)["status"] == "success"
