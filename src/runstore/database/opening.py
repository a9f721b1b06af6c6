"""Databases, opened: found by their URL, reached, and brought up to this release."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import structlog
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from runstore import migrations
from runstore.core.errors import ConfigError, SchemaMismatch
from runstore.database.dialects import FORMS, Dialect, open_dialect

log = structlog.get_logger(__name__)


def open_database(url: str, *, create: bool = True, upgrade: bool = True, hurried: bool = False) -> Dialect:
    """Open a database that has, or is given, this release's schema.

    Args:
        create: make the schema where there is none.
        upgrade: bring up one of an older release, which there is no way back from.
        hurried: give up statements that take long, as a process has to that serves.

    Raises:
        ConfigError: the URL is wrong, the server too old, or there is no log in it and `create` is False.
        SchemaMismatch: the database is newer than this release, or older and `upgrade` is False.
        LogUnavailable: it cannot be reached, or is read-only, locked, corrupt, or the disk is full.
    """
    try:
        dialect = open_dialect(make_url(url), hurried=hurried)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        scheme = url.partition(":")[0][:50]  # the rest may hold a password, wherever it stands
        raise ConfigError(f"database URL {scheme + ':…'!r}: use {FORMS}", setting="database_url") from error
    if not create and dialect.file is not None and not dialect.file.exists():
        raise ConfigError(f"there is no file {dialect.file}; `runstore migrate` makes the database")
    try:
        with _told_as_unavailable(dialect):
            if _is_behind(dialect, create, upgrade):
                _migrate(url)
    except BaseException:
        dialect.close()
        raise
    return dialect


@contextmanager
def opened_database(url: str, *, create: bool = False, upgrade: bool = False) -> Iterator[Dialect]:
    """A database for one command, which may take its time. Raises as `open_database` does, all the while."""
    dialect = open_database(url, create=create, upgrade=upgrade)
    try:
        with _told_as_unavailable(dialect):
            yield dialect
    finally:
        dialect.close()


@contextmanager
def write_to(url: str, *, create: bool = False) -> Iterator[Connection]:
    """A transaction while nobody else writes; committed unless there was an error."""
    with opened_database(url, create=create) as dialect, dialect.engine.connect() as connection:
        dialect.begin_write(connection, exclusive=True)
        yield connection
        connection.commit()


@contextmanager
def read_from(url: str, *, create: bool = False, upgrade: bool = False) -> Iterator[Connection]:
    """A connection to a database that holds a log."""
    with (
        opened_database(url, create=create, upgrade=upgrade) as dialect,
        dialect.engine.connect() as connection,
    ):
        yield connection


def _is_behind(dialect: Dialect, create: bool, upgrade: bool) -> bool:
    """Whether the schema has to be made or upgraded. Raises if it may not be."""
    with dialect.engine.connect() as connection:
        dialect.check(connection)
        before = migrations.current_version(connection)
    if before is None and not create:
        raise ConfigError(f"database {dialect.place}: it holds no log; `runstore migrate` makes one")
    if before is not None and before < migrations.HEAD and not upgrade:
        raise SchemaMismatch(
            f"database {dialect.place}: it has schema {before}, and this release of runstore needs "
            f"{migrations.HEAD}; make a backup, then `runstore migrate`"
        )
    return before != migrations.HEAD


def _migrate(url: str) -> None:
    """Over a connection that is in no hurry: another process's migration takes its time, and so may ours."""
    with (
        closing(open_dialect(make_url(url), hurried=False)) as dialect,
        dialect.engine.connect() as connection,
        dialect.migrating(connection),  # two starting processes do not both migrate
    ):
        before = migrations.upgrade(connection)
    if before != migrations.HEAD:
        log.info("migrated", database=dialect.place, before=before or "empty", now=migrations.HEAD)


@contextmanager
def _told_as_unavailable(dialect: Dialect) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if unavailable := dialect.unavailable(error):
            raise unavailable from error
        raise
