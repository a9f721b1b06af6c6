"""Real servers: `runstore serve` in a process of its own, that a test may kill, stop and start again."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.database import make_database
from tests.frames import Frame, read_frames

DEADLINE_S = 20.0  # of anything that a test waits for; a busy machine may take its time
PYTHON = (sys.executable, "-m", "runstore")

# Says nothing until it is stopped: whatever else is in its run's log, the test has put there.
SILENT_AGENT = """
import asyncio

def silent():
    async def say_nothing(input):
        await asyncio.Event().wait()
        yield ""
    return say_nothing
"""
SILENT_HEAD = 3  # the head of its run: queued, started, and the agent has begun


class ServerProcess:
    """A server on a free port of 127.0.0.1, with its database and its agents in `folder`.

    Args:
        config: the text of `runstore.toml`.
        agents: the text of `agents.py` beside it, for factories.
        options: of `runstore serve`, as `drain_s=1`; True for one that takes no value.
    """

    def __init__(self, folder: Path, config: str = "", agents: str = SILENT_AGENT, **options: Any) -> None:
        self.folder = folder
        self.database = folder / "runstore.db"
        self.process: subprocess.Popen[bytes] | None = None
        self.http = new_client()
        self.options = options
        self.variables: dict[str, str] = {}  # of its environment
        self._starts = itertools.count(1)
        self._logs: list[Path] = []
        if not self.database.exists():
            make_database(self.database)  # a server can do that itself, and takes its time
        (folder / "runstore.toml").write_text(config)
        (folder / "agents.py").write_text(agents)

    def start(self, prefix: Sequence[str] = ()) -> Self:
        """Start, again or for the first time; `prefix`: a program that runs the server, as strace."""
        self.launch(prefix)
        until(lambda: self._url() is not None or self._has_exited(), "the server listens")
        url = self._url()
        assert url is not None, f"the server did not start:\n{self.log}"
        self.http.base_url = httpx.URL(url)
        return self

    def launch(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start the process, and do not wait for it."""
        options = self.options if "RUNSTORE_PORT" in self.variables else {"port": 0, **self.options}
        names = {name: f"--{name.replace('_', '-')}" for name in options}
        arguments = [names[n] if value is True else f"{names[n]}={value}" for n, value in options.items()]
        self._logs.append(self.folder / f"server-{next(self._starts)}.log")
        with self._logs[-1].open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, *PYTHON, "serve", *arguments],
                stdout=output, stderr=output, cwd=self.folder, env=environment() | self.variables,
            )  # fmt: skip
        return self.process

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def port(self) -> int:
        assert self.http.base_url.port
        return self.http.base_url.port

    @property
    def log(self) -> str:
        """What all of its processes have said, oldest first."""
        return "".join(path.read_text(errors="replace") for path in self._logs)

    def kill(self) -> None:
        """`kill -9`"""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> None:
        """Tell it to stop, and do not wait for it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait until it has left; returns the exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def close(self) -> None:
        self.kill()
        self.http.close()

    # What a client does.

    def begin(self, agent: str = "silent", input: str = "hi", **body: Any) -> str:
        """Start a run; returns its id."""
        answer = self.http.post(f"/agents/{agent}/start", json={"input": input, **body})
        assert answer.status_code == 202, answer.text
        run_id: str = answer.json()["run_id"]
        return run_id

    def begin_silent(self) -> str:
        """A run at SILENT_HEAD, which says nothing by itself and does not end."""
        run_id = self.begin("silent")
        until(lambda: self.record(run_id)["last_seq"] == SILENT_HEAD, "the run has started")
        return run_id

    def record(self, run_id: str, **parameters: Any) -> dict[str, Any]:
        answer = self.http.get(f"/runs/{run_id}", params=parameters)
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def ended(self, run_id: str) -> dict[str, Any]:
        """The record of a run once it has ended."""
        record = self.record(run_id, wait=DEADLINE_S)
        assert record["completed_at"] is not None, f"the run has not ended: {record}\n{self.log}"
        return record

    def stop_run(self, run_id: str) -> dict[str, Any]:
        """Stop a run, and wait for its end."""
        assert self.http.post(f"/runs/{run_id}/stop").is_success
        return self.ended(run_id)

    def note(self, run_id: str, text: str = "note") -> int:
        """Append a `custom.note`; returns its seq, once it is stored."""
        answer = self.http.post(f"/runs/{run_id}/events", json={"type": "custom.note", "data": text})
        assert answer.status_code == 201, answer.text
        last_seq: int = answer.json()["last_seq"]
        return last_seq

    def frames(self, run_id: str, after: int = 0, **parameters: Any) -> Iterator[Frame]:
        """Follow the run; breaking off the iteration cuts the connection."""
        with self.stream(run_id, after, **parameters) as answer:
            assert answer.status_code in (200, 204), answer.read()
            yield from read_frames(answer.iter_raw())

    @contextmanager
    def stream(self, run_id: str, after: int = 0, **parameters: Any) -> Iterator[httpx.Response]:
        headers = {"Last-Event-ID": str(after)} if after else {}
        url = f"/runs/{run_id}/stream"
        with self.http.stream("GET", url, headers=headers, params=parameters) as answer:
            yield answer

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """All of a run's events so far."""
        found: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            answer = self.http.get(f"/runs/{run_id}/events", params={"after": after, "limit": 1000})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += page["data"]
            after = page["next"]
        return found

    def _url(self) -> str | None:
        log = self._logs[-1].read_text(errors="replace")
        found = re.search(r"""^(?:{"event": ")?listening\b.* "?url(?:=|": ")([^\s"]+)"?}?$""", log, re.M)
        return found and found[1]

    def _has_exited(self) -> bool:
        return self.process is not None and self.process.poll() is not None


@contextmanager
def serving(
    folder: Path, config: str = "", agents: str = SILENT_AGENT, **options: Any
) -> Iterator[ServerProcess]:
    """A server that is killed in the end, whatever has become of it."""
    server = ServerProcess(folder, config, agents, **options)
    try:
        yield server.start()
    finally:
        server.close()


def run_command(
    *arguments: str, folder: Path, timeout_s: float = DEADLINE_S, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """`runstore …` in `folder`, with some more environment variables."""
    return subprocess.run(
        [*PYTHON, *arguments],
        capture_output=True, text=True, cwd=folder, timeout=timeout_s, check=False,
        env=environment() | variables,
    )  # fmt: skip


def environment() -> dict[str, str]:
    """Ours, without what would configure a server or colour its output."""
    unwanted = ("RUNSTORE_", "FORCE_COLOR", "CLICOLOR_FORCE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return kept | {"NO_COLOR": "1", "COLUMNS": "200"}


def new_client(base_url: str = "", timeout_s: float = DEADLINE_S) -> httpx.Client:
    """A client for 127.0.0.1, which needs no proxy and no certificates."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.Client(base_url=base_url, timeout=timeout_s, trust_env=False, verify=False, limits=limits)


def until(claim: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> None:
    """Return as soon as `claim` holds; fail when it does not in time."""
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)
