"""Runs of submitted Python."""

from typing import Any

import httpx

from tests.kit.frames import Frame
from tests.kit.server import DEADLINE_S, ServerProcess

ENABLED = "[agents.run-code]\ncode = true\n"
# Says a number every so often.
COUNTS = """
import time
for number in range(input):
    print(number)
    time.sleep(0.02)
"""
WAITS = "import time\nprint('waiting')\ntime.sleep(3600)"


def begin(http: httpx.Client, code: str, input: Any = None, **body: Any) -> str:
    """Start a run; returns its id."""
    answer = http.post("/agents/run-code/start", json={"code": code, "input": input, **body})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


def ended(http: httpx.Client, run_id: str) -> dict[str, Any]:
    """The record of a run once it has ended."""
    record: dict[str, Any] = http.get(f"/runs/{run_id}", params={"wait": DEADLINE_S}).json()
    assert record["completed_at"] is not None, record
    return record


def run(server: ServerProcess, code: str, input: Any = None) -> dict[str, Any]:
    """Run code to its end; returns the record."""
    return ended(server.http, begin(server.http, code, input))


def emitted(server: ServerProcess, code: str, input: Any = None) -> Any:
    """Run code to its end; returns the data of the one event that it emitted."""
    record = run(server, code, input)
    found = [e["data"] for e in server.events(record["run_id"]) if e["type"].startswith("custom.")]
    assert len(found) == 1, record
    return found[0]


def words(server: ServerProcess, run_id: str) -> list[str]:
    """A run's tokens so far."""
    return [event["data"]["text"] for event in server.events(run_id) if event["type"] == "llm.token"]


def until_said(frames: Any, text: str) -> list[Frame]:
    """Read frames up to the one that says `text`."""
    read: list[Frame] = []
    for frame in frames:
        read.append(frame)
        if frame.type == "llm.token" and frame.data["text"] == text:
            return read
    raise AssertionError(f"{text!r} was not said: {read}")
