"""The audit log: all events of the database in order of position, up to the high-water mark."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, select

from runstore.core.audit import AuditItem, AuditQuery
from runstore.core.codec import RecordedEvent
from runstore.core.depth import decoded
from runstore.core.errors import UNAVAILABLE_RETRY_S, Busy, InvalidCursor, LogUnavailable
from runstore.core.ids import READS_OF_ALL, read_run_id
from runstore.core.ports import EventLog, LiveFeed
from runstore.database.database import Database
from runstore.database.keys import rows_with
from runstore.database.tables import runs
from runstore.eventlog.queries import last_position, read_first
from runstore.feed.tail import HEARTBEAT_S
from runstore.store.audit_reads import AuditReads
from runstore.store.known_runs import KnownRuns
from runstore.store.whole_log import read_matching

MAX_PAGE = 1_000  # events of one page
POLL_S = 0.25  # seconds between two polls for new events, shared by all followers
MAX_KNOWN_RUNS = 10_000  # runs whose user and agent are cached


class AuditPage(Struct, frozen=True):
    """Matching events. `upto`: the position up to which they are all; `more`: others may follow it now."""

    items: list[AuditItem]
    upto: int
    more: bool


class LogEnd:
    """The end of the log, polled once for all followers of this process, as long as it has any.

    Args:
        read: the position of the last event.
        closing: whether all followers should leave.
    """

    def __init__(self, read: Callable[[], Awaitable[int]], closing: Callable[[], bool]) -> None:
        self._read = read
        self._closing = closing
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._polling: asyncio.Task[None] | None = None

    async def wait_beyond(self, position: int, timeout_s: float) -> None:
        """Wait until there are later events, the process closes, or the time is over."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = position
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            await asyncio.wait([waiting], timeout=max(timeout_s, 0))
        finally:
            del self._waiting[waiting]

    async def _poll(self) -> None:
        while self._waiting:
            last = 0
            with suppress(LogUnavailable, Busy):  # the next poll finds the events
                last = await self._read()
            for waiting, position in self._waiting.items():
                if (last > position or self._closing()) and not waiting.done():
                    waiting.set_result(None)
            await asyncio.sleep(POLL_S)


class AuditLog:
    """Readers never pass the high-water mark: no event can appear behind one that they have got.

    Every method raises LogUnavailable while the database cannot be used.
    """

    def __init__(
        self, database: Database, log: EventLog, feed: LiveFeed, *, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self.reads = AuditReads(log)
        self._database = database
        self._feed = feed
        self._heartbeat_s = heartbeat_s
        self._known: KnownRuns[_Of] = KnownRuns(database, MAX_KNOWN_RUNS)
        self._end = LogEnd(partial(database.query, last_position), lambda: feed.closing)

    async def check(self, after: int) -> None:
        """Raises InvalidCursor if a cursor is ahead of the log."""
        if after > (last := await self._database.query(last_position)):
            raise InvalidCursor(f"the cursor {after} is ahead of the log, whose last position is {last}")

    async def page(self, query: AuditQuery, *, after: int, limit: int = MAX_PAGE) -> AuditPage:
        """The next matching events, up to `limit`; bounded in bytes and in the events examined for them.

        A page may be empty and still have more after it.

        Raises:
            Busy: too many searches run.
        """
        mark = await self._mark(after)
        if mark <= after:
            return AuditPage([], after, more=False)
        found = await self._database.query_list(read_matching, query, after, mark, limit)
        more = found.upto < mark or await self._database.query(last_position) > mark
        return AuditPage(await self._named(found.events), found.upto, more)

    async def all(self, query: AuditQuery, *, after: int, limit: int) -> AsyncIterator[list[AuditItem]]:
        """The matching events that are stored now, page by page."""
        last, left = await self._database.query(last_position), limit
        while left > 0 and after < last:
            page = await self.page(query, after=after, limit=min(left, MAX_PAGE))
            if page.items:
                yield page.items
            after, left = page.upto, left - len(page.items)
            if not page.more:
                return

    async def follow(self, query: AuditQuery, *, after: int) -> AsyncIterator[Sequence[AuditItem]]:
        """The matching events, then new ones as they come; an empty list after `heartbeat_s` without events.

        It stops when the feed closes. While the log cannot be read it idles.
        """
        loop = asyncio.get_running_loop()
        spoken = loop.time()
        while not self._feed.closing:
            try:
                page = await self.page(query, after=after)
            except (LogUnavailable, Busy):
                await asyncio.sleep(UNAVAILABLE_RETRY_S)
            else:
                if page.items:
                    yield page.items
                    spoken = loop.time()
                if not page.more:
                    await self._end.wait_beyond(page.upto, spoken + self._heartbeat_s - loop.time())
                elif page.upto == after:  # an earlier append is being committed
                    await asyncio.sleep(POLL_S)
                after = page.upto
            if loop.time() - spoken >= self._heartbeat_s:
                yield ()
                spoken = loop.time()

    async def _mark(self, after: int) -> int:
        mark = await self._database.high_water_mark(after)
        return mark if mark is not None else await self._database.query(last_position)

    async def _named(self, events: Sequence[RecordedEvent]) -> list[AuditItem]:
        if not events:
            return []
        known = await self._known.current()
        run_ids = [read_run_id(event.run_id) for event in events]
        if unknown := set(run_ids) - known.keys() - {_NO_RUN}:
            # A run that is not found is not cached: a rebuild of the run list may bring it back.
            known |= await self._database.query_past(_read_owners, sorted(unknown))
        owners = [known.get(run_id, _NOBODY) for run_id in run_ids]
        return [AuditItem(e, owner.user_id, owner.agent) for e, owner in zip(events, owners, strict=True)]


class _Of(Struct, frozen=True):
    """A run's user and agent, as its first event names them."""

    user_id: str = ""
    agent: str = ""


_NOBODY = _Of()
_NO_RUN = read_run_id(READS_OF_ALL)  # the searches of many runs are in a stream of their own
_read_of = msgspec.json.Decoder(_Of).decode


def _read_owners(connection: Connection, run_ids: Sequence[str]) -> dict[str, _Of]:
    named = select(runs.c.run_id, runs.c.user_id, runs.c.agent_name)
    rows = rows_with(connection, named, runs.c.run_id, run_ids)
    owners = {run_id: _Of(user_id, agent) for run_id, user_id, agent in rows}
    for run_id in run_ids:
        if run_id not in owners and (first := read_first(connection, run_id)) is not None:
            owners[run_id] = decoded(_read_of, first.data)  # the run list was dropped
    return owners
