"""A run as a tree: its attempts, their agents, and each agent's model and tool calls. A fold over its events.

Streamed text is not read: messages hold the answers, and `llm.usage` the times of a call.
"""

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct, field

from runstore.core.codec import RecordedEvent, decode, to_json
from runstore.core.depth import MAX_DEPTH, readable
from runstore.core.events import (
    EVENT_CLASSES,
    STREAMED_TYPES,
    AgentEvent,
    AgentFinished,
    AgentStarted,
    Cancelled,
    Completed,
    Context,
    Discarded,
    Ending,
    Failed,
    InputGiven,
    InputReplaced,
    InputRequested,
    Message,
    Place,
    Queued,
    Request,
    Retrying,
    Started,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.ports import EventFilter
from runstore.core.run import RUN_DEPTH, Status
from runstore.core.times import timestamp

MAX_STEPS = 1_000  # model and tool calls of a trace
MAX_TRACED = 10_000  # events that are folded for a trace
MAX_TRACED_BYTES = 64 << 20  # bytes of their data
MAX_VALUE_BYTES = 4_096  # bytes of an input or an output as JSON; larger ones are left out
TRACED = EventFilter(frozenset(EVENT_CLASSES) - STREAMED_TYPES - {Context.type, Request.type})

StepKind = Literal["model", "tool", "input"]
StepStatus = Literal["running", "success", "error", "discarded"]


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


def trace_of(run_id: str, events: Iterable[RecordedEvent]) -> Trace:
    """The trace of a run from its events, in order and perhaps without those that are not TRACED."""
    folding = TraceFold(run_id)
    for event in events:
        folding.add(event)
    return folding.trace


class _Open(Struct):
    """An agent's call under way: its model call, its tool calls, and when it last waited for a model."""

    agent: TraceAgent
    since: int
    call: TraceStep | None = None
    asked: Any = None  # the content of the last message that was not the model's
    tools: dict[str, tuple[TraceStep, int]] = field(default_factory=dict)


class TraceFold:
    """Folds a run's events, in order, into its trace, until there are as many as a trace holds."""

    def __init__(self, run_id: str) -> None:
        self.trace = Trace(run_id=run_id, attempts=[])
        self._left, self._left_bytes = MAX_TRACED, MAX_TRACED_BYTES
        self._open: dict[Place, _Open] = {}
        self._steps = 0
        self._requests: dict[str, tuple[TraceStep, int]] = {}

    def add(self, recorded: RecordedEvent) -> None:
        """Fold in the run's next event."""
        self._left -= 1
        self._left_bytes -= len(recorded.data)
        if self._left < 0 or self._left_bytes < 0:
            self.trace.complete = False
            return
        if recorded.type not in TRACED.types and not recorded.ends:
            return
        at, seq = recorded.at, recorded.seq
        data = readable(recorded.data, RUN_DEPTH + MAX_DEPTH)
        match decode(recorded.type, recorded.version, data):
            case Queued() as event:
                self.trace.agent, self.trace.created_at = event.agent, timestamp(at)
                _put(self.trace, "input", event.input)
            case Started() as event:
                self._begin(event, at)
            case Ending() as event:
                self._end(event, at)
            case InputRequested() as event if self.trace.attempts:
                self._ask(event, seq, at)
            case InputGiven() as event:
                self._answer(event, at)
            case AgentEvent() as event:
                if not self.trace.attempts:
                    self._begin(
                        Started(worker_id="", attempt=0, reason="claimed"), at
                    )  # of a program's own run
                self._of_agent(event, seq, at)

    def add_ending(self, recorded: RecordedEvent) -> None:
        """Show the run's terminal event, which comes after the events that a trace holds."""
        event = decode(recorded.type, recorded.version, readable(recorded.data, RUN_DEPTH + MAX_DEPTH))
        if isinstance(event, Ending):
            self._show(event, recorded.at)

    def _begin(self, event: Started, at: int) -> None:
        self._close(at)
        if event.discard_after_seq is not None:
            for step in self._all_steps():
                if step.kind == "model" and step.seq > event.discard_after_seq and step.status != "discarded":
                    step.status, step.discarded = "discarded", "resumed"
        self.trace.status = "running"
        self.trace.attempts.append(
            TraceAttempt(
                attempt=event.attempt, reason=event.reason, worker_id=event.worker_id,
                started_at=timestamp(at), repeats_after=event.discard_after_seq, agents=[],
            )
        )  # fmt: skip

    def _ask(self, event: InputRequested, seq: int, at: int) -> None:
        self._of_agent(event, seq, at)
        self.trace.status, self.trace.attempts[-1].ended_at = "waiting", timestamp(at)

    def _answer(self, event: InputGiven, at: int) -> None:
        self.trace.status = "waiting" if event.open else "queued"
        if found := self._requests.pop(event.request_id, None):
            step, began = found
            step.status, step.ended_at, step.duration_ms = "success", timestamp(at), max(0, at - began)
            _put(step, "output", event.answer)

    def _end(self, event: Ending, at: int) -> None:
        self._close(at)
        self._show(event, at)

    def _show(self, event: Ending, at: int) -> None:
        self.trace.status, self.trace.ended_at = event.status, timestamp(at)
        match event:
            case Completed():
                _put(self.trace, "output", event.result)
            case Failed():
                self.trace.error = TraceError(event.code, event.message)
            case Cancelled():
                self.trace.reason = event.reason

    def _close(self, at: int) -> None:
        """End the attempt. Calls whose end is not in the log stay `running`."""
        self._open.clear()
        if self.trace.attempts and self.trace.attempts[-1].ended_at is None:
            self.trace.attempts[-1].ended_at = timestamp(at)

    def _all_steps(self) -> Iterable[TraceStep]:
        for attempt in self.trace.attempts:
            for agent in attempt.agents:
                yield from agent.steps

    def _of_agent(self, event: AgentEvent, seq: int, at: int) -> None:
        place = event.place
        if place not in self._open or isinstance(event, AgentStarted):
            agent = TraceAgent(agent=event.agent, call_id=event.call_id, started_at=timestamp(at), steps=[])
            self.trace.attempts[-1].agents.append(agent)
            self._open[place] = _Open(agent, at)
        mine = self._open[place]
        match event:
            case AgentFinished():
                mine.agent.ended_at = timestamp(at)
            case ToolStarted():
                step = self._step(mine, "tool", seq, name=event.name, tool_use_id=event.tool_use_id)
                step.started_at = timestamp(at)
                _put(step, "input", event.input)
                mine.tools[event.tool_use_id] = (step, at)
            case ToolFinished() | ToolFailed():
                if found := mine.tools.pop(event.tool_use_id, None):
                    step, began = found
                    step.status = "error" if isinstance(event, ToolFailed) else "success"
                    step.ended_at, step.duration_ms = timestamp(at), max(0, at - began)
                    _put(step, "output", event.output)
                mine.since = at
            case InputRequested():
                step = self._step(mine, "input", seq, name=event.request_id, tool_use_id=event.tool_use_id)
                step.started_at = timestamp(at)
                _put(step, "input", event.prompt if event.input is None else event.input)
                self._requests[event.request_id] = (step, at)
            case Message():
                self._message(mine, event, seq, at)
            case InputReplaced():
                mine.asked = [block for each in event.messages for block in each.get("content") or ()]
            case Usage():
                self._usage(mine, event, seq, at)
            case Retrying():
                step = self._call(mine, seq, fresh=mine.call is not None and mine.call.output is not None)
                retry = {"code": event.code, "message": event.message, "attempt": event.attempt}
                step.retries = [*step.retries, {**retry, "wait_s": event.wait_s}][-100:]
            case Discarded() if event.reason != "retried":
                step = self._call(mine, seq, fresh=False)
                step.status, step.discarded = "discarded", event.reason
                step.ended_at = timestamp(at)
                mine.call, mine.since = None, at

    def _message(self, mine: _Open, event: Message, seq: int, at: int) -> None:
        content = event.message.get("content")
        if event.message.get("role") != "assistant":
            mine.asked, mine.since = content, at
            return
        step = self._call(mine, seq, fresh=mine.call is not None and mine.call.output is not None)
        step.status, step.ended_at = "success", timestamp(at)
        if step.duration_ms is None:
            step.duration_ms = max(0, at - mine.since)
        _put(step, "output", content)

    def _usage(self, mine: _Open, event: Usage, seq: int, at: int) -> None:
        step = self._call(mine, seq, fresh=mine.call is not None and bool(mine.call.usage))
        step.name = event.model
        step.usage = {
            name: count
            for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens",
                         "reasoning_tokens")
            if (count := getattr(event, name)) or name in ("input_tokens", "output_tokens")
        }  # fmt: skip
        step.first_token_ms = event.first_token_ms
        if event.duration_ms is not None:
            step.duration_ms = event.duration_ms
            step.started_at = timestamp(max(0, at - event.duration_ms))
        if not event.incomplete and step.status == "running":
            step.status, step.ended_at = "success", timestamp(at)
        mine.since = at

    def _call(self, mine: _Open, seq: int, *, fresh: bool) -> TraceStep:
        """The model call under way. `fresh`: the last one has all that this event would say."""
        if mine.call is None or fresh:
            mine.call = self._step(mine, "model", seq)
            mine.call.started_at = timestamp(mine.since)
            _put(mine.call, "input", mine.asked)
            mine.asked = None
        return mine.call

    def _step(self, mine: _Open, kind: StepKind, seq: int, **fields: Any) -> TraceStep:
        step = TraceStep(kind=kind, seq=seq, status="running", **fields)
        self._steps += 1
        if self._steps <= MAX_STEPS:
            mine.agent.steps.append(step)
        else:
            self.trace.complete = False
        return step


def _put(place: Trace | TraceStep, name: str, value: Any) -> None:
    """Set an input or an output, unless it is too large."""
    if value is not None and len(to_json(value)) > MAX_VALUE_BYTES:
        place.truncated = [*place.truncated, name]
    else:
        setattr(place, name, value)
