"""The server that is measured, and runs on it."""

import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks.client import Stream, follow

START_TIMEOUT_S = 30.0
BODY = json.dumps({"input": "the quick brown fox jumps over the lazy dog"}).encode()


class Server:
    """`runstore serve` on a free port, with a database beside its configuration."""

    _numbers = itertools.count(1)

    def __init__(self, config: Path) -> None:
        self._config = config
        self._database = f"sqlite:///{config.parent / 'bench.db'}"
        self._log = config.parent / f"server-{next(self._numbers)}.log"

    def __enter__(self) -> "Server":
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runstore", "serve", "--port", "0", "--config", str(self._config),
                 "--database-url", self._database],
                stdout=output, stderr=output,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (found := re.search(r"url=http://127.0.0.1:(\d+)", self._log.read_text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.002)
        self.port = int(found[1])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def make_key(self) -> str:
        """An API key; from now on the server wants one."""
        made = subprocess.run(
            [sys.executable, "-m", "runstore", "keys", "create", "--user", "bench", "--role", "admin",
             "--database-url", self._database],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return made.stdout.strip()

    def begin(self, agent: str) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/agents/{agent}/start", BODY, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            run_id: str = json.load(answer)["run_id"]
        return run_id

    def stop(self, run_id: str) -> None:
        urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{self.port}/runs/{run_id}/stop", method="POST")
        ).close()

    def until_begun(self, run_id: str) -> None:
        """Wait until a run's agent has said something."""
        last_seq = 0
        while last_seq < 4:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/runs/{run_id}") as answer:
                last_seq = json.load(answer)["last_seq"]

    def private_kib(self) -> int:
        """The memory that the server and all its processes have to themselves (Linux)."""
        return sum(_private_kib(pid) for pid in [self.process.pid, *_descendants(self.process.pid)])

    def resident_kib(self) -> int:
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return int(shown.stdout)


def _descendants(pid: int) -> list[int]:
    listed = [(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    children = [int(child) for one in listed for child in one]
    return children + [below for child in children for below in _descendants(child)]


def _private_kib(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except ProcessLookupError:  # it has just ended
        return 0
    return sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+)", rollup, re.M))


async def start_and_follow(
    server: Server, agent: str, runs: int, *, delays: bool = False, key: str = ""
) -> tuple[list[Stream], float]:
    """Start runs at once and follow each to its end; returns what was seen, and how long it took in s."""
    start = time.perf_counter()
    path = f"/agents/{agent}/stream"
    streams = await asyncio.gather(
        *(follow(server.port, "POST", path, BODY, delays=delays, key=key) for _ in range(runs))
    )
    return streams, time.perf_counter() - start
