"""The waits between the tries of something that fails."""

import pytest

from runstore.core.backoff import Backoff


def waits(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_s() for _ in range(count)]


def test_each_wait_is_twice_the_one_before_up_to_the_limit() -> None:
    assert waits(Backoff(0.1, 1.0), 6) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_after_a_success_the_waits_begin_again() -> None:
    backoff = Backoff(0.1, 1.0)
    waits(backoff, 4)
    backoff.reset()
    assert waits(backoff, 2) == [0.1, 0.2]


@pytest.mark.parametrize(("dice", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_the_dice_shorten_a_wait_down_to_a_half(dice: float, share: float) -> None:
    assert waits(Backoff(0.1, 1.0, lambda: dice), 3) == pytest.approx([0.1 * share, 0.2 * share, 0.4 * share])


def test_the_longest_wait_is_the_limit_for_any_jitter() -> None:
    backoff = Backoff(0.1, 1.0, lambda: 0.0)
    waits(backoff, 10)
    assert backoff.next_s() == 1.0
