"""Ports that a server of a test's own keeps while it is down, so that it can come back on the same one.

A port that the system hands out for a moment may be anybody's a moment later. These lie below the range that
Linux gives to outgoing connections (from 32768), and a lock keeps other processes of the tests from them.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO, Self

PORTS = range(20_000, 32_000)
TRIES = 1_000


class Port:
    """A free port of 127.0.0.1; ours until it is released, as by a `with` block, or this process ends."""

    def __init__(self) -> None:
        for _ in range(TRIES):
            self.number = random.choice(PORTS)
            lock = _lock(self.number)
            if lock is None:
                continue
            if _free(self.number):
                self._lock = lock
                return
            lock.close()
        raise AssertionError(f"no free port in {PORTS}")

    def release(self) -> None:
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


def _lock(number: int) -> IO[bytes] | None:
    folder = Path(tempfile.gettempdir(), f"runstore-test-ports-{os.geteuid()}")
    folder.mkdir(exist_ok=True)
    file = (folder / str(number)).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _free(number: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True
