"""Adds the state of projections, which replaces the checkpoints of rebuilds."""

import sqlalchemy as sa
from alembic import op

from runstore.database.columns import Binary, Name
from runstore.migrations import steps

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("DELETE FROM runs_shadow")  # an interrupted rebuild starts over
    steps.create_table(
        "projections",
        sa.Column("name", Name(64), nullable=False),
        sa.Column("slot", Name(1), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("fingerprint", Name(64), nullable=False),
        sa.Column("inline", sa.SmallInteger, nullable=False),
        sa.Column("tables", Binary, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("live", sa.SmallInteger, nullable=False),
        sa.Column("state", Name(16), nullable=False),
        sa.Column("error", Binary),
        sa.Column("error_position", sa.BigInteger),
        sa.Column("skipped", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("owner", Name(64)),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", "slot", name="pk_projections"),
    )
    steps.drop_table("checkpoints")
