"""A run as a tree of steps: attempts, agents, model and tool calls, questions, notes. A fold over its events.

It has the whole content of each step, the text that is being said, and it may begin in the middle of a run.
The fold keeps only the open calls in view, so each event costs about the same.
"""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from runstore.core.events import ENDINGS, EVENT_CLASSES, STREAMED_TYPES, TEXT_TYPES, Context, Place
from runstore.core.folds.step import Kind, ModelCall, Step
from runstore.core.folds.transcript import blocks_of, speaker_of
from runstore.core.ports import EventFilter
from runstore.core.records import EventRecord
from runstore.core.run import Status
from runstore.core.times import millis_of, timestamp

# Finished calls repeat their streamed text in a message, so only that of others is read.
STRUCTURE = EventFilter(frozenset(EVENT_CLASSES) - STREAMED_TYPES - {Context.type}, ("custom.",))
STREAMED = EventFilter(TEXT_TYPES)
MAX_PROGRESS = 100  # outputs of a tool under way that are kept, the last ones
MAX_RETRIES = 100  # tries of a model call that are kept, the last ones
REPEATED = "said again by the next attempt"  # why the text of an attempt is discarded


class _Agent(Struct):
    """An agent at work. `whole_upto`: the seq up to which its text is in messages."""

    step: Step
    whole_upto: int
    since: str
    asked: Any = None
    call: ModelCall | None = None
    spoke: bool = False


class StepFold:
    """Folds a run's events into steps.

    Args:
        whole: whether the fold begins with the first event of the run.
    """

    def __init__(self, *, whole: bool = True) -> None:
        self.steps: dict[str, Step] = {}
        self.status: Status = "queued"
        self.queued: EventRecord | None = None
        self.ending: EventRecord | None = None
        self.last: EventRecord | None = None
        self.changed: dict[str, int] = {}  # key of a step → the seq of its last change
        self.calls: dict[str, ModelCall] = {}  # key of its step → the call
        self.cut_off: set[str] = set()  # keys of steps whose end the log lacks
        self.unstarted: set[str] = set()  # keys of tool calls whose start the log lacks
        self.repeats_after: dict[str, int | None] = {}  # attempt → the seq after which it discards text
        self._whole = whole
        self._requests = 0
        self._mute: int | None = None  # the seq before the first text of an ended call without a message
        self._attempt: Step | None = None
        self._open: dict[Place, _Agent] = {}
        self._paths: dict[str, Step] = {}  # the last agent of each path
        self._tools: dict[tuple[Place, str], Step] = {}
        # Tool calls by the path of their inner agents, and their id. Ended ones leave when they are found.
        self._calls: dict[Place, list[Step]] = {}
        self._questions: dict[str, Step] = {}

    def add_all(self, events: Iterable[EventRecord]) -> "StepFold":
        for event in events:
            self.add(event)
        return self

    def add(self, event: EventRecord) -> None:
        """Take the run's next event."""
        self.last = event
        if event.type in ENDINGS:
            self._end(event)
        elif event.type.startswith("custom."):
            self._mark(event, "note", event.type.removeprefix("custom."))
        elif handle := HANDLERS.get(event.type):
            handle(self, event, event.data)

    @property
    def unsaid(self) -> int:
        """The seq after which all text lies that no message repeats."""
        last = self.last.seq if self.last is not None else 0
        found = [last, *(agent.whole_upto for agent in self._open.values())]
        return min(found if self._mute is None else [*found, self._mute])

    def settle(self) -> None:
        """Show the text of the calls under way."""
        for agent in self._open.values():
            if agent.call is not None:
                agent.call.show()

    # ---- steps ----

    def _step(self, kind: Kind, event: EventRecord, name: str, parent: Step | None, **fields: Any) -> Step:
        step = Step(
            key=f"{kind}-{event.seq}", kind=kind, seq=event.seq, last_seq=event.seq, name=name,
            parent=None if parent is None else parent.key, **{"started_at": event.at, **fields},
        )  # fmt: skip
        self.steps[step.key] = step
        self._touch(step)
        return step

    def _touch(self, step: Step, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(step, name, value)
        self.changed[step.key] = self.last.seq if self.last is not None else 0

    def _of_event(self, step: Step, event: EventRecord, **fields: Any) -> None:
        self._touch(step, last_seq=event.seq, **fields)

    def _mark(self, event: EventRecord, kind: Kind, name: str, status: str = "") -> None:
        by = event.by or (event.data.get("by") if isinstance(event.data, dict) else None)
        self._step(
            kind, event, name, self._attempt, status=status, ended_at=event.at, data=event.data,
            by=by if isinstance(by, str) else None,
        )  # fmt: skip

    def _agent(self, event: EventRecord) -> _Agent:
        """The agent that an event is of."""
        place = speaker_of(event.data)
        if place not in self._open:
            path, call_id = place
            parent = self._tool_of(path, call_id) or self._parent_of(path) or self._current_attempt(event)
            step = self._step("agent", event, path.rpartition("/")[2], parent, path=path, call_id=call_id)
            self._open[place] = _Agent(step, event.seq - 1, event.at)
            self._paths[path] = step
        return self._open[place]

    def _current_attempt(self, event: EventRecord) -> Step:
        """The attempt; a program's own run gets one for all its events."""
        if self._attempt is None:
            self.status = "running"
            self._attempt = self._step("attempt", event, "Attempt", None, attempt=0, reason="recorded")
        return self._attempt

    def _tool_of(self, path: str, call_id: str | None) -> Step | None:
        """The tool call under way that an inner agent works for. Its name is a part of the agent's path."""
        above = path if call_id is not None else ""
        while above:
            calls = self._calls.get(Place(above, call_id), [])
            while calls and calls[-1].ended_at is not None:
                calls.pop()
            if calls:
                return calls[-1]
            above = above.rpartition("/")[0]
        return None

    def _parent_of(self, path: str) -> Step | None:
        return self._paths.get(path.rpartition("/")[0])

    def _call(self, event: EventRecord, *, fresh: bool | None = None) -> ModelCall:
        """The model call under way. `fresh`: begin another one; by default, if that one is complete."""
        agent = self._agent(event)
        begins = agent.call is not None and agent.call.step.content is not None if fresh is None else fresh
        if agent.call is None or begins:
            if agent.call is not None:
                agent.call.show()
            step = self._step("model", event, "model", agent.step, started_at=agent.since, input=agent.asked)
            self.calls[step.key] = agent.call = ModelCall(step)
            agent.asked = None
        self._of_event(agent.call.step, event)
        return agent.call

    def _close(self, at: str, status: str = "lost") -> None:
        """End the agents and calls under way. status: of those that have not ended by themselves."""
        agents = list(self._open.values())
        for step in [*(agent.step for agent in agents), *self._tools.values()]:
            if step.ended_at is None:
                self.cut_off.add(step.key)
            if step.status == "running":
                step.status = status
            self._touch(step, ended_at=step.ended_at or at)
        for agent in agents:
            self._finish(agent, at, status)
        if self._attempt is not None:
            self._touch(self._attempt, ended_at=self._attempt.ended_at or at)
        self._open.clear()
        self._paths.clear()
        self._tools.clear()
        self._calls.clear()

    def _finish(self, agent: _Agent, at: str, status: str) -> None:
        """End the call of an agent that is done."""
        call = agent.call
        broken = call is not None and call.step.content is None and call.step.status == "running"
        if not agent.spoke or broken:
            self._mute = agent.whole_upto if self._mute is None else min(self._mute, agent.whole_upto)
        if call is not None:
            call.show()
            if call.step.status == "running":
                self.cut_off.add(call.step.key)
                self._touch(call.step, status=status, ended_at=at)

    # ---- one handler for each type ----

    def _end(self, event: EventRecord) -> None:
        status = ENDINGS[event.type].status
        attempt = self._attempt
        self._close(event.at, "success" if status == "success" else "lost")
        for question in self._questions.values():
            self._touch(question, ended_at=event.at)
        if attempt is not None:
            self._of_event(attempt, event, status=status)
        names = {
            "success": "done",
            "error": event.data.get("code"),
            "stopped": f"stopped: {event.data.get('reason')}",
        }
        self._mark(event, "end", str(names[status]), status)
        self.status, self.ending, self._attempt = status, event, None

    def _queue(self, event: EventRecord, data: Any) -> None:
        self.queued = event

    def _start(self, event: EventRecord, data: Any) -> None:
        if self._attempt is not None:
            self._attempt.status = "lost"
        self._close(event.at)
        after = data.get("discard_after_seq")
        for step in reversed(self.steps.values()) if after is not None else ():
            if step.seq <= after:
                break
            if step.kind == "model" and step.status != "discarded":
                self._touch(step, status="discarded", discarded=REPEATED)
        self.status = "running"
        self._attempt = self._step(
            "attempt", event, f"Attempt {data['attempt']}", None,
            attempt=data["attempt"], reason=data["reason"], worker_id=data["worker_id"],
        )  # fmt: skip
        self.repeats_after[self._attempt.key] = after

    def _begin_agent(self, event: EventRecord, data: Any) -> None:
        self._open.pop(speaker_of(event.data), None)
        self._agent(event).since = event.at

    def _end_agent(self, event: EventRecord, data: Any) -> None:
        agent = self._agent(event)
        self._of_event(agent.step, event, ended_at=event.at, status="success")
        self._finish(agent, event.at, "success")

    def _token(self, event: EventRecord, data: Any) -> None:
        call = self._call(event)
        call.step.first_at = call.step.first_at or event.at
        call.text.append((event.seq, data["text"]))

    def _reason(self, event: EventRecord, data: Any) -> None:
        self._call(event).reasoning.append((event.seq, data["text"]))

    def _request(self, event: EventRecord, data: Any) -> None:
        self._agent(event).since = event.at
        step = self._call(event, fresh=True).step
        self._requests += 1
        step.request_seq, step.name = event.seq, data.get("model") or step.name
        step.request_n = self._requests if self._whole else None

    def _message(self, event: EventRecord, data: Any) -> None:
        agent, message = self._agent(event), data["message"]
        agent.whole_upto = event.seq
        content = blocks_of(message.get("content"))
        if message.get("role") != "assistant":
            agent.asked, agent.since = content, event.at
            return
        agent.spoke = True
        known = agent.call
        call = self._call(
            event, fresh=known is not None and known.step.content is not None and not known.more
        )
        if call.more and call.step.content is not None:
            call.step.content += content
        else:
            call.step.content = content
        call.more, call.text, call.reasoning = bool(data.get("more")), [], []
        call.answered_at = agent.since = event.at
        self.cut_off.discard(call.step.key)
        self._touch(call.step, status="success", ended_at=event.at)

    def _usage(self, event: EventRecord, data: Any) -> None:
        known = self._open.get(speaker_of(event.data))
        used = known is not None and known.call is not None and known.call.step.usage is not None
        call = self._call(event, fresh=used)
        step, call.used_at = call.step, event.at
        step.usage, step.name = data, data.get("model") or step.name
        if step.status == "running" and data.get("incomplete"):
            self.cut_off.add(step.key)
        elif step.status == "running":
            step.status = "success"
        step.ended_at = step.ended_at or event.at
        if (first := data.get("first_token_ms")) is not None:
            step.first_at = step.first_at or timestamp(millis_of(step.started_at) + first)
        self._agent(event).since = event.at

    def _discard(self, event: EventRecord, data: Any) -> None:
        agent, retried = self._agent(event), data["reason"] == "retried"
        if agent.call is None and retried:
            return
        call, first = self._call(event, fresh=False), data.get("from_seq", 0)
        for pieces in (call.text, call.reasoning):
            while pieces and pieces[-1][0] >= first:
                pieces.pop()
        if retried:
            return
        call.show()
        content = None if data["reason"] == "redacted" else call.step.content
        self.cut_off.discard(call.step.key)
        self._touch(
            call.step, status="discarded", discarded=data["reason"], ended_at=event.at, content=content
        )
        agent.call, agent.since = None, event.at

    def _retry(self, event: EventRecord, data: Any) -> None:
        step = self._call(event).step
        step.retries = [*step.retries, data][-MAX_RETRIES:]

    def _replace(self, event: EventRecord, data: Any) -> None:
        contents = [blocks_of(message.get("content")) for message in data["messages"]]
        self._agent(event).asked = [block for content in contents for block in content]

    def _begin_tool(self, event: EventRecord, data: Any) -> None:
        place, id = speaker_of(event.data), data["tool_use_id"]
        step = self._step(
            "tool", event, data["name"], self._agent(event).step, tool_use_id=id,
            input=data.get("input"), at_most_once=data.get("at_most_once", False),
        )  # fmt: skip
        self._tools[place, id] = step
        self._calls.setdefault(Place(f"{place.agent}/{step.name}", id), []).append(step)

    def _progress(self, event: EventRecord, data: Any) -> None:
        step = self._tools.get((speaker_of(event.data), data["tool_use_id"]))
        if step is not None:
            latest = {"seq": event.seq, "at": event.at, "output": data.get("output")}
            self._of_event(step, event, progress=[*step.progress, latest][-MAX_PROGRESS:])

    def _end_tool(self, event: EventRecord, data: Any) -> None:
        agent, id = self._agent(event), data["tool_use_id"]
        step = self._tools.pop((speaker_of(event.data), id), None)
        if step is None:
            step = self._step("tool", event, data["name"], agent.step, tool_use_id=id)
            self.unstarted.add(step.key)
        status = "error" if event.type == "tool.failed" else "success"
        self._of_event(step, event, status=status, output=data.get("output"), ended_at=event.at)
        agent.since = event.at

    def _cancel(self, event: EventRecord, data: Any) -> None:
        self._mark(event, "cancel", f"stop asked for: {data['reason']}", "stopping")

    def _ask(self, event: EventRecord, data: Any) -> None:
        self._questions[data["request_id"]] = self._step(
            "question", event, data["prompt"], self._agent(event).step, status="waiting", data=data
        )
        self.status = "waiting"

    def _answer(self, event: EventRecord, data: Any) -> None:
        if step := self._questions.pop(data["request_id"], None):
            self._of_event(step, event, status="success", ended_at=event.at, answer=data)
        self.status = "waiting" if data.get("open") else "queued"

    def _added(self, event: EventRecord, data: Any) -> None:
        self._mark(event, "added", "message added")


HANDLERS: dict[str, Callable[[StepFold, EventRecord, Any], None]] = {
    "lifecycle.queued": StepFold._queue,
    "lifecycle.started": StepFold._start,
    "agent.started": StepFold._begin_agent,
    "agent.finished": StepFold._end_agent,
    "llm.token": StepFold._token,
    "llm.reasoning": StepFold._reason,
    "llm.request": StepFold._request,
    "llm.message": StepFold._message,
    "llm.usage": StepFold._usage,
    "llm.discarded": StepFold._discard,
    "llm.retrying": StepFold._retry,
    "llm.input_replaced": StepFold._replace,
    "tool.started": StepFold._begin_tool,
    "tool.progress": StepFold._progress,
    "tool.finished": StepFold._end_tool,
    "tool.failed": StepFold._end_tool,
    "cancel.requested": StepFold._cancel,
    "input.requested": StepFold._ask,
    "input.given": StepFold._answer,
    "input.added": StepFold._added,
}
