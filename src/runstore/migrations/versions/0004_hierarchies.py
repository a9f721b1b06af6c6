"""Adds the hierarchies of agents that users define."""

import sqlalchemy as sa

from runstore.database.columns import Binary, Name
from runstore.migrations import steps

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    steps.create_table(
        "hierarchies",
        sa.Column("hierarchy_id", Name(36), nullable=False),
        sa.Column("user_id", Name(255), nullable=False),
        sa.Column("name", Name(255), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("definition", Binary, nullable=False),
        sa.PrimaryKeyConstraint("hierarchy_id", name="pk_hierarchies"),
    )
    steps.create_index("ix_hierarchies_user_id_hierarchy_id", "hierarchies", ["user_id", "hierarchy_id"])
