"""Ends all processes that a test process has started once that process is gone.

A test that hangs ends its process on the spot (`faulthandler_exit_on_timeout`), as does `kill -9`: no fixture
is torn down, and the servers that it has started would run on. Needs Linux: /proc and pidfd_open(2).
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from secrets import token_hex

MARK = "TEST_PROCESS"  # in the environment of all that a test process starts
LOOKS, PAUSE_S = 4, 0.1  # that have to find nothing, one after the other


@contextmanager
def watched() -> Iterator[None]:
    """End processes that were started in the block and still run, at its end or when this process ends
    before.
    """
    if not hasattr(os, "pidfd_open"):
        yield
        return
    mark = os.environ[MARK] = token_hex(8)
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), mark]
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    ) as warden:
        try:
            yield
        finally:
            end_all(mark)
            warden.terminate()


def keep_watch(pid: int, mark: str) -> None:
    """Wait for the end of a process, then end all of its descendants that still run."""
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    end_all(mark)


def end_all(mark: str) -> None:
    """End them, and look again: a process that is just being executed has no environment for a moment."""
    looks = 0
    while looks < LOOKS:
        found = marked(mark)
        looks = 0 if found else looks + 1
        for each in found:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(PAUSE_S)


def marked(mark: str) -> list[int]:
    """The processes with this mark, but for zombies, which have no environment."""
    return [int(Path(folder).name) for folder in glob("/proc/[0-9]*") if _has_mark(folder, mark)]


def _has_mark(folder: str, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(folder, "environ").read_bytes().split(b"\0")
    except OSError:  # it has gone, or is another user's
        return False


if __name__ == "__main__":
    keep_watch(int(sys.argv[1]), sys.argv[2])
