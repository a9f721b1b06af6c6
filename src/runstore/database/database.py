"""An open database: typed transactions, each kind in threads of its own."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection, exc

from runstore.core.errors import Busy, InvalidName, LogUnavailable
from runstore.database.columns import UnstorableText
from runstore.database.dialects import CHANGERS, LISTERS, PAGERS, READERS, Dialect
from runstore.database.replica import Replica, Unanswered
from runstore.threads import WAIT_S, Threads, in_own_thread

CLOSED = "the log is closed"
READ_TRIES = 5  # tries of a read whose tables are replaced while it reads
CHANGE_TRIES = 3  # tries of a change whose session the server ends
CLOSE_TIMEOUT_S = 1.0  # seconds for the database to end idle connections

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class TablesReplaced(LogUnavailable):
    """Tables were replaced while they were read: the read begins again, at most READ_TRIES times."""

    def __init__(self) -> None:
        super().__init__("the tables were replaced while they were read")


class Database:
    """An open database; every store takes one.

    The coroutines run `function(connection, …)` in a thread of its kind, and return or raise as it does. They
    raise LogUnavailable while the database cannot be used, and InvalidName for a name that it cannot hold.
    """

    def __init__(self, dialect: Dialect, replica: Replica | None = None) -> None:
        self.dialect = dialect
        self.replica = replica
        self._closed = False
        self._readable = True
        self._readers = Threads("runstore-reader", READERS)
        self._pagers = Threads("runstore-pager", PAGERS, share=PAGERS - 1)
        self._listers = Threads("runstore-lister", LISTERS, share=LISTERS - 1, wait_s=WAIT_S)
        self._changers = Threads("runstore-changer", CHANGERS, share=CHANGERS - 1)

    @property
    def file(self) -> Path | None:
        """The file that holds the database; None for a server."""
        return self.dialect.file

    async def query(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read a few rows."""
        return await self._read(self._readers, lambda connection: function(connection, *args, **kwargs))

    async def query_history(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read many events of a run, without delaying quick queries."""
        return await self._read(self._pagers, lambda connection: function(connection, *args, **kwargs))

    async def query_past(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read many events as `query_history` does, on the replica if there is one."""
        return await self._read_replica(
            self._pagers, lambda connection: function(connection, *args, **kwargs)
        )

    async def query_list(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Search many runs, on the replica if there is one.

        Raises:
            Busy: it has waited for a thread for WAIT_S.
        """
        return await self._read_replica(
            self._listers, lambda connection: function(connection, *args, **kwargs)
        )

    async def change(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write rows that no append depends on, in a transaction.

        On a server, appends continue concurrently.
        """
        return await self._call(
            self._changers, lambda: self.write(lambda connection: function(connection, *args, **kwargs))
        )

    async def change_exclusively(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read and write in a transaction that excludes other writers."""
        return await self._call(
            self._changers,
            lambda: self.write(lambda connection: function(connection, *args, **kwargs), exclusive=True),
        )

    def read(self, function: Callable[[Connection], T]) -> T:
        """Read in this thread; `function` may be called several times.

        Raises an error of the database as it is.
        """
        return _repeated(lambda: self._read_primary(function))

    def read_past(self, function: Callable[[Connection], T]) -> T:
        """Read a batch of events in this thread, on the replica if there is one.

        Raises an error of the database as it is.
        """
        if self.replica is not None:
            with suppress(Unanswered):
                return self.replica.read(function, is_small=True)
        with self.connect() as connection:
            return function(connection)

    def write(self, function: Callable[[Connection], T], *, exclusive: bool = False) -> T:
        """`change`, or `change_exclusively`, in this thread; `function` may be called several times.

        If the server ends the session before the COMMIT, nothing is stored, and all is done again. A machine
        that stalls for IDLE_S in a transaction meets the limit of idle transactions.

        Raises an error of the database as it is.
        """
        begin = partial(self.dialect.begin_write, exclusive=True) if exclusive else self.dialect.begin_apart
        tries = 0
        while True:
            tries += 1
            with self.connect() as connection:
                try:
                    begin(connection)
                    done = function(connection)
                except Exception:
                    if connection.invalidated and tries < CHANGE_TRIES:
                        continue
                    raise
                connection.commit()
                return done

    def may_pass(self, error: Exception) -> bool:
        """Whether the same work may succeed later: another writer was first, or there is an outage."""
        return self.dialect.is_conflict(error) or self.dialect.unavailable(error) is not None

    async def high_water_mark(self, after: int) -> int | None:
        """See `Dialect.high_water_mark`."""
        return await self._call(self._pagers, lambda: self.dialect.high_water_mark(after))

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection for this thread."""
        with self.dialect.engine.connect() as connection:
            try:
                yield connection
            finally:
                if self._closed:  # its pool has been disposed of
                    connection.invalidate()

    @contextmanager
    def writing(self, *, exclusive: bool = False) -> Iterator[Connection]:
        """A transaction of this thread that may touch events; committed unless there is an error."""
        with self.connect() as connection:
            begin_write(self.dialect, connection, exclusive=exclusive)
            yield connection
            connection.commit()

    @contextmanager
    def changing(self, *, derived: bool = False) -> Iterator[Connection]:
        """A transaction of this thread that touches no events; committed unless there is an error.

        Args:
            derived: of rows that can be derived again: a power cut may lose the transaction whole.
        """
        with self.connect() as connection:
            _begin(connection, self.dialect.begin_derived if derived else self.dialect.begin_apart)
            yield connection
            connection.commit()

    async def close(self) -> None:
        """Refuse new and waiting calls; close all idle connections. Safe to call twice."""
        self._closed = True
        for threads in (self._readers, self._pagers, self._listers, self._changers):
            threads.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(in_own_thread(self._close_all), CLOSE_TIMEOUT_S)

    def _close_all(self) -> None:
        self.dialect.close()
        if self.replica is not None:
            self.replica.close()

    async def _read(self, threads: Threads, function: Callable[[Connection], T]) -> T:
        return await self._call(threads, lambda: self.read(function))

    async def _read_replica(self, threads: Threads, function: Callable[[Connection], T]) -> T:
        def read() -> T:
            if self.replica is not None:
                with suppress(Unanswered):
                    return self.replica.read(function)
            return self._read_primary(function)

        return await self._call(threads, lambda: _repeated(read))

    def _read_primary(self, function: Callable[[Connection], T]) -> T:
        def answer() -> T:
            with self.dialect.answering(connection):
                return function(connection)

        with self.connect() as connection:
            try:
                return answer()
            except exc.DBAPIError as error:
                if not (error.connection_invalidated or self.dialect.is_conflict(error)):
                    raise
            connection.rollback()
            return answer()  # the server may be back, on a new connection, or a change of the schema be over

    async def _call(self, threads: Threads, function: Callable[[], T]) -> T:
        if self._closed:
            raise LogUnavailable(CLOSED)
        try:
            done = await threads.call(function)
        except Busy as error:
            if self._closed:  # closed while it waited for a thread
                raise LogUnavailable(CLOSED) from error
            raise
        except UnstorableText as error:
            raise InvalidName(str(error)) from error
        except Exception as error:
            if unavailable := self.dialect.unavailable(error):
                if self._readable:
                    log.error("log_unreadable", error=str(unavailable))
                self._readable = False
                raise unavailable from error
            raise
        self._readable = True
        return done


def _repeated(read: Callable[[], T]) -> T:
    for _ in range(READ_TRIES - 1):
        with suppress(TablesReplaced):
            return read()
    return read()


def begin_write(dialect: Dialect, connection: Connection, *, exclusive: bool) -> int:
    """`Dialect.begin_write`, on a new connection if the server has dropped this one since its last use."""
    return _begin(connection, partial(dialect.begin_write, exclusive=exclusive))


def _begin(connection: Connection, how: Callable[[Connection], T]) -> T:
    try:
        return how(connection)
    except Exception:
        if not connection.invalidated:
            raise
        connection.rollback()
        return how(connection)
