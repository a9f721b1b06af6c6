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
    `deleted`: also deleted and purged runs. `ascending`: smallest first. `totals`: also the sums of all
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
    order = _Order(query, used)
    where = _of_runs(connection, query, used)
    r, u = runs.c, used.c
    rows: Select[Any] = select(
        r.run_id, r.user_id, r.agent_name, r.session_id, r.workspace_id, r.status, r.created_at,
        u.started_at, r.completed_at, r.deleted, r.purged, u.error_code, u.stopped_by, u.duration_ms, u.calls,
        u.tokens, u.cost, u.currency, u.incomplete, u.unpriced, r.state,
    ).select_from(order.joined).where(*where)  # fmt: skip
    if query.after is not None:
        rows = rows.where(order.after(query.after))
    found = connection.execute(rows.order_by(*order.columns).limit(query.limit + 1)).all()
    page = [_reported(row) for row in found[: query.limit]]
    totals = _sum_up(connection, order.joined, where, used) if query.totals else None
    return RunsReport(page, totals, order.cursor_of(page[-1]) if len(found) > query.limit else None)


class _Order:
    """The order of a report: by a key, if it has one, then by run id. `joined`: the tables to read."""

    def __init__(self, query: RunsQuery, used: Table) -> None:
        self._ascending = query.ascending
        self._column = SORTS[query.sort]
        self._key: ColumnElement[Any] | None = None
        self._run_id: ColumnElement[str] = runs.c.run_id
        self.joined: FromClause = runs.outerjoin(used, used.c.run_id == runs.c.run_id)
        if self._column is not None:  # use the column's index, which lacks runs that have used nothing yet
            self.joined = runs.join(used, used.c.run_id == runs.c.run_id)
            self._key, self._run_id = used.c[self._column], used.c.run_id
        elif query.sort == "failed":
            self._key = case((runs.c.status == "error", 1), else_=0)

    @property
    def columns(self) -> list[ColumnElement[Any]]:
        keys = [self._run_id] if self._key is None else [self._key, self._run_id]
        return [each.asc() if self._ascending else each.desc() for each in keys]

    def cursor_of(self, run: ReportedRun) -> str:
        """The `after` of the page that follows this run."""
        if self._key is None:
            return run.run_id
        value = int(run.status == "error") if self._column is None else getattr(run, self._column)
        return f"{value}:{run.run_id}"

    def after(self, cursor: str) -> ColumnElement[bool]:
        """The runs that follow a cursor. Raises InvalidCursor."""
        key, run_id = self._key, runs.c.run_id
        if key is None:
            if parse_uuid(cursor) is None:
                raise InvalidCursor(f"after={cursor[:50]!r} is not the `next` of a page of this order")
            return run_id > cursor if self._ascending else run_id < cursor
        value, last = parse_cursor(cursor)
        if self._ascending:
            return or_(key > value, and_(key == value, run_id > last))
        return or_(key < value, and_(key == value, run_id < last))


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
        matches = TextQuery.parse(query.text).matches(text)
        where.append(runs.c.run_id.in_(select(text.c.run_id).where(matches)))
    return where


def _reported(row: Any) -> ReportedRun:
    known: tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any] = tuple(row[:9])
    run = decode_state(row.state)
    return ReportedRun(
        *known, bool(row.deleted), bool(row.purged), row.error_code, row.stopped_by, row.duration_ms or 0,
        row.calls or 0, row.tokens or 0, row.cost or 0, row.currency or "", bool(row.incomplete),
        bool(row.unpriced), title_of(run.input), run.error, run.cancel_requested,
    )  # fmt: skip
