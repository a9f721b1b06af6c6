"""The log in a SQL database."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, exc

from runstore.core.codec import RecordedEvent
from runstore.core.errors import Busy, InvalidName, LogUnavailable, RunstoreError
from runstore.core.ports import EventFilter, Head, InlineProjection, OpenRun, Publisher
from runstore.core.threads import Threads
from runstore.database.columns import UnstorableText
from runstore.database.dialects import CHANGERS, LISTERS, PAGERS, READERS, Dialect
from runstore.eventlog.metered import LogCounts, MeteredFeed, MeteredStore
from runstore.eventlog.queries import (
    EVOLVING,
    last_position,
    read_all,
    read_evolving,
    read_head,
    read_open_attempts,
    read_run,
    read_session_runs,
)
from runstore.eventlog.rules.control import read_open_runs, read_runs_of, read_workers
from runstore.eventlog.sql_store import SqlStore, begin
from runstore.eventlog.writer import Writer

CLOSED = "the log is closed"
LIST_WAIT_S = 5.0  # that a list waits for its turn, before it is refused

T = TypeVar("T")

log = structlog.get_logger(__name__)


class SqlEventLog:
    """The port `EventLog` over SQLAlchemy. See there for what it guarantees."""

    def __init__(
        self, dialect: Dialect, feed: Publisher, projections: Sequence[InlineProjection] = ()
    ) -> None:
        self._dialect = dialect
        self._closed = False
        self._readable = True
        self._readers = Threads("runstore-reader", READERS)
        self._pagers = Threads("runstore-pager", PAGERS, share=PAGERS - 1)
        self._listers = Threads("runstore-lister", LISTERS, share=LISTERS - 1, wait_s=LIST_WAIT_S)
        self._changers = Threads("runstore-changer", CHANGERS, share=CHANGERS - 1)
        self.counts = LogCounts()
        store = MeteredStore(SqlStore(dialect, projections), self.counts)
        self._writer = Writer(store, MeteredFeed(feed, self.counts))
        self.append = self._writer.append
        self.offer = self._writer.offer

    @property
    def file(self) -> Path | None:
        """The file that the log is in, if it is in one."""
        return self._dialect.file

    @property
    def unavailable(self) -> RunstoreError | None:
        """Why the log takes no writes now; None when it does."""
        return self._writer.unavailable

    @property
    def waiting(self) -> tuple[int, int]:
        """How many events wait to be committed, and their bytes."""
        return self._writer.waiting

    def room(self, run_id: str) -> Awaitable[None]:
        return self._writer.room()

    async def head(self, run_id: str) -> Head | None:
        return await self.query(read_head, run_id)

    async def read(
        self,
        run_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
        only: EventFilter | None = None,
    ) -> list[RecordedEvent]:
        return await self._run_in(self._pagers, self._reading, read_run, run_id, after, upto, limit, only)

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
        upto = await self._run_in(self._pagers, self._dialect.high_water_mark, after)
        return await self._run_in(self._pagers, self._reading, read_all, after, upto, limit)

    async def open_runs(self, *, limit: int = 2_000, exclude_workers: Collection[str] = ()) -> list[OpenRun]:
        return await self.query(read_open_runs, limit, exclude_workers)

    async def runs_of(self, worker_id: str) -> list[OpenRun]:
        return await self.query(read_runs_of, worker_id)

    async def workers(self) -> set[str]:
        return await self.query(read_workers)

    async def open_attempts(self, run_ids: Collection[str]) -> dict[str, int]:
        return await self.query(read_open_attempts, run_ids) if run_ids else {}

    async def session_runs(self, user_id: str, session_id: str, *, before: str, limit: int) -> list[str]:
        return await self.query_history(read_session_runs, user_id, session_id, before, limit)

    async def query(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run `function(connection, *arguments)` in a reader's thread: for what looks at a few rows.

        Raises:
            LogUnavailable: the database cannot be read now.
        """
        return await self._run_in(self._readers, self._reading, function, *arguments)

    async def query_history(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same for what reads many events: others' quick queries do not wait for it."""
        return await self._run_in(self._pagers, self._reading, function, *arguments)

    async def query_list(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same for what looks through many runs.

        Raises:
            LogUnavailable
            Busy: too many lists wait.
        """
        return await self._run_in(self._listers, self._reading, function, *arguments)

    async def change(self, function: Callable[..., T], *arguments: Any, exclusive: bool = True) -> T:
        """Run `function(connection, *arguments)` in a transaction of its own.

        For what is no event. What it raises is raised here, and nothing is stored.

        Args:
            exclusive: no one else writes during the transaction. Otherwise, on a server, appends go on beside
                it.

        Raises:
            LogUnavailable: the database takes no writes now.
        """
        return await self._run_in(self._changers, self._writing, function, arguments, exclusive)

    async def close(self) -> None:
        self._closed = True
        await self._writer.close()
        for threads in (self._readers, self._pagers, self._listers, self._changers):
            threads.close()

    async def _run_in(self, threads: Threads, function: Callable[..., T], *arguments: Any) -> T:
        if self._closed:
            raise LogUnavailable(CLOSED)
        try:
            done = await threads.call(function, *arguments)
        except Busy as error:
            if self._closed:  # it waited for a thread
                raise LogUnavailable(CLOSED) from error
            raise
        except UnstorableText as error:
            raise InvalidName(str(error)) from error
        except Exception as error:
            if unavailable := self._dialect.unavailable(error):
                if self._readable:
                    log.error("log_unreadable", error=str(unavailable))
                self._readable = False
                raise unavailable from error
            raise
        self._readable = True
        return done

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._dialect.engine.connect() as connection:
            try:
                yield connection
            finally:
                if self._closed:  # the pool that it came from is no more
                    connection.invalidate()

    def _reading(self, function: Callable[..., T], *arguments: Any) -> T:
        with self._connected() as connection, self._dialect.answering(connection):
            try:
                return function(connection, *arguments)
            except exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            connection.rollback()
            return function(connection, *arguments)  # on a new connection: the server may have come back

    def _writing(self, function: Callable[..., T], arguments: tuple[Any, ...], exclusive: bool) -> T:
        how = partial(self._dialect.begin_write, exclusive=True) if exclusive else self._dialect.begin_apart
        with self._connected() as connection:
            begin(connection, how)
            done = function(connection, *arguments)
            connection.commit()
            return done


class RebuildSource:
    """The log as a rebuild of projections reads it: `runstore.maintenance.rebuild.Source`."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.engine = dialect.engine
        self.last_position = last_position

    def keep_writers_out(self, connection: Connection) -> None:
        self._dialect.begin_write(connection, exclusive=True)

    def read_evolving(self, connection: Connection, after: int, limit: int) -> list[RecordedEvent]:
        return read_all(connection, after, None, limit, EVOLVING)

    def history(self, connection: Connection, run_id: str) -> list[RecordedEvent]:
        return read_evolving(connection, run_id)
