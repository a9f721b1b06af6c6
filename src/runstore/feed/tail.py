"""Follows a run: catches up from the log, then reads live from the feed.

A reader is a cursor, not a queue: a slow one falls behind and reads the log again, at no cost to others. The
order of steps leaves no gap: register for news, note the end of the history, replay it, go live.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Self

from runstore.core.codec import TailEvent
from runstore.core.errors import UNAVAILABLE_RETRY_S, LogUnavailable, RunPurged
from runstore.core.ports import EventFilter, LiveFeed, LogReader, Subscription
from runstore.feed.shared_reads import Page, SharedReads

TICKS = 60  # heartbeats fall on 60ths of their interval, so that idle readers share one read of the log
HEARTBEAT_S = 15.0  # seconds without an event until a heartbeat; many proxies cut a stream after 60 s


class Tail:
    """A cursor over one run. `reads`: of the log, which several tails may share."""

    def __init__(
        self,
        log: LogReader,
        feed: LiveFeed,
        run_id: str,
        *,
        after: int,
        only: EventFilter | None = None,
        idle_s: float = HEARTBEAT_S,
        reads: SharedReads | None = None,
    ) -> None:
        self._reads = reads or SharedReads(log)
        self._feed = feed
        self.run_id = run_id
        self._cursor = after
        self._only = only
        self._idle_s = idle_s
        self._history = -1  # replay up to here, then go live; -1: unknown yet
        self._live: Subscription | None = None  # set before the start if the reader starts the run
        self.ended = False  # the terminal event was read, or nothing can follow
        self.missing = False  # the run does not exist, or it ends before the cursor
        self.purged = False  # the run's events were removed; the reader may lack some

    @contextmanager
    def before_its_run(self) -> Iterator[Self]:
        """Subscribe before the run exists: the feed then has all of its events, and nothing is replayed.

        The run must be stored before `events` is called, and this context may close after its end.
        """
        with self._feed.subscribe(self.run_id) as self._live:
            self._history = self._cursor
            yield self

    async def events(self) -> AsyncIterator[Sequence[TailEvent]]:
        """Yield the events with `seq > after` as they come; an empty list after at most `idle_s` without any.

        Stops after the terminal event, when the feed closes, and when the run does not exist, ends before
        `after`, or was purged; a new request gets the error. While the log cannot be read it idles.
        """
        subscribed = nullcontext(self._live) if self._live else self._feed.subscribe(self.run_id)
        with subscribed as live:
            while not (self.ended or self.purged or self._feed.closing):
                try:
                    events = await self.advance(live)
                    if events:
                        yield events
                    elif events is None and not await live.wait(_until_tick(self._idle_s)):
                        yield ()
                        self.recheck_log()
                except RunPurged:
                    self.purged = True
                except LogUnavailable:
                    yield ()
                    await asyncio.sleep(UNAVAILABLE_RETRY_S)

    async def advance(self, live: Subscription) -> Sequence[TailEvent] | None:
        """One step: the events that it finds; None if it must wait for news.

        Raises:
            RunPurged, LogUnavailable
        """
        if self._history < 0:
            await self._find_history()
        elif self._cursor < self._history:
            return await self._replay(live)
        elif (events := live.take(self._cursor)) is None:  # the feed no longer has all of them
            await self._find_history()
            if self._history <= self._cursor:
                live.correct(self._history)
        else:
            return self._pass(events) if events else None
        return ()

    def recheck_log(self) -> None:
        """Check the log: a wake-up may have been lost, or another process may have written."""
        self._history = -1

    async def _find_history(self) -> None:
        head = await self._reads.head(self.run_id)
        if head is None or self._cursor > head.seq:
            self.ended = self.missing = True
            return
        if head.purged:
            raise RunPurged(self.run_id)
        self._history = head.seq - head.deleted  # the stream ends before a deletion marker
        self.ended = head.closed and self._cursor >= self._history

    async def _replay(self, live: Subscription) -> Sequence[TailEvent]:
        page = await self._reads.page(
            Page(self.run_id, self._cursor, self._history, self._only, live.generation)
        )
        if page:
            self._cursor, self.ended = page[-1].seq, page[-1].ends
        else:
            self._cursor = self._history
        return page

    def _pass(self, events: Sequence[TailEvent]) -> Sequence[TailEvent]:
        self._cursor, self.ended = events[-1].seq, events[-1].ends
        only = self._only
        return events if only is None else [e for e in events if only.passes(e.type, e.ends)]


def _until_tick(idle_s: float) -> float:
    """Seconds until the last tick within `idle_s`. Readers that look at the log at once share the read."""
    end = asyncio.get_running_loop().time() + idle_s
    return idle_s - end % (idle_s / TICKS) if idle_s else 0


async def wait_until_ended(log: LogReader, feed: LiveFeed, run_id: str, *, timeout_s: float) -> None:
    """Return when the run has ended, or after `timeout_s`."""
    head = await log.head(run_id)
    if head is None or head.closed:
        return
    endings = Tail(log, feed, run_id, after=head.seq, only=EventFilter())
    try:
        async with asyncio.timeout(timeout_s):
            async for _ in endings.events():
                pass
    except TimeoutError:
        pass
