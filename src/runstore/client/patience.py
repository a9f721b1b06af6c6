"""How long to try again, and how often. Pure but for the clock and the dice, which come in from outside."""

import random
import time
from collections.abc import Callable

from runstore.client.errors import ClientError

FIRST_WAIT_S = 0.1  # before the second try, doubled before each one after it
MAX_WAIT_S = 5.0  # between two tries, also when the server asks for more
RETRY_S = 60.0  # unless a client says otherwise: how long it tries without an answer


class Patience:
    """Counts failures in a row. `retry_s`: from the first of them, how long to try again; 0: never."""

    def __init__(
        self,
        retry_s: float,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._retry_s = retry_s
        self._clock = clock
        self._dice = dice
        self._tries = 0
        self._since: float | None = None

    def alive(self) -> None:
        """The server answers: it has all the time again, but is not asked more often."""
        self._since = None

    def progress(self) -> None:
        """Something has come of it: start over."""
        self._since, self._tries = None, 0

    def wait_s(self, error: ClientError, asked_s: float = 0) -> float:
        """How long to wait after `error`; `asked_s`: what the server asked for.

        Raises:
            ClientError: `error`, since the time is over.
        """
        now = self._clock()
        self._since = now if self._since is None else self._since
        doubled: float = FIRST_WAIT_S * 2 ** min(self._tries, 10)
        self._tries += 1
        wait_s = min(max(doubled * (0.5 + self._dice() / 2), asked_s), MAX_WAIT_S)
        if now + wait_s - self._since > self._retry_s:
            raise error
        return wait_s
