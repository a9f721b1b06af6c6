"""Notifies those who follow all of a user's runs of new ones."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from runstore.core.events import Queued
from runstore.core.ports import Committed, LiveFeed
from runstore.core.run import owner_of


class Starts:
    """Notifies when a user has started a run. This is a hint; readers must also poll."""

    def __init__(self, feed: LiveFeed) -> None:
        self._lock = threading.Lock()
        self._watches: dict[str, dict[asyncio.Event, asyncio.AbstractEventLoop]] = {}
        feed.listen(self._hear)

    @contextmanager
    def watch(self, user_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at each start of this user's."""
        started = asyncio.Event()
        with self._lock:
            self._watches.setdefault(user_id, {})[started] = asyncio.get_running_loop()
        try:
            yield started
        finally:
            with self._lock:
                del self._watches[user_id][started]
                if not self._watches[user_id]:
                    del self._watches[user_id]

    def _hear(self, commit: Committed) -> None:
        if not self._watches:
            return
        for event in commit.events:
            if event.type == Queued.type:
                with self._lock:
                    watches = dict(self._watches.get(owner_of(event).user_id, {}))
                for started, loop in watches.items():
                    with suppress(RuntimeError):  # the loop is closed, and so are its readers
                        loop.call_soon_threadsafe(started.set)
