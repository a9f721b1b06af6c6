"""`input.*`: an agent asks a person, who answers; a person adds a message."""

from typing import Any, ClassVar, Literal

from runstore.core.events.agent import AgentEvent
from runstore.core.events.event import Event, EventType

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
    content: str | list[dict[str, Any]]
    by: str
    key_id: str | None = None
