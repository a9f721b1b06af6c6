"""Fills the table of sessions' runs with older runs, so that agents with a memory remember those, too.

It reads the log, because the run list may have been dropped or be under construction.
"""

from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql, sqlite

from runstore.core.depth import decoded
from runstore.database.columns import Binary, Name, RunId

revision = "0008"
down_revision = "0007"

_ROWS = 50  # rows per read and write, as each may have a megabyte
_NIL = "00000000-0000-0000-0000-000000000000"  # sorts before every run


class _Queued(msgspec.Struct):
    user_id: str
    session_id: str | None = None


_queued = msgspec.json.Decoder(_Queued).decode


def upgrade() -> None:
    connection = op.get_bind()
    events = sa.table(
        "events",
        sa.column("run_id", RunId),
        sa.column("seq"),
        sa.column("type", Name(128)),
        sa.column("data", Binary),
    )
    purging = sa.table("purging", sa.column("run_id", RunId))
    page = (
        sa.select(events.c.run_id, events.c.data)
        .where(events.c.seq == 1, events.c.type == "lifecycle.queued")
        .where(events.c.run_id.not_in(sa.select(purging.c.run_id)))
        .where(events.c.run_id > sa.bindparam("after", type_=RunId))
        .order_by(events.c.run_id)
        .limit(_ROWS)
    )
    add = _insert(sa.table("session_runs", sa.column("run_id", RunId), *_names()), connection.dialect.name)
    last = _NIL
    while rows := connection.execute(page, {"after": last}).all():
        said = [(run_id, decoded(_queued, data)) for run_id, data in rows]
        if runs := [
            {"user_id": queued.user_id, "session_id": queued.session_id, "run_id": run_id}
            for run_id, queued in said
            if queued.session_id is not None
        ]:
            connection.execute(add, runs)
        last = rows[-1].run_id


def _names() -> list[sa.ColumnClause[str]]:
    return [sa.column("user_id", Name(255)), sa.column("session_id", Name(255))]


def _insert(table: sa.TableClause, dialect: str) -> Any:
    """A statement that skips rows that exist already."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return sa.insert(table).prefix_with("IGNORE")
