"""Reads a run as steps, from its log."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from runstore.core.codec import RecordedEvent
from runstore.core.folds.step_fold import STREAMED, STRUCTURE, StepFold
from runstore.core.ports import EventFilter
from runstore.core.records import record_of
from runstore.threads import Threads

MAX_FOLDED = 20_000  # events without streamed text that one answer folds, some 0.5 s of work
MAX_FOLDED_BYTES = 16 << 20  # bytes of their data; the event that crosses it is the last
MAX_TEXT = 20_000  # pieces of streamed text that one answer reads
PAGE = 1_000  # events of one query

ReadEvents = Callable[..., Awaitable[list[RecordedEvent]]]
ReadPage = Callable[..., list[RecordedEvent]]
T = TypeVar("T")


class FoldedSteps(Struct):
    """A run's steps as of a seq. `after`: events up to it are left out; `upto`: the last folded event.

    `next`: the seq after which there are further events that were not folded; None without any.
    `unread`: the seqs between which streamed text was not read.
    """

    fold: StepFold
    after: int
    upto: int
    next: int | None
    unread: tuple[int, int] | None = None


class StepReader:
    """Reads runs as steps, in a thread: a request keeps its thread from the first event to the answer.

    Args:
        read: a page of a run's events, as `RunStore.events` does.
        threads: their number limits the concurrent reads.
    """

    def __init__(self, read: ReadEvents, threads: Threads) -> None:
        self._read = read
        self._threads = threads

    async def call(self, work: Callable[[ReadPage], T]) -> T:
        """Call `work` with a blocking `read`, as soon as a thread is free; return its result.

        Raises:
            RunPurged
            Busy: no thread was free in time.
        """
        loop, context = asyncio.get_running_loop(), copy_context()

        def read(*run_id: str, **wanted: Any) -> list[RecordedEvent]:
            asked = partial(asyncio.run_coroutine_threadsafe, self._page(*run_id, **wanted), loop)
            return context.run(asked).result()

        return await self._threads.call(work, read)

    async def _page(self, *run_id: str, **wanted: Any) -> list[RecordedEvent]:
        return await self._read(*run_id, **wanted)


def read_steps(read: ReadPage, run_id: str, *, after: int, at: int, limit: int) -> FoldedSteps:
    """Fold the events of a run after a seq and up to `at`.

    Folds no more than `limit` events without streamed text, and MAX_FOLDED_BYTES of them.

    Raises:
        RunPurged
    """
    known, cut = _read(read, run_id, after, at, limit, STRUCTURE)
    upto = at if cut is None else cut
    fold = _folded(known, after == 0)
    unsaid, unread = max(fold.unsaid, after), None
    if cut is None and unsaid < upto:
        text, end = _read(read, run_id, unsaid, upto, MAX_TEXT, STREAMED)
        text = [event for event in text if event.type in STREAMED.types]
        unread = None if end is None else (end, upto)
        if text:
            fold = _folded(sorted([*known, *text], key=lambda event: event.seq), after == 0)
    return FoldedSteps(fold, after, upto, cut, unread)


def _read(
    read: ReadPage, run_id: str, after: int, upto: int, limit: int, only: EventFilter
) -> tuple[list[RecordedEvent], int | None]:
    """Events, and the seq of the last one if there are more than `limit` or than MAX_FOLDED_BYTES."""
    found: list[RecordedEvent] = []
    left = MAX_FOLDED_BYTES
    while len(found) < limit and left > 0:
        page = read(run_id, after=after, upto=upto, limit=min(PAGE, limit - len(found)), only=only)
        if not page:
            return found, None
        found += page
        left -= sum(len(event.data) for event in page)
        after = page[-1].seq
    more = read(run_id, after=after, upto=upto, limit=1, only=only)
    return found, after if more else None


def _folded(events: list[RecordedEvent], whole: bool) -> StepFold:
    fold = StepFold(whole=whole).add_all(map(record_of, events))
    fold.settle()
    return fold
