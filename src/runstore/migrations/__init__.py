"""The database's schema, version by version. `upgrade` brings a database up to this release, under a lock."""

from sqlalchemy import Connection, inspect, text

from runstore.core.errors import SchemaMismatch

HEAD = "0008"  # this release's schema; spares an up-to-date start the import of alembic


def current_version(connection: Connection) -> str | None:
    """The schema version of a database; None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def upgrade(connection: Connection) -> str | None:
    """Bring the schema up to HEAD; returns the version that it had before.

    The caller has begun a transaction that keeps every other migration out, and commits it.

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
