"""The events of a run. The union is closed; a released tag never changes its meaning.

A new field needs a default, so that old events still decode. A field that changes its shape needs a new
`version` and an upcast in `codec.UPCASTS`.
"""

import re
from typing import Any, ClassVar, Literal, get_args

from msgspec import Struct

from runstore.core.errors import InvalidEvent

EventType = str


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact that is not yet stored. `type` is its tag on the wire and in the log."""

    type: ClassVar[EventType] = ""
    version: ClassVar[int] = 1
    ends: ClassVar[bool] = False  # closes the run: only the markers below may follow in the log
    levels: ClassVar[int] = 1  # nesting levels of the event around the values that it carries


MultitaskStrategy = Literal["interrupt", "enqueue", "reject", "parallel"]
STRATEGIES: tuple[MultitaskStrategy, ...] = get_args(MultitaskStrategy)
SUPERSEDED = "superseded"  # cancel reason: a newer run of the same session replaced this one


class Queued(Event, frozen=True):
    """The run exists. It holds a copy of the agent's definition, so that an audit needs no other table.

    `key_id`: the API key that started it. `parent_run_id`, `forked_at_seq`: the run whose conversation it
    begins with, and the last seq of that.
    """

    type: ClassVar[EventType] = "lifecycle.queued"
    agent: str
    user_id: str
    input: Any
    session_id: str | None = None
    metadata: dict[str, Any] = {}
    definition: dict[str, Any] = {}
    parent_run_id: str | None = None
    forked_at_seq: int | None = None
    workspace_id: str | None = None
    traceparent: str | None = None
    multitask_strategy: MultitaskStrategy = "enqueue"
    memory: Literal["session"] | None = None
    key_id: str | None = None


StartReason = Literal["claimed", "adopted", "handed_over", "input"]


class Started(Event, frozen=True):
    """A worker took the run. On a resume, text after `discard_after_seq` is repeated, so a client drops it.

    `withholds`: readers no longer get that text, as the agent's guardrail had not judged it.
    """

    type: ClassVar[EventType] = "lifecycle.started"
    worker_id: str
    attempt: int
    reason: StartReason
    discard_after_seq: int | None = None
    withholds: bool = False


Outcome = Literal["success", "error", "stopped"]  # the status of a run that has ended


class Ending(Event, frozen=True):
    """A terminal event. `status`: that of the run which it ends."""

    ends: ClassVar[bool] = True
    status: ClassVar[Outcome]


class Completed(Ending, frozen=True):
    """The agent finished. `result` is an object, `usage` the sum over the run's model calls."""

    type: ClassVar[EventType] = "lifecycle.completed"
    status: ClassVar[Outcome] = "success"
    result: dict[str, Any]
    usage: dict[str, int] = {}


class Failed(Ending, frozen=True):
    """The run ended in an error, including `timeout` and `worker_lost`."""

    type: ClassVar[EventType] = "lifecycle.failed"
    status: ClassVar[Outcome] = "error"
    code: str
    message: str


class Cancelled(Ending, frozen=True):
    """The run was stopped. `forced`: the agent did not end within the grace period and was abandoned."""

    type: ClassVar[EventType] = "lifecycle.cancelled"
    status: ClassVar[Outcome] = "stopped"
    reason: str
    forced: bool = False


class CancelRequested(Event, frozen=True):
    """A stop of the run was requested; its terminal event follows within the grace period.

    `key_id`: the API key of the request.
    """

    type: ClassVar[EventType] = "cancel.requested"
    by: str
    reason: str
    superseded_by: str | None = None
    key_id: str | None = None


class AgentEvent(Event, frozen=True, kw_only=True):
    """An event of an agent. `agent`: its path in the hierarchy.

    `call_id` distinguishes two calls of one agent.
    """

    agent: str
    call_id: str | None = None


class AgentStarted(AgentEvent, frozen=True, kw_only=True):
    """An agent of the hierarchy started. `input_digest` distinguishes two inputs of a node.

    `structured_output`: the run's own agent answers with an object, so its text is not the answer.
    `resumable`: false if a tool's code called the agent: a new attempt calls the tool again instead.
    `redacts`: its answers may be redacted after they were streamed.
    """

    type: ClassVar[EventType] = "agent.started"
    input_digest: str | None = None
    structured_output: bool = False
    resumable: bool = True
    redacts: bool = False


class AgentFinished(AgentEvent, frozen=True, kw_only=True):
    """An agent of the hierarchy finished."""

    type: ClassVar[EventType] = "agent.finished"


class Token(AgentEvent, frozen=True, kw_only=True):
    """A piece of the model's answer, as it was streamed."""

    type: ClassVar[EventType] = "llm.token"
    text: str


class Reasoning(AgentEvent, frozen=True, kw_only=True):
    """A piece of the model's reasoning, as it was streamed."""

    type: ClassVar[EventType] = "llm.reasoning"
    text: str


DiscardReason = Literal["retried", "failed", "rejected", "redacted"]


class Discarded(AgentEvent, frozen=True, kw_only=True):
    """Text of the agent's current model call no longer counts, from `from_seq` up to this event.

    It applies only to this agent and call. `length`: the amount of text in UTF-16 code units, which does not
    depend on how it was split into pieces. The agent sets it, and the log derives `from_seq`. `redacted` text
    is withheld: the log replaces it by `Redacted`.
    """

    type: ClassVar[EventType] = "llm.discarded"
    reason: DiscardReason
    length: int
    from_seq: int = 0  # until the log has derived it


class Redacted(AgentEvent, frozen=True, kw_only=True):
    """The tombstone of a redacted piece of text or message; it keeps the seq.

    `message`: it replaces an `llm.message`, or the last part of one.
    """

    type: ClassVar[EventType] = "llm.redacted"
    message: bool = False


class Retrying(AgentEvent, frozen=True, kw_only=True):
    """A model call failed and is repeated after `wait_s`. `attempt`: number of the failed call, from 1."""

    type: ClassVar[EventType] = "llm.retrying"
    code: str
    message: str
    attempt: int
    wait_s: float


class Message(AgentEvent, frozen=True, kw_only=True):
    """A complete message (`role`, `content` blocks as in strands): the agent's memory on a resume.

    `more`: it continues in the agent's next message. The `content` of a tool result may be omitted, as
    `tool.finished` or `tool.failed` holds it.
    """

    type: ClassVar[EventType] = "llm.message"
    levels: ClassVar[int] = 7  # around the JSON of a tool's result
    message: dict[str, Any]
    more: bool = False


ContextKind = Literal["system", "tools", "parameters", "output_schema", "message"]


class Context(AgentEvent, frozen=True, kw_only=True):
    """Content of model calls that no other event of the run holds. Stored once per run and digest.

    `digest`: SHA-256 of the content as JSON, in hexadecimal. `kind`: a system prompt, tool specifications, a
    model's parameters, the schema of the wanted object, or a message. `size`: bytes of content that is too
    large or too deep for an event, and left out; otherwise 0.
    """

    type: ClassVar[EventType] = "llm.context"
    levels: ClassVar[int] = 8  # those of a message, within an event
    kind: ContextKind
    digest: str
    content: Any = None
    size: int = 0


class MessageRange(Struct, frozen=True, omit_defaults=True):
    """Consecutive messages of a model call, by the place that holds them. One of the fields is set.

    A range is the number of its first message, counted from 0, and of its messages.

    `last`: a range of the agent's last request in this attempt. `input`: of the run's input. `said`: of the
    complete messages that this agent and call has logged in this attempt, redacted ones included. `context`:
    the digest of an `llm.context`. `held`: events of an earlier attempt, or of the session's run `run_id`,
    each its seq and the number of the message in it.
    """

    last: tuple[int, int] | None = None
    input: tuple[int, int] | None = None
    said: tuple[int, int] | None = None
    context: str | None = None
    run_id: str | None = None
    held: list[tuple[int, int]] = []


class Request(AgentEvent, frozen=True, kw_only=True):
    """The next request to a model, exactly. Long content is referred to.

    `provider`: the class of the model. `parameters`, `system`, `tools`, `output_schema`: digests of
    `llm.context` events. `cache_blocks`: trailing blocks of the last message that change with every call.
    `state`: what the model's provider keeps between calls. `messages`: in order. `left_out`: why there are no
    messages.
    """

    type: ClassVar[EventType] = "llm.request"
    levels: ClassVar[int] = 4
    model: str | None = None
    provider: str | None = None
    parameters: str | None = None
    system: str | None = None
    tools: str | None = None
    output_schema: str | None = None
    tool_choice: Any = None
    cache_blocks: int = 0
    state: dict[str, Any] = {}
    messages: list[MessageRange] = []
    left_out: str | None = None


class InputReplaced(AgentEvent, frozen=True, kw_only=True):
    """Replaces the last `count` messages of the agent's conversation from here on.

    They are input of the model: the run's input, or tool results. A guardrail redacted them, a hook rewrote
    them, or people added messages: `added` is the seq of the last `input.added` among these.
    """

    type: ClassVar[EventType] = "llm.input_replaced"
    levels: ClassVar[int] = 8  # those of a message, within a list
    messages: list[dict[str, Any]]
    count: int = 1
    added: int | None = None


class ContextReduced(AgentEvent, frozen=True, kw_only=True):
    """The conversation after its manager reduced it: `begins_with`, then the last `kept` messages."""

    type: ClassVar[EventType] = "llm.context_reduced"
    levels: ClassVar[int] = 8  # those of a message, within a list
    kept: int
    begins_with: list[dict[str, Any]] = []


class Usage(AgentEvent, frozen=True, kw_only=True):
    """The tokens that one model call used.

    `input_tokens` counts the whole prompt: also the tokens read from the provider's cache
    (`cache_read_tokens`) and written to it (`cache_write_tokens`). `output_tokens` includes
    `reasoning_tokens`. `incomplete`: the call broke off before its provider reported what it used.
    Times: milliseconds from the start of the call. `finish_reason`: why the answer ended, in strands' words.
    `request_id`: the provider's own id of the call.
    """

    type: ClassVar[EventType] = "llm.usage"
    input_tokens: int
    output_tokens: int
    model: str | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    first_token_ms: int | None = None
    duration_ms: int | None = None
    incomplete: bool = False
    finish_reason: str | None = None
    request_id: str | None = None


class ToolEvent(AgentEvent, frozen=True, kw_only=True):
    """An event of one tool call."""

    levels: ClassVar[int] = 3  # an output is a list of blocks
    tool_use_id: str
    name: str


class ToolStarted(ToolEvent, frozen=True, kw_only=True):
    """Committed before the tool runs. `at_most_once`: no new attempt may call the tool again."""

    type: ClassVar[EventType] = "tool.started"
    input: Any = None
    at_most_once: bool = False


class ToolProgress(ToolEvent, frozen=True, kw_only=True):
    """Output of a streaming tool before it finishes."""

    type: ClassVar[EventType] = "tool.progress"
    output: Any = None


class ToolFinished(ToolEvent, frozen=True, kw_only=True):
    """The tool's result; a resumed run reuses it instead of calling the tool again."""

    type: ClassVar[EventType] = "tool.finished"
    output: Any = None


class ToolFailed(ToolEvent, frozen=True, kw_only=True):
    """The tool returned an error, which the model sees."""

    type: ClassVar[EventType] = "tool.failed"
    output: Any = None


InputKind = Literal["question", "approval"]


class InputRequested(AgentEvent, frozen=True, kw_only=True):
    """The agent needs an answer of a person. It ends its attempt: the run waits, without a worker.

    All requests of an attempt are in one append. `request_id`: unique in the run. `data`: what the agent adds
    to the prompt. `schema`: the JSON Schema of the answer. `tool`, `tool_use_id`, `input`: of an approval,
    the exact call. `expires_at`: UTC, milliseconds since 1970; then `default` is the answer, or the run
    fails.
    `name`, `interrupt_id`: the agent library's names of the request, by which it gets the answer.
    """

    type: ClassVar[EventType] = "input.requested"
    request_id: str
    prompt: str
    kind: InputKind = "question"
    data: Any = None
    schema: dict[str, Any] | None = None
    tool: str | None = None
    tool_use_id: str | None = None
    input: Any = None
    expires_at: int | None = None
    default: Any = None
    name: str | None = None
    interrupt_id: str | None = None


class InputGiven(Event, frozen=True):
    """The answer to a request. When none is open any more, the run is queued again.

    `by`: None if the request expired, and its default is the answer. `shown`: of an approval with other
    arguments, those that the person was shown. `open`: the requests that are left; `expires_at`: the earliest
    time at which one of them expires.
    """

    type: ClassVar[EventType] = "input.given"
    request_id: str
    answer: Any
    by: str | None = None
    key_id: str | None = None
    shown: Any = None
    open: int = 0
    expires_at: int | None = None


class InputAdded(Event, frozen=True):
    """A message for a run that is under way. Its agent gets it before its next model call."""

    type: ClassVar[EventType] = "input.added"
    levels: ClassVar[int] = 2  # a list of content blocks
    content: str | list[dict[str, Any]]
    by: str
    key_id: str | None = None


class Deleted(Event, frozen=True):
    """The run was deleted from the lists; a closed run accepts this once. `key_id`: the request's API key."""

    type: ClassVar[EventType] = "run.deleted"
    by: str
    key_id: str | None = None


class ModelUsage(Struct, frozen=True, omit_defaults=True):
    """The tokens that a run's calls of one model used, as in `llm.usage`. Times: sums, in milliseconds.

    `incomplete`: calls that broke off before their usage was reported. `first_tokens`: calls whose time to
    the first token is known.
    """

    model: str = ""
    calls: int = 0
    incomplete: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    first_tokens: int = 0
    first_token_ms: int = 0
    duration_ms: int = 0


class ToolUsage(Struct, frozen=True, omit_defaults=True):
    """One agent's calls of one tool in a run.

    `latencies`: the number of calls by their duration, one for each bucket of `core.tool_usage.BUCKETS_MS`,
    and one for those above; trailing zeros are omitted. `duration_ms`: their sum.
    """

    agent: str
    tool: str
    calls: int = 0
    failures: int = 0
    duration_ms: int = 0
    latencies: tuple[int, ...] = ()


class Purged(Event, frozen=True):
    """The run's events were removed, because of their age or to erase a person; this summary remains.

    `models`, `tools`: what its model and tool calls came to. `incomplete`: its usage is not fully known.
    `counts`: the number of events of each type, with `custom` for all of `custom.*`; their sum is the last
    seq. Times: UTC, milliseconds since 1970.
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
    stopped_by: str | None = None
    usage: dict[str, int] = {}
    deleted: bool = False
    models: list[ModelUsage] = []
    tools: list[ToolUsage] = []
    incomplete: bool = False


AuditedRead = Literal["record", "events", "stream", "ticket", "list", "audit", "export", "report", "search"]


class AuditRead(Event, frozen=True):
    """An admin or an auditor read another user's run, or asked for those of all users.

    It stands in a stream of its own, beside the run's: reading changes no run. `what`: how it was
    read. `run_id`: of one run; `query`: the filters of a search.
    """

    type: ClassVar[EventType] = "audit.read"
    by: str
    what: AuditedRead
    key_id: str | None = None
    run_id: str | None = None
    query: dict[str, str] = {}


class AuditErased(Event, frozen=True):
    """Runs of a user were erased: purged, with the user's other traces. It stands in a stream of reads.

    `user_id`: the user, or the pseudonym that replaced the name. `run_id`: of one run; None: all of them.
    `runs`, `events`: how many there were to erase.
    """

    type: ClassVar[EventType] = "audit.erased"
    by: str
    reason: str
    user_id: str
    runs: int
    events: int
    key_id: str | None = None
    run_id: str | None = None
    pseudonym: bool = False


ProjectionCommand = Literal["pause", "resume", "skip", "drop"]


class AuditProjection(Event, frozen=True):
    """A projection was paused, resumed or dropped, or skips an event. It stands in the stream of searches.

    `run_id`, `seq`: the skipped event.
    """

    type: ClassVar[EventType] = "audit.projection"
    by: str
    command: ProjectionCommand
    projection: str
    run_id: str | None = None
    seq: int | None = None


EVENT_CLASSES: dict[EventType, type[Event]] = {
    cls.type: cls
    for cls in (
        Queued, Started, Completed, Failed, Cancelled, CancelRequested, AgentStarted, AgentFinished,
        Token, Reasoning, Request, Context, Message, InputReplaced, ContextReduced, Usage, Discarded,
        Redacted, Retrying, ToolStarted, ToolProgress, ToolFinished, ToolFailed, InputRequested,
        InputGiven, InputAdded, Deleted, Purged, AuditRead, AuditErased, AuditProjection,
    )
}  # fmt: skip

ENDINGS: dict[EventType, type[Ending]] = {cls.type: cls for cls in (Completed, Failed, Cancelled)}
# These move their run, as every ending does.
CONTROL_TYPES = frozenset(
    {Queued.type, Started.type, CancelRequested.type, InputRequested.type, InputGiven.type}
)
TEXT_TYPES = frozenset({Token.type, Reasoning.type})
STREAMED_TYPES = TEXT_TYPES | {Redacted.type}  # so frequent that only streams read them
CUSTOM_TYPE = re.compile(r"custom\.[A-Za-z0-9_.-]{1,120}")


class Custom(Struct, frozen=True):
    """An event that a user's agent or an external producer appends, with a `custom.*` type of its own."""

    type: EventType
    data: Any = None

    def __post_init__(self) -> None:
        if not CUSTOM_TYPE.fullmatch(self.type):
            raise InvalidEvent(
                f"event type {self.type[:100]!r} is not allowed: "
                "it must be 'custom.' and 1 to 120 letters, digits, '_', '.' or '-'"
            )


class Posted(Custom, frozen=True, kw_only=True):
    """A custom event that a user appended, and not the run's own agent. Version 2 of `custom.*`.

    It is stored as `{"by": …, "key_id": …, "data": …}`. `key_id`: the API key of the request, if it had one.
    """

    by: str
    key_id: str | None = None


class Unknown(Struct, frozen=True):
    """A stored event of a type that this release does not know; it is passed on without being read."""

    type: EventType
    data: Any
