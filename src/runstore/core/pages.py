"""Reads a run's events to the end, page by page."""

import sys
from collections.abc import AsyncIterator

from runstore.core.codec import RecordedEvent
from runstore.core.ports import EventFilter, LogReader

PAGE_EVENTS = 1_000


async def pages(
    log: LogReader,
    run_id: str,
    *,
    after: int = 0,
    upto: int | None = None,
    limit: int = sys.maxsize,
    only: EventFilter | None = None,
    from_replica: bool = False,
) -> AsyncIterator[list[RecordedEvent]]:
    """The run's events that are stored so far, in order. The arguments are those of `LogReader.read`.

    Args:
        limit: events of all pages.

    Raises:
        RunPurged
    """
    left = limit
    while left and (
        page := await log.read(
            run_id, after=after, upto=upto, limit=min(left, PAGE_EVENTS), only=only, from_replica=from_replica
        )
    ):
        yield page
        after, left = page[-1].seq, left - len(page)
