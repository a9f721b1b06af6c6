"""How much slower than an idle machine this one is just now, for promises that are about time.

A bound that is loose enough for the busiest machine holds nothing. So a test compares what it measured with
the promise times the slowness of the same moments. A process of its own measures it, so that a test process
that is busy itself does not count as a slow machine.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TICK_S = 0.005
HIGHEST = 4.0  # beyond it a test fails, rather than hold nothing


class Slowness:
    """`factor`, after the block: 1 on an idle machine, 2 when sleeping or computing takes twice as long."""

    factor = 1.0


@contextmanager
def measured_slowness(*, alone: bool = False, computing: int | None = None) -> Iterator[Slowness]:
    """Measure for as long as the block runs.

    Args:
        alone: the test runs alone and may fill the machine itself, so that busy cores do not count.
        computing: a process of such a test that computes all the time. The time that its threads waited for a
            core counts (proc_pid_schedstat(5)).
    """
    slowness = Slowness()
    command = [sys.executable, "-I", "-S", __file__]
    before = core_times(computing)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as measuring:
        yield slowness
        measured, _ = measuring.communicate()
    asleep, sharing = map(float, measured.split())
    factors = [asleep, 1 + waited(before, core_times(computing)), 1.0 if alone else sharing]
    slowness.factor = min(max(1.0, *factors), HIGHEST)


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Fail if the block takes longer than `limit_s`, a bound for an idle machine."""
    with measured_slowness() as slowness:
        begun_at = time.monotonic()
        yield
        took_s = time.monotonic() - begun_at
    assert took_s < limit_s * slowness.factor


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


def measure() -> tuple[float, float]:
    """Sleep in turns until stdin is closed; returns the slowness of sleeping, and of computing.

    A thread that sleeps often gets a core at once, also where threads that compute wait for one in turns. So
    the threads that have or wait for a core (proc_loadavg(5)) are counted: each gets its share of the cores.
    """
    import select

    begun_at, ideal_s = time.monotonic(), 0.0
    turns, runnable = 0, 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        time.sleep(TICK_S)
        ideal_s += TICK_S
        turns += 1
        runnable += running_threads() - 1  # without this one
    asleep = (time.monotonic() - begun_at) / max(TICK_S, ideal_s + time.process_time())
    return asleep, runnable / max(1, turns) / (os.cpu_count() or 1)


def running_threads() -> int:
    """The threads that have a core or wait for one; 1 where the kernel does not say."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except OSError:
        return 1


if __name__ == "__main__":
    print(*measure())
