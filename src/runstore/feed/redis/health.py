"""How Redis does: said once when it is lost and once when it is back, and how long to wait in between."""

import threading
import time

import structlog
from redis.backoff import ExponentialWithJitterBackoff

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0  # between two tries while Redis is lost
MAX_DOUBLINGS = 10  # of the first of them, before the last counts
SETTLED_S = 1.0  # without an error, after which Redis is back

log = structlog.get_logger(__name__)


class RedisHealth:
    """Whether Redis does what it is asked, by each of those who ask. `reconnects`: how often it came back."""

    def __init__(self) -> None:
        self.reconnects = 0
        self._lock = threading.Lock()
        self._well: set[str] = set()
        self._failed_at: dict[str, float] = {}

    @property
    def connected(self) -> bool:
        """Whether everyone who has asked Redis found it well the last time."""
        return bool(self._well) and not self._failed_at

    def failed(self, user: str) -> bool:
        """Whether Redis is lost to this user."""
        return user in self._failed_at

    def lost(self, user: str, error: object) -> None:
        with self._lock:
            if not self._failed_at:
                log.warning("redis_lost", error=str(error), effect="other processes' events come late")
            self._well.discard(user)
            self._failed_at[user] = time.monotonic()

    def well(self, user: str) -> None:
        """It did what it was asked now."""
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


class Backoff:
    """How long to wait before the next try; not at all once `stopping` is set."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._backoff = ExponentialWithJitterBackoff(LAST_RETRY_S, FIRST_RETRY_S)
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def wait(self) -> None:
        self._failures = min(self._failures + 1, MAX_DOUBLINGS)
        self._stopping.wait(self._backoff.compute(self._failures))
