"""A run's state: a fold over its events, and nothing else.

`fold(events[:seq])` is the run's state at any earlier seq.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, Literal, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType

from runstore.core.codec import EncodedEvent, RecordedEvent, decode
from runstore.core.depth import MAX_DEPTH, decoded, readable
from runstore.core.events import (
    Cancelled,
    CancelRequested,
    Completed,
    Custom,
    Deleted,
    Event,
    Failed,
    InputAdded,
    InputGiven,
    InputKind,
    InputRequested,
    Outcome,
    Purged,
    Queued,
    Started,
    ToolUsage,
    Unknown,
    Usage,
)  # fmt: skip
from runstore.core.usage import RunUsage

Status = Literal["queued", "running", "waiting", "success", "error", "stopped"]
STATUSES: tuple[Status, ...] = get_args(Status)
# Levels of a run as JSON: an object, the values in it, and one around an agent's object and code's input.
RUN_DEPTH = MAX_DEPTH + 2
CLOSED: frozenset[Status] = frozenset(get_args(Outcome))
# Fields that an agent or a client may fill up to a whole event.
LARGE_FIELDS = ("metadata", "result", "usage", "input")
USAGE_PARTS = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
LISTED_BYTES = 4_096  # bytes of each such field as JSON; lists omit larger ones
MAX_PROMPT = 200  # characters of a prompt in a run's state; the log has the whole


class Owner(Struct, frozen=True):
    """The user and the workspace that a run belongs to; they never change."""

    user_id: str
    workspace_id: str | None = None


class Actor(Struct, frozen=True):
    """The author of an action: a user, and the API key of the request, if it had one."""

    user_id: str
    key_id: str | None = None


class PendingInput(Struct, frozen=True):
    """A request that a waiting run has open. `seq`: its event. `expires_at`: UTC, milliseconds since 1970."""

    request_id: str
    seq: int
    kind: InputKind
    agent: str
    prompt: str
    tool: str | None = None
    expires_at: int | None = None


_read_owner = msgspec.json.Decoder(Owner).decode


def owner_of(first: EncodedEvent | RecordedEvent) -> Owner:
    """A run's owner, from its `lifecycle.queued` or `run.purged`; the input, perhaps large, is skipped."""
    return decoded(_read_owner, first.data)


class Run(Struct, frozen=True):
    """The state of one run. Times are UTC, milliseconds since 1970.

    `truncated`: large fields that are omitted because the run comes from a list; the log has them.
    """

    run_id: str
    user_id: str = ""
    agent_name: str = ""
    session_id: str | None = None
    parent_run_id: str | None = None
    workspace_id: str | None = None
    status: Status = "queued"
    cancel_requested: bool = False
    created_at: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    attempt: int = 0
    result: dict[str, Any] | None = None
    error: str | None = None
    error_code: str | None = None
    reason: str | None = None
    forced: bool = False
    superseded_by: str | None = None
    usage: dict[str, int] = {}
    metadata: dict[str, Any] = {}
    input: Any = None
    started_by: Actor | None = None
    stopped_by: Actor | None = None
    deleted: bool = False
    purged_at: int | None = None
    counts: dict[str, int] = {}  # the number of events of each type, of a purged run
    pending_inputs: tuple[PendingInput, ...] = ()
    added: int = 0  # the number of messages that people added
    unheard: tuple[int, ...] = ()  # seqs of messages that people added and the agent has not taken
    truncated: tuple[str, ...] | UnsetType = UNSET

    @property
    def closed(self) -> bool:
        return self.status in CLOSED


def evolve(run: Run, event: EncodedEvent | RecordedEvent) -> Run:
    """The run after one more event. Unknown events, and those without effect on the state, are skipped."""
    if event.type not in EVOLVING_TYPES:
        return _ended_somehow(run, event) if event.ends else run
    decoded_event = decode(event.type, event.version, readable(event.data, RUN_DEPTH))
    if isinstance(decoded_event, InputRequested):
        return _asked(run, decoded_event, event.seq if isinstance(event, RecordedEvent) else 0)
    return _evolve(run, decoded_event, event.at)


def _ended_somehow(run: Run, event: EncodedEvent | RecordedEvent) -> Run:
    """A newer release closed the run with an event that this release does not know."""
    change = msgspec.structs.replace
    return change(
        run, status="error", completed_at=event.at, error=f"ended by {event.type}, of a newer release"
    )


def fold(run_id: str, events: Iterable[RecordedEvent]) -> Run:
    return reduce(evolve, events, Run(run_id))


def shortened(run: Run) -> Run:
    """The run as in lists, with bounded size: `truncated` names the omitted fields."""
    known = run.truncated or ()
    large = [
        name
        for name in LARGE_FIELDS
        if name in known or len(msgspec.json.encode(getattr(run, name))) > LISTED_BYTES
    ]
    if len(large) == len(known):
        return run
    empty = Run(run.run_id)
    return msgspec.structs.replace(
        run, truncated=tuple(large), **{name: getattr(empty, name) for name in large}
    )


def whole(run: Run, ends: Iterable[RecordedEvent]) -> Run:
    """A run from a list, completed. `ends`: its first event, and its terminal event."""
    if not run.truncated:
        return run
    found = fold(run.run_id, ends)
    return msgspec.structs.replace(
        run, truncated=UNSET, **{name: getattr(found, name) for name in run.truncated}
    )


def _asked(run: Run, event: InputRequested, seq: int) -> Run:
    pending = PendingInput(
        event.request_id,
        seq,
        event.kind,
        event.agent,
        event.prompt[:MAX_PROMPT],
        event.tool,
        event.expires_at,
    )
    return msgspec.structs.replace(run, status="waiting", pending_inputs=(*run.pending_inputs, pending))


def _answered(run: Run, event: InputGiven) -> Run:
    left = tuple(each for each in run.pending_inputs if each.request_id != event.request_id)
    return msgspec.structs.replace(run, status="waiting" if left else "queued", pending_inputs=left)


def _evolve(run: Run, event: Event | Custom | Unknown, at: int) -> Run:
    change = msgspec.structs.replace
    match event:
        case Queued():
            return change(
                run, user_id=event.user_id, agent_name=event.agent, session_id=event.session_id,
                parent_run_id=event.parent_run_id, workspace_id=event.workspace_id, metadata=event.metadata,
                created_at=at, input=event.input, started_by=Actor(event.user_id, event.key_id),
            )  # fmt: skip
        case Started():
            return change(
                run, status="running", attempt=event.attempt, started_at=run.started_at or at,
                pending_inputs=(),
            )  # fmt: skip
        case InputGiven():
            return _answered(run, event)
        case InputAdded():
            return change(run, added=run.added + 1)
        case CancelRequested():
            return change(
                run, cancel_requested=True, superseded_by=event.superseded_by or run.superseded_by,
                stopped_by=run.stopped_by or Actor(event.by, event.key_id),
            )  # fmt: skip
        case Usage():
            return change(run, usage=add_usage(run.usage, event))
        case Completed():
            return change(
                run, status=event.status, completed_at=at, result=event.result,
                usage=event.usage or run.usage, unheard=tuple(event.unheard),
            )  # fmt: skip
        case Failed():
            return change(
                run, status=event.status, completed_at=at, error=event.message, error_code=event.code,
                pending_inputs=(),
            )  # fmt: skip
        case Cancelled():
            return change(
                run, status=event.status, completed_at=at, reason=event.reason, forced=event.forced,
                pending_inputs=(),
            )  # fmt: skip
        case Deleted():
            return change(run, deleted=True)
        case Purged():  # all or some of the earlier events may be gone
            kept = {name: getattr(event, name) for name in _KEPT}
            stopped_by = Actor(event.stopped_by) if event.stopped_by is not None else None
            return Run(
                run.run_id, agent_name=event.agent, counts=event.counts, purged_at=at, stopped_by=stopped_by,
                **kept,
            )  # fmt: skip
        case _:
            return run


# The fields that a purged run takes over under the same name.
_KEPT = frozenset(Run.__struct_fields__).intersection(Purged.__struct_fields__) - {"counts", "stopped_by"}


def summary(
    run: Run, *, by: str, counts: dict[str, int], used: RunUsage, tools: Sequence[ToolUsage]
) -> Purged:
    """The event that replaces the events of a closed run."""
    kept: dict[str, Any] = {name: getattr(run, name) for name in _KEPT}
    return Purged(
        by=by, agent=run.agent_name, counts=counts, models=list(used.models.values()), tools=[*tools],
        stopped_by=run.stopped_by.user_id if run.stopped_by is not None else None,
        incomplete=used.incomplete, **kept,
    )  # fmt: skip


def add_usage(usage: dict[str, int], more: Usage) -> dict[str, int]:
    """The sum of a run's usage and one more model call; parts of its tokens that are 0 are omitted."""
    inputs = usage.get("input_tokens", 0) + more.input_tokens
    outputs = usage.get("output_tokens", 0) + more.output_tokens
    sums = {"input_tokens": inputs, "output_tokens": outputs, "total_tokens": inputs + outputs}
    for name in USAGE_PARTS:
        if count := usage.get(name, 0) + getattr(more, name):
            sums[name] = count
    return sums


EVOLVING_TYPES = frozenset(
    cls.type
    for cls in (
        Queued, Started, CancelRequested, InputRequested, InputGiven, InputAdded, Usage, Completed, Failed,
        Cancelled, Deleted, Purged,
    )
)  # fmt: skip
