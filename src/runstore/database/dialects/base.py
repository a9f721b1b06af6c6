"""The requirements on a database that holds the log. No other room asks which database it is."""

import errno
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol
from zlib import crc32

from msgspec import Struct
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from runstore.core.codec import EncodedEvent
from runstore.core.errors import ConfigError, LogUnavailable

COLUMNS = "run_id, seq, type, v, ends, at, append_id, data"

READERS = 2  # connections for quick reads: heads, single runs, open runs, keys
PAGERS = 4  # connections that read pages of events, so that long replays do not delay others
LISTERS = 2  # connections that search the run list
CHANGERS = 2  # connections for changes other than events, which wait for other writers
ERASERS = 2  # connections of one purge by an admin
CONNECTIONS = READERS + PAGERS + LISTERS + CHANGERS + ERASERS + 2  # 2: the writer's, the projections'

CONNECT_S = 5  # seconds for a server to accept a connection
REPLICA_CONNECT_S = 2  # the same for a read replica, in whose place the primary can answer
REPLICA_CHECK_S = 0.5  # seconds for a read replica to answer how far it is
ANSWER_S = 10  # seconds for a statement of a serving process; rebuilds and migrations take longer
LOCK_S = 0.2  # seconds to wait for another writer's commit; a longer one is stuck, or its disk is
EXCLUSIVE_S = 2.0  # seconds to wait for all other writers' commits
# Seconds before the database ends a suspended client's transaction. A start waits longer for its locks.
IDLE_S = 1
SLOW_IDLE_S = 10  # the same for a command that folds or removes much at once, perhaps on a busy machine
MIGRATION_S = 60  # seconds to wait for another process's migration
# The errors of a machine that is short of something for a while. A driver may raise them unwrapped.
SCARCE = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EAGAIN,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
    }
)
USER_LOCKS = 256  # number of locks, among which users are divided


class Row(Struct, frozen=True, gc=False):
    """An event's row in `events`, except for the `append_id` that it shares with its batch."""

    run_id: bytes  # packed
    seq: int
    event: EncodedEvent


class Dialect(Protocol):
    """A database, and its differences from the others.

    A server's writers work side by side: each holds the barrier, a shared lock, until its commit. An
    exclusive writer holds it alone: no append is in flight, and every position that it reads is final. SQLite
    has one writer at a time. Outside a transaction started by one of these methods, each statement may be its
    own transaction.
    """

    engine: Engine
    name: Literal["sqlite", "postgresql", "mysql"]  # "mysql" is MariaDB, too

    @property
    def location(self) -> str:
        """The path of the file, or the URL of the server without its secrets; for messages."""

    @property
    def file(self) -> Path | None:
        """The file of the database; None for a server."""

    def check(self, connection: Connection) -> None:
        """Raises ConfigError if the server is too old."""

    def exposed(self) -> str | None:
        """The commands that close the files to other users of the machine; None if they are closed."""

    def begin_write(self, connection: Connection, *, exclusive: bool = False) -> int:
        """Start a transaction that may append. `exclusive`: no other one is in flight until its end.

        Returns the number of purges so far. Heads that were read at another number are no longer valid.
        """

    def begin_apart(self, connection: Connection) -> None:
        """Start a transaction that appends nothing and reads no events: on a server it takes no barrier."""

    def begin_derived(self, connection: Connection) -> None:
        """Start a transaction as `begin_apart`, on rows that can be derived from the log again.

        A power cut may lose it whole, so that the disk need not be waited for.
        """

    def answering(self, connection: Connection) -> AbstractContextManager[None]:
        """Abort reads in the block after ANSWER_S. Servers apply the time to each statement."""

    def lock_users(self, connection: Connection, find: Callable[[], Collection[str]]) -> None:
        """Until the end of the transaction, keep other writers from decisions about these users."""

    def touch(self, connection: Connection) -> None:
        """Write without a change: a full disk or a read-only database refuses it."""

    def insert_events(self, connection: Connection, append_id: bytes, rows: Sequence[Row]) -> None:
        """Store rows in this order of positions. Raises an error that `is_conflict` if a seq is taken.

        Rows are sorted by run and seq, after those of new runs, so that two writers never wait for each
        other.
        """

    def high_water_mark(self, after: int) -> int | None:
        """The position below which no event can still appear; None: every readable position is final.

        Args:
            after: the position that the reader has reached; the mark is advanced if it is no further.
        """

    def migrating(self, connection: Connection) -> AbstractContextManager[None]:
        """A transaction that excludes other migrations; committed at the end."""

    def scrub(self) -> str | None:
        """Remove the bytes of deleted rows from the database's files, as far as writers allow it.

        Returns:
            the files that keep such bytes, and the remedy; None if no file does.
        """

    def size(self, connection: Connection) -> int:
        """The bytes that the database takes on its disk, by its own account."""

    def close(self) -> None:
        """Close all connections."""

    def is_conflict(self, error: Exception) -> bool:
        """Whether another writer was first, or blocked us: retry with its rows in view."""

    def give_way(self, error: Exception) -> None:
        """After the rollback of a write: drop what a maintenance command has set, if it caused the error."""

    def unavailable(self, error: Exception) -> LogUnavailable | None:
        """The error to raise for an outage that may pass; None for any other error."""


class Replicated(Dialect, Protocol):
    """A database that can have replicas, and says how far each of them is."""

    def written(self, connection: Connection) -> str:
        """A text that names the database, its timeline, and the place up to which the primary has flushed."""

    def replayed(self, connection: Connection, written: str) -> bool:
        """Whether a replica has everything up to `written`.

        Raises ConfigError if it replicates another database.
        """

    def hurrying(self, connection: Connection) -> AbstractContextManager[None]:
        """Wait for each answer in the block for REPLICA_CHECK_S only."""

    def is_timeout(self, error: Exception) -> bool:
        """Whether the server ended a statement that took longer than ANSWER_S."""


def is_of_machine(error: BaseException) -> bool:
    """Whether this machine is short of memory, descriptors or disk space: no statement is at fault."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SCARCE)


def wrong_url(url: URL, what: str) -> ConfigError:
    return ConfigError(f"database URL {shown(url)}: {what}", setting="database_url")


def shown(url: URL) -> str:
    """The URL without secrets; its options may hold passwords, too."""
    if "?" in (url.username or ""):
        return f"{url.drivername}://…"  # options were taken for the user, as one of them has an "@"
    host = url.host and url.host.rpartition("@")[2]  # the part before it belongs to a password with "@"
    return url.set(query={}, host=host).render_as_string(hide_password=True)


def user_slots(users: Collection[str]) -> list[int]:
    """The locks of these users, in the order in which all writers take them."""
    return sorted({crc32(user.encode()) % USER_LOCKS for user in users})


def check_version(url: URL, name: str, found: tuple[Any, ...] | None, least: tuple[int, ...]) -> None:
    """Refuse a server that is too old."""
    numbers = tuple(part for part in found or () if isinstance(part, int))
    if numbers < least:
        have, want = (".".join(map(str, version)) for version in (numbers, least))
        raise wrong_url(url, f"{name} {have} is too old; runstore needs {want} or newer")
