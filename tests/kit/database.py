"""SQLite files with this release's schema."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.config import Config
from sqlalchemy import make_url

from runstore import migrations
from runstore.core.ports import LiveFeed
from runstore.database.database import Database
from runstore.database.dialects import Dialect, SqliteDialect, open_dialect
from runstore.eventlog.sql import SqlEventLog
from runstore.eventlog.sql_store import InlineProjection
from runstore.projections.runs import RunList


def make_database(path: Path) -> Path:
    """An empty log at `path`. Migrated once for each test process, then copied: alembic takes its time."""
    path.touch(0o600)
    path.write_bytes(_migrated())
    return path


def make_old(path: Path, version: str) -> None:
    """An empty database of an older release."""
    dialect = open_database(path)
    with dialect.engine.connect() as connection, dialect.migrating(connection):
        config = Config()
        config.set_main_option("script_location", "runstore:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    dialect.engine.dispose()


def open_database(path: Path) -> SqliteDialect:
    return open_dialect(make_url(f"sqlite:///{path}"))


def migrate(path: Path) -> str | None:
    """The opening steps of a server; returns the schema version that it found."""
    dialect = open_database(path)
    with dialect.engine.connect() as connection, dialect.migrating(connection):
        before = migrations.upgrade(connection)
    dialect.engine.dispose()
    return before


def run_list() -> RunList:
    return RunList()


class OwnLog(SqlEventLog):
    """A log with a database of its own, which it closes."""

    def __init__(self, dialect: Dialect, feed: LiveFeed, projections: Sequence[InlineProjection]) -> None:
        super().__init__(Database(dialect), feed, projections)
        self.close = self._close

    async def _close(self) -> None:
        await self._writer.close()
        await self.database.close()


def open_log_at(url: str, feed: LiveFeed) -> SqlEventLog:
    """The log of a database that has this release's schema, as a server opens it."""
    return OwnLog(open_dialect(make_url(url)), feed, [run_list()])


def open_sqlite_log(
    path: Path, feed: LiveFeed, projections: Sequence[InlineProjection] | None = None
) -> SqlEventLog:
    """The log as a server opens it, with its run list unless `projections` says otherwise."""
    return OwnLog(open_database(path), feed, [run_list()] if projections is None else projections)


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "empty.db")
        migrate(path)
        return path.read_bytes()
