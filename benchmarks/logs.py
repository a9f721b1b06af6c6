"""A log of the benchmark's own process, and what producers do to it."""

import asyncio
import sys
import time
from collections.abc import Sequence

from benchmarks.drivers import TOKEN
from runstore.core.codec import encode
from runstore.core.events import Queued, Started
from runstore.core.ids import new_run_id
from runstore.database.opening import open_database
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.projections.runs import RunList
from runstore.runtime.interpreter import GIL_SWITCH_S


class Log:
    """A log with the run list, as a server has it."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> "Log":
        sys.setswitchinterval(GIL_SWITCH_S)
        self.database = open_database(self._url, statement_timeout=True)
        self.log = SqlEventLog(self.database, MemoryFeed(), [RunList()])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.log.close()
        await self.database.close()

    async def begin(self) -> str:
        run_id = new_run_id()
        queued = Queued(agent="demo", user_id="bench", input="")
        started = Started(worker_id="bench", attempt=1, reason="claimed")
        await self.log.append(run_id, [queued, started], expected_seq=0, patient=True)
        return run_id

    async def append(self, run_id: str, count: int) -> None:
        """A batch of tokens, until it is committed. An append holds 1,000: two are committed together."""
        if count <= 1_000:
            await self.log.append(run_id, [TOKEN] * count, attempt=1)
            return
        parts = [count // 2, count - count // 2]
        await asyncio.gather(*(self.log.append(run_id, [TOKEN] * part, attempt=1) for part in parts))

    async def stream(self, run_ids: Sequence[str], events: int) -> float:
        """Tokens of all runs at once, as agents say them; seconds until the last is committed."""
        start = time.perf_counter()
        await asyncio.gather(*(self._produce(run_id, events // len(run_ids)) for run_id in run_ids))
        await asyncio.gather(*(self.log.append(r, [TOKEN], attempt=1, patient=True) for r in run_ids))
        return time.perf_counter() - start

    async def _produce(self, run_id: str, events: int) -> None:
        for number in range(events):
            while not self.log.offer(run_id, encode(TOKEN), attempt=1, refused=print):
                await self.log.room(run_id)
            if number % 32 == 0:
                await asyncio.sleep(0)
