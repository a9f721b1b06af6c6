"""A process of runstore that a test may kill, freeze, stop and start again."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self, TypeAlias

from tests.kit.forking import SUPPORTED, Forked, template

DEADLINE_S = 120.0  # of anything that a test waits for; a busy machine may take its time
SHORTEST_S, LONGEST_S = 0.01, 0.1  # between two looks: without pauses they would take a core from others
PYTHON = (sys.executable, "-m", "runstore")
MARK = "RUNSTORE_TESTS_MARK"  # by which a test finds what a process has started; nothing reads it
Process: TypeAlias = "subprocess.Popen[bytes] | Forked"
_starts = itertools.count(1)


class RunstoreProcess:
    """`runstore COMMAND` in `folder`, where its configuration and its log files are.

    Args:
        options: of the command, as `drain_s=1`; True for one that takes no value.
    """

    command: ClassVar[str]
    forked: ClassVar[bool] = True  # from a process that has imported runstore, if nothing stands against it
    ready: ClassVar[re.Pattern[str]]  # the log line of a successful start; its group is the fact in it

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = options
        self.variables: dict[str, str] = {}  # of its environment
        self.process: Process | None = None
        self._logs: list[Path] = []

    def start(self, prefix: Sequence[str] = ()) -> Self:
        """Start, again or for the first time; `prefix`: a program that runs it, as strace."""
        self.launch(prefix)
        self.wait_until_ready()
        return self

    def launch(self, prefix: Sequence[str] = ()) -> Process:
        """Start the process, and do not wait for it."""
        options = self.arguments
        names = {name: f"--{name.replace('_', '-')}" for name in options}
        arguments = [names[n] if v is True else f"{names[n]}={v}" for n, v in options.items()]
        self._logs.append(self.folder / f"{self.command}-{next(_starts)}.log")
        self._logs[-1].touch()
        if SUPPORTED and self.forked and not prefix and self.variables.keys() <= {MARK}:
            command = [self.command, *arguments]
            variables = environment() | self.variables
            self.process = template().fork(command, self._logs[-1], self.folder, variables)
            return self.process
        with self._logs[-1].open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, *PYTHON, self.command, *arguments],
                stdout=output, stderr=output, cwd=self.folder, env=environment() | self.variables,
            )  # fmt: skip
        return self.process

    def wait_until_ready(self) -> str:
        """Wait until it has started; returns the facts of its log line."""
        until(lambda: self._told() is not None or self.has_exited, f"{self.command} has started")
        told = self._told()
        assert told is not None, f"it did not start:\n{self.log}"
        return told

    @property
    def arguments(self) -> dict[str, Any]:
        """The options that it is started with."""
        return self.options

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def has_exited(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    @property
    def log(self) -> str:
        """The log lines of all its processes, oldest first."""
        return "".join(path.read_text(errors="replace") for path in self._logs)

    def kill(self) -> None:
        """`kill -9`"""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """Ask the process to stop, without waiting for it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait until it has left; returns the exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def close(self) -> None:
        self.kill()

    def _told(self) -> str | None:
        """By the process that was started last."""
        found = self.ready.search(self._logs[-1].read_text(errors="replace"))
        return found and found[1]


def environment() -> dict[str, str]:
    """This process's environment, without variables that configure a server or colour its output.

    RUNSTORE_AGENT_PROCESSES is kept: with it, tests of the default try the same with agent processes.
    """
    unwanted = ("RUNSTORE_", "FORCE_COLOR", "CLICOLOR_FORCE")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "RUNSTORE_AGENT_PROCESSES" or not name.startswith(unwanted)
    }
    return kept | {"NO_COLOR": "1", "COLUMNS": "200"}


def run_command(
    *arguments: str, folder: Path, timeout_s: float = DEADLINE_S, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """`runstore …` in `folder`, with some more environment variables."""
    if SUPPORTED and not variables:
        return _fork_command(*arguments, folder=folder, timeout_s=timeout_s)
    return subprocess.run(
        [*PYTHON, *arguments],
        capture_output=True, text=True, cwd=folder, timeout=timeout_s, check=False,
        env=environment() | variables,
    )  # fmt: skip


def _fork_command(*arguments: str, folder: Path, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    with TemporaryDirectory() as outputs:
        output, errors = Path(outputs, "output"), Path(outputs, "errors")
        process = template().fork(arguments, output, folder, environment(), errors)
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
        said = [path.read_text() for path in (output, errors)]
    return subprocess.CompletedProcess(arguments, code, *said)


def until(claim: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> None:
    """Return as soon as `claim` holds; fail when it does not in time."""
    deadline = time.monotonic() + within_s
    pause_s = SHORTEST_S
    while not claim():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(pause_s)
        pause_s = min(1.2 * pause_s, LONGEST_S)
