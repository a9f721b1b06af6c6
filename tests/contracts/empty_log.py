"""An empty log of any kind."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from runstore.core.ports import EventLog
from runstore.feed.memory import MemoryFeed
from tests.contracts.memory_log import MemoryEventLog
from tests.kit.database import open_log_at
from tests.servers.databases import kept_database


@asynccontextmanager
async def empty_log(kind: str, folder: Path, feed: MemoryFeed) -> AsyncIterator[EventLog]:
    """A log that publishes to `feed`; `kind` is "memory" or one of FORMS."""
    with ExitStack() as stack:
        if kind == "memory":
            log: EventLog = MemoryEventLog(feed)
        else:
            log = open_log_at(stack.enter_context(kept_database(kind, folder)), feed)
        yield log
        await log.close()
