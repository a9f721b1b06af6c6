"""Writes the views for SQL again: `data` of `audit_events` was not always JSON on SQLite."""

from alembic import op

from runstore.database.views import renew_views

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    renew_views(op.get_bind())
