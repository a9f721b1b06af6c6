"""Adds the seq of the last message that a person added to an open run."""

import sqlalchemy as sa

from runstore.migrations import steps

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    steps.add_column("open_runs", sa.Column("added", sa.BigInteger))
