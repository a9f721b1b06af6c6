"""Follows several runs as one stream, from the reader's cursor in each of them.

Runs take turns, and the next one is read only when the events of the one before have been taken: a slow
reader costs no more memory than a reader of one run.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress

from msgspec import Struct

from runstore.core.codec import TailEvent, to_json
from runstore.core.errors import (
    UNAVAILABLE_RETRY_S,
    Busy,
    InvalidCursor,
    LogUnavailable,
    RunPurged,
    RunstoreError,
)
from runstore.core.ports import LiveFeed, Subscription
from runstore.core.stream_cursors import StreamCursors
from runstore.core.times import now_ms
from runstore.feed.tail import Tail

FIND_STARTS_S = 2.0  # seconds between two searches for new runs, as other processes start some without notice

OPENED = "stream.opened"  # types of the stream's own events, whose seq is 0
GONE = "stream.gone"

FindStarts = Callable[[], Awaitable[None]]


class NewRuns:
    """Finds the new runs for a stream of all of a user's runs.

    Args:
        started: set when there may be new runs.
        find: adds them to the cursors.
    """

    def __init__(self, started: asyncio.Event, find: FindStarts) -> None:
        self.started = started
        self.find = find


class JoinedEvent(Struct, frozen=True, gc=False):
    """An event, and the cursors of a reader that has it."""

    cursors: str
    event: TailEvent


class _Reader:
    """One run of the stream, and its subscription to the live feed."""

    def __init__(self, tail: Tail, live: Subscription, close: Callable[[], None]) -> None:
        self.tail = tail
        self.live = live
        self.close = close


class JoinedTail:
    """A reader of several runs.

    Args:
        open_tail: follows one run after a seq.
        lost: the runs whose events were removed, and why; the reader gets an event for each.
        new_runs: for a stream without an end.
    """

    def __init__(
        self,
        feed: LiveFeed,
        cursors: StreamCursors,
        open_tail: Callable[[str, int], Tail],
        *,
        lost: dict[str, RunstoreError],
        new_runs: NewRuns | None = None,
        idle_s: float,
    ) -> None:
        self._feed = feed
        self._cursors = cursors
        self._open_tail = open_tail
        self._lost = lost
        self._new_runs = new_runs
        self._idle_s = idle_s
        self._ready: deque[_Reader] = deque()
        self._waiting: dict[asyncio.Task[bool], _Reader] = {}
        self._reading: _Reader | None = None  # the last one that was advanced
        self._followed: set[str] = set()
        self._refused = False

    async def events(self) -> AsyncIterator[Sequence[JoinedEvent]]:
        """As `Tail.events`. Stops when all runs have ended, if they were named, and when the feed closes."""
        looking: asyncio.Task[bool] | None = None
        spoken = time.monotonic()
        try:
            if self._new_runs is not None:
                yield self._notice("", OPENED, {})
            for run_id, error in self._lost.items():
                yield self._lose(run_id, error)
            self._follow_new()
            while not (self._feed.closing or self._refused):
                if self._new_runs is not None and looking is None:
                    looking = await self._look(self._new_runs)
                    self._follow_new()
                while self._ready and not self._feed.closing:
                    reader = self._reading = self._ready.popleft()
                    try:
                        events = await self._advance(reader)
                    except LogUnavailable:
                        self._ready.append(reader)
                        yield ()
                        await asyncio.sleep(UNAVAILABLE_RETRY_S)
                    else:
                        if events:
                            yield events
                            spoken = time.monotonic()
                if not self._waiting and looking is None:
                    return
                if looking in await self._news(looking):
                    looking = None
                if time.monotonic() - spoken >= self._idle_s:
                    yield ()
                    spoken = time.monotonic()
        finally:
            await self._close(looking)

    async def _look(self, new_runs: NewRuns) -> "asyncio.Task[bool]":
        """Search for new runs; return when another search may find more."""
        new_runs.started.clear()
        try:
            with suppress(LogUnavailable, Busy):  # the next search finds them
                await new_runs.find()
        except InvalidCursor:
            self._refused = True  # the error is reported to the reader's next request
        return asyncio.create_task(_set_within(new_runs.started, FIND_STARTS_S))

    def _follow_new(self) -> None:
        for run_id, seq in self._cursors.open().items():
            if run_id not in self._followed:
                stack = ExitStack()
                live = stack.enter_context(self._feed.subscribe(run_id))
                self._followed.add(run_id)
                self._ready.append(_Reader(self._open_tail(run_id, seq), live, stack.close))

    async def _advance(self, reader: _Reader) -> Sequence[JoinedEvent]:
        tail = reader.tail
        try:
            events = await tail.advance(reader.live)
        except RunPurged as error:
            reader.close()
            return self._lose(tail.run_id, error)
        joined = [self._join(event) for event in events or ()]
        if tail.missing:
            self._refused = True  # the error is reported to the reader's next request
        if tail.ended:
            reader.close()
            self._cursors.end(tail.run_id)
            if self._new_runs is not None:
                self._new_runs.started.set()  # there is room for a waiting run
        elif events is None:
            self._waiting[asyncio.create_task(reader.live.wait(self._idle_s))] = reader
        else:
            self._ready.append(reader)
        return joined

    async def _news(self, looking: "asyncio.Task[bool] | None") -> "set[asyncio.Task[bool]]":
        """Wait until a run has news, or there may be new runs."""
        tasks = [*self._waiting, *([looking] if looking is not None else [])]
        done, _ = await asyncio.wait(tasks, timeout=self._idle_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done & self._waiting.keys():
            reader = self._waiting.pop(task)
            if not task.result():
                reader.tail.recheck_log()
            self._ready.append(reader)
        return done

    def _join(self, event: TailEvent) -> JoinedEvent:
        self._cursors.move(event.run_id, event.seq)
        return JoinedEvent(self._cursors.text, event)

    def _lose(self, run_id: str, error: RunstoreError) -> Sequence[JoinedEvent]:
        self._cursors.lose(run_id)
        return self._notice(run_id, GONE, {"code": error.code, "message": str(error)})

    def _notice(self, run_id: str, type: str, data: dict[str, str]) -> Sequence[JoinedEvent]:
        return [JoinedEvent(self._cursors.text, TailEvent(run_id, 0, type, False, now_ms(), to_json(data)))]

    async def _close(self, looking: "asyncio.Task[bool] | None") -> None:
        tasks = [*self._waiting, *([looking] if looking is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for reader in (*self._ready, *self._waiting.values(), self._reading):
            if reader is not None:
                reader.close()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
