"""Spaces the tries of something that fails."""

from collections.abc import Callable


class Backoff:
    """Each wait is twice the one before.

    Args:
        first_s: seconds before the second try.
        last_s: seconds before any try, at most.
        dice: a random number from 0 to 1, for each wait: the lower, the shorter, down to a half.
    """

    def __init__(self, first_s: float, last_s: float, dice: Callable[[], float] = lambda: 1.0) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._dice = dice
        self._wait_s = first_s

    def reset(self) -> None:
        """A try has succeeded."""
        self._wait_s = self._first_s

    def next_s(self) -> float:
        """Seconds to wait, after one more failure."""
        wait_s = min(self._wait_s * (0.5 + self._dice() / 2), self._last_s)
        # Up to twice the longest wait, so that the wait still reaches it when jitter halves it.
        self._wait_s = min(2 * self._wait_s, 2 * self._last_s)
        return wait_s
