"""Reads many events for one answer: bounded in bytes, and in how many such answers are made at once."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from runstore.core.codec import RecordedEvent
from runstore.core.errors import TooLarge
from runstore.core.pages import pages
from runstore.core.ports import EventFilter, LogReader
from runstore.threads import WAIT_S, Threads

ROW_BYTES = 256  # bytes that a read event takes besides its data
READS = 2  # concurrent reads of all users: each takes a core for seconds, and several times its events' bytes

T = TypeVar("T")


class CountedReader:
    """Reads events of runs, up to a number of bytes in all.

    Args:
        limit: the limit's name in the error.
        what: what the events belong to.
    """

    def __init__(self, log: LogReader, max_bytes: int, *, limit: str, what: str) -> None:
        self._log = log
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._limit = limit
        self._what = what

    async def read(self, run_id: str, *, upto: int, only: EventFilter) -> list[RecordedEvent]:
        """All events of a run up to `upto`.

        Raises:
            RunPurged
            TooLarge: these and the earlier ones are larger than `max_bytes`.
        """
        events: list[RecordedEvent] = []
        async for page in pages(self._log, run_id, upto=upto, only=only):
            self._left -= sum(len(event.data) + ROW_BYTES for event in page)
            if self._left < 0:
                message = f"the events of {self._what} have more than {self._max_bytes:,} bytes"
                raise TooLarge(self._limit, message)
            events += page
        return events


class LargeReads:
    """Makes answers from many events, each in a thread with its own event loop: other requests continue."""

    def __init__(self) -> None:
        self._threads = Threads("runstore-reads", READS, share=READS - 1, wait_s=WAIT_S)

    async def call(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `read`, as soon as a thread is free.

        Raises:
            Busy: no thread was free in time.
        """
        context = copy_context()  # holds the user's name
        return await self._threads.call(lambda: context.run(asyncio.run, read()))
