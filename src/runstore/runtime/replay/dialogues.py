"""A run as dialogues: for each agent at work, what its model said and what its tools returned. A fold.

It reads events as any client gets them, so it holds nothing that its reader may not see: redacted messages
are missing, and counted.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from runstore.core.codec import json_size, to_json
from runstore.core.errors import InvalidQuery, TooLarge
from runstore.core.events import (
    ENDINGS,
    EVENT_CLASSES,
    AgentEvent,
    AgentStarted,
    Cancelled,
    Completed,
    Context,
    Event,
    Failed,
    InputAdded,
    InputReplaced,
    InputRequested,
    Message,
    Outcome,
    Place,
    Queued,
    Redacted,
    Request,
    Started,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.folds.transcript import message_text
from runstore.core.records import EventRecord
from runstore.runtime.memory.oversized import continued
from runstore.runtime.memory.resume import is_root, is_run, tool_uses

MAX_EVENTS = 100_000  # events of one run that are folded
MAX_BYTES = 64 << 20  # bytes of their data as JSON
SPOKEN: tuple[type[Event], ...] = (
    Queued, Started, AgentStarted, Message, Redacted, InputAdded, InputReplaced, InputRequested,
    ToolStarted, ToolFinished, ToolFailed, Usage, *ENDINGS.values(),
)  # fmt: skip
SPOKEN_TYPES = sorted(cls.type for cls in SPOKEN)  # the events from which dialogues are made
ASKED_TYPES = sorted({*SPOKEN_TYPES, Request.type, Context.type})  # the same, with models and system prompts


class RecordedCall(Struct, kw_only=True, omit_defaults=True):
    """A tool call of a model.

    `input`: as the model wrote it. `ran_with`: other arguments with which the tool ran, as a hook or a person
    changed them. `approval`: a person was asked to approve it. `status`, `output`: its result, if the log has
    one. `dialogue`: the number of the dialogue of the agent that was called as a tool.
    """

    tool_use_id: str
    name: str
    input: Any = None
    ran_with: Any = None
    approval: bool = False
    status: Literal["success", "error"] | None = None
    output: list[Any] = []
    dialogue: int | None = None


class Answer(Struct, kw_only=True, omit_defaults=True):
    """A message of a model. `heard`: the messages before it that are neither its input nor results of tools.

    `content`: its blocks, as in strands. `calls`: the tool calls among them. `finish_reason`: why it ended.
    `redacted`: it is withheld, and its content is missing.
    """

    seq: int
    content: list[Any]
    calls: list[RecordedCall] = []
    heard: list[Any] = []
    finish_reason: str | None = None
    redacted: bool = False

    @property
    def text(self) -> str:
        return message_text({"content": self.content})

    @property
    def reasoning(self) -> str:
        blocks = [block["reasoningContent"] for block in self.content if "reasoningContent" in block]
        return "".join(block.get("reasoningText", {}).get("text") or "" for block in blocks)


class Dialogue(Struct, kw_only=True, omit_defaults=True):
    """The answers of one agent at work. `model`, `system`: of its last request, if they were recorded."""

    agent: str
    call_id: str | None = None
    answers: list[Answer] = []
    model: str | None = None
    system: Any = None
    input_digest: str | None = None
    resumable: bool = True

    @property
    def place(self) -> Place:
        """The place where the agent works."""
        return Place(self.agent, self.call_id)


class AddedInput(Struct, kw_only=True):
    """A message that a person added. The run's agent heard it before its answer number `answer`, from 0."""

    seq: int
    answer: int
    content: Any


class RecordedRun(Struct, kw_only=True, omit_defaults=True):
    """A run that has ended, as its agents and tools spoke.

    `memory`: the messages with which its agent began. `withheld`: redacted messages, which are missing.
    """

    run_id: str
    agent: str
    input: Any
    user_id: str = ""
    session_id: str | None = None
    metadata: dict[str, Any] = {}
    definition: dict[str, Any] = {}
    remembers: bool = False
    memory: list[Any] = []
    status: Outcome | None = None
    result: dict[str, Any] = {}
    error: str | None = None
    withheld: int = 0
    added: list[AddedInput] = []
    dialogues: list[Dialogue] = []

    @property
    def root(self) -> Dialogue | None:
        """The dialogue of the run's own agent; None for a Graph or Swarm."""
        return next((each for each in self.dialogues if is_run(each.place)), None)


def recorded_run(events: Iterable[EventRecord]) -> RecordedRun:
    """The run of these events. See `RunFold`."""
    folding = RunFold()
    for record in events:
        folding.add(record)
    return folding.run


def same_form(value: Any) -> bytes:
    """A value as JSON whose objects have their keys in order."""
    return msgspec.json.encode(msgspec.json.decode(to_json(value)), order="sorted")


class RunFold:
    """Folds the events of a run, which are all of SPOKEN_TYPES or ASKED_TYPES in order."""

    def __init__(self) -> None:
        self._count = self._size = 0
        self._run: RecordedRun | None = None
        self._open: dict[Place, int] = {}  # the number of the dialogue at each place
        self._begun: set[Place] = set()  # places that an agent has reached in this attempt
        self._visits: dict[str, list[int]] = {}  # node → its dialogues that this attempt has not reached yet
        self._parts: dict[Place, dict[str, Any]] = {}
        self._heard: dict[int, list[Any]] = {}  # dialogue → what it has heard since its last answer
        self._finished: dict[int, str | None] = {}  # dialogue → why its model's next message ended
        self._added: list[tuple[int, Any]] = []
        self._contexts: dict[str, Any] = {}
        self._restarts = False

    @property
    def run(self) -> RecordedRun:
        """The run so far.

        Raises:
            InvalidQuery: its first event is missing.
        """
        if self._run is None:
            raise InvalidQuery("these are not the events of a run from its beginning")
        return self._run

    def add(self, record: EventRecord) -> None:
        """Take the next event.

        Raises:
            TooLarge: it is beyond MAX_EVENTS or MAX_BYTES.
            InvalidQuery: it is not of the shape that this release knows, as from a newer server.
        """
        self._count += 1
        self._size += json_size(record.data)
        if self._count > MAX_EVENTS or self._size > MAX_BYTES:
            limit = f"{MAX_EVENTS:,} events and {MAX_BYTES:,} bytes"
            raise TooLarge("replay_bytes", f"run {record.run_id} is too large: the limit is {limit}")
        if (cls := EVENT_CLASSES.get(record.type)) is None:
            return
        try:
            event = msgspec.convert(record.data, cls)
        except msgspec.ValidationError as error:
            which = f"event {record.seq} of run {record.run_id}"
            raise InvalidQuery(f"{which} is no {record.type} of this release: {error}") from error
        if isinstance(event, Queued):
            self._queue(record, event)
        elif self._run is not None:
            self._add(self._run, record.seq, event)

    def _queue(self, record: EventRecord, event: Queued) -> None:
        self._restarts = event.definition.get("on_worker_lost") == "restart"
        self._run = RecordedRun(
            run_id=record.run_id, agent=event.agent, input=event.input, user_id=event.user_id,
            session_id=event.session_id, metadata=event.metadata, definition=event.definition,
            remembers=event.memory is not None,
        )  # fmt: skip

    def _add(self, run: RecordedRun, seq: int, event: Event) -> None:
        match event:
            case Started():
                self._start(run, event)
            case Completed():
                run.status, run.result = event.status, event.result
            case Failed():
                run.status, run.error = event.status, f"{event.code}: {event.message}"
            case Cancelled():
                run.status, run.error = event.status, event.reason
            case InputAdded():
                self._added.append((seq, event.content))
            case Context():
                self._contexts[event.digest] = event.content
            case AgentStarted():
                self._begin(run, event)
            case AgentEvent():
                self._speak(run, seq, event)

    def _start(self, run: RecordedRun, event: Started) -> None:
        """A new attempt. It goes on with the dialogues, unless it starts again from the input."""
        self._parts.clear()
        self._begun.clear()
        if self._restarts and event.reason not in ("claimed", "input"):
            run.dialogues, run.added = [], []
            self._open.clear()
            self._heard.clear()
            self._finished.clear()
        self._visits = {}
        for number, dialogue in enumerate(run.dialogues):
            if dialogue.call_id is None and not is_root(dialogue.agent):
                self._visits.setdefault(dialogue.agent, []).append(number)

    def _begin(self, run: RecordedRun, event: AgentStarted) -> None:
        place = event.place
        if event.call_id is None and not is_root(event.agent):
            earlier = self._visits.get(event.agent)
            number = earlier.pop(0) if earlier else None
            if number is not None and run.dialogues[number].input_digest == event.input_digest:
                self._open[place] = number
                return
            self._visits.pop(event.agent, None)  # later visits are repeated, too
        elif place in self._open and place not in self._begun and event.resumable:
            self._begun.add(place)
            return
        self._begun.add(place)
        self._dialogue(run, place, new=True, input_digest=event.input_digest, resumable=event.resumable)

    def _dialogue(self, run: RecordedRun, place: Place, *, new: bool = False, **fields: Any) -> int:
        if new or place not in self._open:
            self._open[place] = len(run.dialogues)
            run.dialogues.append(Dialogue(agent=place.agent, call_id=place.call_id, **fields))
        return self._open[place]

    def _speak(self, run: RecordedRun, seq: int, event: AgentEvent) -> None:
        place = event.place
        number = self._dialogue(run, place)
        dialogue = run.dialogues[number]
        match event:
            case Message():
                self._say(dialogue, number, seq, place, event)
            case Redacted() if event.message:
                self._parts.pop(place, None)
                run.withheld += 1
                dialogue.answers.append(Answer(seq=seq, content=[], redacted=True))
            case InputReplaced():
                self._hear(run, dialogue, number, event)
            case ToolStarted() | ToolFinished() | ToolFailed():
                self._call(run, dialogue, event)
            case InputRequested(kind="approval", tool_use_id=str() as use_id):
                if (call := _find(dialogue, use_id)) is not None:
                    call.approval = True
            case Usage():
                self._finished[number] = event.finish_reason
            case Request():
                dialogue.model = event.model or dialogue.model
                dialogue.system = self._contexts.get(event.system or "", dialogue.system)

    def _say(self, dialogue: Dialogue, number: int, seq: int, place: Place, event: Message) -> None:
        part = event.message
        whole = continued(self._parts.pop(place), part) if place in self._parts else part
        if event.more:
            self._parts[place] = whole
            return
        if whole.get("role") != "assistant":
            return  # the results of tools, which their own events hold
        calls = [
            RecordedCall(tool_use_id=use["toolUseId"], name=use["name"], input=use["input"])
            for use in tool_uses(whole)
        ]
        answer = Answer(
            seq=seq, content=whole["content"], calls=calls, heard=self._heard.pop(number, []),
            finish_reason=self._finished.pop(number, None),
        )  # fmt: skip
        dialogue.answers.append(answer)

    def _hear(self, run: RecordedRun, dialogue: Dialogue, number: int, event: InputReplaced) -> None:
        if event.added is None:
            self._heard.setdefault(number, []).extend(event.messages)
            return
        while self._added and self._added[0][0] <= event.added:
            seq, content = self._added.pop(0)
            run.added.append(AddedInput(seq=seq, answer=len(dialogue.answers), content=content))

    def _call(
        self, run: RecordedRun, dialogue: Dialogue, event: ToolStarted | ToolFinished | ToolFailed
    ) -> None:
        call = _find(dialogue, event.tool_use_id)
        inner = Place(f"{event.agent}/{event.name}", event.tool_use_id)
        if isinstance(event, ToolStarted):
            if call is not None:
                call.ran_with = None if event.input == call.input else event.input
            return
        opened = self._open.pop(inner, None)  # another call may reuse the id
        if call is not None:
            call.status = "success" if isinstance(event, ToolFinished) else "error"
            call.output = event.output or []
            if opened is not None and run.dialogues[opened].resumable:
                call.dialogue = opened


def _find(dialogue: Dialogue, tool_use_id: str) -> RecordedCall | None:
    """The last call with this id: some models use the same ids in every turn."""
    for answer in reversed(dialogue.answers):
        for call in answer.calls:
            if call.tool_use_id == tool_use_id:
                return call
    return None
