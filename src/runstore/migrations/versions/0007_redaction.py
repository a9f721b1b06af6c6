"""Adds tombstones, the only change of an event that the database allows."""

import sqlalchemy as sa
from alembic import op

from runstore.database.columns import MYSQL
from runstore.migrations import steps

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    if dialect in MYSQL:
        steps.replace_trigger(_UPDATE, _ON_MYSQL, temporary=_TEMPORARY, known_by=_TOMBSTONE)
    else:
        for statement in {"sqlite": _ON_SQLITE, "postgresql": _ON_POSTGRESQL}[dialect]:
            op.execute(sa.text(statement))


# Redacted text may become a tombstone, which keeps its place; nothing else of an event may change. SQLite
# and PostgreSQL compare by IS and IS DISTINCT FROM, MySQL by <=>, so that a NULL cannot bypass the check.

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
_UPDATE, _TEMPORARY = "events_refuse_update", "events_refuse_update_0007"
_ON_MYSQL = (
    "BEFORE UPDATE ON events FOR EACH ROW BEGIN "  # noqa: S608
    f"IF NOT ({_BURIES}) THEN SIGNAL SQLSTATE '23000' SET MESSAGE_TEXT = 'events are immutable'; END IF; END"
)
