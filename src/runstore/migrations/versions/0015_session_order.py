"""Adds the position of each run to its session, so that the newest ones are found without reading all."""

import sqlalchemy as sa
from alembic import op

from runstore.migrations import steps

revision = "0015"
down_revision = "0014"

_FILL = (
    "UPDATE session_runs SET position = (SELECT events.position FROM events "
    "WHERE events.run_id = session_runs.run_id AND events.seq = 1) WHERE position IS NULL"
)


def upgrade() -> None:
    steps.add_column("session_runs", sa.Column("position", sa.BigInteger))
    op.execute(sa.text(_FILL))
    steps.create_index("ix_session_runs_position", "session_runs", ["user_id", "session_id", "position"])
