"""How much slower than an idle machine this one is just now, for promises that are about time.

A bound that is loose enough for the busiest machine holds nothing. So a test compares what it measured with
the promise times the slowness of the same moments. A process of its own measures it, so that a test process
that is busy itself does not count as a slow machine.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

TICK_S = 0.005
HIGHEST = 2.0  # beyond it a test fails, rather than hold nothing


class Slowness:
    """`factor`, after the block: 1 on an idle machine, 2 when sleeping and computing take twice as long."""

    factor = 1.0


@contextmanager
def measured_slowness() -> Iterator[Slowness]:
    """Measure for as long as the block runs."""
    slowness = Slowness()
    command = [sys.executable, "-I", "-S", __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as measuring:
        yield slowness
        measured, _ = measuring.communicate()
    slowness.factor = min(max(1.0, float(measured)), HIGHEST)


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
