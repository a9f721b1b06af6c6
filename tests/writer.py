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
    let_go: list[bool] = []

    def hold(commits: Sequence[Committed]) -> None:
        publish(commits)
        held.set()
        let_go.append(go_on.wait(DEADLINE_S))  # the writer would swallow a failed assertion

    feed.publish = hold  # type: ignore[method-assign]
    bystander = asyncio.create_task(start_run(log))
    try:
        assert await asyncio.to_thread(held.wait, DEADLINE_S)
        yield
    finally:
        feed.publish = publish  # type: ignore[method-assign]
        go_on.set()
        await bystander
        assert all(let_go), "the writer was held for longer than the test waits"
