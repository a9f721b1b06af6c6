"""How much slower than an idle machine this one is just now, for promises that are about time.

A bound that is loose enough for the busiest machine holds nothing. So a test compares what it measured with
the promise times the slowness of the same moments. A process of its own measures it, so that a test process
that is busy itself does not count as a slow machine.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TICK_S = 0.005
HIGHEST = 4.0  # beyond it a test fails, rather than hold nothing


class Slowness:
    """`factor`, after the block: 1 on an idle machine, 2 when sleeping and computing take twice as long."""

    factor = 1.0


@contextmanager
def measured_slowness(computing: int | None = None) -> Iterator[Slowness]:
    """Measure for as long as the block runs.

    Args:
        computing: a process that computes all the time. Others take more from it than from one that sleeps,
            so the time that its threads waited for a core counts too (proc_pid_schedstat(5)).
    """
    slowness = Slowness()
    command = [sys.executable, "-I", "-S", __file__]
    before = core_times(computing)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as measuring:
        yield slowness
        measured, _ = measuring.communicate()
    factors = [float(measured), 1 + waited(before, core_times(computing))]
    slowness.factor = min(max(1.0, *factors), HIGHEST)


def core_times(process: int | None) -> dict[str, tuple[int, int]]:
    """For each thread of a process: how long it has run on a core and waited for one, in ns."""
    found = {}
    for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            ran, waited_for, _ = file.read_text().split()
            found[file.parent.name] = int(ran), int(waited_for)
    return found


def waited(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float:
    """How long the threads waited for a core, by how long they ran."""
    ran_ns, waited_ns = 0, 0
    for thread, (ran, waited_for) in after.items():
        ran_before, waited_before = before.get(thread, (0, 0))
        ran_ns += ran - ran_before
        waited_ns += waited_for - waited_before
    return waited_ns / max(1, ran_ns)


def measure() -> float:
    """Sleep and compute in turns until stdin is closed; returns the time that took by what it should have."""
    import select

    begun_at, ideal_s = time.monotonic(), 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        time.sleep(TICK_S)
        ideal_s += TICK_S
    return (time.monotonic() - begun_at) / (ideal_s + time.process_time())


if __name__ == "__main__":
    print(measure())
