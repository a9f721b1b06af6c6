"""The state of Redis: logs when it is lost and when it is back, and spaces the retries."""

import random
import threading
import time

import structlog

from runstore.core.backoff import Backoff

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0  # seconds between two tries while Redis is lost
SETTLED_S = 1.0  # seconds without an error before Redis counts as recovered

log = structlog.get_logger(__name__)


class RedisHealth:
    """Whether Redis works for each of its users, the publisher and the reader.

    `reconnects` counts recoveries.
    """

    def __init__(self) -> None:
        self.reconnects = 0
        self._lock = threading.Lock()
        self._well: set[str] = set()
        self._failed_at: dict[str, float] = {}

    @property
    def connected(self) -> bool:
        """Whether the last use of Redis succeeded for every user that has tried."""
        return bool(self._well) and not self._failed_at

    def failed(self, user: str) -> bool:
        """Whether Redis is currently lost to this user."""
        return user in self._failed_at

    def lost(self, user: str, error: object) -> None:
        with self._lock:
            if not self._failed_at:
                effect = "other processes' events come late"
                log.warning("redis_lost", part=user, error=str(error), effect=effect)
            self._well.discard(user)
            self._failed_at[user] = time.monotonic()

    def well(self, user: str) -> None:
        """Record a success. Redis counts as recovered only after SETTLED_S without an error."""
        if user in self._well:
            return
        with self._lock:
            failed_at = self._failed_at.get(user)
            if failed_at is not None:
                if time.monotonic() < failed_at + SETTLED_S:
                    return
                del self._failed_at[user]
                self.reconnects += 1
                if not self._failed_at:
                    log.info("redis_back")
            self._well.add(user)


def retries() -> Backoff:
    """The waits of one user of Redis while it is lost."""
    return Backoff(FIRST_RETRY_S, LAST_RETRY_S, random.random)
