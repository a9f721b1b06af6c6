"""The server that is measured, and runs on it."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from benchmarks.client import Stream, follow

START_TIMEOUT_S = 30.0
AT_REST_S = 1.0
NEXT_TO_NOTHING_S = 0.02  # of CPU in AT_REST_S
BODY = json.dumps({"input": "the quick brown fox jumps over the lazy dog"}).encode()


class Process:
    """`runstore` with a command that runs until it is told to stop.

    Args:
        options: of the command, beside the configuration.
    """

    _numbers = itertools.count(1)

    def __init__(self, config: Path, command: str, ready: str, *options: str) -> None:
        self._command = [sys.executable, "-m", "runstore", command, "--config", str(config), *options]
        self._ready = re.compile(ready)
        self._log = config.parent / f"{command}-{next(self._numbers)}.log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (found := self._ready.search(self._log.read_text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"it does not start: {self._log.read_text()}")
            time.sleep(0.002)
        self.said = found
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


class Worker(Process):
    """`runstore worker`."""

    def __init__(self, config: Path, *options: str) -> None:
        super().__init__(config, "worker", r"worker_id=(\S+)", *options)


class Server(Process):
    """`runstore serve` on a free port, with a database beside its configuration if `options` name none."""

    def __init__(self, config: Path, *options: str) -> None:
        if "--database-url" not in options:
            options += ("--database-url", f"sqlite:///{config.parent / 'bench.db'}")
        self._database = options[options.index("--database-url") + 1]
        super().__init__(config, "serve", r"url=http://127.0.0.1:(\d+)", "--port", "0", *options)

    @property
    def port(self) -> int:
        return int(self.said[1])

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

    def until_ready(self) -> None:
        """Wait until all that the server starts runs."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz").close()
            except urllib.error.HTTPError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError("the server is not ready")

    def until_begun(self, run_id: str) -> None:
        """Wait until a run's agent has said something."""
        last_seq = 0
        while last_seq < 4:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/runs/{run_id}") as answer:
                last_seq = json.load(answer)["last_seq"]

    def private_kib(self) -> int:
        """The memory that the server and all its processes have to themselves (Linux)."""
        return sum(_private_kib(pid) for pid in [self.process.pid, *descendants(self.process.pid)])

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds of the process that serves, and of it with all that it has started and that lives."""
        pid = self.process.pid
        return _cpu_s(pid), sum(_cpu_s(each) for each in (pid, *descendants(pid)))


def descendants(pid: int) -> list[int]:
    """All that a process has started and that lives (Linux)."""
    listed = [(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    children = [int(child) for one in listed for child in one]
    return children + [below for child in children for below in descendants(child)]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _private_kib(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (ProcessLookupError, FileNotFoundError):  # it has just ended
        return 0
    return sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+)", rollup, re.M))


def proportional_kib(pid: int) -> int:
    """A process's memory; what several share counts in parts (PSS, Linux)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Pss:\s+(\d+)", rollup, re.M)[0])


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used, in s (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until_at_rest(pid: int) -> None:
    """Wait until a process has done nothing for AT_REST_S, as after the imports that follow a start."""
    deadline, used = time.monotonic() + START_TIMEOUT_S, -1.0
    while (now := cpu_s(pid)) - used > NEXT_TO_NOTHING_S:
        if time.monotonic() > deadline:
            raise RuntimeError("the process does not come to rest")
        used = now
        time.sleep(AT_REST_S)


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
