"""Adds the list of each session's runs, from which an agent with a memory starts."""

import sqlalchemy as sa

from runstore.database.columns import Name, RunId
from runstore.migrations import steps

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    steps.create_table(
        "session_runs",
        sa.Column("user_id", Name(255), nullable=False),
        sa.Column("session_id", Name(255), nullable=False),
        sa.Column("run_id", RunId, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "session_id", "run_id", name="pk_session_runs"),
    )
