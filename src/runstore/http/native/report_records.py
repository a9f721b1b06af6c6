"""The answers of reports on past runs."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from runstore.core.run import Status
from runstore.core.times import timestamp
from runstore.http.json import Count, Position, RunId, Seq, Time
from runstore.projections.prices import NANO
from runstore.store.reports.runs import ReportedRun
from runstore.store.reports.tools import ToolRow
from runstore.store.reports.usage import UsageRow

Amount = Annotated[float, Meta(ge=0)]


class AuditRun(Struct, frozen=True):
    """A run with its usage and its cost.

    `cost`: in units of `currency`; `title`: the beginning of its input.
    """

    run_id: RunId
    user_id: str
    agent: str
    session_id: str | None
    workspace_id: str | None
    status: Status
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    deleted: bool
    purged: bool
    error_code: str | None
    stopped_by: str | None
    duration_ms: Count
    calls: Count
    tokens: Count
    cost: Amount
    currency: str
    incomplete: bool
    unpriced: bool
    title: str
    error: str | None
    cancel_requested: bool


class AuditRunTotals(Struct, frozen=True):
    """Sums over all matching runs."""

    runs: Count
    calls: Count
    tokens: Count
    duration_ms: Count
    cost: Amount


class AuditRunPage(Struct, frozen=True):
    """Runs, deleted and purged ones included."""

    data: list[AuditRun]
    totals: AuditRunTotals | None
    next: str | None


class UsageRecord(Struct, frozen=True):
    """The usage of a group of runs. Columns that are not grouped by are left out."""

    runs: Count
    succeeded: Count
    failed: Count
    stopped: Count
    incomplete: Count
    calls: Count
    input_tokens: Count
    output_tokens: Count
    cache_read_tokens: Count
    cache_write_tokens: Count
    reasoning_tokens: Count
    first_token_ms: Count | None
    duration_ms: Count
    cost: Amount
    currency: str
    unpriced_calls: Count
    day: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    agent: str | UnsetType = UNSET
    model: str | UnsetType = UNSET


class UsageList(Struct, frozen=True):
    """A row for each group."""

    data: list[UsageRecord]


class ToolRecord(Struct, frozen=True):
    """The calls of a group. Columns that are not grouped by are left out."""

    calls: Count
    failures: Count
    mean_ms: Count | None
    p50_ms: Count | None
    p95_ms: Count | None
    day: str | UnsetType = UNSET
    agent: str | UnsetType = UNSET
    tool: str | UnsetType = UNSET


class ToolList(Struct, frozen=True):
    """A row for each group, the most called first."""

    data: list[ToolRecord]


class SearchHit(Struct, frozen=True):
    """An event whose text matches."""

    position: Position
    run_id: RunId
    seq: Seq
    kind: str
    agent: str
    user_id: str
    at: Time
    deleted: bool
    snippet: str


class SearchPage(Struct, frozen=True):
    """Matching events, newest first. `next`: a position."""

    data: list[SearchHit]
    next: Position | None


class SessionRecord(Struct, frozen=True):
    """A session of a user."""

    user_id: str
    session_id: str
    title: str | None
    first_at: Time
    last_at: Time
    runs: Count
    open: Count
    succeeded: Count
    failed: Count
    stopped: Count


class SessionPage(Struct, frozen=True):
    """Sessions, the latest first."""

    data: list[SessionRecord]
    next: str | None


def audit_run(run: ReportedRun) -> AuditRun:
    started_at = None if run.started_at is None else timestamp(run.started_at)
    completed_at = None if run.completed_at is None else timestamp(run.completed_at)
    return AuditRun(
        run.run_id, run.user_id, run.agent, run.session_id, run.workspace_id, run.status,
        timestamp(run.created_at), started_at, completed_at, run.deleted, run.purged, run.error_code,
        run.stopped_by, run.duration_ms, run.calls, run.tokens, amount(run.cost), run.currency,
        run.incomplete, run.unpriced, run.title, run.error, run.cancel_requested,
    )  # fmt: skip


def amount(nano: int) -> float:
    return nano / NANO


def usage_record(row: UsageRow) -> UsageRecord:
    return UsageRecord(
        row.runs, row.succeeded, row.failed, row.stopped, row.incomplete, row.calls, row.input_tokens,
        row.output_tokens, row.cache_read_tokens, row.cache_write_tokens, row.reasoning_tokens,
        row.first_token_ms, row.duration_ms, amount(row.cost), row.currency, row.unpriced_calls,
        _unless_none(row.day), _unless_none(row.user_id), _unless_none(row.agent), _unless_none(row.model),
    )  # fmt: skip


def tool_record(row: ToolRow) -> ToolRecord:
    return ToolRecord(
        row.calls, row.failures, row.mean_ms, row.p50_ms, row.p95_ms,
        _unless_none(row.day), _unless_none(row.agent), _unless_none(row.tool),
    )  # fmt: skip


def _unless_none(value: str | None) -> str | UnsetType:
    return UNSET if value is None else value
