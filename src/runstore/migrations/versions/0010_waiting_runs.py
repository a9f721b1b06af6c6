"""Adds the time at which a waiting run's next request expires."""

import sqlalchemy as sa

from runstore.migrations import steps

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    steps.add_column("open_runs", sa.Column("expires_at", sa.BigInteger))
    steps.create_index("ix_open_runs_expires_at", "open_runs", ["expires_at"])
