"""Lets a later purge replace the event that an earlier one left, to erase a name; adds views for SQL."""

import sqlalchemy as sa
from alembic import op

from runstore.database.columns import MYSQL
from runstore.database.views import write_views
from runstore.migrations import steps

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    steps.create_index("ix_runs_created_at", "runs", ["created_at"])
    write_views(op.get_bind(), None)
    dialect = op.get_bind().dialect.name
    if dialect in MYSQL:
        steps.replace_trigger(_DELETE, _ON_MYSQL, temporary=_TEMPORARY, known_by=_REPLACED)
    else:
        for statement in {"sqlite": _ON_SQLITE, "postgresql": _ON_POSTGRESQL}[dialect]:
            op.execute(sa.text(statement))


# Only events of a run that is being purged may be deleted, and its last `run.purged` never.

_REPLACED = "later.type = 'run.purged'"
_LATER = f"later.run_id = OLD.run_id AND later.seq > OLD.seq AND {_REPLACED}"
_PURGED = (
    f"((OLD.type <> 'run.purged' OR EXISTS (SELECT 1 FROM events later WHERE {_LATER})) "  # noqa: S608
    "AND EXISTS (SELECT 1 FROM purging WHERE purging.run_id = OLD.run_id))"
)
_ON_SQLITE = [
    "DROP TRIGGER IF EXISTS events_refuse_delete",
    f"CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events WHEN NOT {_PURGED} "
    "BEGIN SELECT RAISE(ABORT, 'events are immutable'); END",
]

_KEPT = ("position", "run_id", "seq", "ends", "at", "append_id")
_BURIES = " AND ".join(
    [
        "OLD.type IN ('llm.token', 'llm.reasoning', 'llm.message')",
        "NEW.type = 'llm.redacted'",
        *(f"OLD.{column} IS NOT DISTINCT FROM NEW.{column}" for column in _KEPT),
    ]
)
_ON_POSTGRESQL = [
    "CREATE OR REPLACE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    f"IF TG_OP = 'DELETE' THEN IF {_PURGED} THEN RETURN OLD; END IF; END IF; "
    f"IF TG_OP = 'UPDATE' THEN IF {_BURIES} THEN RETURN NEW; END IF; END IF; "
    "RAISE EXCEPTION 'events are immutable' USING ERRCODE = 'integrity_constraint_violation'; END $$",
]
_DELETE, _TEMPORARY = "events_refuse_delete", "events_refuse_delete_0011"
_ON_MYSQL = (
    "BEFORE DELETE ON events FOR EACH ROW BEGIN "
    f"IF NOT {_PURGED} THEN SIGNAL SQLSTATE '23000' SET MESSAGE_TEXT = 'events are immutable'; END IF; END"
)
