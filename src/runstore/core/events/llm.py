"""`llm.*`: requests to models, their answers as text and as messages, and the tokens they used."""

from typing import Any, ClassVar, Literal

from msgspec import Struct

from runstore.core.events.agent import AgentEvent
from runstore.core.events.event import EventType

MESSAGE_LEVELS = 6  # lists and objects of a message around the JSON of a tool's result


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
    message: dict[str, Any]
    more: bool = False

    def levels(self, field: str) -> int:
        """See `Event.levels`."""
        return MESSAGE_LEVELS if field == "message" else 0


ContextKind = Literal["system", "tools", "parameters", "output_schema", "message"]


class Context(AgentEvent, frozen=True, kw_only=True):
    """Content of model calls that no other event of the run holds. Stored once per run and digest.

    `digest`: SHA-256 of the content as JSON, in hexadecimal. `kind`: a system prompt, tool specifications, a
    model's parameters, the schema of the wanted object, or a message. `size`: bytes of content that is too
    large or too deep for an event, and left out; otherwise 0.
    """

    type: ClassVar[EventType] = "llm.context"
    kind: ContextKind
    digest: str
    content: Any = None
    size: int = 0

    def levels(self, field: str) -> int:
        """See `Event.levels`."""
        return 1 + MESSAGE_LEVELS if field == "content" else 0


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
    messages: list[dict[str, Any]]
    count: int = 1
    added: int | None = None

    def levels(self, field: str) -> int:
        """See `Event.levels`."""
        return 1 + MESSAGE_LEVELS if field == "messages" else 0


class ContextReduced(AgentEvent, frozen=True, kw_only=True):
    """The conversation after its manager reduced it: `begins_with`, then the last `kept` messages.

    `pinned`: the numbers, from 0, of the messages in it that no manager takes away.
    """

    type: ClassVar[EventType] = "llm.context_reduced"
    kept: int
    begins_with: list[dict[str, Any]] = []
    pinned: list[int] = []

    def levels(self, field: str) -> int:
        """See `Event.levels`."""
        return 1 + MESSAGE_LEVELS if field == "begins_with" else 0


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
