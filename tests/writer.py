"""A writer that is held, so that whatever is appended meanwhile queues up."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from runstore.core.ports import Committed, EventLog, LiveFeed
from tests.events import start_run
from tests.polling import DEADLINE_S


@asynccontextmanager
async def held_writer(log: EventLog, feed: LiveFeed) -> AsyncIterator[None]:
    """Hold the log's only writer where it tells the feed of a run that nobody else looks at."""
    publish = feed.publish
    held, go_on = threading.Event(), threading.Event()

    def hold(commits: Sequence[Committed]) -> None:
        publish(commits)
        held.set()
        assert go_on.wait(DEADLINE_S)

    feed.publish = hold  # type: ignore[method-assign]
    bystander = asyncio.create_task(start_run(log))
    try:
        assert await asyncio.to_thread(held.wait, DEADLINE_S)
        yield
    finally:
        feed.publish = publish  # type: ignore[method-assign]
        go_on.set()
        await bystander
