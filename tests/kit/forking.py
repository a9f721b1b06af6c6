"""Starts processes of runstore as forks of one that has imported it: 20 ms of CPU each instead of 1.2 s.

A fork runs the same `main`, and leaves with its code as soon as its threads and exit functions have ended:
freeing all that was imported would take ten times as long as a short command. /proc shows the command and
environment of the process it was forked from, so a test that looks there, or that sets variables, executes a
new one.
"""

import atexit
import gc
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

SUPPORTED = hasattr(os, "pidfd_open")
PRELOADED = (
    "runstore.cli.main",
    "runstore.process",
    "runstore.runtime.strands.agent",
    "uvicorn.server",
    "uvloop",
)
MESSAGE_BYTES = 1 << 20


class Forked:
    """A forked process, with those members of `subprocess.Popen` that tests use."""

    def __init__(self, template: "Template", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._template = template
        self._descriptor = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._template.ask(exit_code_of=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None and not select.select([self._descriptor], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(15)

    def kill(self) -> None:
        self.send_signal(9)


class Template:
    """The process that others are forked from; it ends with the test process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2], start_new_session=True,
            )  # fmt: skip

    def fork(
        self,
        arguments: Sequence[str],
        log: Path,
        folder: Path,
        environment: dict[str, str],
        errors: Path | None = None,
    ) -> Forked:
        """`runstore ARGUMENTS` in `folder`; its output goes to `log`, stderr to `errors` if given."""
        pid = self.ask(
            arguments=list(arguments), log=str(log), errors=str(errors or log), folder=str(folder),
            environment=environment,
        )  # fmt: skip
        return Forked(self, pid)

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._socket.close()
        self._process.wait()

    def ask(self, **request: Any) -> Any:
        with self._lock:
            self._socket.send(json.dumps(request).encode())
            return json.loads(self._socket.recv(MESSAGE_BYTES))


@cache
def template() -> Template:
    """The one of this test process, started when it is first asked for."""
    return Template()


def close_template() -> None:
    if template.cache_info().currsize:
        template().close()
        template.cache_clear()


def answer(requests: socket.socket) -> dict[str, Any] | None:
    """Fork on request until there are no more requests. Returns in a fork with its role."""
    codes: dict[int, int] = {}
    while message := requests.recv(MESSAGE_BYTES):
        request = json.loads(message)
        if pid := request.get("exit_code_of"):
            if pid not in codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            found = codes.get(pid)
        else:
            found = os.fork()
            if found == 0:
                return dict(request)
            codes.pop(found, None)
        requests.send(json.dumps(found).encode())
    return None


def become(request: dict[str, Any]) -> None:
    """Be `runstore`, as if this process had just been executed."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for name, descriptor in (("log", 1), ("errors", 2)):
        if descriptor == 1 or request["errors"] != request["log"]:
            output = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, descriptor)
    cli = importlib.import_module("runstore.cli.main")
    sys.path[0] = request["folder"]
    sys.argv = ["runstore", *request["arguments"]]
    try:
        cli.main()
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            leave(left.code or 0)
        raise


def leave(code: int) -> None:
    """Take the steps of Python's own end (Py_FinalizeEx) that show outside. Returns if output is refused."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    typer.main.get_command = cache(typer.main.get_command)  # which reads the signature of each command
    typer.main.get_command(importlib.import_module("runstore.cli.main").app)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        asked = answer(requests)
    if asked is not None:
        become(asked)
