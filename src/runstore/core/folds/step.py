"""A step of a run, as people look at it, and the text of a model call under way."""

from typing import Any, Literal

from msgspec import Struct, field

Kind = Literal["attempt", "agent", "model", "tool", "question", "note", "added", "cancel", "end"]


class Step(Struct, kw_only=True, omit_defaults=True):
    """A step. `key`: unique in the run; `parent`: the key of the step around it.

    `seq`, `last_seq`: its first and last event. `status`: `running`, `success`, `error`, `waiting` (a
    question), `stopped`, `stopping` (a stop request), `discarded` (text that no longer counts, for the reason
    `discarded`), `lost` (its end is not in the log), or empty (a note). `path`, `call_id`: of an agent.
    `text`, `reasoning`: what a model call has said so far; `content`: its complete message. `first_at`: the
    time of its first text that is known. `input`, `output`: of a call. `request_seq`, `request_n`: the event
    and the number of the request to the model, the number only if the fold began with the run. `cost`: in
    units of `currency`. `data`, `answer`, `by`: of questions, notes, messages, stops and endings.
    """

    key: str
    kind: Kind
    seq: int
    last_seq: int
    name: str
    started_at: str
    ended_at: str | None = None
    status: str = "running"
    parent: str | None = None
    path: str | None = None
    call_id: str | None = None
    attempt: int | None = None
    reason: str | None = None
    worker_id: str | None = None
    tool_use_id: str | None = None
    at_most_once: bool = False
    input: Any = None
    output: Any = None
    progress: list[Any] = []
    text: str = ""
    reasoning: str = ""
    content: list[Any] | None = None
    first_at: str | None = None
    usage: dict[str, Any] | None = None
    cost: float | None = None
    currency: str | None = None
    retries: list[dict[str, Any]] = []
    discarded: str | None = None
    request_seq: int | None = None
    request_n: int | None = None
    data: Any = None
    answer: dict[str, Any] | None = None
    by: str | None = None


class ModelCall(Struct):
    """A model call, with its text in pieces of their seq and text.

    `answered_at`, `used_at`: the times of its last `llm.message` and `llm.usage`.
    """

    step: Step
    text: list[tuple[int, str]] = field(default_factory=list)
    reasoning: list[tuple[int, str]] = field(default_factory=list)
    more: bool = False
    answered_at: str | None = None
    used_at: str | None = None

    def show(self) -> None:
        """Put the pieces of the text together in the step."""
        self.step.text = "".join([text for _, text in self.text])
        self.step.reasoning = "".join([text for _, text in self.reasoning])
