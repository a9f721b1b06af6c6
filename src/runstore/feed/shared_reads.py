"""Reads of a run's history that its readers share, since many come back at once after a restart.

A read in progress may have begun before a reader registered for news. So a reader of the head joins a read
that has yet to begin. Readers that found the same head get the same pages, whose events keep their frames.
No page outlives a redaction: it appends to the run, so that a later reader finds another head, and readers in
the middle of the history see another generation.
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from msgspec import Struct

from runstore.core.codec import TailEvent
from runstore.core.ports import EventFilter, Head, LogReader

PAGE_EVENTS = 1_000
PAGE_S = 2.0  # seconds that a page is kept, also for those who read a run while it is purged
MAX_PAGES = 16  # pages of all runs, of at most 256 KiB of data each and one large event


class Page(Struct, frozen=True):
    """The run's events with `after < seq <= upto`, at most PAGE_EVENTS.

    `upto`: the head that its reader found. `generation`: of its subscription.
    """

    run_id: str
    after: int
    upto: int
    only: EventFilter | None
    generation: int


class SharedReads:
    """Reads the log for the tails of a process. The coroutines may be called from any event loop."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._heads: dict[Any, asyncio.Task[Head | None]] = {}  # reads that have yet to begin
        self._reading = WeakValueDictionary[Any, asyncio.Lock]()
        self._pages: dict[Any, asyncio.Task[Sequence[TailEvent]]] = {}

    async def head(self, run_id: str) -> Head | None:
        """The run's head, read after this call began. Raises LogUnavailable."""
        loop = asyncio.get_running_loop()
        key = loop, run_id
        task = self._heads.get(key)
        if task is None:
            task = self._heads[key] = loop.create_task(self._read_head(key, run_id))
            task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    async def page(self, page: Page) -> Sequence[TailEvent]:
        """Its events. Only an empty page means that no more exist.

        Raises:
            RunPurged, LogUnavailable
        """
        loop = asyncio.get_running_loop()
        key = loop, page
        task = self._pages.get(key)
        if task is None:
            if len(self._pages) >= MAX_PAGES:
                self._pages.pop(next(iter(self._pages)), None)
            task = self._pages[key] = loop.create_task(self._read_page(page))
            task.add_done_callback(lambda done: self._keep(loop, key, done))
        return await asyncio.shield(task)

    async def _read_head(self, key: Any, run_id: str) -> Head | None:
        async with self._reading.setdefault(key, asyncio.Lock()):
            del self._heads[key]
            return await self._log.head(run_id)

    async def _read_page(self, page: Page) -> Sequence[TailEvent]:
        read = await self._log.read(
            page.run_id,
            after=page.after,
            upto=page.upto,
            limit=PAGE_EVENTS,
            only=page.only,
            from_replica=True,
        )
        return [TailEvent(e.run_id, e.seq, e.type, e.ends, e.at, e.data, e.version) for e in read]

    def _keep(
        self, loop: asyncio.AbstractEventLoop, key: Any, task: "asyncio.Task[Sequence[TailEvent]]"
    ) -> None:
        kept_s = 0.0 if task.cancelled() or task.exception() else PAGE_S
        loop.call_later(kept_s, self._forget, key, task)

    def _forget(self, key: Any, task: "asyncio.Task[Sequence[TailEvent]]") -> None:
        if self._pages.get(key) is task:
            del self._pages[key]


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Its readers may all have gone: asyncio would log an exception that no reader retrieved."""
    if not task.cancelled():
        task.exception()
