"""Servers that nobody here wrote, as processes of a benchmark."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

START_TIMEOUT_S = 60.0


class Peer(NamedTuple):
    port: int
    pid: int


@contextmanager
def process(
    command: list[str], port: int, environment: Mapping[str, str], *, folder: Path | None = None
) -> Iterator[int]:
    """The id of a server that accepts connections at a port of loopback. It ends with the block.

    Raises:
        RuntimeError: it ended, or did not accept connections within START_TIMEOUT_S.
    """
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=dict(environment), cwd=folder)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} does not start")
            time.sleep(0.01)
        yield server.pid
    finally:
        server.terminate()
        server.wait()


@contextmanager
def application(name: str, **variables: str) -> Iterator[Peer]:
    """An ASGI application in uvicorn, `module:attribute`."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", name, "--port", str(port), "--log-level", "error"]
    with process(command, port, {**os.environ, **variables}) as pid:
        yield Peer(port, pid)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
