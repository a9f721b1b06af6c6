"""How long and how often to retry. The clock and the random numbers come in from outside."""

import random
import time
from collections.abc import Callable

from runstore.client.errors import ClientError
from runstore.core.backoff import Backoff

FIRST_WAIT_S = 0.1  # seconds before the second try; doubled before each later one
MAX_WAIT_S = 5.0  # seconds between two tries, even if the server asks for more
RETRY_S = 60.0  # seconds without an answer before a client gives up, by default


class Patience:
    """Counts failures in a row.

    Args:
        retry_s: seconds to retry, from the first failure; 0 never retries.
    """

    def __init__(
        self,
        retry_s: float,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._retry_s = retry_s
        self._clock = clock
        self._backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S, dice)
        self._since: float | None = None

    def alive(self) -> None:
        """The server answers: restart the retry time, but keep the back-off."""
        self._since = None

    def progress(self) -> None:
        """An event or an answer arrived: restart the retry time and the back-off."""
        self._since = None
        self._backoff.reset()

    def wait_s(self, error: ClientError, asked_s: float = 0) -> float:
        """Seconds to wait after `error`; at least `asked_s`, which the server asked for, up to MAX_WAIT_S.

        Raises:
            ClientError: `error` itself, when the retry time is over.
        """
        now = self._clock()
        self._since = now if self._since is None else self._since
        wait_s = max(self._backoff.next_s(), min(asked_s, MAX_WAIT_S))
        if now + wait_s - self._since > self._retry_s:
            raise error
        return wait_s
