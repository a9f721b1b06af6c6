"""strands' hooks, which record a run's agents in its log, and let them go on from an earlier attempt.

Each kind of hooks has a file of its own: invocations, tool calls, messages, model calls, added messages.
"""

from collections.abc import AsyncGenerator, Sequence, Set
from typing import Any

from strands import Agent
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    AfterToolCallEvent,
    BeforeInvocationEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
    MessageAddedEvent,
)
from strands.middleware import (
    ExecuteToolStage,
    InvokeModelContext,
    InvokeModelStage,
    MiddlewareNext,
    TypedEvent,
)

from runstore.core.ports import AgentResult
from runstore.runtime.strands.recorders.added import AddedMessages
from runstore.runtime.strands.recorders.called import Called
from runstore.runtime.strands.recorders.interrupts import Interrupts
from runstore.runtime.strands.recorders.invocations import Invocations
from runstore.runtime.strands.recorders.messages import MessageRecorder
from runstore.runtime.strands.recorders.model_calls import FIRST, LAST, ModelCalls
from runstore.runtime.strands.recorders.nodes import Node, Nodes
from runstore.runtime.strands.recorders.recording import Recording
from runstore.runtime.strands.recorders.replies import Replies
from runstore.runtime.strands.recorders.tool_calls import ToolCalls
from runstore.runtime.strands.stream.redaction import may_change_request


class Hooks:
    """The hooks of one attempt of one run, on every agent of its hierarchy.

    Args:
        at_most_once: names of tools that the configuration marks so; agents as tools do not count.
        approve: names of tools whose calls a person has to approve.
        nodes: of a Graph or Swarm that resumes from the log.
        replies: answers tool calls from the log of another run.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        at_most_once: Set[str] = frozenset(),
        approve: Set[str] = frozenset(),
        nodes: Sequence[Node] = (),
        replies: Replies | None = None,
    ) -> None:
        self.recording = recording
        self.interrupts = Interrupts(recording.context.agent_name)
        self.interrupts.remember(recording.memory.conversations.values())
        self.nodes = Nodes(nodes, recording, self.interrupts)
        self._added = AddedMessages(recording, self.nodes.paths)
        self._messages = MessageRecorder(recording, self._added)
        self.model_calls = ModelCalls(recording)
        self.invocations = Invocations(recording, self.interrupts, self._messages, self._added, self.nodes)
        self.called = Called(
            recording, self.model_calls, self.invocations, at_most_once=at_most_once, approve=approve
        )
        self._tools = ToolCalls(
            recording, self.interrupts, self.called, self.invocations, self.nodes,
            install=self.install, at_most_once=at_most_once, approve=approve, replies=replies,
        )  # fmt: skip

    @property
    def agents(self) -> list[Agent]:
        """Every hooked agent, and every agent that a tool has called and that may be at work."""
        return [*self.recording.agents, *self.called.agents]

    def result(self, result: dict[str, Any]) -> AgentResult:
        """The outcome of the run, whose agent has come to this result."""
        usage, heard = self.recording.usage, self.recording.memory.unheard.after
        return AgentResult(result, usage, heard, self._added.refused, self._added.hears)

    def install(self, agent: Agent, path: str) -> None:
        """Hook an agent once. `path` is its place outside of tool calls."""
        agents, remembering = self.recording.agents, self.recording.remembering
        agents.note_model(path, agent.model)
        if remembering:
            self.recording.remembered.add(path)
        if agent in agents:
            return
        agents.add(agent, path)
        agent.add_hook(self.invocations.before, BeforeInvocationEvent, order=LAST)
        agent.add_hook(self._tools.before, BeforeToolCallEvent, order=LAST)
        agent.add_hook(self._tools.after, AfterToolCallEvent, order=LAST)
        agent.add_hook(self.invocations.after, AfterInvocationEvent, order=LAST)
        self.model_calls.install(agent)
        if remembering:
            agent.add_hook(self._added.before_call, BeforeModelCallEvent, order=FIRST)
            agent.add_hook(self._messages.added, MessageAddedEvent, order=LAST)
            agent.add_hook(self._messages.redacted, AfterModelCallEvent, order=FIRST)
            agent.add_hook(self._messages.reduced, AfterInvocationEvent, order=LAST)
        agent.add_middleware(ExecuteToolStage, self._tools.run)
        agent.add_middleware(InvokeModelStage.Input, self._call_model)
        if may_change_request(agent):
            agent.add_middleware(InvokeModelStage, self._ask_model)

    def _call_model(self, context: InvokeModelContext) -> InvokeModelContext:
        agent: Any = context.agent
        return self.called.speak(context, self.recording.agents.place(agent))

    async def _ask_model(
        self, context: InvokeModelContext, call: MiddlewareNext[InvokeModelContext, TypedEvent]
    ) -> AsyncGenerator[TypedEvent, None]:
        """Record a request within all middleware that may change it."""
        agent: Any = context.agent
        async for event in call(self.called.ask(context, self.recording.agents.place(agent))):
            yield event
