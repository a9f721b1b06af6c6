"""The log in a SQL database."""

from collections.abc import Awaitable, Collection, Sequence

from runstore.core.codec import RecordedEvent
from runstore.core.errors import RunstoreError
from runstore.core.ports import EventFilter, Head, OpenRun, Publisher
from runstore.database.database import Database
from runstore.eventlog.metered import LogCounts, MeteredFeed, MeteredStore
from runstore.eventlog.queries import read_all, read_head, read_open_attempts, read_run, read_session_runs
from runstore.eventlog.rules.control import read_expired, read_open_runs, read_runs_of, read_workers
from runstore.eventlog.sql_store import InlineProjection, SqlStore
from runstore.eventlog.writer import Writer

LONG_READ = 1_000  # a read of at least this many events asks how far the replica is


class SqlEventLog:
    """The port `RunLog` over a database, which must stay open until the log is closed."""

    def __init__(
        self, database: Database, feed: Publisher, projections: Sequence[InlineProjection] = ()
    ) -> None:
        self.database = database
        self.counts = LogCounts()
        store = MeteredStore(SqlStore(database, projections), self.counts)
        self._writer = Writer(store, MeteredFeed(feed, self.counts))
        self.append = self._writer.append
        self.offer = self._writer.offer
        self.close = self._writer.close

    @property
    def unavailable(self) -> RunstoreError | None:
        """Why the log accepts no writes now; None if it does."""
        return self._writer.unavailable

    @property
    def waiting(self) -> tuple[int, int]:
        """The events waiting to be committed, and their bytes."""
        return self._writer.waiting

    def room(self, run_id: str) -> Awaitable[None]:
        return self._writer.room()

    async def head(self, run_id: str) -> Head | None:
        return await self.database.query(read_head, run_id)

    async def read(
        self,
        run_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
        only: EventFilter | None = None,
        from_replica: bool = False,
    ) -> list[RecordedEvent]:
        if from_replica and (upto is None or upto - after >= LONG_READ):
            page = await self.database.query_past(read_run, run_id, after, upto, limit, only)
            if page or upto is None or only is not None:
                return page
            # The log has events up to `upto`: an empty page is the replica's mistake.
        return await self.database.query_history(read_run, run_id, after, upto, limit, only)

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        """A page of all runs' events after a `position`; no event appears below a position that was read.

        A run that is being purged may appear in part; its `run.purged` follows and summarises it.
        """
        upto = await self.database.high_water_mark(after)
        return await self.database.query_past(read_all, after, upto, limit)

    async def open_runs(self, *, limit: int = 2_000, exclude_workers: Collection[str] = ()) -> list[OpenRun]:
        return await self.database.query(read_open_runs, limit, exclude_workers)

    async def expired(self, now: int, *, limit: int) -> list[str]:
        return await self.database.query(read_expired, now, limit)

    async def runs_of(self, worker_id: str) -> list[OpenRun]:
        return await self.database.query(read_runs_of, worker_id)

    async def workers(self) -> set[str]:
        return await self.database.query(read_workers)

    async def open_attempts(self, run_ids: Collection[str]) -> dict[str, int]:
        return await self.database.query(read_open_attempts, run_ids) if run_ids else {}

    async def session_runs(self, user_id: str, session_id: str, *, before: str, limit: int) -> list[str]:
        return await self.database.query_history(read_session_runs, user_id, session_id, before, limit)
