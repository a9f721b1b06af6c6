"""The runs of each session, which an agent with a memory begins with."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "session_runs",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("session_id", sa.String(255), nullable=False),
        sa.Column("run_id", sa.LargeBinary(16), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "session_id", "run_id", name="pk_session_runs"),
    )
