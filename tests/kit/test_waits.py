"""Only what was waited for a core makes a bound longer, and only up to a bound of its own."""

import os
import time

import pytest

from tests.kit.waits import HIGHEST_S, LATER_S, CoreWaits, core_waits


def waits_of(waited_s: float) -> CoreWaits:
    """A process that waited so long for a core between second 1 and second 2."""
    waits = CoreWaits()
    waits.samples = [(0.0, 7.0), (1.0, 7.0), (2.0, 7.0 + waited_s), (9.0, 7.0 + waited_s)]
    return waits


@pytest.mark.parametrize("waited_s", [0.0, 0.2, HIGHEST_S])
def test_a_bound_grows_by_what_was_waited_in_its_time(waited_s: float) -> None:
    longest_s = 1.0 + LATER_S + waited_s
    waits_of(waited_s).check(1.0, (1.0, 1.0 + longest_s - 0.01), (5.0, 5.5))
    with pytest.raises(AssertionError):
        waits_of(waited_s).check(1.0, (5.0, 5.5), (1.0, 1.0 + longest_s + 0.01))


def test_what_was_waited_at_another_time_does_not_count() -> None:
    with pytest.raises(AssertionError):
        waits_of(HIGHEST_S).check(1.0, (2.5, 3.5 + LATER_S + 0.01))


def test_on_a_machine_that_is_too_busy_to_measure_a_late_end_is_a_failure() -> None:
    with pytest.raises(AssertionError, match=r"60\.00 s of it waiting"):
        waits_of(60.0).check(1.0, (1.0, 2.0 + LATER_S + HIGHEST_S + 0.01))


def test_a_process_that_sleeps_waits_for_no_core() -> None:
    with core_waits(os.getpid()) as waits:
        begun_at = time.time()
        time.sleep(1.0)
        ended_at = time.time()
    assert waits.between(begun_at, ended_at) < 0.5
