"""Questions about past runs, answered from the projections: cost, tools, sessions, text.

An answer is as fresh as its projection: events of the last moments may be missing.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from msgspec import Struct
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    and_,
    case,
    func,
    or_,
    select,
)

from runstore.core.errors import InvalidCursor, InvalidQuery, ProjectionNotBuilt
from runstore.core.ids import parse_uuid
from runstore.core.run import Status
from runstore.core.run_text import words_of
from runstore.core.tool_usage import BUCKETS_MS
from runstore.database.columns import Name
from runstore.database.opening import Database
from runstore.database.tables import events, runs
from runstore.projections.builds import live_tables
from runstore.projections.projection import Projection
from runstore.projections.runs import decode_state
from runstore.projections.sessions import SessionsProjection, title_of
from runstore.projections.text import TextProjection, TextQuery, text_of
from runstore.projections.tools import BUCKETS, ToolsProjection
from runstore.projections.usage import UsageProjection

MAX_SCANNED = 10_000  # matches of a search that are examined for one page
MAX_ROWS = 10_000  # rows of a report
MAX_READ = 1 << 20  # bytes of the events of one page of hits; the event that crosses it is the last
SNIPPET = 160  # characters of text around a match
SORTS = {"created": None, "failed": None, "cost": "cost", "tokens": "tokens", "duration": "duration_ms"}
GROUPS = ("day", "user", "agent", "model")
GROUP_COLUMNS = {"day": "day", "user": "user_id", "agent": "agent", "model": "model"}
RUN_COUNTS = ("runs", "succeeded", "failed", "stopped", "incomplete")
CALL_SUMS = (
    "calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens",
    "first_tokens", "first_token_ms", "duration_ms",
)  # fmt: skip


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


class UsageQuery(Struct, frozen=True, kw_only=True):
    """`group`: of GROUPS. `since`, `until`: days such as 2026-11-29, both inclusive."""

    group: tuple[str, ...] = ("day",)
    user_id: str | None = None
    agent: str | None = None
    model: str | None = None
    since: str | None = None
    until: str | None = None


class UsageRow(Struct, frozen=True, kw_only=True):
    """The usage of a group of runs. `cost`: in nano units. A field that is not grouped by is None.

    `unpriced_calls`: calls of models without a price, which cost nothing here.
    """

    day: str | None = None
    user_id: str | None = None
    agent: str | None = None
    model: str | None = None
    runs: int = 0
    succeeded: int = 0
    failed: int = 0
    stopped: int = 0
    incomplete: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    first_token_ms: int | None = None  # on average
    duration_ms: int = 0
    cost: int = 0
    currency: str = ""
    unpriced_calls: int = 0


class ToolsQuery(Struct, frozen=True, kw_only=True):
    """`since`, `until`: days on which the runs were queued, both inclusive."""

    agent: str | None = None
    tool: str | None = None
    since: str | None = None
    until: str | None = None


class ToolRow(Struct, frozen=True):
    """An agent's calls of a tool. The times are estimates from the histogram; None: no call has ended."""

    agent: str
    tool: str
    calls: int
    failures: int
    mean_ms: int | None
    p50_ms: int | None
    p95_ms: int | None


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


class SearchQuery(Struct, frozen=True, kw_only=True):
    """`text`: plain words and "phrases". `kind`: `input`, `answer` or `tool`. `before`: a position."""

    text: str
    user_id: str | None = None
    agent: str | None = None
    kind: str | None = None
    run_id: str | None = None
    deleted: bool = True  # also in deleted runs
    before: int | None = None
    limit: int = 50


class Hit(Struct, frozen=True):
    """An event whose text matches. `agent`: the path of the agent that it is of; `at`: ms since 1970."""

    position: int
    run_id: str
    seq: int
    kind: str
    agent: str
    user_id: str
    at: int
    deleted: bool
    snippet: str


class Found(Struct, frozen=True):
    """A page of hits, newest first. `next`: the `before` of the following page, which may be empty."""

    hits: list[Hit]
    next: int | None


class Reports:
    """Reads the live tables of the projections.

    The methods raise InvalidQuery, ProjectionNotBuilt, Busy and LogUnavailable.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def runs(self, query: RunsQuery) -> RunsReport:
        return await self._database.query_list(report_runs, query)

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        return await self._database.query_list(report_usage, query)

    async def tools(self, query: ToolsQuery) -> list[ToolRow]:
        return await self._database.query_list(report_tools, query)

    async def sessions(self, user_id: str, after: str | None, limit: int) -> SessionsReport:
        return await self._database.query_list(list_sessions, user_id, after, limit)

    async def search(self, query: SearchQuery) -> Found:
        return await self._database.query_list(search, query)


def report_runs(connection: Connection, query: RunsQuery) -> RunsReport:
    """The matching runs in the order of `sort`, and the sums over all of them if asked for."""
    if query.sort not in SORTS:
        raise InvalidQuery(f"sort {query.sort[:50]!r} must be one of {', '.join(SORTS)}")
    used = _tables(connection, UsageProjection())["usage_runs"]
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


def report_usage(connection: Connection, query: UsageQuery) -> list[UsageRow]:
    """The sums of each group, in the order of its columns."""
    if not query.group or len({*query.group}) < len(query.group) or not {*query.group} <= {*GROUPS}:
        raise InvalidQuery(f"group must have some of {', '.join(GROUPS)}, each once")
    tables = _tables(connection, UsageProjection())
    totals, days = tables["usage"], tables["usage_days"]
    names = [GROUP_COLUMNS[name] for name in query.group]
    of_models = "model" in names or query.model is not None
    counted = RUN_COUNTS if of_models else ()
    sums = [func.sum(totals.c[name]) for name in (*counted, *CALL_SUMS, "cost")]
    currency = func.nullif(totals.c.currency, "", type_=Name(3))
    priced = (func.min(currency, type_=Name(3)), func.max(currency, type_=Name(3)))
    unpriced = func.sum(case((totals.c.currency == "", totals.c.calls), else_=0))
    filters = {"user_id": query.user_id, "agent": query.agent, "model": query.model}
    rows = connection.execute(
        select(*(totals.c[name] for name in names), *sums, *priced, unpriced)
        .where(*_in_days(totals, query), *_equal(totals, **filters))
        .group_by(*(totals.c[name] for name in names))
        .order_by(*(totals.c[name] for name in names))
        .limit(MAX_ROWS + 1)
    ).all()  # fmt: skip
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key, values = tuple(row[: len(names)]), list(row[len(names) :])
        *summed, low, high, unknown = values
        if low != high:
            raise InvalidQuery("the costs are in two currencies: runstore projections rebuild usage")
        fields = dict(zip((*counted, *CALL_SUMS, "cost"), map(int, summed), strict=True))
        found[key] = fields | {"currency": low or "", "unpriced_calls": int(unknown)}
    if not of_models:
        _count_runs(connection, days, query, names, found)
    _check_rows(len(found))
    return [_usage_row(names, key, fields) for key, fields in sorted(found.items())]


def report_tools(connection: Connection, query: ToolsQuery) -> list[ToolRow]:
    """Each tool of each agent, the most called first."""
    table = _tables(connection, ToolsProjection())["tools"]
    names = ("calls", "failures", "duration_ms", *BUCKETS)
    calls = func.sum(table.c.calls)
    rows = connection.execute(
        select(table.c.agent, table.c.tool, *(func.sum(table.c[name]) for name in names))
        .where(*_in_days(table, query), *_equal(table, agent=query.agent, tool=query.tool))
        .group_by(table.c.agent, table.c.tool)
        .order_by(calls.desc(), table.c.agent, table.c.tool)
        .limit(MAX_ROWS + 1)
    )
    found = [_tool_row(agent, tool, *map(int, sums)) for agent, tool, *sums in rows]
    _check_rows(len(found))
    return found


def _check_rows(rows: int) -> None:
    """Refuse a report rather than cut it off."""
    if rows > MAX_ROWS:
        raise InvalidQuery(f"the report has more than {MAX_ROWS:,} rows: ask for fewer days or columns")


def list_sessions(connection: Connection, user_id: str, after: str | None, limit: int) -> SessionsReport:
    """A user's sessions, the latest first."""
    table = _tables(connection, SessionsProjection())["sessions"]
    columns = [table.c[name] for name in SessionRow.__struct_fields__]
    query = select(*columns).where(table.c.user_id == user_id)
    if after is not None:
        at, session_id = _cursor(after)
        earlier = and_(table.c.last_at == at, table.c.session_id < session_id)
        query = query.where(or_(table.c.last_at < at, earlier))
    query = query.order_by(table.c.last_at.desc(), table.c.session_id.desc()).limit(limit + 1)
    found = [SessionRow(*row) for row in connection.execute(query)]
    page = found[:limit]
    more = len(found) > limit
    return SessionsReport(page, f"{page[-1].last_at}:{page[-1].session_id}" if more else None)


def search(connection: Connection, query: SearchQuery) -> Found:
    """The matching events, newest first.

    At most MAX_SCANNED matches are examined for the other filters, and about MAX_READ bytes of data are read.
    """
    table = _tables(connection, TextProjection())["text"]
    asked = TextQuery.parse(query.text)
    matching = select(table).where(
        asked.matches(table, connection.dialect.name), *_equal(table, kind=query.kind, run_id=query.run_id)
    )
    if query.before is not None:
        matching = matching.where(table.c.position < query.before)
    scanned = matching.order_by(table.c.position.desc()).limit(MAX_SCANNED).subquery()
    wanted = _equal(runs, user_id=query.user_id, agent_name=query.agent)
    if not query.deleted:
        wanted.append(runs.c.deleted == 0)
    s = scanned.c
    of_runs = scanned.join(runs, runs.c.run_id == s.run_id)
    rows = connection.execute(
        select(*s, runs.c.user_id, runs.c.deleted, events.c.at, func.length(events.c.data).label("size"))
        .select_from(of_runs.join(events, events.c.position == s.position))
        .where(*wanted)
        .order_by(s.position.desc())
        .limit(query.limit + 1)
    ).all()  # fmt: skip
    sizes = accumulate(row.size for row in rows[: query.limit])
    page = [row for row, upto in zip(rows, sizes, strict=False) if upto - row.size < MAX_READ]
    said = _read_texts(connection, [row.position for row in page])
    hits = [
        Hit(
            row.position, row.run_id, row.seq, row.kind, row.agent, row.user_id, row.at, bool(row.deleted),
            snippet(said[row.position], asked),
        )
        for row in page
        if row.position in said  # not purged in between
    ]  # fmt: skip
    if len(rows) > len(page):
        return Found(hits, page[-1].position)
    count, last = connection.execute(select(func.count(), func.min(s.position))).one()
    return Found(hits, last if count == MAX_SCANNED else None)


def _read_texts(connection: Connection, positions: Sequence[int]) -> dict[int, str]:
    e = events.c
    rows = connection.execute(select(e.position, e.type, e.data).where(e.position.in_(positions)))
    return {position: text_of(type, data) for position, type, data in rows}


def snippet(text: str, asked: TextQuery) -> str:
    """A line of the text around the first word that was asked for."""
    line = " ".join(text.split())
    first = asked.phrases[0]
    at, start = 0, 0
    for piece in line.split(" "):
        if first[0] in words_of(piece):
            at = start
            break
        start += len(piece) + 1
    begin = max(0, at - SNIPPET // 3)
    cut = line[begin : begin + SNIPPET]
    return f"{'…' if begin else ''}{cut}{'…' if begin + SNIPPET < len(line) else ''}"


def _tables(connection: Connection, projection: Projection) -> dict[str, Table]:
    tables = live_tables(connection, projection)
    if tables is None:
        raise ProjectionNotBuilt(projection.name)
    return tables


def _of_runs(connection: Connection, query: RunsQuery, used: Table) -> list[ColumnElement[bool]]:
    where = [] if query.deleted else [runs.c.deleted == 0, runs.c.purged == 0]
    where += _equal(
        runs, user_id=query.user_id, agent_name=query.agent, session_id=query.session_id,
        workspace_id=query.workspace_id, status=query.status,
    )  # fmt: skip
    where += _equal(used, error_code=query.error_code, stopped_by=query.stopped_by)
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
        text = _tables(connection, TextProjection())["text"]
        matches = TextQuery.parse(query.text).matches(text, connection.dialect.name)
        where.append(runs.c.run_id.in_(select(text.c.run_id).where(matches)))
    return where


def _equal(table: Table, **values: Any) -> list[ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items() if value is not None]


def _in_days(table: Table, query: UsageQuery | ToolsQuery) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if query.since is not None:
        where.append(table.c.day >= query.since)
    if query.until is not None:
        where.append(table.c.day <= query.until)
    return where


def _after(cursor: str, by: ColumnElement[Any] | None, *, ascending: bool) -> ColumnElement[bool]:
    run_id: ColumnElement[str] = runs.c.run_id
    if by is None:
        if parse_uuid(cursor) is None:
            raise InvalidCursor(f"after={cursor[:50]!r} is not the `next` of a page of this order")
        return run_id > cursor if ascending else run_id < cursor
    value, last = _cursor(cursor)
    if ascending:
        return or_(by > value, and_(by == value, run_id > last))
    return or_(by < value, and_(by == value, run_id < last))


def _cursor(text: str) -> tuple[int, str]:
    number, separator, rest = text.partition(":")
    if not separator or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise InvalidCursor(f"after={text[:50]!r} is not the `next` of a page of this order")
    return int(number), rest


def _reported(row: Any) -> ReportedRun:
    known: tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any] = tuple(row[:9])
    run = decode_state(row.state)
    return ReportedRun(
        *known, bool(row.deleted), bool(row.purged), row.error_code, row.stopped_by, row.duration_ms or 0,
        row.calls or 0, row.tokens or 0, row.cost or 0, row.currency or "", bool(row.incomplete),
        bool(row.unpriced), title_of(run.input), run.error, run.cancel_requested,
    )  # fmt: skip


def _count_runs(
    connection: Connection,
    days: Table,
    query: UsageQuery,
    names: Sequence[str],
    found: dict[tuple[str, ...], dict[str, Any]],
) -> None:
    """Add the numbers of runs: in the rows of models, a run counts once for each of its models."""
    columns = [days.c[name] for name in names]
    rows = connection.execute(
        select(*columns, *(func.sum(days.c[name]) for name in RUN_COUNTS))
        .where(*_in_days(days, query), *_equal(days, user_id=query.user_id, agent=query.agent))
        .group_by(*columns)
        .limit(MAX_ROWS + 1)
    )
    for row in rows:
        key, sums = tuple(row[: len(names)]), map(int, row[len(names) :])
        found.setdefault(key, {}).update(zip(RUN_COUNTS, sums, strict=True))


def _usage_row(names: Sequence[str], key: tuple[str, ...], fields: dict[str, Any]) -> UsageRow:
    fields = dict(fields)
    known, total = fields.pop("first_tokens", 0), fields.pop("first_token_ms", 0)
    mean = round(total / known) if known else None
    grouped: dict[str, Any] = dict(zip(names, key, strict=True))
    return UsageRow(**grouped, **fields, first_token_ms=mean)


def _tool_row(agent: str, tool: str, calls: int, failures: int, duration_ms: int, *latencies: int) -> ToolRow:
    ended = sum(latencies)
    return ToolRow(
        agent, tool, calls, failures, round(duration_ms / ended) if ended else None,
        quantile(latencies, 0.5), quantile(latencies, 0.95),
    )  # fmt: skip


def quantile(latencies: Sequence[int], part: float) -> int | None:
    """The duration that `part` of the calls do not exceed, in ms: linear within its bucket.

    Calls above the last limit count as that long, as in Prometheus.
    """
    left = part * sum(latencies)
    if not left:
        return None
    low = 0
    for count, high in zip(latencies, (*BUCKETS_MS, BUCKETS_MS[-1]), strict=True):
        if count and left <= count:
            return round(low + (high - low) * left / count)
        left -= count
        low = high
    return BUCKETS_MS[-1]
