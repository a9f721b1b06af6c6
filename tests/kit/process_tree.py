"""Processes with all that they have started. Reads /proc, so it needs Linux."""

import os
import signal
from collections.abc import Sequence
from glob import glob
from pathlib import Path


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process, if it is there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended by itself


def descendants(pid: int) -> list[int]:
    """Its children, and theirs."""
    children: dict[int, list[int]] = {}
    for each in glob("/proc/[0-9]*"):
        if status := _status(int(Path(each).name)):
            children.setdefault(int(status[1]), []).append(int(Path(each).name))
    found, waiting = [], [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def runs(pid: int) -> bool:
    """Whether it is there, and more than a zombie, which holds nothing any more."""
    status = _status(pid)
    return status is not None and status[0] not in "ZX"


def _status(pid: int) -> Sequence[str] | None:
    """State and parent of a process, as proc_pid_stat(5) has them after its name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
