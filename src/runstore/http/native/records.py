"""Runs as the API shows them."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from starlette.responses import Response

from runstore.core.records import EventRecord
from runstore.core.run import Run, Status
from runstore.core.times import timestamp
from runstore.http.json import Count, RunId, Seq, Time, json_response
from runstore.http.native.included import EventPage, Included
from runstore.runtime.catalog.output_schema import SchemaWarning
from runstore.store.runs import RunAt

NOTHING = Included()


class RunRecord(Struct, frozen=True):
    """A run as the API shows it."""

    run_id: RunId
    user_id: str
    agent_name: str
    session_id: str | None
    status: Status
    cancel_requested: bool
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    attempt: Count
    result: dict[str, Any] | None
    error: str | None
    error_code: str | None
    reason: str | None
    forced: bool
    superseded_by: RunId | None
    parent_run_id: RunId | None
    workspace_id: str | None
    usage: dict[str, Count]
    metadata: dict[str, Any]
    truncated: tuple[str, ...] | UnsetType = (
        UNSET  # in lists: which of these are left out, since they are large
    )
    last_seq: Seq | UnsetType = UNSET  # of a single run; a list does not read every log
    trace: EventPage | UnsetType = UNSET  # these are there for those who ask
    ops_log: list[EventRecord] | UnsetType = UNSET
    schema_warnings: list[SchemaWarning] | UnsetType | None = UNSET
    purged_at: Time | UnsetType = UNSET  # these of runs that were purged
    deleted: bool | UnsetType = UNSET
    counts: dict[str, Count] | UnsetType = UNSET


class RunPage(Struct, frozen=True):
    """Runs, newest first."""

    data: list[RunRecord]
    next: RunId | None


def record(run: Run, last_seq: int | UnsetType = UNSET, included: Included = NOTHING) -> RunRecord:
    return RunRecord(
        run_id=run.run_id, user_id=run.user_id, agent_name=run.agent_name, session_id=run.session_id,
        status=run.status, cancel_requested=run.cancel_requested, created_at=timestamp(run.created_at),
        started_at=timestamp(run.started_at) if run.started_at is not None else None,
        completed_at=timestamp(run.completed_at) if run.completed_at is not None else None,
        attempt=run.attempt, result=run.result, error=run.error, error_code=run.error_code, reason=run.reason,
        forced=run.forced, superseded_by=run.superseded_by, parent_run_id=run.parent_run_id,
        workspace_id=run.workspace_id, usage=run.usage, metadata=run.metadata, last_seq=last_seq,
        trace=included.trace, ops_log=included.ops_log, schema_warnings=included.schema_warnings,
        truncated=run.truncated,
    )  # fmt: skip


def listed(run: Run) -> RunRecord:
    """A run as lists show it; of one that was purged they are the only place."""
    if run.purged_at is None:
        return record(run)
    return replace(
        record(run, sum(run.counts.values())),
        purged_at=timestamp(run.purged_at), deleted=run.deleted, counts=run.counts,
    )  # fmt: skip


def record_response(
    found: RunAt, status: int = 200, headers: dict[str, str] | None = None, *, included: Included = NOTHING
) -> Response:
    return json_response(record(found.run, found.last_seq, included), status, headers)
