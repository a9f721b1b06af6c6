"""Real servers: `runstore serve`, and what a client does with it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from runstore.client.connection import IDLE_S
from tests.kit.database import make_database
from tests.kit.frames import Frame, read_frames
from tests.kit.process import DEADLINE_S, PYTHON, RunstoreProcess, environment, run_command, until

__all__ = [
    "DEADLINE_S",
    "PYTHON",
    "SILENT_AGENT",
    "SILENT_HEAD",
    "ServerProcess",
    "environment",
    "new_client",
    "run_command",
    "serving",
    "until",
]

# Says nothing until it is stopped: the test writes all other events of its run.
SILENT_AGENT = """
import asyncio

def silent():
    async def say_nothing(input):
        await asyncio.Event().wait()
        yield ""
    return say_nothing
"""
HELD = ("01", "08")  # proc_net_tcp(5): established, and closed by the client alone
SILENT_HEAD = 3  # the head of its run: queued, started, and the agent has begun


class ServerProcess(RunstoreProcess):
    """A server on a free port of 127.0.0.1, with its agents in `folder`, and with its database there unless
    one is given.

    Args:
        config: the text of `runstore.toml`; None keeps the existing file.
        agents: the text of `agents.py` beside it, for factories; None keeps the existing file.
        options: of `runstore serve`, as `drain_s=1`; True for an option without a value.
    """

    command = "serve"
    ready = re.compile(r"""^(?:{"event": ")?listening\b.* "?url(?:=|": ")([^\s"]+)"?}?$""", re.M)

    def __init__(
        self, folder: Path, config: str | None = "", agents: str | None = SILENT_AGENT, **options: Any
    ) -> None:
        super().__init__(folder, **options)
        self.database = folder / "runstore.db"
        self.http = new_client()
        if "database_url" not in options and not self.database.exists():
            make_database(self.database)  # a server can do that itself, and takes its time
        write_configuration(folder, config, agents)

    def wait_until_ready(self) -> str:
        url = super().wait_until_ready()
        self.http.base_url = httpx.URL(url)
        return url

    @property
    def arguments(self) -> dict[str, Any]:
        return self.options if "RUNSTORE_PORT" in self.variables else {"port": 0, **self.options}

    @property
    def port(self) -> int:
        assert self.http.base_url.port
        return self.http.base_url.port

    def close(self) -> None:
        super().close()
        self.http.close()

    def hang_up(self) -> None:
        """Close all connections of `http`, and wait until the server has done so, too."""
        self.http.close()
        self.http = new_client(str(self.http.base_url))
        until(lambda: not connected(self.port), "the server has closed its connections")

    # Requests of a client.

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

    def waiting(self, run_id: str) -> dict[str, Any]:
        """The record of a run once it waits for an answer."""
        until(lambda: self.record(run_id)["status"] not in ("queued", "running"), "the run waits")
        record = self.record(run_id)
        assert record["status"] == "waiting", f"the run does not wait: {record}\n{self.log}"
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


def connected(port: int) -> int:
    """How many TCP connections of IPv4 a server on this port still has."""
    found = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(f":{port:04X}") and state in HELD for local, _, state in found)


@contextmanager
def serving(
    folder: Path, config: str = "", agents: str = SILENT_AGENT, **options: Any
) -> Iterator[ServerProcess]:
    """A server that is killed in the end, in any state."""
    server = ServerProcess(folder, config, agents, **options)
    try:
        yield server.start()
    finally:
        server.close()


def write_configuration(folder: Path, config: str | None, agents: str | None) -> None:
    for name, text in (("runstore.toml", config), ("agents.py", agents)):
        if text is not None:
            (folder / name).write_text(text)


def new_client(base_url: str = "", timeout_s: float = DEADLINE_S) -> httpx.Client:
    """A client for 127.0.0.1, which needs no proxy and no certificates."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S)
    return httpx.Client(base_url=base_url, timeout=timeout_s, trust_env=False, verify=False, limits=limits)
