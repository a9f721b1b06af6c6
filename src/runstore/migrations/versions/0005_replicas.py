"""Many processes on one database: workers, the writers' barrier, users' locks, and purges of runs."""

import sqlalchemy as sa
import structlog
from alembic import op

from runstore.columns import MYSQL, Binary, Name, RunId

revision = "0005"
down_revision = "0004"

_USER_LOCKS = 256
_NO_SUPER = 1419  # MySQL: binary logging is on, and the account may not create triggers

log = structlog.get_logger(__name__)


def upgrade() -> None:
    op.create_table(
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
    barrier = op.create_table(
        "barrier",
        sa.Column("id", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("closed_upto", sa.BigInteger, nullable=False),
        sa.Column("purges", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_barrier"),
    )
    op.bulk_insert(barrier, [{"id": 1, "closed_upto": 0, "purges": 0}])
    user_locks = op.create_table(
        "user_locks",
        sa.Column("slot", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("slot", name="pk_user_locks"),
    )
    op.bulk_insert(user_locks, [{"slot": slot} for slot in range(_USER_LOCKS)])
    op.create_table(
        "purging",
        sa.Column("run_id", RunId, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_purging"),
    )
    op.create_index("ix_open_runs_worker_id", "open_runs", ["worker_id"])
    op.add_column("runs", sa.Column("purged", sa.SmallInteger, nullable=False, server_default="0"))
    op.create_index("ix_runs_purged_run_id", "runs", ["purged", "run_id"])
    op.execute("DROP TABLE IF EXISTS runs_shadow")  # a rebuild that was interrupted begins anew
    op.execute("DELETE FROM checkpoints WHERE name = 'runs_shadow'")
    op.create_table(
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


# An event is immutable, whoever holds the connection. Only those of a run that is being purged may go, but
# never the one that stands for them.

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
_ON_MYSQL = [
    "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events FOR EACH ROW "
    "SIGNAL SQLSTATE '23000' SET MESSAGE_TEXT = 'events are immutable'",
    "CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events FOR EACH ROW BEGIN "
    f"IF NOT {_PURGED} THEN SIGNAL SQLSTATE '23000' SET MESSAGE_TEXT = 'events are immutable'; END IF; END",
]
