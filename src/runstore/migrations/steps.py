"""Steps of migrations that may have been done already.

MySQL commits at every change of the schema. A migration that was killed between two of them begins again, and
leaves alone what it finds done.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from alembic import op

_NO_SUPER = 1419  # MySQL: binary logging is on, and the account may not create triggers

log = structlog.get_logger(__name__)


def create_table(name: str, *parts: Any, **options: Any) -> None:
    """Make a table, unless it is there."""
    if not has_table(name):
        op.create_table(name, *parts, **options)


def has_table(name: str) -> bool:
    return _inspector().has_table(name)


def drop_table(name: str) -> None:
    """Drop a table, if it is there."""
    if has_table(name):
        op.drop_table(name)


def has_column(table: str, name: str) -> bool:
    return any(column["name"] == name for column in _inspector().get_columns(table))


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column, unless it is there."""
    if not has_column(table, column.name):
        op.add_column(table, column)


def create_index(name: str, table: str, columns: Sequence[str]) -> None:
    """Make an index, unless it is there."""
    if not _has_index(name, table):
        op.create_index(name, table, columns)


def drop_index(name: str, table: str) -> None:
    """Drop an index, if it is there."""
    if _has_index(name, table):
        op.drop_index(name, table)


def trigger_of(name: str) -> str | None:
    """What a trigger of MySQL does; None without it."""
    found = sa.text(
        "SELECT action_statement FROM information_schema.triggers "
        "WHERE trigger_schema = DATABASE() AND trigger_name = :name"
    )
    done: str | None = op.get_bind().execute(found, {"name": name}).scalar()
    return done


def create_trigger(name: str, does: str) -> None:
    """Make a trigger of MySQL, unless it is there; without the right to, the log says so."""
    if trigger_of(name) is not None:
        return
    try:
        op.execute(sa.text(f"CREATE TRIGGER {name} {does}"))
    except sa.exc.DBAPIError as error:
        if error.orig is None or error.orig.args[:1] != (_NO_SUPER,):
            raise
        log.warning(
            "trigger_refused", error=str(error.orig), lacks="what refuses changes of events by other programs"
        )


def drop_trigger(name: str) -> None:
    """Drop a trigger of MySQL, if it is there."""
    if trigger_of(name) is not None:
        op.execute(sa.text(f"DROP TRIGGER {name}"))


def _has_index(name: str, table: str) -> bool:
    return any(index["name"] == name for index in _inspector().get_indexes(table))


def _inspector() -> sa.Inspector:
    return sa.inspect(op.get_bind())  # a new one: it remembers what it has seen
