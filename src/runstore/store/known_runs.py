"""Caches facts about runs until the next purge by any process.

A purge or an erasure may replace the names of a run, and a person who was erased must not be named again.
"""

import time
from typing import Generic, TypeVar

from runstore.database.database import Database
from runstore.eventlog.queries import read_purges

T = TypeVar("T")


class KnownRuns(Generic[T]):
    """The facts by run id.

    Args:
        most: runs that are cached; one more begins an empty cache.
        trust_s: seconds from one look for purges to the next; 0: each call of `current` looks.
    """

    def __init__(self, database: Database, most: int, *, trust_s: float = 0) -> None:
        self._database = database
        self._most = most
        self._trust_s = trust_s
        self._looked_at: float | None = None
        self._purges = -1  # none is known yet
        self._known: dict[str, T] = {}

    async def current(self) -> dict[str, T]:
        """The cache. It is emptied when a check finds a new purge.

        Add to it only facts that were read after this call. A purge begins a new dictionary; concurrent
        callers keep the old one.

        Raises:
            LogUnavailable
        """
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= self._trust_s:
            self._looked_at = now
            purges = await self._database.query(read_purges)
            if purges != self._purges:
                self._purges, self._known = purges, {}
        if len(self._known) >= self._most:
            self._known = {}
        return self._known

    @property
    def unchecked(self) -> dict[str, T]:
        """The cache as it was at the last look, for a time in which the database does not answer."""
        return self._known
