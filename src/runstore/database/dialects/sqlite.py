"""SQLite: one file, for one machine."""

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.engine import URL

from runstore.core.errors import LogUnavailable
from runstore.database.dialects.base import ANSWER_S, CONNECTIONS, Row, is_of_machine, wrong_url
from runstore.database.dialects.files import folder_remedies, remedies
from runstore.database.dialects.sqlite_inserts import insert

BUSY_TIMEOUT_S = 2.0  # seconds that a write waits for another process's write
LOOK_MS = 10  # milliseconds in which SQLite checks three times whether a lock is free
LOOK_STEPS = 10_000  # steps of a statement, about 0.1 ms, between two checks of its time limit
TURN_S = 0.001  # seconds between two transactions, while other processes write
OTHERS_S = 1.0  # seconds after a write of another process that it counts as active
WAL_RETRY_S = 0.01  # seconds between two tries to switch a new file to WAL mode
SCRUB_S = 10.0  # seconds to wait for readers of the WAL before it is cut off
WAL_PAGES = 4_000  # pages of 4 KiB before a checkpoint, which the committing writer waits for

PRIMARY_CODE = 0xFF  # bits of an extended error code that hold the error's kind

# Errors without a code of their own: a file that is being replaced, or a transaction in an unexpected state.
# All others belong to the statement.
MAY_PASS = ("no such table", "cannot ", "SQL logic error")

_VERSION = "PRAGMA data_version"  # changes when another connection than this one has written
_PURGES = "SELECT purges FROM barrier"


class SqliteDialect:
    """One file, one writer at a time. Commit order is position order: a committed position is final."""

    name: Literal["sqlite", "postgresql", "mysql"] = "sqlite"

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:":
            raise wrong_url(url, "SQLite needs a file, for example sqlite:///runstore.db")
        if "\0" in url.database:
            raise wrong_url(url, "a file's name cannot hold the character NUL")
        if url.query:  # one of them may name another file, whose mode would not be checked
            raise wrong_url(url, "SQLite takes no options; use sqlite:///FILE")
        self._given = Path(url.database)
        # An agent or its tool may change the working directory; this is the file nevertheless.
        self.path = self._given.absolute()
        self._name = str(self.path)
        # The write-ahead log and its index: SQLite has them beside the file that a link leads to.
        self._beside = [os.path.realpath(self.path) + suffix for suffix in ("-wal", "-shm")]
        self._wal_lost = False
        if not self.path.parent.is_dir():
            raise wrong_url(url, f"there is no directory {self._given.parent}")
        if self.path.exists() and not os.access(self.path, os.W_OK):
            raise wrong_url(url, f"the file {self._given} is read-only")
        self.engine = create_engine(
            url.set(database=self._name),
            pool_size=CONNECTIONS,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"timeout": BUSY_TIMEOUT_S, "cached_statements": 64},
        )
        event.listen(self.engine, "do_connect", lambda *_: self._before_connect())
        self._identity: tuple[int, int] | None = None
        self._others_until = 0.0  # until then, other writers count as active
        _control_transactions(self.engine, self._beside)

    def close(self) -> None:
        self.engine.dispose()

    @property
    def location(self) -> str:
        return str(self._given)

    @property
    def file(self) -> Path:
        return self.path

    def check(self, connection: Connection) -> None:
        """The library comes with Python, and is new enough."""

    def exposed(self) -> str | None:
        """See `Dialect.exposed`."""
        found: list[str] = []
        for suffix, mode in (("", 600), ("-wal", 600), ("-shm", 600), (".workers", 700)):
            found += remedies(f"{self.path}{suffix}", f"{self.location}{suffix}", mode)
        found += folder_remedies(self.path)
        return "; ".join(found) or None

    def begin_write(self, connection: Connection, *, exclusive: bool = False) -> int:
        """See `Dialect.begin_write`. It always excludes all other writers.

        Raises:
            LogUnavailable: the file was replaced since it was opened; writes to the old one would be lost.
        """
        self._let_others_write()
        self._begin(connection)
        return self._count_purges(connection)

    def begin_apart(self, connection: Connection) -> None:
        """See `Dialect.begin_apart`. SQLite has no other way than to take a turn as a writer."""
        self.begin_write(connection)

    def begin_derived(self, connection: Connection) -> None:
        """See `Dialect.begin_derived`. The next synced commit also syncs it, as both are in one WAL."""
        if not connection.info.get("unsynced"):
            connection.exec_driver_sql("PRAGMA synchronous = NORMAL")
            connection.rollback()  # ends the transaction that SQLAlchemy assumes
            connection.info["unsynced"] = True
        self.begin_write(connection)

    # SQLite has no queue for its lock. Waiting connections check again, by default after up to 100 ms, and a
    # busy writer has taken the lock long before.

    def _take_lock(self, connection: Connection) -> None:
        if not connection.info.get("looks_often"):
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {LOOK_MS}")
            connection.rollback()  # ends the transaction that SQLAlchemy assumes
            connection.info["looks_often"] = True
        if not connection.in_transaction():
            connection.begin()  # SQLAlchemy's own mark; the driver's BEGIN below is ten times faster
        driver, deadline = _driver(connection), time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise

    def _let_others_write(self) -> None:
        if time.monotonic() < self._others_until:
            time.sleep(TURN_S)

    def _count_purges(self, connection: Connection) -> int:
        """The purges so far: read again only after another connection has written, which is noted, too.

        A connection that purges is given back afterwards, and forgets the number.
        """
        driver, info = _driver(connection), connection.info
        (version,) = driver.execute(_VERSION).fetchone()
        if info.setdefault("seen", version) != version:
            self._others_until = time.monotonic() + OTHERS_S
            info["seen"] = version
            info.pop("purges", None)
        if "purges" not in info:
            (info["purges"],) = driver.execute(_PURGES).fetchone()
        purges: int = info["purges"]
        return purges

    def _begin(self, connection: Connection) -> None:
        self._take_lock(connection)
        self._check_identity()
        # SQLite removes them only when the last connection of all processes is closed.
        found = [_identify(file) for file in self._beside]
        self._wal_lost |= None in found or connection.info["beside"] != found
        self._check_wal()

    def _before_connect(self) -> None:
        """Create a missing file at the start, and never in place of one that was taken away.

        SQLite would delete the write-ahead log beside an empty file, and with it the last commits.
        """
        if self._identity is None:
            _create(self.path)
        self._check_identity()
        self._wal_lost = self._wal_lost or _is_open_without(self._beside, self._name)
        self._check_wal()

    def _check_identity(self) -> None:
        found = _identify(self._name)
        self._identity = self._identity or found
        if found != self._identity:
            raise LogUnavailable(f"database {self.location}: the file was removed or replaced")

    def _check_wal(self) -> None:
        """Commits to a removed WAL would be lost in a crash, and other processes would not see them."""
        if self._wal_lost:
            raise LogUnavailable(
                f"database {self.location}: its -wal or -shm file was removed or replaced;"
                " to save its events, stop all processes of the database before you start any"
            )

    @contextmanager
    def answering(self, connection: Connection) -> Iterator[None]:
        """See `Dialect.answering`."""
        deadline = time.monotonic() + ANSWER_S
        driver = _driver(connection)
        driver.set_progress_handler(lambda: time.monotonic() > deadline, LOOK_STEPS)
        try:
            yield
        finally:
            driver.set_progress_handler(None, 0)

    def lock_users(self, connection: Connection, find: Callable[[], Collection[str]]) -> None:
        """The transaction already excludes all other writers."""

    def high_water_mark(self, after: int) -> int | None:
        return None

    @contextmanager
    def migrating(self, connection: Connection) -> Iterator[None]:
        self._begin(connection)
        yield
        connection.commit()

    def scrub(self) -> str | None:
        """See `Dialect.scrub`. Deleted rows are overwritten at once; their copies in the WAL are cut off."""
        deadline = time.monotonic() + SCRUB_S
        with self.engine.connect() as connection:
            while connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
                if time.monotonic() > deadline:
                    held = f"{self.location}-wal still holds purged text, as other processes read it"
                    return f"{held}: erase again"
        return None

    def size(self, connection: Connection) -> int:
        """See `Dialect.size`. The file, and its WAL."""
        sizes = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                sizes += os.stat(f"{self.path}{suffix}").st_size
        return sizes

    def touch(self, connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA user_version = 1")

    def insert_events(self, connection: Connection, append_id: bytes, rows: Sequence[Row]) -> None:
        insert(_driver(connection), append_id, rows)

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.IntegrityError)

    def give_way(self, error: Exception) -> None:
        """See `Dialect.give_way`."""

    def unavailable(self, error: Exception) -> LogUnavailable | None:
        """See `Dialect.unavailable`: locked, full, read-only, I/O, corrupt, a missing table."""
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        if cause is not None and is_of_machine(cause):
            return LogUnavailable(f"database {self.location}: {str(cause) or 'out of memory'}")
        if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.InterfaceError):
            return None
        if _is_of_statement(cause):
            return None
        if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return LogUnavailable(f"database {self.location}: it has not answered within {ANSWER_S} s")
        if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.DataError):
            return LogUnavailable(f"database {self.location}: {cause}")
        if isinstance(error, exc.TimeoutError):
            return LogUnavailable(f"database {self.location}: too many reads at once")
        return None


def _identify(file: str) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_open_without(beside: Sequence[str], file: str) -> bool:
    """Whether another connection, perhaps of another process, has lost its WAL: it alone has those commits.

    It keeps the exclusive lock from all others. A connection that is being opened or closed does so briefly.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while os.path.exists(file) and os.path.getsize(file) and not all(map(os.path.exists, beside)):
        try:
            with closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as connection:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                connection.execute("BEGIN IMMEDIATE")
            return False
        except sqlite3.Error as error:
            if not _is_busy(error):
                return False  # another fault of the file, which its next use reports
            if time.monotonic() > deadline:
                return True
        time.sleep(WAL_RETRY_S)
    return False


def _driver(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def _is_busy(error: BaseException | None) -> bool:
    """Whether another connection holds a lock. The code may be a kind of it, such as SQLITE_BUSY_RECOVERY."""
    return (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode & PRIMARY_CODE == sqlite3.SQLITE_BUSY
    )


def _is_of_statement(error: BaseException | None) -> bool:
    """Whether SQLite would always refuse the statement, for example as too complex."""
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_ERROR and not str(error).startswith(MAY_PASS)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to WAL mode. While another connection creates it, SQLite refuses at once: try again."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(WAL_RETRY_S)


def _create(path: Path) -> None:
    """Create a file that only its owner can open; SQLite gives its companions (-wal, -shm) the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _control_transactions(engine: Engine, beside: Sequence[str]) -> None:
    """Keep the driver from transactions of its own: it would commit before some statements."""

    @event.listens_for(engine, "checkin")
    def on_checkin(connection: Any, record: Any) -> None:
        if connection is not None and record.info.pop("looks_often", False):
            connection.execute(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT_S * 1_000)}")
        if connection is not None and record.info.pop("unsynced", False):
            connection.execute("PRAGMA synchronous = FULL")
        record.info.pop("purges", None)

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        _switch_to_wal(connection)
        connection.execute("PRAGMA schema_version")  # opens the WAL, also of a new file
        record.info["beside"] = [_identify(file) for file in beside]
        for pragma in (
            "synchronous=FULL",
            "recursive_triggers=ON",  # else INSERT OR REPLACE deletes past the trigger that refuses it
            "foreign_keys=ON",
            "secure_delete=ON",  # overwrite deleted rows: erased text must not stay in the file
            f"wal_autocheckpoint={WAL_PAGES}",
            f"journal_size_limit={64 << 20}",
        ):
            connection.execute(f"PRAGMA {pragma}")
