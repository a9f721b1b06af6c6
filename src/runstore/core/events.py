"""The facts that a run is made of. The union is closed; a tag, once released, never changes its meaning.

A new field needs a default, so that old events still read. A field that changes its shape needs a new
`version` and an upcast in `codec.UPCASTS`.
"""

import re
from typing import Any, ClassVar, Literal, get_args

from msgspec import Struct

from runstore.core.errors import InvalidEvent

EventType = str


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact before it is stored. `type` is its tag on the wire and in the log."""

    type: ClassVar[EventType] = ""
    version: ClassVar[int] = 1
    ends: ClassVar[bool] = False  # closes the run: the log takes nothing after it but the markers below
    levels: ClassVar[int] = 1  # lists and objects of its own around the values that it carries


MultitaskStrategy = Literal["interrupt", "enqueue", "reject", "parallel"]
STRATEGIES: tuple[MultitaskStrategy, ...] = get_args(MultitaskStrategy)
SUPERSEDED = "superseded"  # why a run was stopped that another one of its session took the place of


class Queued(Event, frozen=True):
    """The run exists. Holds the agent's definition as it was, so that an audit needs no other table."""

    type: ClassVar[EventType] = "lifecycle.queued"
    agent: str
    user_id: str
    input: Any
    session_id: str | None = None
    metadata: dict[str, Any] = {}
    definition: dict[str, Any] = {}
    parent_run_id: str | None = None
    workspace_id: str | None = None
    traceparent: str | None = None
    multitask_strategy: MultitaskStrategy = "enqueue"
    memory: Literal["session"] | None = None


StartReason = Literal["claimed", "adopted", "handed_over"]


class Started(Event, frozen=True):
    """A worker took the run. On a resume, text after `discard_after_seq` is said again: a client drops it.

    `withholds`: and nobody gets it any more, as its guardrail had not judged it yet.
    """

    type: ClassVar[EventType] = "lifecycle.started"
    worker_id: str
    attempt: int
    reason: StartReason
    discard_after_seq: int | None = None
    withholds: bool = False


class Completed(Event, frozen=True):
    """The agent is done. `result` is an object, `usage` the sum over the run's model calls."""

    type: ClassVar[EventType] = "lifecycle.completed"
    ends: ClassVar[bool] = True
    result: dict[str, Any]
    usage: dict[str, int] = {}


class Failed(Event, frozen=True):
    """The run ended in an error; also `timeout` and `worker_lost`."""

    type: ClassVar[EventType] = "lifecycle.failed"
    ends: ClassVar[bool] = True
    code: str
    message: str


class Cancelled(Event, frozen=True):
    """The run was stopped. `forced`: the agent did not end within the grace period and was abandoned."""

    type: ClassVar[EventType] = "lifecycle.cancelled"
    ends: ClassVar[bool] = True
    reason: str
    forced: bool = False


class CancelRequested(Event, frozen=True):
    """Somebody wants the run to stop; its terminal event follows within the grace period."""

    type: ClassVar[EventType] = "cancel.requested"
    by: str
    reason: str
    superseded_by: str | None = None


class AgentEvent(Event, frozen=True, kw_only=True):
    """What an agent did. `agent`: its path in the hierarchy; `call_id` tells two calls of one agent apart."""

    agent: str
    call_id: str | None = None


class AgentStarted(AgentEvent, frozen=True, kw_only=True):
    """An agent of the hierarchy began to work. `input_digest`: of a node's input, to tell two apart.

    `structured_output`: the run's own agent answers with an object, so that its text is not the answer.
    `resumable`: false where the code of a tool called it: a new attempt calls the tool again instead.
    `redacts`: its answers may be redacted when they have been said.
    """

    type: ClassVar[EventType] = "agent.started"
    input_digest: str | None = None
    structured_output: bool = False
    resumable: bool = True
    redacts: bool = False


class AgentFinished(AgentEvent, frozen=True, kw_only=True):
    """An agent of the hierarchy is done."""

    type: ClassVar[EventType] = "agent.finished"


class Token(AgentEvent, frozen=True, kw_only=True):
    """A piece of the model's answer, as it came."""

    type: ClassVar[EventType] = "llm.token"
    text: str


class Reasoning(AgentEvent, frozen=True, kw_only=True):
    """A piece of the model's reasoning, as it came."""

    type: ClassVar[EventType] = "llm.reasoning"
    text: str


DiscardReason = Literal["retried", "failed", "rejected", "redacted"]


class Discarded(AgentEvent, frozen=True, kw_only=True):
    """Text of the agent's present model call no longer counts: `from_seq` and later, up to this event.

    It concerns this agent and call alone. `length`: how much text that is, in UTF-16 code units, which stay
    the same however it was cut into pieces. An agent gives it, and the log finds `from_seq`. Text that is
    `redacted` is withheld: the log keeps `Redacted` in its place.
    """

    type: ClassVar[EventType] = "llm.discarded"
    reason: DiscardReason
    length: int
    from_seq: int = 0  # until the log has found it


class Redacted(AgentEvent, frozen=True, kw_only=True):
    """The tombstone of a piece of text, or of a message, that was redacted; it has its place in the run."""

    type: ClassVar[EventType] = "llm.redacted"


class Retrying(AgentEvent, frozen=True, kw_only=True):
    """A model call has failed and is made again after `wait_s`. `attempt`: which call failed, 1 the first."""

    type: ClassVar[EventType] = "llm.retrying"
    code: str
    message: str
    attempt: int
    wait_s: float


class Message(AgentEvent, frozen=True, kw_only=True):
    """A complete message (`role`, `content` blocks as strands has them): the agent's memory on a resume.

    `more`: it goes on in the agent's next one. Of a tool result `content` may be left out: `tool.finished` or
    `tool.failed` holds it.
    """

    type: ClassVar[EventType] = "llm.message"
    levels: ClassVar[int] = 7  # around the JSON of a tool's result
    message: dict[str, Any]
    more: bool = False


class InputReplaced(AgentEvent, frozen=True, kw_only=True):
    """The last `count` messages of the agent's conversation read so from here on.

    They are what the model was asked: the run's input, or tool results. A guardrail has redacted them, or a
    hook has rewritten them.
    """

    type: ClassVar[EventType] = "llm.input_replaced"
    levels: ClassVar[int] = 8  # as a message's, in a list
    messages: list[dict[str, Any]]
    count: int = 1


class ContextReduced(AgentEvent, frozen=True, kw_only=True):
    """What the agent's conversation manager has left: `begins_with`, then the last `kept` messages."""

    type: ClassVar[EventType] = "llm.context_reduced"
    levels: ClassVar[int] = 8  # as a message's, in a list
    kept: int
    begins_with: list[dict[str, Any]] = []


class Usage(AgentEvent, frozen=True, kw_only=True):
    """What one model call used."""

    type: ClassVar[EventType] = "llm.usage"
    input_tokens: int
    output_tokens: int
    model: str | None = None


class ToolEvent(AgentEvent, frozen=True, kw_only=True):
    """What happened to one tool call."""

    levels: ClassVar[int] = 3  # an output is a list of blocks
    tool_use_id: str
    name: str


class ToolStarted(ToolEvent, frozen=True, kw_only=True):
    """Written, and committed, before the tool runs. `at_most_once`: no new attempt may call it again."""

    type: ClassVar[EventType] = "tool.started"
    input: Any = None
    at_most_once: bool = False


class ToolProgress(ToolEvent, frozen=True, kw_only=True):
    """What a streaming tool says before it is done."""

    type: ClassVar[EventType] = "tool.progress"
    output: Any = None


class ToolFinished(ToolEvent, frozen=True, kw_only=True):
    """The tool's result; a resumed run takes it from here and does not call the tool again."""

    type: ClassVar[EventType] = "tool.finished"
    output: Any = None


class ToolFailed(ToolEvent, frozen=True, kw_only=True):
    """The tool answered with an error, which the model sees."""

    type: ClassVar[EventType] = "tool.failed"
    output: Any = None


class Deleted(Event, frozen=True):
    """The run left the lists; a closed run still takes this one, once."""

    type: ClassVar[EventType] = "run.deleted"
    by: str


Outcome = Literal["success", "error", "stopped"]  # the status of a run that has ended


class Purged(Event, frozen=True):
    """The run's events were removed because of their age: what is left to tell of it. Always its last event.

    `counts`: how many events there were of each type, `custom` for all of `custom.*`; together they are as
    many as the last seq said. Times: UTC, milliseconds since 1970.
    """

    type: ClassVar[EventType] = "run.purged"
    by: str
    user_id: str
    agent: str
    status: Outcome
    created_at: int
    completed_at: int
    counts: dict[str, int]
    started_at: int | None = None
    session_id: str | None = None
    workspace_id: str | None = None
    parent_run_id: str | None = None
    attempt: int = 0
    error_code: str | None = None
    usage: dict[str, int] = {}
    deleted: bool = False


EVENT_CLASSES: dict[EventType, type[Event]] = {
    cls.type: cls
    for cls in (
        Queued, Started, Completed, Failed, Cancelled, CancelRequested, AgentStarted, AgentFinished,
        Token, Reasoning, Message, InputReplaced, ContextReduced, Usage, Discarded, Redacted, Retrying,
        ToolStarted, ToolProgress, ToolFinished, ToolFailed, Deleted, Purged,
    )
}  # fmt: skip

TEXT_TYPES = frozenset({Token.type, Reasoning.type})
STREAMED_TYPES = TEXT_TYPES | {Redacted.type}  # so many that only streams look at them
CUSTOM_TYPE = re.compile(r"custom\.[A-Za-z0-9_.-]{1,120}")


class Custom(Struct, frozen=True):
    """What a user's agent or an external producer appends under a `custom.*` type of its own."""

    type: EventType
    data: Any = None

    def __post_init__(self) -> None:
        if not CUSTOM_TYPE.fullmatch(self.type):
            raise InvalidEvent(
                f"event type {self.type[:100]!r} is not allowed: "
                "it must be 'custom.' and 1 to 120 letters, digits, '_', '.' or '-'"
            )


class Unknown(Struct, frozen=True):
    """A stored event of a type that this release does not know; kept and passed on unread."""

    type: EventType
    data: Any
