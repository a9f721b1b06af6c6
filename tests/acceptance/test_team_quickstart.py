"""The quickstart of run isolation, as it stands: its curl commands and its Python script.

Two things are put in: the ids, which are UUIDs here and so need quotes, and the port of the test's server
for 8082. The script's minute of waiting is cut to what its runs need.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kit.frames import Frame, read_frames, said
from tests.kit.server import DEADLINE_S, ServerProcess, environment, serving, until
from tests.kit.tools import require

CREATE = """\
curl -X POST http://localhost:8082/api/executor/v1/hierarchies/create \\
  -H "Content-Type: application/json" \\
  -d '{
    "name": "isolation-test-team",
    "global_prompt": "You are a helpful assistant",
    "teams": [{
      "name": "TestTeam",
      "supervisor_prompt": "Delegate to workers",
      "workers": [{
        "name": "TestWorker",
        "role": "assistant",
        "system_prompt": "Answer questions helpfully",
        "tools": []
      }]
    }]
  }'
"""
START_A = """\
# Start Run A
curl -X POST http://localhost:8082/api/executor/v1/runs/start \\
  -H "Content-Type: application/json" \\
  -d '{
    "hierarchy_id": "<hierarchy_id>",
    "task": "Count from 1 to 10 slowly, saying each number"
  }'
# Note the run_id (e.g., 101)
"""
START_B = """\
# Start Run B
curl -X POST http://localhost:8082/api/executor/v1/runs/start \\
  -H "Content-Type: application/json" \\
  -d '{
    "hierarchy_id": "<hierarchy_id>",
    "task": "List the first 5 planets in the solar system"
  }'
# Note the run_id (e.g., 102)
"""
STREAM_A = """\
curl -N http://localhost:8082/api/executor/v1/runs/stream \\
  -H "Content-Type: application/json" \\
  -d '{"run_id": 101}'
"""
STREAM_B = """\
curl -N http://localhost:8082/api/executor/v1/runs/stream \\
  -H "Content-Type: application/json" \\
  -d '{"run_id": 102}'
"""
START_LONG = """\
curl -X POST http://localhost:8082/api/executor/v1/runs/start \\
  -H "Content-Type: application/json" \\
  -d '{
    "hierarchy_id": "<hierarchy_id>",
    "task": "Write a very long essay about space exploration"
  }'
"""
START_SHORT = """\
curl -X POST http://localhost:8082/api/executor/v1/runs/start \\
  -H "Content-Type: application/json" \\
  -d '{
    "hierarchy_id": "<hierarchy_id>",
    "task": "What is 2+2?"
  }'
"""
CANCEL = """\
curl -X POST http://localhost:8082/api/executor/v1/runs/cancel \\
  -H "Content-Type: application/json" \\
  -d '{"run_id": <run_a_id>}'
"""
SCRIPT = '''\
#!/usr/bin/env python3
"""Test concurrent run isolation."""

import requests
import threading
import time
from collections import defaultdict

BASE_URL = "http://localhost:8082/api/executor/v1"

def start_run(hierarchy_id: str, task: str) -> int:
    """Start a run and return run_id."""
    response = requests.post(
        f"{BASE_URL}/runs/start",
        json={"hierarchy_id": hierarchy_id, "task": task}
    )
    return response.json()["data"]["run_id"]

def collect_events(run_id: int, events: list, stop_event: threading.Event):
    """Collect SSE events for a run."""
    response = requests.post(
        f"{BASE_URL}/runs/stream",
        json={"run_id": run_id},
        stream=True
    )

    for line in response.iter_lines():
        if stop_event.is_set():
            break
        if line and line.startswith(b"data:"):
            events.append(line.decode())

def test_isolation(hierarchy_id: str):
    """Test that events don't cross between runs."""
    # Start two runs with distinctive tasks
    run_a = start_run(hierarchy_id, "Say 'ALPHA' five times")
    run_b = start_run(hierarchy_id, "Say 'BETA' five times")

    events_a = []
    events_b = []
    stop = threading.Event()

    # Collect events in parallel
    t1 = threading.Thread(target=collect_events, args=(run_a, events_a, stop))
    t2 = threading.Thread(target=collect_events, args=(run_b, events_b, stop))

    t1.start()
    t2.start()

    # Wait for completion
    time.sleep(60)
    stop.set()

    t1.join(timeout=5)
    t2.join(timeout=5)

    # Check for cross-contamination
    events_a_text = " ".join(events_a)
    events_b_text = " ".join(events_b)

    alpha_in_b = "ALPHA" in events_b_text
    beta_in_a = "BETA" in events_a_text

    print(f"Run A events: {len(events_a)}")
    print(f"Run B events: {len(events_b)}")
    print(f"Cross-contamination: {alpha_in_b or beta_in_a}")

    if alpha_in_b:
        print("❌ FAIL: 'ALPHA' found in Run B's stream")
    if beta_in_a:
        print("❌ FAIL: 'BETA' found in Run A's stream")
    if not alpha_in_b and not beta_in_a:
        print("✅ PASS: No cross-contamination detected")

if __name__ == "__main__":
    import sys
    if len(sys.argv) < 2:
        print("Usage: python test_isolation.py <hierarchy_id>")
        sys.exit(1)
    test_isolation(sys.argv[1])
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("quickstart")) as server:
        yield server


Shell = Callable[..., str]


@pytest.fixture
def shell(server: ServerProcess) -> Shell:
    """Runs a command with its ids put in, and gives what it printed."""
    require("curl")

    def run(command: str, **ids: str) -> str:
        for name, value in ids.items():
            command = command.replace(f"<{name}>", value)
        return subprocess.run(
            [require("bash"), "-c", at(server, command)],
            capture_output=True, text=True, env=environment(), timeout=2 * DEADLINE_S, check=True,
        ).stdout  # fmt: skip

    return run


def at(server: ServerProcess, text: str) -> str:
    assert "localhost:8082" in text
    return text.replace("localhost:8082", f"localhost:{server.port}")


def data(printed: str) -> dict[str, Any]:
    answer = json.loads(printed)
    assert answer["success"] is True
    answered: dict[str, Any] = answer["data"]
    return answered


@pytest.fixture
def hierarchy_id(shell: Shell) -> str:
    created: str = data(shell(CREATE))["hierarchy_id"]
    return created


def streamed(printed: str) -> list[Frame]:
    return list(read_frames([printed.encode()]))


def quoted(run_id: str) -> str:
    return f'"{run_id}"'


def test_one_stream_shows_numbers_only_and_the_other_planets_only(shell: Shell, hierarchy_id: str) -> None:
    run_a = data(shell(START_A, hierarchy_id=hierarchy_id))["run_id"]
    run_b = data(shell(START_B, hierarchy_id=hierarchy_id))["run_id"]
    with ThreadPoolExecutor(2) as terminals:
        third = terminals.submit(shell, STREAM_A.replace("101", quoted(run_a)))
        fourth = terminals.submit(shell, STREAM_B.replace("102", quoted(run_b)))
    numbers, planets = streamed(third.result()), streamed(fourth.result())
    for frames, run_id in ((numbers, run_a), (planets, run_b)):
        assert {frame.event["run_id"] for frame in frames} == {run_id}
        assert frames[-1].type == "lifecycle.completed"
    assert re.fullmatch(r"[\d ]+", said(numbers))
    assert numbers[-1].data["result"]["text"] == "1 2 3 4 5 6 7 8 9 10"
    assert not re.search(r"\d", said(planets))
    assert planets[-1].data["result"]["text"] == "Mercury Venus Earth Mars Jupiter"
    assert "Mercury" not in third.result()


@pytest.mark.slow
def test_the_python_script_finds_no_cross_contamination(
    server: ServerProcess, hierarchy_id: str, tmp_path: Path
) -> None:
    script = tmp_path / "test_isolation.py"
    script.write_text(at(server, SCRIPT).replace("time.sleep(60)", "time.sleep(5)"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), hierarchy_id],
        capture_output=True, text=True, encoding="utf-8", timeout=3 * DEADLINE_S, check=True,
        env=environment() | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert "PASS: No cross-contamination detected" in done.stdout
    assert "Cross-contamination: False" in done.stdout
    for run in "AB":
        found = re.search(rf"^Run {run} events: (\d+)$", done.stdout, re.M)
        assert found, done.stdout
        assert int(found[1]) > 0
    assert done.stderr == ""


def test_cancelling_run_a_does_not_affect_run_b(
    server: ServerProcess, shell: Shell, hierarchy_id: str
) -> None:
    run_a = data(shell(START_LONG, hierarchy_id=hierarchy_id))["run_id"]
    run_b = data(shell(START_SHORT, hierarchy_id=hierarchy_id))["run_id"]
    until(lambda: server.record(run_a)["status"] == "running", "the essay is being written")
    cancelled = data(shell(CANCEL, run_a_id=quoted(run_a)))
    assert cancelled["cancel_requested"] is True
    assert streamed(shell(STREAM_A.replace("101", quoted(run_a))))[-1].type == "lifecycle.cancelled"
    frames = streamed(shell(STREAM_B.replace("102", quoted(run_b))))
    assert frames[-1].type == "lifecycle.completed"
    assert frames[-1].data["result"]["text"] == "4"


def test_the_essay_takes_a_person_long_enough_to_cancel_it(
    server: ServerProcess, shell: Shell, hierarchy_id: str
) -> None:
    run_id = data(shell(START_LONG, hierarchy_id=hierarchy_id))["run_id"]
    until(lambda: server.record(run_id)["last_seq"] > 40, "some words have been said")
    worker = [e for e in server.events(run_id) if e["type"] == "llm.token"]
    assert {event["data"]["agent"] for event in worker} == {"global/TestTeam/TestWorker"}
    assert server.record(run_id)["status"] == "running"
    server.stop_run(run_id)
    # 600 words or more at 20 a second, said by the worker, its supervisor and the global one.
    definition = server.events(run_id)[0]["data"]["definition"]
    assert definition["models"] == {"scripted": {"model": "scripted", "tokens_per_s": 20}}
