"""A clock that is wrong, for a process with this folder on PYTHONPATH: Python imports this as it starts.

Only the time of day, as on a machine whose clock was never set; durations are measured by another clock.
"""

import os
import time

SHIFT_S = int(os.environ["RUNSTORE_TEST_CLOCK_SHIFT_S"])
_time, _time_ns = time.time, time.time_ns


def shifted_time() -> float:
    return _time() + SHIFT_S


def shifted_time_ns() -> int:
    return _time_ns() + SHIFT_S * 1_000_000_000


time.time, time.time_ns = shifted_time, shifted_time_ns
