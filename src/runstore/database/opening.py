"""Opens databases by URL, and creates or upgrades their schema."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import TypeVar, cast

import structlog
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from runstore import migrations
from runstore.core.errors import ConfigError, RunstoreError, SchemaMismatch
from runstore.database.database import Database
from runstore.database.dialects import (
    CONNECT_S,
    FORMS,
    REPLICA_CONNECT_S,
    Dialect,
    Replicated,
    open_dialect,
)
from runstore.database.dialects.servers import cause_of
from runstore.database.replica import Replica

T = TypeVar("T")

log = structlog.get_logger(__name__)


def dialect_of(url: str, *, statement_timeout: bool = False, connect_s: int = CONNECT_S) -> Dialect:
    """The dialect of a database, which nothing has connected to yet.

    Raises:
        ConfigError: the URL is wrong.
    """
    try:
        return open_dialect(make_url(url), statement_timeout=statement_timeout, connect_s=connect_s)
    except (ArgumentError, NoSuchModuleError, OSError, TypeError, ValueError) as error:
        scheme = url.partition(":")[0][:50]  # the rest may hold a password
        what = error.strerror if isinstance(error, OSError) else f"use {FORMS}"
        if isinstance(error, FileNotFoundError):  # looked up for a relative path
            what = "the working directory was removed: change to another one, or give an absolute path"
        raise ConfigError(f"database URL {scheme + ':…'!r}: {what}", setting="database_url") from error


def open_database(
    url: str,
    *,
    read_url: str | None = None,
    create: bool = True,
    upgrade: bool = True,
    statement_timeout: bool = False,
) -> Database:
    """Open a database, and create or upgrade its schema.

    Args:
        read_url: of a read replica, which need not be there.
        create: create a missing schema.
        upgrade: upgrade the schema of an older release; there is no way back.
        statement_timeout: apply the statement timeout (serving processes only).

    Raises:
        ConfigError: the URL is wrong, the server too old, or the database holds no log and `create` is False.
        SchemaMismatch: the database is newer than this release, or older and `upgrade` is False.
        LogUnavailable: it cannot be reached, or is read-only, locked, corrupt, or the disk is full.
    """
    dialect = dialect_of(url, statement_timeout=statement_timeout)
    replica = _replica_of(dialect, read_url) if read_url else None
    if not create and dialect.file is not None and not dialect.file.exists():
        raise ConfigError(f"there is no file {dialect.file}; `runstore migrate` creates the database")
    try:
        with _raising_unavailable(dialect):
            if _is_behind(dialect, create, upgrade):
                _migrate(url)
    except BaseException:
        dialect.close()
        raise
    return Database(dialect, replica)


def _replica_of(primary: Dialect, read_url: str) -> Replica:
    """With a statement timeout in every process, as the primary answers in its place."""
    try:
        replica = dialect_of(read_url, statement_timeout=True, connect_s=REPLICA_CONNECT_S)
    except ConfigError as error:
        raise ConfigError(str(error), setting="database_read_url") from error
    if primary.name != "postgresql" or replica.name != "postgresql":
        raise ConfigError("read replicas are supported on PostgreSQL only", setting="database_read_url")
    return Replica(cast(Replicated, primary), cast(Replicated, replica))


@contextmanager
def opened_database(
    url: str, *, read_url: str | None = None, create: bool = False, upgrade: bool = False
) -> Iterator[Database]:
    """A database for one command, without a statement timeout. The block may also raise LogUnavailable."""
    database = open_database(url, read_url=read_url, create=create, upgrade=upgrade)
    with (
        closing(database.dialect),
        closing(database.replica) if database.replica else nullcontext(),
        _raising_unavailable(database.dialect),
    ):
        yield database


def write_to(url: str, function: Callable[[Connection], T], *, create: bool = False) -> T:
    """Write in a transaction that excludes other writers; `function` may be called several times."""
    with opened_database(url, create=create) as database:
        return database.write(function, exclusive=True)


@contextmanager
def read_from(url: str, *, create: bool = False, upgrade: bool = False) -> Iterator[Connection]:
    """A connection to a database that holds a log."""
    with (
        opened_database(url, create=create, upgrade=upgrade) as database,
        database.connect() as connection,
    ):
        yield connection


def _is_behind(dialect: Dialect, create: bool, upgrade: bool) -> bool:
    """Whether the schema must be created or upgraded. Raises if that is not allowed."""
    with _first_connection(dialect) as connection:
        dialect.check(connection)
        before = migrations.current_version(connection)
    if before is None and not create:
        raise ConfigError(f"database {dialect.location}: it holds no log; `runstore migrate` creates one")
    if before is not None and before < migrations.HEAD and not upgrade:
        raise SchemaMismatch(
            f"database {dialect.location}: it has schema {before}, and this release of runstore needs "
            f"{migrations.HEAD}; make a backup, then `runstore migrate`"
        )
    return before != migrations.HEAD


def _first_connection(dialect: Dialect) -> Connection:
    """Connect. A driver's error about options or host is reported as a wrong URL."""
    try:
        return dialect.engine.connect()
    except RunstoreError:
        raise
    except Exception as error:
        if dialect.unavailable(error):
            raise
        cause = cause_of(error)
        if isinstance(cause, OSError) and dialect.file is not None:
            reason = f"cannot be created: {cause.strerror}"
            raise ConfigError(f"database {dialect.location}: {reason}", setting="database_url") from error
        reason = " ".join(str(cause).split())[:200]
        message = f"database {dialect.location}: its driver refuses the URL: {type(cause).__name__}: {reason}"
        raise ConfigError(message, setting="database_url") from error


def _migrate(url: str) -> None:
    """Migrate over a connection without timeouts: another process's migration, and our own, may take long."""
    with (
        closing(open_dialect(make_url(url), statement_timeout=False)) as dialect,
        dialect.engine.connect() as connection,
        dialect.migrating(connection),  # keeps two starting processes from both migrating
    ):
        before = migrations.upgrade(connection)
    if before != migrations.HEAD:
        log.info("migrated", database=dialect.location, before=before or "empty", now=migrations.HEAD)


@contextmanager
def _raising_unavailable(dialect: Dialect) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if unavailable := dialect.unavailable(error):
            raise unavailable from error
        raise
