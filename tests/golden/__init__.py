"""Logs that old releases wrote, and what they showed of them."""

from pathlib import Path
from typing import Any

import msgspec

from runstore.core.run import fold
from runstore.eventlog.queries import read_evolving
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native

FOLDER = Path(__file__).parent
RELEASES = sorted(path.parent.name for path in FOLDER.glob("*/log.sql"))


async def run_ids(log: SqlEventLog) -> list[str]:
    return sorted({event.run_id for event in await log.read_all(limit=10_000)})


async def read_streams(log: SqlEventLog, feed: MemoryFeed) -> bytes:
    """Every run's stream up to where it stands, one after the other."""
    streams = []
    for run_id in await run_ids(log):
        async for body in native(Tail(log, feed, run_id, after=0, idle_s=0)):
            if not body:
                break  # an open run, which has no more to say
            streams.append(body)
    return b"".join(streams)


async def read_states(log: SqlEventLog) -> list[dict[str, Any]]:
    states = [fold(run_id, await log.database.query(read_evolving, run_id)) for run_id in await run_ids(log)]
    return [msgspec.to_builtins(state) for state in states]
