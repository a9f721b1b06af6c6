"""`lifecycle.*` and `cancel.requested`: a run is queued, started, asked to stop, and ended."""

from typing import Any, ClassVar, Literal, get_args

from msgspec import Struct

from runstore.core.events.event import Event, EventType

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

    def levels(self, field: str) -> int:
        """See `Event.levels`. A definition has `output_schema`, or a hierarchy's `models.NAME.model_args`.

        The input of submitted code stands beside the code.
        """
        if field == "definition":
            return 3
        return 1 if field == "input" and self.definition.get("code") else 0


StartReason = Literal["claimed", "adopted", "handed_over", "input", "added"]


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
    """A terminal event. `status`: of the run after it."""

    ends: ClassVar[bool] = True
    status: ClassVar[Outcome]


class WithheldText(Struct, frozen=True, omit_defaults=True):
    """An agent, or a call of it, whose text and answers from this seq on are tombstones in the log."""

    agent: str
    from_seq: int
    call_id: str | None = None


class Completed(Ending, frozen=True):
    """The agent finished. `result` is an object, `usage` the sum over the run's model calls.

    `unheard`: the seqs of the first messages that people added and the agent has not taken.
    """

    type: ClassVar[EventType] = "lifecycle.completed"
    status: ClassVar[Outcome] = "success"
    result: dict[str, Any]
    usage: dict[str, int] = {}
    unheard: list[int] = []

    def levels(self, field: str) -> int:
        """See `Event.levels`. An agent's object stands beside its text."""
        return 1 if field == "result" and "structured_output" in self.result else 0


class Failed(Ending, frozen=True):
    """The run ended in an error, including `timeout` and `worker_lost`. `withheld`: as of `Cancelled`."""

    type: ClassVar[EventType] = "lifecycle.failed"
    status: ClassVar[Outcome] = "error"
    code: str
    message: str
    withheld: list[WithheldText] = []


class Cancelled(Ending, frozen=True):
    """The run was stopped. `forced`: the agent did not end within the grace period and was abandoned.

    `withheld`: the unfinished answers that this ending withholds. The log derives it.
    """

    type: ClassVar[EventType] = "lifecycle.cancelled"
    status: ClassVar[Outcome] = "stopped"
    reason: str
    forced: bool = False
    withheld: list[WithheldText] = []


class CancelRequested(Event, frozen=True):
    """A stop of the run was requested; its terminal event follows within the grace period.

    `key_id`: the API key of the request.
    """

    type: ClassVar[EventType] = "cancel.requested"
    by: str
    reason: str
    superseded_by: str | None = None
    key_id: str | None = None
