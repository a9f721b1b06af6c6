"""Past runs by user, agent, status, cost and text, deleted and purged ones included."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, FromClause, Select, Table, and_, case, func, or_, select

from runstore.core.errors import InvalidCursor, InvalidQuery
from runstore.core.ids import parse_uuid
from runstore.core.run import Status
from runstore.database.tables import runs
from runstore.projections.runs import decode_state
from runstore.projections.sessions import title_of
from runstore.projections.text import TextProjection
from runstore.projections.text_query import TextQuery
from runstore.projections.usage import UsageProjection
from runstore.store.reports.conditions import equal, parse_cursor, tables_of

SORTS = {"created": None, "failed": None, "cost": "cost", "tokens": "tokens", "duration": "duration_ms"}


class RunsQuery(Struct, frozen=True, kw_only=True):
    """A filter for runs. `since`, `until`: when they were queued, ms since 1970, both inclusive.

    `text`: words that one event of the run has. `cost`: in nano units of the currency.
    `deleted`: also deleted and purged runs. `ascending`: the least first. `totals`: also the sums of all
    matching runs, however many these are.
    """

    user_id: str | None = None
    agent: str | None = None
    session_id: str | None = None
    workspace_id: str | None = None
    status: Status | None = None
    error_code: str | None = None
    stopped_by: str | None = None
    since: int | None = None
    until: int | None = None
    min_duration_ms: int | None = None
    min_tokens: int | None = None
    min_cost: int | None = None
    max_duration_ms: int | None = None
    max_tokens: int | None = None
    max_cost: int | None = None
    text: str | None = None
    deleted: bool = True
    sort: str = "created"
    ascending: bool = False
    totals: bool = True
    after: str | None = None
    limit: int = 100


class ReportedRun(Struct, frozen=True):
    """A run, deleted and purged ones included. Times: ms since 1970; `cost`: in nano units.

    `title`: the beginning of its input; empty if that is large or purged.
    """

    run_id: str
    user_id: str
    agent: str
    session_id: str | None
    workspace_id: str | None
    status: Status
    created_at: int
    started_at: int | None
    completed_at: int | None
    deleted: bool
    purged: bool
    error_code: str | None
    stopped_by: str | None
    duration_ms: int
    calls: int
    tokens: int
    cost: int
    currency: str
    incomplete: bool
    unpriced: bool
    title: str
    error: str | None
    cancel_requested: bool


class RunTotals(Struct, frozen=True):
    """Sums over all matching runs. `cost`: in nano units."""

    runs: int
    calls: int
    tokens: int
    duration_ms: int
    cost: int


class RunsReport(Struct, frozen=True):
    """A page of runs. `next`: the `after` of the following page; None on the last one."""

    runs: list[ReportedRun]
    totals: RunTotals | None
    next: str | None


def report_runs(connection: Connection, query: RunsQuery) -> RunsReport:
    """The matching runs in the order of `sort`, and the sums over all of them if asked for."""
    if query.sort not in SORTS:
        raise InvalidQuery(f"sort {query.sort[:50]!r} must be one of {', '.join(SORTS)}")
    used = tables_of(connection, UsageProjection())["usage_runs"]
    column = SORTS[query.sort]
    by: ColumnElement[Any] | None = None
    if query.sort == "failed":
        by = case((runs.c.status == "error", 1), else_=0)
    joined = runs.outerjoin(used, used.c.run_id == runs.c.run_id)
    if column is not None:  # so that the index of the column is used; other runs have used nothing yet
        joined, by = runs.join(used, used.c.run_id == runs.c.run_id), used.c[column]
    where = _of_runs(connection, query, used)
    r, u = runs.c, used.c
    rows: Select[Any] = select(
        r.run_id, r.user_id, r.agent_name, r.session_id, r.workspace_id, r.status, r.created_at,
        u.started_at, r.completed_at, r.deleted, r.purged, u.error_code, u.stopped_by, u.duration_ms, u.calls,
        u.tokens, u.cost, u.currency, u.incomplete, u.unpriced, r.state,
    ).select_from(joined).where(*where)  # fmt: skip
    if query.after is not None:
        rows = rows.where(_after(query.after, by, ascending=query.ascending))
    run_id = runs.c.run_id if column is None else used.c.run_id
    order = [run_id] if by is None else [by, run_id]
    ordered = [each.asc() if query.ascending else each.desc() for each in order]
    found = connection.execute(rows.order_by(*ordered).limit(query.limit + 1)).all()
    page = [_reported(row) for row in found[: query.limit]]
    following = None
    if len(found) > query.limit:
        last = page[-1]
        value = int(last.status == "error") if column is None else getattr(last, column)
        following = last.run_id if by is None else f"{value}:{last.run_id}"
    return RunsReport(page, _sum_up(connection, joined, where, used) if query.totals else None, following)


def _sum_up(
    connection: Connection, joined: FromClause, where: Sequence[ColumnElement[bool]], used: Table
) -> RunTotals:
    """The sums over all matching runs, which reads each of them."""
    values = [func.coalesce(used.c[name], 0) for name in ("calls", "tokens", "duration_ms", "cost")]
    sums = (func.coalesce(func.sum(value), 0) for value in values)
    totals = connection.execute(select(func.count(), *sums).select_from(joined).where(*where)).one()
    return RunTotals(*map(int, totals))


def _of_runs(connection: Connection, query: RunsQuery, used: Table) -> list[ColumnElement[bool]]:
    where = [] if query.deleted else [runs.c.deleted == 0, runs.c.purged == 0]
    where += equal(
        runs, user_id=query.user_id, agent_name=query.agent, session_id=query.session_id,
        workspace_id=query.workspace_id, status=query.status,
    )  # fmt: skip
    where += equal(used, error_code=query.error_code, stopped_by=query.stopped_by)
    least = {
        "duration_ms": query.min_duration_ms,
        "tokens": query.min_tokens,
        "cost": query.min_cost,
    }
    most = {
        "duration_ms": query.max_duration_ms,
        "tokens": query.max_tokens,
        "cost": query.max_cost,
    }
    where += [used.c[name] >= value for name, value in least.items() if value is not None]
    where += [used.c[name] <= value for name, value in most.items() if value is not None]
    if query.since is not None:
        where.append(runs.c.created_at >= query.since)
    if query.until is not None:
        where.append(runs.c.created_at <= query.until)
    if query.text is not None:
        text = tables_of(connection, TextProjection())["text"]
        matches = TextQuery.parse(query.text).matches(text, connection.dialect.name)
        where.append(runs.c.run_id.in_(select(text.c.run_id).where(matches)))
    return where


def _after(cursor: str, by: ColumnElement[Any] | None, *, ascending: bool) -> ColumnElement[bool]:
    run_id: ColumnElement[str] = runs.c.run_id
    if by is None:
        if parse_uuid(cursor) is None:
            raise InvalidCursor(f"after={cursor[:50]!r} is not the `next` of a page of this order")
        return run_id > cursor if ascending else run_id < cursor
    value, last = parse_cursor(cursor)
    if ascending:
        return or_(by > value, and_(by == value, run_id > last))
    return or_(by < value, and_(by == value, run_id < last))


def _reported(row: Any) -> ReportedRun:
    known: tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any] = tuple(row[:9])
    run = decode_state(row.state)
    return ReportedRun(
        *known, bool(row.deleted), bool(row.purged), row.error_code, row.stopped_by, row.duration_ms or 0,
        row.calls or 0, row.tokens or 0, row.cost or 0, row.currency or "", bool(row.incomplete),
        bool(row.unpriced), title_of(run.input), run.error, run.cancel_requested,
    )  # fmt: skip
