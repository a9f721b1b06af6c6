"""The runs of sessions that are older than the table of them: agents with a memory remember those too."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql, sqlite

from runstore.columns import Name, RunId

revision = "0008"
down_revision = "0007"

_ROWS = 1_000  # that are read and written at once


def upgrade() -> None:
    connection = op.get_bind()
    runs = sa.table("runs", sa.column("run_id", Name(36)), sa.column("purged"), *_names())
    page = (
        sa.select(*(runs.c[name] for name in ("user_id", "session_id", "run_id")))
        .where(runs.c.session_id.is_not(None), runs.c.purged == 0)
        .where(runs.c.run_id > sa.bindparam("after", type_=Name(36)))
        .order_by(runs.c.run_id)
        .limit(_ROWS)
    )
    add = _insert(sa.table("session_runs", sa.column("run_id", RunId), *_names()), connection.dialect.name)
    after = ""
    while rows := connection.execute(page, {"after": after}).mappings().all():
        connection.execute(add, [dict(row) for row in rows])
        after = rows[-1]["run_id"]


def _names() -> list[sa.ColumnClause[str]]:
    return [sa.column("user_id", Name(255)), sa.column("session_id", Name(255))]


def _insert(table: sa.TableClause, dialect: str) -> Any:
    """A statement that leaves rows alone that are there already."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return sa.insert(table).prefix_with("IGNORE")
