"""The sessions of a user."""

from msgspec import Struct
from sqlalchemy import Connection, and_, or_, select

from runstore.projections.sessions import SessionsProjection
from runstore.store.reports.conditions import parse_cursor, tables_of


class SessionRow(Struct, frozen=True):
    """A session of a user. Times: ms since 1970."""

    user_id: str
    session_id: str
    title: str | None
    first_at: int
    last_at: int
    runs: int
    open: int
    succeeded: int
    failed: int
    stopped: int


class SessionsReport(Struct, frozen=True):
    """A page of sessions, the latest first. `next`: the `after` of the following page."""

    sessions: list[SessionRow]
    next: str | None


def list_sessions(connection: Connection, user_id: str, after: str | None, limit: int) -> SessionsReport:
    """A user's sessions, the latest first."""
    table = tables_of(connection, SessionsProjection())["sessions"]
    columns = [table.c[name] for name in SessionRow.__struct_fields__]
    query = select(*columns).where(table.c.user_id == user_id)
    if after is not None:
        at, session_id = parse_cursor(after)
        earlier = and_(table.c.last_at == at, table.c.session_id < session_id)
        query = query.where(or_(table.c.last_at < at, earlier))
    query = query.order_by(table.c.last_at.desc(), table.c.session_id.desc()).limit(limit + 1)
    found = [SessionRow(*row) for row in connection.execute(query)]
    page = found[:limit]
    more = len(found) > limit
    return SessionsReport(page, f"{page[-1].last_at}:{page[-1].session_id}" if more else None)
