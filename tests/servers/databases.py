"""Empty databases with this release's schema, one for each test, on the servers that all tests share.

Migrating takes most of a second, so each process of a test run does it once for each kind. PostgreSQL then
copies that database. MariaDB has no such copy: the statements that make its tables are read back and
repeated. Either takes tenths of a second on a busy machine, so a test that writes only rows gets a
database that was emptied.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, inspect
from sqlalchemy.exc import InternalError, OperationalError

import runstore.database.tables as schema
from runstore.core.times import now_ms
from runstore.database.dialects import Dialect
from runstore.database.opening import open_database, opened_database
from runstore.database.partitions import read_partitions
from runstore.database.views import VIEWS, write_views
from runstore.maintenance.partitioning import add_months, partition_events
from tests.kit.database import make_database
from tests.servers.names import left_over, new_name
from tests.servers.shared import shared_database

KINDS = ("postgresql", "mysql")  # of servers
DATABASES = ("sqlite", *KINDS)
FORMS = (*DATABASES, "partitioned")  # a PostgreSQL whose events are partitioned by month
PARTITIONED_MS = 60 * 24 * 3_600_000  # milliseconds since then: this month has a partition of its own
WRITTEN = [
    table
    for table in schema.metadata.tables.values()
    if table.name not in ("events", "barrier", "user_locks")
]
EMPTY = (
    *(f"DELETE FROM {table.name}" for table in WRITTEN),
    f"UPDATE barrier SET {schema.barrier.c.high_water_mark.name} = 0, purges = 0",
)
KEPT_TABLES = {"alembic_version", *schema.metadata.tables}
SWEEP_LOCK = 7_226_001  # held by the process that drops the databases of killed test runs
EMPTYINGS = 3  # tries
DROP_WAIT_S = 10  # for the locks of a connection that has just been ended


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a database of the caller's own; `kind` is one of FORMS, `folder` is for a file."""
    if kind == "sqlite":
        yield f"sqlite:///{make_database(folder / 'runstore.db')}"
    else:
        databases = _shared(kind)
        with databases.lent(databases.make()) as url:
            yield url


@contextmanager
def kept_database(kind: str, folder: Path) -> Iterator[str]:
    """The same, for a test that changes rows alone, and leaves no connection behind."""
    with empty_database(kind, folder) if kind == "sqlite" else _shared(kind).kept() as url:
        yield url


@contextmanager
def bare_database(kind: str, folder: Path) -> Iterator[str]:
    """The same, without any schema."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'bare.db'}"
    else:
        databases = _shared(kind)
        with databases.lent(databases.make_bare()) as url:
            yield url


def end_other_connections(dialect: Dialect) -> None:
    """As a server does that restarts; returns when they are gone."""
    with dialect.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            connection.exec_driver_sql(
                f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {others}"
            )
            return
        others = "db = DATABASE() AND id <> CONNECTION_ID()"
        listed = f"SELECT id FROM information_schema.processlist WHERE {others}"
        for number in connection.exec_driver_sql(listed).scalars().all():
            connection.exec_driver_sql(f"KILL {number}")


class Databases(ABC):
    """Makes and drops databases on one server."""

    def __init__(self, server: URL) -> None:
        self._server = server
        self._spare: list[str] = []
        self._emptying: dict[str, Engine] = {}  # by the name of a kept database

    def url(self, name: str) -> str:
        return self._server.set(database=name).render_as_string(hide_password=False)

    @contextmanager
    def lent(self, name: str) -> Iterator[str]:
        """Its URL; the database goes afterwards."""
        try:
            yield self.url(name)
        finally:
            self.drop(name)

    @contextmanager
    def kept(self) -> Iterator[str]:
        """The URL of an empty database, which is emptied afterwards and kept for the next."""
        name = self._spare.pop() if self._spare else self.make()
        try:
            yield self.url(name)
            self._empty(name)
        except BaseException:
            self.drop(name)
            raise
        self._spare.append(name)

    @abstractmethod
    def make(self) -> str:
        """Make an empty database with this release's schema; returns its name."""

    def drop(self, name: str) -> None:
        """Drop a database, even with open connections."""
        if engine := self._emptying.pop(name, None):
            engine.dispose()
        with self.engine.connect() as connection:
            self._drop(connection, name)

    def close(self) -> None:
        while self._spare:
            self.drop(self._spare.pop())
        self.engine.dispose()

    def _empty(self, name: str) -> None:
        if name not in self._emptying:
            self._emptying[name] = create_engine(self.url(name), pool_pre_ping=True)
        for left in reversed(range(EMPTYINGS)):
            try:
                return self._empty_once(name)
            except InternalError:  # a server that was killed has just committed its views
                if not left:
                    raise

    def _empty_once(self, name: str) -> None:
        with self._emptying[name].begin() as connection:
            write_views(connection, None)  # no view of the schema may read a table that is dropped
            found = inspect(connection)
            for view in {*found.get_view_names()} - {*VIEWS}:
                connection.exec_driver_sql(f"DROP VIEW IF EXISTS {view} CASCADE")
            for table in set(found.get_table_names()) - KEPT_TABLES - self._partitions(connection):
                connection.exec_driver_sql(f"DROP TABLE {table}")
            self._empty_tables(connection)

    def _partitions(self, connection: Connection) -> set[str]:
        return set()

    @abstractmethod
    def _empty_tables(self, connection: Connection) -> None:
        """Remove all rows, also events, for which triggers refuse it; positions begin again."""

    @abstractmethod
    def _names(self, connection: Connection) -> list[str]: ...

    @abstractmethod
    def _drop(self, connection: Connection, name: str) -> None: ...

    @cached_property
    def engine(self) -> Engine:
        """Connections to the server, from which left-over databases have been dropped."""
        engine = create_engine(self._server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            self._lock(connection)
            for name in left_over(self._names(connection)):
                self._drop(connection, name)
            connection.invalidate()  # and with its end the lock is free
        return engine

    @abstractmethod
    def _lock(self, connection: Connection) -> None:
        """Keep other test runs from dropping the same databases, until the connection ends."""

    def make_bare(self) -> str:
        """Make a database without a schema; returns its name."""
        name = new_name()
        with self.engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return name

    def _migrated(self) -> str:
        name = self.make_bare()
        migrate(self.url(name))
        return name


class PostgresDatabases(Databases):
    def make(self) -> str:
        template, name = self._template, new_name()
        with self.engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def close(self) -> None:
        if "_template" in vars(self):
            self.drop(self._template)
        super().close()

    def _empty_tables(self, connection: Connection) -> None:
        statements = (
            f"SET LOCAL lock_timeout = '{DROP_WAIT_S}s'",
            "SET LOCAL session_replication_role = replica",  # so no trigger is called
            "DELETE FROM events",  # TRUNCATE makes new files
            "ALTER SEQUENCE events_position_seq RESTART",
        )
        connection.exec_driver_sql("; ".join([*statements, *EMPTY]))  # one round trip

    @cached_property
    def _template(self) -> str:
        return self._migrated()

    def _names(self, connection: Connection) -> list[str]:
        return list(connection.exec_driver_sql("SELECT datname FROM pg_database").scalars())

    def _drop(self, connection: Connection, name: str) -> None:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _lock(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({SWEEP_LOCK})")


class PartitionedDatabases(PostgresDatabases):
    """Runs that a test has made old are in `events_first`, new ones in the partition of their month."""

    def _migrated(self) -> str:
        name = super()._migrated()
        with opened_database(self.url(name)) as database:
            partition_events(database, now_ms() - PARTITIONED_MS, lambda step: None)
            add_months(database, now_ms())  # as any purge does
        return name

    def _partitions(self, connection: Connection) -> set[str]:
        return {partition.name for partition in read_partitions(connection)}


class MysqlDatabases(Databases):
    def make(self) -> str:
        statements, name = self._statements, new_name()
        with self.engine.connect() as connection:
            cursor = connection.connection.cursor()
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"USE {name}")
            cursor.execute("SET foreign_key_checks = 0")  # for any order of the tables
            for statement, values in statements:
                cursor.execute(statement, values)
            connection.invalidate()  # no other test must find it in this database
        return name

    def _empty_tables(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SET lock_wait_timeout = {DROP_WAIT_S}")
        connection.exec_driver_sql("TRUNCATE events")  # which calls no trigger
        for statement in EMPTY:
            connection.exec_driver_sql(statement)

    @cached_property
    def _statements(self) -> list[tuple[str, tuple[Any, ...] | None]]:
        name = self._migrated()
        with self.engine.connect() as connection:
            try:
                return list(_statements_of(connection, name))
            finally:
                self._drop(connection, name)

    def _names(self, connection: Connection) -> list[str]:
        return list(connection.exec_driver_sql("SHOW DATABASES").scalars())

    def _drop(self, connection: Connection, name: str) -> None:
        connected = "SELECT id FROM information_schema.processlist WHERE db = %s"
        for thread in connection.exec_driver_sql(connected, (name,)).scalars().all():
            with suppress(OperationalError):  # another process has dropped it
                connection.exec_driver_sql(f"KILL {thread}")
        connection.exec_driver_sql(f"SET lock_wait_timeout = {DROP_WAIT_S}")
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")

    def _lock(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT GET_LOCK('{SWEEP_LOCK}', {DROP_WAIT_S})")


def _statements_of(connection: Connection, name: str) -> Iterator[tuple[str, tuple[Any, ...] | None]]:
    """The statements that create a database's tables with their first rows, and then views and triggers."""
    kinds = connection.exec_driver_sql(f"SHOW FULL TABLES FROM {name}").all()
    for table in [name for name, kind in kinds if kind != "VIEW"]:
        yield connection.exec_driver_sql(f"SHOW CREATE TABLE {name}.{table}").one()[1], None
        for row in connection.exec_driver_sql(f"SELECT * FROM {name}.{table}"):
            yield f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", tuple(row)
    for view in [name for name, kind in kinds if kind == "VIEW"]:
        made = connection.exec_driver_sql(f"SHOW CREATE VIEW {name}.{view}").mappings().one()
        yield made["Create View"].replace(f"`{name}`.", ""), None
    for trigger in connection.exec_driver_sql(f"SHOW TRIGGERS FROM {name}").mappings().all():
        made = connection.exec_driver_sql(f"SHOW CREATE TRIGGER {name}.{trigger['Trigger']}").mappings().one()
        yield made["SQL Original Statement"], None


def migrate(url: str) -> None:
    """Bring a database up to this release."""
    open_database(url).dialect.close()


MAKERS: dict[str, type[Databases]] = {
    "postgresql": PostgresDatabases,
    "mysql": MysqlDatabases,
    "partitioned": PartitionedDatabases,
}
_opened: dict[str, Databases] = {}


def _shared(kind: str) -> Databases:
    if kind not in _opened:
        _opened[kind] = MAKERS[kind](shared_database(kind))
    return _opened[kind]


def close_shared() -> None:
    """Leave the servers, at the end of the test run."""
    while _opened:
        _opened.popitem()[1].close()
