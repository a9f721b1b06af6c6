"""Reads from a replica of the database, which are never older than what the primary had flushed before."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from runstore.core.backoff import Backoff
from runstore.core.errors import ConfigError, LogUnavailable
from runstore.database.dialects import Replicated

CATCH_UP_S = 0.1  # seconds to wait for the replica to catch up; then the primary answers
REPLAY_POLL_S = 0.005  # seconds between two checks of how far it is
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0  # seconds without reads of a replica that is lost, behind or slow

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Unanswered(Exception):
    """The replica is lost, behind or not a replica of this database: read from the primary."""


class Replica:
    """A read replica and its primary. Safe to use from several threads.

    While the replica is lost, one read at a time tries it; the others go to the primary at once. After a
    small read that meets the statement timeout, small reads go to the primary for a time; the others do not.

    `answered` and `fallbacks` count the reads that the replica answered, and those that it could not.
    """

    def __init__(self, primary: Replicated, replica: Replicated) -> None:
        self.answered = 0
        self.fallbacks = 0
        self.usable = True
        self._primary = primary
        self._replica = replica
        self._not_before = 0.0
        self._backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        self._no_small_before = 0.0
        self._small_backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        self._lock = threading.Lock()
        self._trying = threading.Lock()  # held by the read that tries a lost replica

    def read(self, function: Callable[[Connection], T], *, is_small: bool = False) -> T:
        """Read from the replica, once it has all that the primary has flushed now.

        That is every acknowledged event. Asynchronous projections commit without waiting for the disk, so
        their last rows may be missing for less than a second.

        Args:
            is_small: the primary may answer within the statement timeout what the replica does not; otherwise
                the read is too large for the primary as well.

        Raises:
            Unanswered: the primary has to be read.
        """
        if is_small and time.monotonic() < self._no_small_before:
            raise self._passed_by()
        if self.usable:
            return self._read(function, tries=False, is_small=is_small)
        if not self._trying.acquire(blocking=False):
            raise self._passed_by()
        try:
            if time.monotonic() < self._not_before:
                raise self._passed_by()
            return self._read(function, tries=True, is_small=is_small)
        finally:
            self._trying.release()

    def _read(self, function: Callable[[Connection], T], *, tries: bool, is_small: bool) -> T:
        try:
            with self._primary.engine.connect() as connection:
                written = self._primary.written(connection)
        except Exception as error:  # the primary's, whose own path retries or reports it
            raise self._passed_by() from error
        reached = False
        try:
            with self._replica.engine.connect() as connection, ExitStack() as reading:
                with self._replica.hurrying(connection):
                    reading.enter_context(self._replica.answering(connection))
                    self._wait_for(connection, written)
                reached = True
                self._found()
                found = function(connection)
        except Exception as error:
            if reached and self._replica.is_timeout(error):
                if is_small:
                    with self._lock:
                        self._no_small_before = time.monotonic() + self._small_backoff.next_s()
                    raise self._passed_by() from error
                raise  # the primary would take as long
            trouble = self._replica.unavailable(error)
            if reached and trouble is None and not self._is_the_replicas(error):
                raise
            self._fall_back(trouble or error, tries=tries)
            raise Unanswered from error
        with self._lock:
            self.answered += 1
            self._backoff.reset()
            if is_small:
                self._small_backoff.reset()
        return found

    def close(self) -> None:
        self._replica.close()

    def _wait_for(self, connection: Connection, written: str) -> None:
        end = time.monotonic() + CATCH_UP_S
        while not self._replica.replayed(connection, written):
            if time.monotonic() >= end:
                raise Unanswered(f"it is behind {written}")
            time.sleep(REPLAY_POLL_S)

    def _is_the_replicas(self, error: Exception) -> bool:
        """Whether the primary may answer; a replica also cancels reads of rows that it has to remove."""
        return isinstance(error, Unanswered | ConfigError) or self._replica.is_conflict(error)

    def _found(self) -> None:
        with self._lock:
            if not self.usable:
                self.usable = True
                log.info("replica_back", replica=self._replica.location)

    def _passed_by(self) -> Unanswered:
        with self._lock:
            self.fallbacks += 1
        return Unanswered()

    def _fall_back(self, error: Exception | LogUnavailable, *, tries: bool) -> None:
        with self._lock:
            self.fallbacks += 1
            if self.usable or tries:  # otherwise another read has already noticed the outage
                self._not_before = time.monotonic() + self._backoff.next_s()
            if self.usable:
                self.usable = False
                log.warning(
                    "replica_lost", replica=self._replica.location, error=str(error),
                    effect="the primary answers its reads",
                )  # fmt: skip
