"""The parts that the dialects of servers share, and SQLite does not need."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy import Connection, Engine, Select, exc, func, select
from sqlalchemy.engine import URL

from runstore.core.backoff import Backoff
from runstore.core.errors import LogUnavailable
from runstore.database.dialects.base import is_of_machine, shown
from runstore.database.tables import barrier, events

# Used after a writer was blocked, because a waiting writer delays the others.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 5.0

_STORED = select(barrier.c.high_water_mark)
_LAST = select(func.max(events.c.position))


class HighWaterMark:
    """The position below which no event can still appear.

    The server assigns a position before the commit, so an event may appear below one that is readable
    already. While the barrier is held exclusively, no append is in flight and the highest position is final.
    A reader in order of position takes the barrier for an instant, only when there are new events, and stores
    the mark.

    Args:
        advance: takes the barrier and stores the highest position as the mark.
        in_the_way: whether an error of `advance` means that another writer holds the barrier.
    """

    def __init__(
        self, engine: Engine, advance: Callable[[], None], in_the_way: Callable[[Exception], bool]
    ) -> None:
        self._engine = engine
        self._advance = advance
        self._in_the_way = in_the_way
        self._not_before = 0.0
        self._backoff = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)

    def upto(self, after: int) -> int:
        """See `Dialect.high_water_mark`. Advances the stored mark for a reader that has reached it."""
        stored = self._read(_STORED)
        if stored > after or time.monotonic() < self._not_before or not self._try_to_advance(stored):
            return stored
        return self._read(_STORED)

    def _read(self, query: Select[Any]) -> int:
        with self._engine.connect() as connection:
            found: int | None = connection.execute(query).scalar()
        return found or 0

    def _try_to_advance(self, stored: int) -> bool:
        """Advance the stored mark, unless others hold its lock. Returns False if the log has no new event."""
        try:
            if self._read(_LAST) <= stored:
                return False
            self._advance()
        except Exception as error:
            if not self._in_the_way(error):
                raise
            self._not_before = time.monotonic() + self._backoff.next_s()
        else:
            self._backoff.reset()
        return True


class ServerDialect:
    """The methods that the dialects of all servers share."""

    def __init__(self, url: URL) -> None:
        self.url = url

    @property
    def location(self) -> str:
        """See `Dialect.location`."""
        return shown(self.url)

    @property
    def file(self) -> None:
        """See `Dialect.file`."""
        return None

    def answering(self, connection: Connection) -> AbstractContextManager[None]:
        """See `Dialect.answering`: a serving process sets the timeout on each connection."""
        return nullcontext()

    def scrub(self) -> None:
        """See `Dialect.scrub`. `docs/how-to/privacy.md` lists the bytes that a server keeps for a while."""

    def exposed(self) -> None:
        """See `Dialect.exposed`."""

    def give_way(self, error: Exception) -> None:
        """See `Dialect.give_way`."""

    def begin_apart(self, connection: Connection) -> None:
        """See `Dialect.begin_apart`."""
        connection.exec_driver_sql("BEGIN")

    def begin_derived(self, connection: Connection) -> None:
        """See `Dialect.begin_derived`."""
        self.begin_apart(connection)


class ServerErrors:
    """Classifies a server's errors, from its driver or wrapped by SQLAlchemy.

    Args:
        conflicts: whether other writers caused a driver's error.
        passes: whether a driver's error may pass, as it is not caused by the data.
    """

    def __init__(
        self, url: URL, *, conflicts: Callable[[BaseException], bool], passes: Callable[[BaseException], bool]
    ) -> None:
        self._location = shown(url)
        self._conflicts = conflicts
        self._passes = passes

    def is_conflict(self, error: Exception) -> bool:
        """See `Dialect.is_conflict`."""
        return self._conflicts(cause_of(error))

    def unavailable(self, error: Exception) -> LogUnavailable | None:
        """See `Dialect.unavailable`. A timeout on a lock may pass."""
        if isinstance(error, exc.TimeoutError):
            return LogUnavailable(f"database {self._location}: too many reads at once")
        cause = cause_of(error)
        if is_of_machine(cause):
            return LogUnavailable(f"database {self._location}: {str(cause) or 'out of memory'}")
        if self._passes(cause):
            return LogUnavailable(f"database {self._location}: {first_line(cause)}")
        return None


def cause_of(error: Exception) -> BaseException:
    """The driver's own error."""
    return error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error


def first_line(error: BaseException) -> str:
    """The message of a driver's error, without its details."""
    message = str(error.args[-1]) if error.args else ""
    return " ".join(message.split("\n")[0].split()) or type(error).__name__
