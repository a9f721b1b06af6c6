"""The first schema: the log, its control tables, the run list."""

import sqlalchemy as sa

from runstore.database.columns import Binary, Name, Position, RunId
from runstore.migrations import steps

revision = "0001"
down_revision = None


def upgrade() -> None:
    steps.create_table(
        "events",
        sa.Column("position", Position, primary_key=True, autoincrement=True),
        sa.Column("run_id", RunId, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("type", Name(128), nullable=False),
        sa.Column("v", sa.SmallInteger, nullable=False),
        sa.Column("ends", sa.SmallInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("append_id", Binary(8), nullable=False),
        sa.Column("data", Binary, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.UniqueConstraint("run_id", "seq", name="uq_events_run_id_seq"),
        sqlite_autoincrement=True,
    )
    steps.create_table(
        "open_runs",
        sa.Column("run_id", RunId),
        sa.Column("status", Name(16), nullable=False),
        sa.Column("user_id", Name(255), nullable=False),
        sa.Column("session_id", Name(255)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("adoptions", sa.Integer, nullable=False),
        sa.Column("worker_id", Name(64)),
        sa.Column("queued_at", sa.BigInteger, nullable=False),
        sa.Column("cancel_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("run_id", name="pk_open_runs"),
    )
    steps.create_index("ix_open_runs_queued_at", "open_runs", ["queued_at"])
    steps.create_table(
        "sessions",
        sa.Column("user_id", Name(255), nullable=False),
        sa.Column("session_id", Name(255), nullable=False),
        sa.Column("run_id", RunId, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "session_id", name="pk_sessions"),
    )
    steps.create_table(
        "idempotency",
        sa.Column("user_id", Name(255), nullable=False),
        sa.Column("key", Name(255), nullable=False),
        sa.Column("run_id", RunId, nullable=False),
        sa.Column("body_hash", Binary(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key", name="pk_idempotency"),
    )
    steps.create_table(
        "runs",
        sa.Column("run_id", Name(36), nullable=False),
        sa.Column("user_id", Name(255), nullable=False),
        sa.Column("agent_name", Name(255), nullable=False),
        sa.Column("session_id", Name(255)),
        sa.Column("status", Name(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("deleted", sa.SmallInteger, nullable=False),
        sa.Column("state", Binary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
    )
    for column in ("status", "user_id", "agent_name", "session_id"):
        steps.create_index(f"ix_runs_{column}_run_id", "runs", [column, "run_id"])
    steps.create_table(
        "checkpoints",
        sa.Column("name", Name(64), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_checkpoints"),
    )
