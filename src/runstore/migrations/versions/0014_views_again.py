"""Writes the views for SQL again: one event could end every query on PostgreSQL, or be hidden on MariaDB."""

from alembic import op

from runstore.database.views import renew_views

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    renew_views(op.get_bind())
