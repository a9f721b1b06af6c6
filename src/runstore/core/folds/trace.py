"""A run as a tree: its attempts, their agents, and each agent's model and tool calls. A view of its steps.

Streamed text is not read: messages hold the answers, and `llm.usage` the times of a call.
"""

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from runstore.core.codec import RecordedEvent, to_json
from runstore.core.depth import MAX_DEPTH, readable
from runstore.core.events import ENDINGS, EVENT_CLASSES, STREAMED_TYPES, Context, Request
from runstore.core.folds.step import ModelCall, Step
from runstore.core.folds.step_fold import REPEATED, StepFold
from runstore.core.ports import EventFilter
from runstore.core.records import EventRecord, record_of
from runstore.core.run import RUN_DEPTH, Status
from runstore.core.times import millis_of, timestamp

MAX_STEPS = 1_000  # model and tool calls of a trace
MAX_TRACED = 10_000  # events that are folded for a trace
MAX_TRACED_BYTES = 16 << 20  # bytes of their data, which the fold keeps
MAX_VALUE_BYTES = 4_096  # bytes of an input or an output as JSON; larger ones are left out
TRACED = EventFilter(frozenset(EVENT_CLASSES) - STREAMED_TYPES - {Context.type, Request.type})

StepKind = Literal["model", "tool", "input"]
StepStatus = Literal["running", "success", "error", "discarded"]

KINDS: dict[str, StepKind] = {"model": "model", "tool": "tool", "question": "input"}
ENDED: dict[str, StepStatus] = {"success": "success", "error": "error", "discarded": "discarded"}
COUNTS = ("input_tokens", "output_tokens")
SOME_COUNTS = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")  # left out if they are 0
RETRY = ("code", "message", "attempt", "wait_s")  # the fields of an `llm.retrying` that are shown


class TraceStep(Struct, kw_only=True, omit_defaults=True):
    """A model call, a tool call, or a request for a person's input. `seq`: its first event.

    `name`: the model's id, the tool's name, or the request's id.

    `status`: a call whose end is not in the log is `running`; the text of a `discarded` one no longer counts,
    for the reason `discarded`. `truncated`: which of `input` and `output` are too large and left out.
    """

    kind: StepKind
    seq: int
    status: StepStatus
    name: str | None = None
    tool_use_id: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    duration_ms: int | None = None
    first_token_ms: int | None = None
    input: Any = None
    output: Any = None
    usage: dict[str, int] = {}
    retries: list[dict[str, Any]] = []
    discarded: str | None = None
    truncated: list[str] = []


class TraceAgent(Struct, kw_only=True, omit_defaults=True):
    """One call of an agent. `agent`: its path in the hierarchy."""

    agent: str
    call_id: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    steps: list[TraceStep]


class TraceAttempt(Struct, kw_only=True, omit_defaults=True):
    """A worker's attempt. `repeats_after`: earlier text after this seq was said again."""

    attempt: int
    reason: str
    worker_id: str
    started_at: str
    ended_at: str | None = None
    repeats_after: int | None = None
    agents: list[TraceAgent]


class TraceError(Struct):
    """Why the run failed."""

    code: str
    message: str


class Trace(Struct, kw_only=True, omit_defaults=True):
    """A run as a tree. `complete`: false if it has more calls or events than a trace holds."""

    run_id: str
    agent: str = ""
    status: Status = "queued"
    created_at: str = ""
    ended_at: str | None = None
    input: Any = None
    output: Any = None
    error: TraceError | None = None
    reason: str | None = None
    complete: bool = True
    truncated: list[str] = []
    attempts: list[TraceAttempt]


class TraceFold:
    """Folds a run's events, in order, until there are as many as a trace holds."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._fold = StepFold()
        self._left, self._left_bytes = MAX_TRACED, MAX_TRACED_BYTES
        self._late_ending: EventRecord | None = None

    def add(self, recorded: RecordedEvent) -> None:
        """Fold in the run's next event."""
        self._left -= 1
        self._left_bytes -= len(recorded.data)
        if self._holds_all and TRACED.passes(recorded.type, recorded.ends):
            self._fold.add(_record(recorded))

    def add_ending(self, recorded: RecordedEvent) -> None:
        """Show the run's terminal event, which comes after the events that a trace holds."""
        if recorded.type in ENDINGS:
            self._late_ending = _record(recorded)

    @property
    def complete(self) -> bool:
        """Whether the trace has all events and calls so far."""
        calls = sum(step.kind in KINDS for step in self._fold.steps.values())
        return self._holds_all and calls <= MAX_STEPS

    @property
    def trace(self) -> Trace:
        """The tree of the events so far."""
        fold = self._fold
        trace = Trace(
            run_id=self._run_id, status=fold.status, complete=self.complete, attempts=_attempts(fold)
        )
        if fold.queued is not None:
            trace.agent, trace.created_at = fold.queued.data["agent"], fold.queued.at
            _put(trace, "input", fold.queued.data["input"])
        if ending := self._late_ending or fold.ending:
            _put_ending(trace, ending)
        return trace

    @property
    def _holds_all(self) -> bool:
        return self._left >= 0 and self._left_bytes >= 0


def _record(recorded: RecordedEvent) -> EventRecord:
    return record_of(replace(recorded, data=readable(recorded.data, RUN_DEPTH + MAX_DEPTH)))


def _put_ending(trace: Trace, ending: EventRecord) -> None:
    trace.status, trace.ended_at = ENDINGS[ending.type].status, ending.at
    match trace.status:
        case "success":
            _put(trace, "output", ending.data["result"])
        case "error":
            trace.error = TraceError(ending.data["code"], ending.data["message"])
        case "stopped":
            trace.reason = ending.data["reason"]


def _attempts(fold: StepFold) -> list[TraceAttempt]:
    """The attempts with their agents, and the first MAX_STEPS calls."""
    attempts: list[TraceAttempt] = []
    agents: dict[str | None, TraceAgent] = {}  # key of its step → the agent
    left = MAX_STEPS
    for step in fold.steps.values():
        match step.kind:
            case "attempt":
                attempts.append(_attempt(fold, step))
            case "agent":
                agents[step.key] = _agent(fold, step)
                attempts[-1].agents.append(agents[step.key])
            case "model" | "tool" | "question" if left and step.key not in fold.unstarted:
                agents[step.parent].steps.append(_call(fold, step))
                left -= 1
        if step.kind == "question":
            attempts[-1].ended_at = step.started_at  # a question ends its attempt
    return attempts


def _attempt(fold: StepFold, step: Step) -> TraceAttempt:
    recorded = step.worker_id is None  # programs that record runs have no worker
    return TraceAttempt(
        attempt=step.attempt or 0,
        reason="claimed" if recorded else step.reason or "",
        worker_id=step.worker_id or "",
        started_at=step.started_at,
        ended_at=step.ended_at,
        repeats_after=fold.repeats_after.get(step.key),
        agents=[],
    )


def _agent(fold: StepFold, step: Step) -> TraceAgent:
    return TraceAgent(
        agent=step.path or "", call_id=step.call_id, started_at=step.started_at,
        ended_at=_ended_at(fold, step), steps=[],
    )  # fmt: skip


def _call(fold: StepFold, step: Step) -> TraceStep:
    call = TraceStep(
        kind=KINDS[step.kind], seq=step.seq, status=_status(fold, step), tool_use_id=step.tool_use_id,
        started_at=step.started_at, ended_at=_ended_at(fold, step), discarded=_discarded(step),
    )  # fmt: skip
    match step.kind:
        case "model":
            _put_model(call, step, fold.calls[step.key])
        case "tool":
            call.name = step.name
            _put(call, "input", step.input)
            _put(call, "output", step.output)
        case "question":
            asked = step.data
            call.name, call.tool_use_id = asked["request_id"], asked.get("tool_use_id")
            _put(call, "input", asked["prompt"] if asked.get("input") is None else asked["input"])
            _put(call, "output", (step.answer or {}).get("answer"))
    if step.kind != "model" and call.ended_at is not None:
        call.duration_ms = _duration_ms(step.started_at, call.ended_at)
    return call


def _put_model(call: TraceStep, step: Step, model: ModelCall) -> None:
    """Put the fields of model calls. The provider's times take precedence over those of the events."""
    used = step.usage or {}
    call.name, call.first_token_ms = used.get("model"), used.get("first_token_ms")
    if step.usage is not None:
        some = {name: used[name] for name in SOME_COUNTS if used.get(name)}
        call.usage = {name: used.get(name, 0) for name in COUNTS} | some
    if (duration_ms := used.get("duration_ms")) is not None and model.used_at is not None:
        call.duration_ms = duration_ms
        call.started_at = timestamp(max(0, millis_of(model.used_at) - duration_ms))
    elif model.answered_at is not None:
        call.duration_ms = _duration_ms(step.started_at, model.answered_at)
    call.retries = [{name: retry[name] for name in RETRY} for retry in step.retries]
    _put(call, "input", step.input)
    _put(call, "output", step.content)


def _status(fold: StepFold, step: Step) -> StepStatus:
    """The status of a call; `running` if its end is not in the log."""
    if step.key in fold.cut_off and step.status != "discarded":
        return "running"
    return ENDED.get(step.status, "running")


def _ended_at(fold: StepFold, step: Step) -> str | None:
    ended = step.kind == "agent" or step.status in ENDED
    return step.ended_at if ended and step.key not in fold.cut_off else None


def _discarded(step: Step) -> str | None:
    return "resumed" if step.discarded == REPEATED else step.discarded


def _duration_ms(begin: str, end: str) -> int:
    return max(0, millis_of(end) - millis_of(begin))


def _put(item: Trace | TraceStep, name: str, value: Any) -> None:
    """Set an input or an output, unless it is too large."""
    if value is not None and len(to_json(value)) > MAX_VALUE_BYTES:
        item.truncated = [*item.truncated, name]
    else:
        setattr(item, name, value)
