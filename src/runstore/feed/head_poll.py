"""Polls the heads of all followed runs, to find events without a wake-up.

Without Redis this is how readers learn of another process's events; with it, polling covers lost messages.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

import structlog

from runstore.core.errors import LogUnavailable
from runstore.feed.memory import MemoryFeed

log = structlog.get_logger(__name__)


class HeadPoll:
    """Polls while it is entered. The log is not queried while no run is followed.

    Args:
        last_seqs: the last seq of each of these runs, in one query; see `read_last_seqs`.
        every_s: seconds between two polls.
    """

    def __init__(
        self,
        feed: MemoryFeed,
        last_seqs: Callable[[Sequence[str]], Awaitable[Mapping[str, int]]],
        *,
        every_s: float,
    ) -> None:
        self._feed = feed
        self._last_seqs = last_seqs
        self._every_s = every_s

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._poll())
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            followed = self._feed.followed_runs()
            try:
                if followed:
                    self._feed.notice(await self._last_seqs(followed))
            except LogUnavailable:
                pass  # the writer reports it, and readers wait for the log anyway
            except Exception:
                log.exception("poll_failed")
