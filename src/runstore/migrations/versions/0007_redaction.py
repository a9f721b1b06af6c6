"""Tombstones: the one change of an event that the database allows."""

import sqlalchemy as sa
import structlog
from alembic import op

from runstore.columns import MYSQL

revision = "0007"
down_revision = "0006"

_NO_SUPER = 1419  # MySQL: binary logging is on, and the account may not create triggers

log = structlog.get_logger(__name__)


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    for statement in (
        _ON_MYSQL if dialect in MYSQL else {"sqlite": _ON_SQLITE, "postgresql": _ON_POSTGRESQL}[dialect]
    ):
        _execute(statement)


def _execute(statement: str) -> None:
    try:
        op.execute(sa.text(statement))
    except sa.exc.DBAPIError as error:
        if error.orig is None or error.orig.args[:1] != (_NO_SUPER,):
            raise
        log.warning(
            "trigger_refused", error=str(error.orig), lacks="what refuses changes of events by other programs"
        )


# Text that was redacted may become a tombstone, which keeps its place; nothing else of an event changes.
# SQLite and PostgreSQL compare by IS and IS DISTINCT FROM, MySQL by <=>: a NULL is no way round.

_KEPT = ("position", "run_id", "seq", "ends", "at", "append_id")
_TEXT = "OLD.type IN ('llm.token', 'llm.reasoning', 'llm.message')"
_TOMBSTONE = "NEW.type = 'llm.redacted'"


def _buries(same: str) -> str:
    return " AND ".join([_TEXT, _TOMBSTONE, *(same.format(column) for column in _KEPT)])


_PURGED = "(OLD.type <> 'run.purged' AND EXISTS (SELECT 1 FROM purging WHERE purging.run_id = OLD.run_id))"
_ON_SQLITE = [
    "DROP TRIGGER IF EXISTS events_refuse_update",
    "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events "
    f"WHEN NOT ({_buries('OLD.{0} IS NEW.{0}')}) "
    "BEGIN SELECT RAISE(ABORT, 'events are immutable'); END",
]
_ON_POSTGRESQL = [
    "CREATE OR REPLACE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    f"IF TG_OP = 'DELETE' THEN IF {_PURGED} THEN RETURN OLD; END IF; END IF; "
    f"IF TG_OP = 'UPDATE' THEN IF {_buries('OLD.{0} IS NOT DISTINCT FROM NEW.{0}')} "
    "THEN RETURN NEW; END IF; END IF; "
    "RAISE EXCEPTION 'events are immutable' USING ERRCODE = 'integrity_constraint_violation'; END $$",
]
_BURIES = _buries("OLD.{0} <=> NEW.{0}")
_ON_MYSQL = [
    "DROP TRIGGER IF EXISTS events_refuse_update",
    "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events FOR EACH ROW BEGIN "  # noqa: S608
    f"IF NOT ({_BURIES}) THEN SIGNAL SQLSTATE '23000' SET MESSAGE_TEXT = 'events are immutable'; END IF; END",
]
