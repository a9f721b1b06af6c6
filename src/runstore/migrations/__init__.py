"""Versions of the database's schema. `upgrade` migrates a database to this release's schema, under a lock."""

from sqlalchemy import Connection, inspect, text

from runstore.core.errors import SchemaMismatch

HEAD = "0015"  # this release's schema; an up-to-date database then starts without importing alembic


def current_version(connection: Connection) -> str | None:
    """The schema version of a database; None if it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def upgrade(connection: Connection) -> str | None:
    """Migrate the schema to HEAD; return the version that it had before.

    The caller has started a transaction that excludes every other migration, and commits it.

    Raises:
        SchemaMismatch: the database is newer than this release.
    """
    version = current_version(connection)
    if version == HEAD:
        return version
    if version is not None and version > HEAD:
        raise SchemaMismatch(
            f"the database has schema {version}, and this release of runstore knows only {HEAD}: "
            "upgrade runstore"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "runstore:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return version
