"""The port of an agent: its context, its recorder and its results."""

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.events import Custom, Event, InputRequested


class RunContext(Struct, frozen=True):
    """An agent's information about its run; a factory's parameter named `ctx`.

    `memory`: the messages of the session's earlier successful runs, if the run starts with them.
    `memory_held`: for each of them the event that holds it unchanged: run, seq, number of the message in it.
    """

    run_id: str
    user_id: str
    agent_name: str
    session_id: str | None
    metadata: dict[str, Any]
    attempt: int
    memory: Sequence[dict[str, Any]] = ()
    memory_held: Sequence[tuple[str, int, int] | None] = ()

    def request(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        model: str | None = None,
        system: Any = None,
        tools: Any = None,
        parameters: dict[str, Any] | None = None,
        tool_choice: Any = None,
    ) -> dict[str, Any]:
        """The next request of a generator agent to a model, for it to yield: the run's `llm.request`.

        Args:
            messages: in the form in which the agent sends them. Those that it sent before are not stored
                again.
            parameters: only values of names that cannot be secrets are kept, as `temperature`.
        """
        data = {
            "messages": list(messages), "model": model, "system": system, "tools": tools,
            "parameters": parameters or {}, "tool_choice": tool_choice,
        }  # fmt: skip
        return {"type": "llm.request", "data": data}


class AddedMessage(Struct, frozen=True):
    """A message that a person added to a run under way. `seq`: its `input.added`."""

    seq: int
    content: str | list[dict[str, Any]]


class RunRecorder(Protocol):
    """Records the events of one run's agent. Bound to its run when it is made; never shared or looked up."""

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        """Queue an event; waits only while the log is behind (back-pressure)."""

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        """Write an event ahead: returns when it is stored."""

    async def added(self, after: int) -> Sequence[AddedMessage]:
        """The messages that people have added to the run, with a greater seq than `after`."""


class AgentResult(Struct, frozen=True):
    """The outcome of an agent: the data of `lifecycle.completed`.

    `heard`: the seq of the last added message that the agent has taken, or refused. `unheard`: the seqs of
    those that it refused. `hears`: in another attempt it would take those that have come since.
    """

    result: dict[str, Any]
    usage: dict[str, int]
    heard: int = 0
    unheard: Sequence[int] = ()
    hears: bool = False


class Asked(Struct, frozen=True):
    """The agent cannot go on without a person's input. Its next attempt gets the answers in `history`."""

    requests: Sequence[InputRequested]


class Agent(Protocol):
    """One agent, built for one attempt of one run."""

    async def run(
        self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder
    ) -> AgentResult | Asked:
        """Work until done, or until a person has to answer.

        `history`: events of earlier attempts, empty on the first.

        Raises:
            AgentError: the agent failed, with a code and a message that a person can act on.
        """

    def cancel(self) -> None:
        """Ask the agent to stop at its next safe point. Its task is cancelled a moment later."""
