"""Adds API keys, the secret that signs tickets, workspaces, and the columns that limits count by."""

import sqlalchemy as sa
from alembic import op

from runstore.database.columns import Binary, Name
from runstore.migrations import steps

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    steps.create_table(
        "api_keys",
        sa.Column("key_id", Name(16), nullable=False),
        sa.Column("secret_hash", Binary(32), nullable=False),
        sa.Column("user_id", Name(255), nullable=False),
        sa.Column("role", Name(16), nullable=False),
        sa.Column("name", Name(255), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
    )
    steps.create_table(
        "server_secrets",
        sa.Column("name", Name(64), nullable=False),
        sa.Column("value", Binary(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_server_secrets"),
    )
    steps.drop_table("runs_shadow")  # an interrupted rebuild starts over
    op.execute("DELETE FROM checkpoints WHERE name = 'runs_shadow'")
    steps.add_column("runs", sa.Column("workspace_id", Name(255)))
    steps.create_index("ix_runs_workspace_id_run_id", "runs", ["workspace_id", "run_id"])
    steps.create_index("ix_open_runs_user_id", "open_runs", ["user_id"])
    steps.create_index("ix_idempotency_at", "idempotency", ["at"])
