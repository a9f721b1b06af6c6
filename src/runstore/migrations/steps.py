"""Repeatable steps of migrations.

MySQL commits at every change of the schema. A migration that was killed between two changes starts again, and
skips the steps that it finds done.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from alembic import op

_NO_SUPER = 1419  # MySQL: binary logging is on, and the account may not create triggers

log = structlog.get_logger(__name__)


def create_table(name: str, *parts: Any, **options: Any) -> None:
    """Create a table unless it exists."""
    if not has_table(name):
        op.create_table(name, *parts, **options)


def has_table(name: str) -> bool:
    return _inspector().has_table(name)


def drop_table(name: str) -> None:
    """Drop a table if it exists."""
    if has_table(name):
        op.drop_table(name)


def has_column(table: str, name: str) -> bool:
    return any(column["name"] == name for column in _inspector().get_columns(table))


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column unless it exists."""
    if not has_column(table, column.name):
        op.add_column(table, column)


def create_index(name: str, table: str, columns: Sequence[str]) -> None:
    """Create an index unless it exists."""
    if not _has_index(name, table):
        op.create_index(name, table, columns)


def drop_index(name: str, table: str) -> None:
    """Drop an index if it exists."""
    if _has_index(name, table):
        op.drop_index(name, table)


def trigger_of(name: str) -> str | None:
    """The action of a MySQL trigger; None if it does not exist."""
    found = sa.text(
        "SELECT action_statement FROM information_schema.triggers "
        "WHERE trigger_schema = DATABASE() AND trigger_name = :name"
    )
    done: str | None = op.get_bind().execute(found, {"name": name}).scalar()
    return done


def create_trigger(name: str, does: str) -> None:
    """Create a MySQL trigger unless it exists; log a warning if the account lacks the right."""
    if trigger_of(name) is not None:
        return
    try:
        op.execute(sa.text(f"CREATE TRIGGER {name} {does}"))
    except sa.exc.DBAPIError as error:
        if error.orig is None or error.orig.args[:1] != (_NO_SUPER,):
            raise
        log.warning(
            "trigger_refused",
            error=str(error.orig),
            lacks="protection of events from changes by other programs",
        )


def drop_trigger(name: str) -> None:
    """Drop a MySQL trigger if it exists."""
    if trigger_of(name) is not None:
        op.execute(sa.text(f"DROP TRIGGER {name}"))


def replace_trigger(name: str, does: str, *, temporary: str, known_by: str) -> None:
    """Replace a MySQL trigger, unless an interrupted migration has done so.

    MySQL commits each statement, so a second trigger protects the log until the first one is there again.

    Args:
        temporary: the name of that second trigger.
        known_by: a part of the action that only the new trigger has.
    """
    if known_by not in (trigger_of(name) or ""):
        create_trigger(temporary, does)
        drop_trigger(name)
        create_trigger(name, does)
    drop_trigger(temporary)


def _has_index(name: str, table: str) -> bool:
    return any(index["name"] == name for index in _inspector().get_indexes(table))


def _inspector() -> sa.Inspector:
    return sa.inspect(op.get_bind())  # a new inspector, as each one caches its findings
