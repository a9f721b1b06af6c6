"""How much slower than an idle machine this one is just now, for promises that are about time.

A bound that is loose enough for the busiest machine holds nothing. So a test compares what it measured with
the promise times the slowness of the same moments.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

TICK_S = 0.005


class Slowness:
    """Measured while a block runs. `factor`: 1 on an idle machine, 2 when sleeps take twice as long."""

    def __init__(self) -> None:
        self._begun_at = time.monotonic()
        self._ticks = 0
        self._over = threading.Event()
        self.factor = 1.0

    def _measure(self) -> None:
        while not self._over.is_set():
            time.sleep(TICK_S)
            self._ticks += 1

    def _end(self) -> None:
        self._over.set()
        self.factor = max(1.0, (time.monotonic() - self._begun_at) / (TICK_S * max(1, self._ticks)))


@contextmanager
def measured_slowness() -> Iterator[Slowness]:
    """Measure for as long as the block runs; its `factor` is there afterwards."""
    slowness = Slowness()
    measuring = threading.Thread(target=slowness._measure, daemon=True)
    measuring.start()
    try:
        yield slowness
    finally:
        slowness._end()
        measuring.join()
