"""What a database has to offer to hold the log. Nobody else asks which one it is."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from msgspec import Struct
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from runstore.core.codec import EncodedEvent
from runstore.core.errors import ConfigError, LogUnavailable

COLUMNS = "run_id, seq, type, v, ends, at, append_id, data"

READERS = 2  # connections for what must be quick: heads, single runs, open runs, keys
PAGERS = 4  # connections that read pages of events, so that long replays never hold up the others
LISTERS = 2  # connections that look through the run list
CHANGERS = 2  # connections for changes that are no events, which wait for other writers
CONNECTIONS = READERS + PAGERS + LISTERS + CHANGERS + 1  # the last one is the writer's

CONNECT_S = 5  # for a server to take a connection
ANSWER_S = 10  # for a statement of a process that serves; rebuilds and migrations take their time
LOCK_S = 0.2  # for another writer's commit; whoever holds a lock for longer is stuck, or its disk is
EXCLUSIVE_S = 2.0  # for all other writers' commits
IDLE_S = 1  # after which the database ends the transaction of a client that has stopped
SLOW_IDLE_S = 10  # the same of a command that folds or removes much at once, maybe on a busy machine
MIGRATION_S = 60  # for another process that migrates
USER_LOCKS = 256  # that users are spread over


class Row(Struct, frozen=True, gc=False):
    """An event's row in `events`, but for the `append_id` that it shares with its batch."""

    run_id: bytes  # packed
    seq: int
    event: EncodedEvent


class Dialect(Protocol):
    """A database, and how it differs from the others.

    A server's writers work side by side: each holds the barrier, a shared lock, until its commit. An
    exclusive writer holds it alone: no append is in flight, and every position that it reads is final.
    SQLite has one writer at a time. Outside a transaction begun by one of these methods, each statement may
    be a transaction of its own.
    """

    engine: Engine

    @property
    def place(self) -> str:
        """Where the database is, as messages tell it; no secrets."""

    @property
    def file(self) -> Path | None:
        """The file that is the database; None: a server has it."""

    def check(self, connection: Connection) -> None:
        """Raises ConfigError when the server is too old."""

    def exposed(self) -> str | None:
        """The commands that close the files to other users of the machine; None: they are closed."""

    def begin_write(self, connection: Connection, *, exclusive: bool = False) -> int:
        """Start a transaction that may append. `exclusive`: with no other one in flight until its end.

        Returns the number of purges so far. Heads that were read at another number are no longer valid.
        """

    def begin_apart(self, connection: Connection) -> None:
        """Start a transaction that appends nothing and reads no events: on a server it takes no barrier."""

    def answering(self, connection: Connection) -> AbstractContextManager[None]:
        """Give up what is read in the block when ANSWER_S are over. Servers count for each statement."""

    def lock_users(self, connection: Connection, find: Callable[[], Collection[str]]) -> None:
        """Keep other writers from judging by what these users have, until the end of the transaction."""

    def touch(self, connection: Connection) -> None:
        """Write something of no meaning: a disk that is full, or a database that is read-only, refuses it."""

    def insert_events(self, connection: Connection, append_id: bytes, rows: Sequence[Row]) -> None:
        """Store rows, in this order of positions. Raises an error that `is_conflict` when a seq is taken.

        Sorted by run and seq, but for new runs, which come first: two writers never wait for each other.
        """

    def high_water_mark(self, after: int) -> int | None:
        """The position below which no event can still appear; None: every readable position is final.

        Args:
            after: the position that the reader has reached; the mark is advanced if it is no further.
        """

    def migrating(self, connection: Connection) -> AbstractContextManager[None]:
        """A transaction that keeps other migrations out; committed at the end."""

    def close(self) -> None:
        """Let go of all connections."""

    def is_conflict(self, error: Exception) -> bool:
        """Whether another writer was first, or in the way: worth another try with what it has written."""

    def unavailable(self, error: Exception) -> LogUnavailable | None:
        """The error as one that may pass; None when it will not."""


def wrong_url(url: URL, what: str) -> ConfigError:
    return ConfigError(f"database URL {shown(url)}: {what}", setting="database_url")


def shown(url: URL) -> str:
    """The URL without what is secret in it; its options may hold passwords too."""
    host = url.host and url.host.rpartition("@")[2]  # what is before it belongs to a password with "@"
    return url.set(query={}, host=host).render_as_string(hide_password=True)


def user_slots(users: Collection[str]) -> list[int]:
    """The locks of these users, in the order in which everybody takes them."""
    return sorted({crc32(user.encode()) % USER_LOCKS for user in users})


def check_version(url: URL, name: str, found: tuple[Any, ...] | None, least: tuple[int, ...]) -> None:
    """Refuse a server that is too old."""
    numbers = tuple(part for part in found or () if isinstance(part, int))
    if numbers < least:
        have, want = (".".join(map(str, version)) for version in (numbers, least))
        raise wrong_url(url, f"{name} {have} is too old; runstore needs {want} or newer")
