"""Runs as the API shows them."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict
from starlette.responses import Response

from runstore.core.events import InputKind
from runstore.core.records import EventRecord
from runstore.core.run import Actor, PendingInput, Run, Status
from runstore.core.times import timestamp
from runstore.http.json import Count, RunId, Seq, Time, json_response
from runstore.http.native.included import EventPage, Included
from runstore.runtime.catalog.output_schema import SchemaWarning
from runstore.store.runs import RunAt

NOTHING = Included()


class PendingRecord(Struct, frozen=True):
    """An open request of a waiting run; `GET /runs/{run_id}/inputs` has all of it."""

    request_id: str
    seq: Seq
    kind: InputKind
    agent: str
    prompt: str
    tool: str | None
    expires_at: Time | None


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
    input: Any
    started_by: Actor | None
    stopped_by: Actor | None
    truncated: tuple[str, ...] | UnsetType = UNSET  # in lists: the large fields that are left out
    last_seq: Seq | UnsetType = UNSET  # only of a single run; a list does not read every log
    trace: EventPage | UnsetType = UNSET  # this and the next two: only on request
    ops_log: list[EventRecord] | UnsetType = UNSET
    schema_warnings: list[SchemaWarning] | UnsetType | None = UNSET
    purged_at: Time | UnsetType = UNSET  # this and the next two: only of purged runs
    deleted: bool | UnsetType = UNSET
    counts: dict[str, Count] | UnsetType = UNSET
    pending_inputs: list[PendingRecord] | UnsetType = UNSET  # only of a waiting run
    unheard: tuple[Seq, ...] | UnsetType = UNSET  # only if there are some


class RunPage(Struct, frozen=True):
    """Runs, newest first."""

    data: list[RunRecord]
    next: RunId | None


TIMES = ("created_at", "started_at", "completed_at", "purged_at")
OF_PURGED = ("purged_at", "deleted", "counts")  # fields of purged runs, which only lists show
SHOWN = [
    name
    for name in RunRecord.__struct_fields__
    if name in Run.__struct_fields__ and name not in ("pending_inputs", "unheard")
]


def record(run: Run, last_seq: int | UnsetType = UNSET, included: Included = NOTHING) -> RunRecord:
    shown: dict[str, Any] = {
        name: getattr(run, name) for name in SHOWN if run.purged_at is not None or name not in OF_PURGED
    }
    if run.deleted:
        shown["deleted"] = True
    if run.status == "waiting":
        shown["pending_inputs"] = [_pending(each) for each in run.pending_inputs]
    if run.unheard:
        shown["unheard"] = run.unheard
    shown |= {name: timestamp(shown[name]) for name in TIMES if shown.get(name) is not None}
    return RunRecord(**shown, last_seq=last_seq, **asdict(included))


def _pending(pending: PendingInput) -> PendingRecord:
    at = pending.expires_at
    return PendingRecord(**{**asdict(pending), "expires_at": None if at is None else timestamp(at)})


def listed(run: Run) -> RunRecord:
    """A run as lists show it."""
    return record(run) if run.purged_at is None else record(run, sum(run.counts.values()))


def record_response(
    found: RunAt, status: int = 200, headers: dict[str, str] | None = None, *, included: Included = NOTHING
) -> Response:
    return json_response(record(found.run, found.last_seq, included), status, headers)
