"""The first schema: the log, its control tables, the run list."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

position = sa.BigInteger().with_variant(sa.Integer, "sqlite")
run_id = sa.LargeBinary(16)


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("position", position, primary_key=True, autoincrement=True),
        sa.Column("run_id", run_id, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("v", sa.SmallInteger, nullable=False),
        sa.Column("ends", sa.SmallInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("append_id", sa.LargeBinary(8), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.UniqueConstraint("run_id", "seq", name="uq_events_run_id_seq"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "open_runs",
        sa.Column("run_id", run_id),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("session_id", sa.String(255)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("adoptions", sa.Integer, nullable=False),
        sa.Column("worker_id", sa.String(64)),
        sa.Column("queued_at", sa.BigInteger, nullable=False),
        sa.Column("cancel_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("run_id", name="pk_open_runs"),
    )
    op.create_index("ix_open_runs_queued_at", "open_runs", ["queued_at"])
    op.create_table(
        "sessions",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("session_id", sa.String(255), nullable=False),
        sa.Column("run_id", run_id, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "session_id", name="pk_sessions"),
    )
    op.create_table(
        "idempotency",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("run_id", run_id, nullable=False),
        sa.Column("body_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key", name="pk_idempotency"),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("agent_name", sa.String(255), nullable=False),
        sa.Column("session_id", sa.String(255)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("deleted", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
    )
    for column in ("status", "user_id", "agent_name", "session_id"):
        op.create_index(f"ix_runs_{column}_run_id", "runs", [column, "run_id"])
    op.create_table(
        "checkpoints",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_checkpoints"),
    )
    _refuse_changes()


def _refuse_changes() -> None:
    """An event is immutable, whoever holds the connection."""
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER events_refuse_{change.lower()} BEFORE {change} ON events "
            "BEGIN SELECT RAISE(ABORT, 'events are immutable'); END"
        )
