"""Reports on past runs: cost, usage, tools and search for admins and auditors, and a user's sessions."""

import re

from starlette.responses import Response

from runstore.core import errors
from runstore.core.run import STATUSES
from runstore.core.times import timestamp
from runstore.http.errors import Forbidden
from runstore.http.json import json_response
from runstore.http.native.report_records import (
    AuditRunPage,
    AuditRunTotals,
    SearchHit,
    SearchPage,
    SessionPage,
    SessionRecord,
    ToolList,
    UsageList,
    amount,
    audit_run,
    tool_record,
    usage_record,
)
from runstore.http.operations import Call, Operation
from runstore.http.query import Query, QueryParameter, Text, choice, day, moment, number, uuid
from runstore.http.requests import Schema, whole
from runstore.http.schemas import LIMIT, NAME, TEXT, json
from runstore.http.security.access import Access
from runstore.projections.prices import NANO
from runstore.projections.text import ANSWER, INPUT, TOOL
from runstore.projections.text_query import MAX_QUERY
from runstore.store.reports.reports import Reports
from runstore.store.reports.runs import SORTS, RunsQuery
from runstore.store.reports.search import SearchQuery
from runstore.store.reports.tools import ToolsQuery
from runstore.store.reports.usage import GROUPS, UsageQuery

KINDS = (INPUT, ANSWER, TOOL)
AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")  # a sum of money, in units of the currency
MOST = 1 << 53  # the greatest whole number that all JSON readers know
WORDS: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_QUERY}
OF_USER = Text(NAME, "of this user; one's own, unless an admin or an auditor asks")
OF_AGENT = Text(NAME, "of this agent")
NEXT = Text(TEXT, "the `next` of the page before, with the same other parameters")
SINCE_DAY = day("queued on this day (UTC) or later")
UNTIL_DAY = day("queued on this day (UTC) or earlier")


def _amount(description: str) -> QueryParameter[int | None]:
    """An amount in the currency of the prices, as nano units."""

    def read(text: str) -> int:
        if not AMOUNT.fullmatch(text):
            raise ValueError
        return round(float(text) * NANO)

    schema = {"type": "string", "pattern": f"^{AMOUNT.pattern}$"}
    return QueryParameter(schema, description, read, "an amount such as 0.25", default=None)


def _groups(description: str, default: str) -> QueryParameter[tuple[str, ...]]:
    """Names with commas between them."""
    schema = {"type": "string", "default": default}
    columns = tuple(default.split(","))
    return QueryParameter(schema, description, lambda text: tuple(text.split(",")), default=columns)


class RunReportQuery(Query):
    """The filters, the order and the page of a report on runs."""

    user_id = OF_USER
    agent = OF_AGENT
    session_id = Text(NAME, "of this session")
    workspace_id = Text(NAME, "of this workspace")
    status = choice(STATUSES, "in this state")
    error_code = Text(NAME, "failed with this code")
    stopped_by = Text(NAME, "this user asked for the stop")
    since = moment("queued at this time or later")
    until = moment("queued at this time or earlier")
    min_duration_ms = number(whole(1, MOST), "took at least so long from start to end")
    min_tokens = number(whole(1, MOST), "input and output tokens together")
    min_cost = _amount("an amount in the currency of the prices")
    max_duration_ms = number(whole(1, MOST), "took at most so long")
    max_tokens = number(whole(1, MOST), "at most so many")
    max_cost = _amount("at most so much")
    text = Text(WORDS, 'one event has all of these words and "phrases"')
    deleted = choice(("any", "false"), "`false`: without deleted and purged runs", default="any")
    sort = choice(
        tuple(SORTS),
        "largest first; `failed`: failed runs first, each group newest first",
        default="created",
    )
    order = choice(("desc", "asc"), "`asc`: the reverse of `sort`", default="desc")
    totals = choice(
        ("true", "false"),
        "whether to sum up all matching runs, which reads each of them; "
        "`true` on the first page if not given",
    )
    after = NEXT
    limit = LIMIT


class UsageReportQuery(Query):
    """The groups and the filters of a report on usage."""

    group = _groups(f"some of {', '.join(GROUPS)}, with commas", "day")
    user_id = OF_USER
    agent = OF_AGENT
    model = Text(NAME, "of this model")
    since = SINCE_DAY
    until = UNTIL_DAY


class ToolReportQuery(Query):
    """The groups and the filters of a report on tools."""

    group = _groups("some of day, agent, tool, with commas", "agent,tool")
    agent = OF_AGENT
    tool = Text(NAME, "of this tool")
    since = SINCE_DAY
    until = UNTIL_DAY


class TextQuery(Query):
    """The words, the filters and the page of a search."""

    text = Text(WORDS, 'words and "phrases" that one event must have')
    user_id = OF_USER
    agent = OF_AGENT
    run_id = uuid("in this run")
    kind = choice(KINDS, "only text of this kind")
    since = moment("said at this time or later")
    until = moment("said at this time or earlier")
    before = number(whole(1, MOST), "the `next` of the page before")
    limit = LIMIT


class SessionsQuery(Query):
    """The user and the page of a list of sessions."""

    user_id = Text(NAME, "of this user, instead of one's own")
    after = NEXT
    limit = LIMIT


class ReportRoutes:
    """`/audit/runs`, `/audit/usage`, `/audit/tools`, `/audit/search` and `/sessions`."""

    tag = "audit"

    def __init__(self, reports: Reports, access: Access) -> None:
        self._reports = reports
        self._access = access

    @Operation(
        "GET",
        "/audit/runs",
        query=RunReportQuery,
        answers={200: json("a page, and perhaps sums over all matching runs", AuditRunPage)},
        problems=(
            errors.InvalidQuery, errors.InvalidCursor, errors.ProjectionNotBuilt, errors.Busy, Forbidden,
        ),
    )  # fmt: skip
    async def list_audit_runs(self, call: Call[RunReportQuery]) -> Response:
        """All users' runs, or one's own, with what they used and cost."""
        query = call.query
        async with self._access.reporting(call.login, "report", call.request.query_params) as own:
            summed = query.totals == "true" if query.totals is not None else query.after is None
            report = await self._reports.runs(
                query.into(
                    RunsQuery,
                    deleted=not own and query.deleted == "any",
                    ascending=query.order == "asc",
                    totals=summed,
                )
            )
        found = report.totals
        totals = None if found is None else AuditRunTotals(
            found.runs, found.calls, found.tokens, found.duration_ms, amount(found.cost)
        )  # fmt: skip
        return json_response(AuditRunPage([audit_run(run) for run in report.runs], totals, report.next))

    @Operation(
        "GET",
        "/audit/usage",
        query=UsageReportQuery,
        answers={200: json("all rows, in the order of their columns", UsageList)},
        problems=(errors.InvalidQuery, errors.ProjectionNotBuilt, errors.Busy, Forbidden),
    )
    async def report_audit_usage(self, call: Call[UsageReportQuery]) -> Response:
        """Tokens, times and cost of all users' runs, or of one's own, in sum."""
        query = call.query
        async with self._access.reporting(call.login, "report", call.request.query_params):
            rows = await self._reports.usage(query.into(UsageQuery))
        return json_response(UsageList([usage_record(row) for row in rows]))

    @Operation(
        "GET",
        "/audit/tools",
        query=ToolReportQuery,
        answers={200: json("all rows", ToolList)},
        problems=(errors.InvalidQuery, errors.ProjectionNotBuilt, errors.Busy, Forbidden),
    )
    async def report_audit_tools(self, call: Call[ToolReportQuery]) -> Response:
        """Calls, failures and latencies of the tools of all users' runs."""
        query = call.query
        async with self._access.searching(call.login, "report", call.request.query_params):
            rows = await self._reports.tools(query.into(ToolsQuery))
        found = [tool_record(row) for row in rows]
        return json_response(ToolList(found))

    @Operation(
        "GET",
        "/audit/search",
        query=TextQuery,
        answers={200: json("a page; it may be empty and still have a next one", SearchPage)},
        problems=(errors.InvalidQuery, errors.ProjectionNotBuilt, errors.Busy, Forbidden),
    )
    async def search_audit(self, call: Call[TextQuery]) -> Response:
        """Search the inputs, answers and tool calls of all users' runs, or of one's own."""
        query = call.query
        async with self._access.reporting(call.login, "search", call.request.query_params) as own:
            found = await self._reports.search(
                query.into(SearchQuery, text=query.text or "", deleted=not own)
            )
        hits = [
            SearchHit(
                hit.position, hit.run_id, hit.seq, hit.kind, hit.agent, hit.user_id, timestamp(hit.at),
                hit.deleted, hit.snippet,
            )
            for hit in found.hits
        ]  # fmt: skip
        return json_response(SearchPage(hits, found.next))

    @Operation(
        "GET",
        "/sessions",
        query=SessionsQuery,
        answers={200: json("a page", SessionPage)},
        problems=(errors.InvalidCursor, errors.ProjectionNotBuilt, errors.Busy, Forbidden),
    )
    async def list_sessions(self, call: Call[SessionsQuery]) -> Response:
        """A user's sessions, the latest first."""
        query = call.query
        user_id = call.user.user_id if query.user_id is None else query.user_id
        if user_id != call.user.user_id:
            await self._access.may_search(call.login, "list", call.request.query_params)
        report = await self._reports.sessions(user_id, query.after, query.limit)
        found = [
            SessionRecord(
                row.user_id, row.session_id, row.title, timestamp(row.first_at), timestamp(row.last_at),
                row.runs, row.open, row.succeeded, row.failed, row.stopped,
            )
            for row in report.sessions
        ]  # fmt: skip
        return json_response(SessionPage(found, report.next))
