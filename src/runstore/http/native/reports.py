"""Reports on past runs: cost, usage, tools and search for admins and auditors, and a user's sessions."""

import re

from starlette.requests import Request
from starlette.responses import Response

from runstore.core import errors
from runstore.core.ids import parse_uuid
from runstore.core.run import STATUSES
from runstore.core.times import timestamp
from runstore.http.errors import BadRequest, Forbidden
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
from runstore.http.requests import Parameter, Schema, read_choice, read_days, read_number, read_period, whole
from runstore.http.schemas import LIMIT, MOMENT, NAME, TEXT, UUID, json
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
DAY: Schema = {"type": "string", "format": "date"}

USER_ID = Parameter("user_id", NAME, "of this user; one's own, unless an admin or an auditor asks")
AGENT = Parameter("agent", NAME, "of this agent")
NEXT = Parameter("after", TEXT, "the `next` of the page before, with the same other parameters")
STATUS = Parameter("status", {"enum": list(STATUSES)}, "in this state")
SORT = Parameter(
    "sort",
    {"enum": list(SORTS), "default": "created"},
    "largest first; `failed`: failed runs first, each group newest first",
)
WITH_DELETED = Parameter(
    "deleted", {"enum": ["any", "false"], "default": "any"}, "`false`: without deleted and purged runs"
)
MIN_DURATION = Parameter("min_duration_ms", whole(1, MOST), "took at least so long from start to end")
MIN_TOKENS = Parameter("min_tokens", whole(1, MOST), "input and output tokens together")
MAX_DURATION = Parameter("max_duration_ms", whole(1, MOST), "took at most so long")
MAX_TOKENS = Parameter("max_tokens", whole(1, MOST), "at most so many")
MAX_COST = Parameter("max_cost", {"type": "string", "pattern": f"^{AMOUNT.pattern}$"}, "at most so much")
ORDER = Parameter("order", {"enum": ["desc", "asc"], "default": "desc"}, "`asc`: the reverse of `sort`")
TOTALS = Parameter(
    "totals",
    {"enum": ["true", "false"]},
    "whether to sum up all matching runs, which reads each of them; `true` on the first page if not given",
)
MIN_COST = Parameter(
    "min_cost",
    {"type": "string", "pattern": f"^{AMOUNT.pattern}$"},
    "an amount in the currency of the prices",
)
SINCE_DAY = Parameter("since", DAY, "queued on this day (UTC) or later")
UNTIL_DAY = Parameter("until", DAY, "queued on this day (UTC) or earlier")
TOOL_GROUPS = "agent,tool"
TOOL_GROUP = Parameter(
    "group", {"type": "string", "default": TOOL_GROUPS}, "some of day, agent, tool, with commas"
)
GROUP = Parameter("group", {"type": "string", "default": "day"}, f"some of {', '.join(GROUPS)}, with commas")
KIND = Parameter("kind", {"enum": list(KINDS)}, "only text of this kind")
BEFORE = Parameter("before", whole(1, MOST), "the `next` of the page before")


class ReportRoutes:
    """`/audit/runs`, `/audit/usage`, `/audit/tools`, `/audit/search` and `/sessions`."""

    tag = "audit"

    def __init__(self, reports: Reports, access: Access) -> None:
        self._reports = reports
        self._access = access

    @Operation(
        "GET",
        "/audit/runs",
        parameters=(
            USER_ID,
            AGENT,
            Parameter("session_id", NAME, "of this session"),
            Parameter("workspace_id", NAME, "of this workspace"),
            STATUS,
            Parameter("error_code", NAME, "failed with this code"),
            Parameter("stopped_by", NAME, "this user asked for the stop"),
            Parameter("since", MOMENT, "queued at this time or later"),
            Parameter("until", MOMENT, "queued at this time or earlier"),
            MIN_DURATION,
            MIN_TOKENS,
            MIN_COST,
            MAX_DURATION,
            MAX_TOKENS,
            MAX_COST,
            Parameter("text", WORDS, "one event has all of these words and \"phrases\""),
            WITH_DELETED,
            SORT,
            ORDER,
            TOTALS,
            NEXT,
            LIMIT,
        ),
        answers={200: json("a page, and perhaps sums over all matching runs", AuditRunPage)},
        problems=(
            errors.InvalidQuery, errors.InvalidCursor, errors.ProjectionNotBuilt, errors.Busy, Forbidden,
        ),
    )  # fmt: skip
    async def list_audit_runs(self, call: Call[None]) -> Response:
        """All users' runs, or one's own, with what they used and cost."""
        async with self._access.reporting(call.login, "report", call.request.query_params) as own:
            report = await self._reports.runs(_runs_query(call.request, own=own))
        found = report.totals
        totals = None if found is None else AuditRunTotals(
            found.runs, found.calls, found.tokens, found.duration_ms, amount(found.cost)
        )  # fmt: skip
        return json_response(AuditRunPage([audit_run(run) for run in report.runs], totals, report.next))

    @Operation(
        "GET",
        "/audit/usage",
        parameters=(GROUP, USER_ID, AGENT, Parameter("model", NAME, "of this model"), SINCE_DAY, UNTIL_DAY),
        answers={200: json("all rows, in the order of their columns", UsageList)},
        problems=(errors.InvalidQuery, errors.ProjectionNotBuilt, errors.Busy, Forbidden),
    )
    async def report_audit_usage(self, call: Call[None]) -> Response:
        """Tokens, times and cost of all users' runs, or of one's own, in sum."""
        request, given = call.request, call.request.query_params
        async with self._access.reporting(call.login, "report", given):
            since, until = read_days(request)
            rows = await self._reports.usage(
                UsageQuery(
                    group=tuple(given.get("group", "day").split(",")),
                    user_id=given.get("user_id"),
                    agent=given.get("agent"),
                    model=given.get("model"),
                    since=since,
                    until=until,
                )
            )
        return json_response(UsageList([usage_record(row) for row in rows]))

    @Operation(
        "GET",
        "/audit/tools",
        parameters=(TOOL_GROUP, AGENT, Parameter("tool", NAME, "of this tool"), SINCE_DAY, UNTIL_DAY),
        answers={200: json("all rows", ToolList)},
        problems=(errors.InvalidQuery, errors.ProjectionNotBuilt, errors.Busy, Forbidden),
    )
    async def report_audit_tools(self, call: Call[None]) -> Response:
        """Calls, failures and latencies of the tools of all users' runs."""
        request, given = call.request, call.request.query_params
        async with self._access.searching(call.login, "report", given):
            since, until = read_days(request)
            rows = await self._reports.tools(
                ToolsQuery(
                    group=tuple(given.get("group", TOOL_GROUPS).split(",")),
                    agent=given.get("agent"),
                    tool=given.get("tool"),
                    since=since,
                    until=until,
                )
            )
        found = [tool_record(row) for row in rows]
        return json_response(ToolList(found))

    @Operation(
        "GET",
        "/audit/search",
        parameters=(
            Parameter("text", WORDS, 'words and "phrases" that one event must have'),
            USER_ID,
            AGENT,
            Parameter("run_id", UUID, "in this run"),
            KIND,
            Parameter("since", MOMENT, "said at this time or later"),
            Parameter("until", MOMENT, "said at this time or earlier"),
            BEFORE,
            LIMIT,
        ),
        answers={200: json("a page; it may be empty and still have a next one", SearchPage)},
        problems=(errors.InvalidQuery, errors.ProjectionNotBuilt, errors.Busy, Forbidden),
    )
    async def search_audit(self, call: Call[None]) -> Response:
        """Search the inputs, answers and tool calls of all users' runs, or of one's own."""
        request, given = call.request, call.request.query_params
        async with self._access.reporting(call.login, "search", given) as own:
            run_id = given.get("run_id")
            if run_id is not None and parse_uuid(run_id) is None:
                raise BadRequest(f"run_id={run_id[:50]!r} must be a UUID", code="invalid_parameter")
            since, until = read_period(request)
            found = await self._reports.search(
                SearchQuery(
                    text=given.get("text", ""),
                    user_id=given.get("user_id"),
                    agent=given.get("agent"),
                    kind=read_choice(request, KIND),
                    since=since,
                    until=until,
                    deleted=not own,
                    run_id=None if run_id is None else parse_uuid(run_id),
                    before=read_number(request, BEFORE) or None,
                    limit=read_number(request, LIMIT),
                )
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
        parameters=(
            Parameter("user_id", NAME, "of this user, instead of one's own"),
            NEXT,
            LIMIT,
        ),
        answers={200: json("a page", SessionPage)},
        problems=(errors.InvalidCursor, errors.ProjectionNotBuilt, errors.Busy, Forbidden),
    )
    async def list_sessions(self, call: Call[None]) -> Response:
        """A user's sessions, the latest first."""
        given = call.request.query_params
        user_id = given.get("user_id", call.user.user_id)
        if user_id != call.user.user_id:
            await self._access.may_search(call.login, "list", given)
        report = await self._reports.sessions(user_id, given.get("after"), read_number(call.request, LIMIT))
        found = [
            SessionRecord(
                row.user_id, row.session_id, row.title, timestamp(row.first_at), timestamp(row.last_at),
                row.runs, row.open, row.succeeded, row.failed, row.stopped,
            )
            for row in report.sessions
        ]  # fmt: skip
        return json_response(SessionPage(found, report.next))


def _runs_query(request: Request, *, own: bool) -> RunsQuery:
    given = request.query_params
    status = read_choice(request, STATUS)
    since, until = read_period(request)
    return RunsQuery(
        user_id=given.get("user_id"),
        agent=given.get("agent"),
        session_id=given.get("session_id"),
        workspace_id=given.get("workspace_id"),
        status=next((known for known in STATUSES if known == status), None),
        error_code=given.get("error_code"),
        stopped_by=given.get("stopped_by"),
        since=since,
        until=until,
        min_duration_ms=read_number(request, MIN_DURATION) or None,
        min_tokens=read_number(request, MIN_TOKENS) or None,
        min_cost=_nano(request, "min_cost"),
        max_duration_ms=read_number(request, MAX_DURATION) or None,
        max_tokens=read_number(request, MAX_TOKENS) or None,
        max_cost=_nano(request, "max_cost"),
        text=given.get("text"),
        deleted=not own and read_choice(request, WITH_DELETED) != "false",
        sort=read_choice(request, SORT) or "created",
        ascending=read_choice(request, ORDER) == "asc",
        totals=(read_choice(request, TOTALS) or str("after" not in given).lower()) == "true",
        after=given.get("after"),
        limit=read_number(request, LIMIT),
    )


def _nano(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not AMOUNT.fullmatch(text):
        raise BadRequest(f"{name}={text[:50]!r} must be an amount such as 0.25", code="invalid_parameter")
    return round(float(text) * NANO)
