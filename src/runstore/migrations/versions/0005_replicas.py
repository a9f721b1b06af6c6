"""Supports many processes on one database.

Workers, the writers' barrier, users' locks, and purges of runs.
"""

import sqlalchemy as sa
from alembic import op

from runstore.database.columns import MYSQL, Binary, Name, RunId
from runstore.migrations import steps

revision = "0005"
down_revision = "0004"

_USER_LOCKS = 256


def upgrade() -> None:
    steps.create_table(
        "workers",
        sa.Column("worker_id", Name(64), nullable=False),
        sa.Column("host", Name(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("capacity", sa.Integer, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("beat_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("worker_id", name="pk_workers"),
    )
    steps.create_table(
        "barrier",
        sa.Column("id", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("closed_upto", sa.BigInteger, nullable=False),
        sa.Column("purges", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_barrier"),
    )
    _fill("barrier", [{"id": 1, "closed_upto": 0, "purges": 0}])
    steps.create_table(
        "user_locks",
        sa.Column("slot", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("slot", name="pk_user_locks"),
    )
    _fill("user_locks", [{"slot": slot} for slot in range(_USER_LOCKS)])
    steps.create_table(
        "purging",
        sa.Column("run_id", RunId, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_purging"),
    )
    steps.create_index("ix_open_runs_worker_id", "open_runs", ["worker_id"])
    steps.add_column("runs", sa.Column("purged", sa.SmallInteger, nullable=False, server_default="0"))
    steps.create_index("ix_runs_purged_run_id", "runs", ["purged", "run_id"])
    if steps.has_table("runs_shadow") and not steps.has_column("runs_shadow", "purged"):
        steps.drop_table("runs_shadow")  # an interrupted rebuild starts over
    op.execute("DELETE FROM checkpoints WHERE name = 'runs_shadow'")
    steps.create_table(
        "runs_shadow",
        sa.Column("run_id", Name(36), nullable=False),
        sa.Column("user_id", Name(255), nullable=False),
        sa.Column("agent_name", Name(255), nullable=False),
        sa.Column("session_id", Name(255)),
        sa.Column("status", Name(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("deleted", sa.SmallInteger, nullable=False),
        sa.Column("state", Binary, nullable=False),
        sa.Column("workspace_id", Name(255)),
        sa.Column("purged", sa.SmallInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs_shadow"),
    )
    dialect = op.get_bind().dialect.name
    if dialect in MYSQL:
        for name, does in _ON_MYSQL.items():
            steps.create_trigger(name, does)
    else:
        for statement in {"sqlite": _ON_SQLITE, "postgresql": _ON_POSTGRESQL}[dialect]:
            op.execute(sa.text(statement))


def _fill(name: str, rows: list[dict[str, int]]) -> None:
    """Insert the rows of a new table, all or none."""
    table = sa.table(name, *map(sa.column, rows[0]))
    connection = op.get_bind()
    if not connection.execute(sa.select(sa.func.count()).select_from(table)).scalar():
        connection.execute(sa.insert(table), rows)


# No connection may change an event. Only events of a run that is being purged may be deleted, except the one
# that replaces them.

_PURGED = "(OLD.type <> 'run.purged' AND EXISTS (SELECT 1 FROM purging WHERE purging.run_id = OLD.run_id))"
_ON_SQLITE = [
    "DROP TRIGGER IF EXISTS events_refuse_update",
    "DROP TRIGGER IF EXISTS events_refuse_delete",
    "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events "
    "BEGIN SELECT RAISE(ABORT, 'events are immutable'); END",
    f"CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events WHEN NOT {_PURGED} "
    "BEGIN SELECT RAISE(ABORT, 'events are immutable'); END",
]
_ON_POSTGRESQL = [
    "CREATE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    f"IF TG_OP = 'DELETE' THEN IF {_PURGED} THEN RETURN OLD; END IF; END IF; "
    "RAISE EXCEPTION 'events are immutable' USING ERRCODE = 'integrity_constraint_violation'; END $$",
    "CREATE TRIGGER events_refuse_change BEFORE UPDATE OR DELETE ON events "
    "FOR EACH ROW EXECUTE FUNCTION events_refuse_change()",
    "CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON events "
    "FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change()",
]
_ON_MYSQL = {
    "events_refuse_update": "BEFORE UPDATE ON events FOR EACH ROW "
    "SIGNAL SQLSTATE '23000' SET MESSAGE_TEXT = 'events are immutable'",
    "events_refuse_delete": "BEFORE DELETE ON events FOR EACH ROW BEGIN "
    f"IF NOT {_PURGED} THEN SIGNAL SQLSTATE '23000' SET MESSAGE_TEXT = 'events are immutable'; END IF; END",
}
