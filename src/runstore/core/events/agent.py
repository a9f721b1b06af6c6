"""`agent.*`: an agent of the hierarchy starts and finishes."""

from typing import ClassVar, NamedTuple

from runstore.core.events.event import Event, EventType


class Place(NamedTuple):
    """An agent at work: its path in the hierarchy, and the tool call that it works for, if any."""

    agent: str
    call_id: str | None = None


class AgentEvent(Event, frozen=True, kw_only=True):
    """An event of an agent. `agent`: its path in the hierarchy.

    `call_id` distinguishes two calls of one agent.
    """

    agent: str
    call_id: str | None = None

    @property
    def place(self) -> Place:
        return Place(self.agent, self.call_id)


class AgentStarted(AgentEvent, frozen=True, kw_only=True):
    """An agent of the hierarchy started. `input_digest` distinguishes two inputs of a node.

    `structured_output`: the run's own agent answers with an object, so its text is not the answer.
    `resumable`: false if a tool's code called the agent: a new attempt calls the tool again instead.
    `redacts`: its answers may be redacted after they were streamed.
    `redacts_last`: its last one also after it was complete, until the agent has finished.
    """

    type: ClassVar[EventType] = "agent.started"
    input_digest: str | None = None
    structured_output: bool = False
    resumable: bool = True
    redacts: bool = False
    redacts_last: bool = False


class AgentFinished(AgentEvent, frozen=True, kw_only=True):
    """An agent of the hierarchy finished."""

    type: ClassVar[EventType] = "agent.finished"
