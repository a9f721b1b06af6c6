"""Records agents that a tool's code calls: `agent("…")` or `await agent.invoke_async(…)`, also in threads.

strands has no hook for such calls. So the methods that all of them pass through are replaced once for all
agents of the process (`patches.py`); outside of a tool they behave as before. A context variable holds the
tool's call. asyncio carries it to tasks and threads, and the replaced `submit` to thread pools. An agent may
be shared by several runs, so its hooks belong to none: they look at the variable, too.
"""

import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from msgspec import Struct, field
from strands import Agent
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    AfterToolCallEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
)
from strands.middleware import InvokeModelContext, InvokeModelStage, MiddlewareNext, TypedEvent
from strands.multiagent import Swarm
from strands.multiagent.graph import Graph

from runstore.core.codec import EncodedEvent
from runstore.core.events import AgentFinished, AgentStarted, Event, Message, Place, Reasoning, Token
from runstore.runtime.memory.at_most_once import is_at_most_once
from runstore.runtime.strands.hierarchy import CALL, SubAgentCall, call_of, called_agent
from runstore.runtime.strands.recorders.invocations import Invocations
from runstore.runtime.strands.recorders.model_calls import FIRST, LAST, ModelCalls
from runstore.runtime.strands.recorders.nodes import nodes_of
from runstore.runtime.strands.recorders.recording import Recording
from runstore.runtime.strands.recorders.tools import runs_again, write_call, write_result
from runstore.runtime.strands.stream.events import Translator
from runstore.runtime.strands.stream.redaction import may_change_request, may_redact, may_redact_last
from runstore.runtime.strands.stream.request_recorder import RequestRecorder, asked
from runstore.runtime.strands.stream.spoken import repaired, spoken

NONE: frozenset[str] = frozenset()
CANNOT_ASK = "The tool needs a person's approval, and an agent that a tool calls cannot wait for it."

_stream = Agent.stream_async
_structured_output = Agent.structured_output_async
_submit = ThreadPoolExecutor.submit
_hooked: WeakSet[Agent] = WeakSet()


class AgentToolCall(Struct, eq=False):
    """A call of a tool whose code may call agents. `place`: the tool's path and its tool use.

    `outer`: the call in which the tool's own agent works. `nodes`: id of each agent that is a node of a
    called Graph or Swarm → its path.
    """

    called: "Called"
    place: Place
    outer: "AgentToolCall | None"
    nodes: dict[int, str] = field(default_factory=dict)
    over: bool = False


TOOL: ContextVar[AgentToolCall | None] = ContextVar("runstore_tool", default=None)


class Called:
    """Records the agents that the tools of one run call. Safe to use from any thread and event loop.

    Args:
        recording: of the run. The run's own hooks record its agents, except for the stream.
        at_most_once: names of tools that the configuration marks so; agents as tools do not count.
        approve: names of tools whose calls a person has to approve, so that called agents may not call them.
    """

    def __init__(
        self,
        recording: Recording,
        model_calls: ModelCalls,
        invocations: Invocations,
        *,
        at_most_once: Set[str],
        approve: Set[str],
    ) -> None:
        self.model_calls = model_calls
        self._recording = recording
        self._recorder = recording.recorder
        self._agents = recording.agents
        self._invocations = invocations
        self._at_most_once = at_most_once
        self._approve = approve
        self._lock = threading.Lock()
        self._at_work: dict[Place, Agent] = {}
        self.places: set[Place] = set()  # places of tools that have called an agent

    @property
    def agents(self) -> list[Agent]:
        """The called agents that are at work."""
        with self._lock:
            return list(self._at_work.values())

    def translator(self, path: str, call_id: str | None = None, *, apart: Set[str] = NONE) -> Translator:
        """A translator for the stream of an agent at `path`."""
        return Translator(
            path, self._agents.models, call_id=call_id, apart=apart, answers=self._recording.answers,
            recorded=self.places, words=self.model_calls.words, calls=self.model_calls.open,
        )  # fmt: skip

    def begin(self, path: str, use_id: str, *, apart: bool = False) -> None:
        """Enter a tool's call in the present context.

        Args:
            apart: the tool is an agent, which the hooks record.
        """
        TOOL.set(AgentToolCall(self, Place(path, use_id), TOOL.get(), over=apart))

    def end(self, use_id: str) -> None:
        """End a tool's call. Its agents are no longer recorded."""
        call = TOOL.get()
        if call is not None and call.place.call_id == use_id:
            call.over = True
            TOOL.set(call.outer)

    async def follow(
        self, call: AgentToolCall, agent: Agent, stream: AsyncIterator[Any]
    ) -> AsyncGenerator[Any, None]:
        """Pass a called agent's stream on, and record its events."""
        installed, begun = agent in self._agents, False
        with self._entered(call, agent) as place:
            translate = self.translator(*place).translate
            try:
                async with aclosing(cast(AsyncGenerator[Any, None], stream)) as items:
                    async for item in items:
                        if not begun:
                            begun = True  # not before the first item, as strands may refuse the call
                            await self._start(place, agent, installed)
                        if "delta" not in item and not call.over:
                            for event in translate(item):
                                await self._record(event, installed)
                        yield item
            finally:
                if begun:
                    await self._finish(place, installed)

    async def object(self, call: AgentToolCall, agent: Agent, making: Awaitable[Any]) -> Any:
        """Record an agent that makes a structured object.

        Strands streams neither the object nor its usage.
        """
        installed = agent in self._agents
        with self._entered(call, agent) as place:
            await self._start(place, agent, installed)
            try:
                made = await making
                answer = {"role": "assistant", "content": [{"text": made.model_dump_json()}]}
                await self._record(Message(agent=place.agent, call_id=place.call_id, message=answer), False)
                return made
            except Exception as error:
                self.model_calls.failed(place, error)
                raise
            finally:
                await self._finish(place, installed)

    def speak(self, context: InvokeModelContext, place: Place) -> InvokeModelContext:
        """The context of a model call that is recorded, until the tool that it works for has ended.

        A tool's code may read the agent's stream, so it gets every delta by itself.
        """
        tool, asking = TOOL.get(), self._asking(place)
        if tool is None or tool.over:  # an agent as a tool ends before its call does
            return spoken(context, place, self._recording.answers, self._recorder.record, asking)

        async def record(event: Token | Reasoning) -> None:
            if not tool.over:
                await self._recorder.record(event)

        return spoken(context, place, self._recording.answers, record, asking, join_s=0)

    def ask(self, context: InvokeModelContext, place: Place) -> InvokeModelContext:
        """As `speak`, within middleware. The answer is repaired, but its text is recorded elsewhere."""
        return repaired(asked(context, self._asking(place)))

    def _asking(self, place: Place) -> RequestRecorder:
        tool = TOOL.get()

        async def record(event: EncodedEvent) -> None:
            if tool is None or not tool.over:
                await self._recorder.record(event)

        within = self._recorder.record if tool is None or tool.over else record
        return RequestRecorder(
            place, self._recording.requests, within,
            note=self._agents.note_model, identify=self.model_calls.open.identify,
        )  # fmt: skip

    async def before_tool(self, event: BeforeToolCallEvent, place: Place) -> None:
        """Record that a called agent calls a tool itself. One that needs an approval does not run."""
        name, use_id, tool = event.tool_use["name"], event.tool_use["toolUseId"], event.selected_tool
        if name in self._approve and not event.cancel_tool:
            event.cancel_tool = CANNOT_ASK
        named = name in self._at_most_once and called_agent(tool) is None
        await write_call(self._recorder, event, place, once=named or is_at_most_once(tool))
        self.begin(f"{place.agent}/{name}", use_id)

    async def after_tool(self, event: AfterToolCallEvent, place: Place) -> None:
        self.end(event.tool_use["toolUseId"])
        inner = Place(f"{place.agent}/{event.tool_use['name']}", event.tool_use["toolUseId"])
        failure = self.model_calls.failure_of(inner)
        if not runs_again(event):
            await write_result(self._recorder, event, place, failure, self.model_calls.words)

    async def after_invocation(self, event: AfterInvocationEvent, place: Place) -> None:
        await self._invocations.judged(event, place)

    @contextmanager
    def _entered(self, call: AgentToolCall, agent: Agent) -> Iterator[Place]:
        """The place where an agent works: the tool's, or one beside it while that is taken."""
        path, use_id = call.place
        own = call.nodes.get(id(agent), path)
        with self._lock:
            place, number = Place(own, use_id), 1
            while place in self._at_work:
                base = own if own != path else f"{path}/{_as_part(agent.name)}"
                place = Place(base if number == 1 and base != own else f"{base}-{number}", use_id)
                number += 1
            self._at_work[place] = agent
            self.places.add(call.place)
        self._agents.note_model(place.agent, agent.model)
        if agent not in self._agents:
            _hook(agent)
        before, inside = CALL.get(), SubAgentCall(agent, place, CALL.get())
        CALL.set(inside)
        try:
            yield place
        finally:
            with self._lock:
                del self._at_work[place]
            if CALL.get() is inside:
                CALL.set(before)

    async def _start(self, place: Place, agent: Agent, installed: bool) -> None:
        if not installed:
            redacts_last = may_redact_last(agent)
            if redacts_last:
                self._recording.answers.judged_last.add(place)
            await self._recorder.record(
                AgentStarted(
                    agent=place.agent, call_id=place.call_id, resumable=False,
                    redacts=may_redact(agent), redacts_last=redacts_last,
                )
            )  # fmt: skip

    async def _finish(self, place: Place, installed: bool) -> None:
        await self._invocations.finish(place)
        self._recording.requests.forget(place)
        if not installed:
            await self._recorder.record(AgentFinished(agent=place.agent, call_id=place.call_id))

    async def _record(self, event: Event, installed: bool) -> None:
        if isinstance(event, Message):
            # No attempt resumes from it, so a message that is too large may be missing.
            if not installed and not await self._recorder.try_record(event):
                self._recording.requests.log(event.place, event.message)
            return
        await self._recording.write(event)


def stream_async(self: Agent, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
    """`Agent.stream_async`, recorded within a tool."""
    stream = _stream(self, *arguments, **options)
    call = TOOL.get()
    return stream if call is None or call.over else call.called.follow(call, self, stream)


async def structured_output_async(self: Agent, *arguments: Any, **options: Any) -> Any:
    """`Agent.structured_output_async`, recorded within a tool."""
    making = _structured_output(self, *arguments, **options)
    call = TOOL.get()
    return await (making if call is None or call.over else call.called.object(call, self, making))


def _with_node_paths(stream: Callable[..., AsyncIterator[Any]]) -> Any:
    """The method of a Graph or Swarm; within a tool, its agents get the paths of their nodes."""

    def stream_async(self: Graph | Swarm, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        if (call := TOOL.get()) is not None:
            call.nodes.update({id(node.agent): node.path for node in nodes_of(self, call.place.agent)})
        return stream(self, *arguments, **options)

    return stream_async


graph_stream_async = _with_node_paths(Graph.stream_async)
swarm_stream_async = _with_node_paths(Swarm.stream_async)


def submit(self: ThreadPoolExecutor, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
    """`ThreadPoolExecutor.submit`; within a tool, the function runs in the tool's context."""
    if TOOL.get() is not None:
        function = partial(copy_context().run, function)
    return _submit(self, function, *arguments, **options)


Hook = Callable[[Called, Any, Place], Awaitable[None]]

HOOKS: tuple[tuple[type[Any], float, Hook], ...] = (
    (BeforeModelCallEvent, LAST, lambda called, event, _: called.model_calls.calling(event)),
    (AfterModelCallEvent, FIRST, lambda called, event, _: called.model_calls.called(event)),
    (AfterModelCallEvent, LAST, lambda called, event, _: called.model_calls.settled(event)),
    (BeforeToolCallEvent, LAST, Called.before_tool),
    (AfterToolCallEvent, LAST, Called.after_tool),
    (AfterInvocationEvent, LAST, Called.after_invocation),
)


def _recorded(hook: Hook) -> Callable[[Any], Awaitable[None]]:
    """A hook of the run whose tool has called the agent."""

    async def of_run(event: Any) -> None:
        tool, call = TOOL.get(), call_of(event.agent)
        if tool is not None and call is not None:
            await hook(tool.called, event, call.place)

    return of_run


def _hook(agent: Agent) -> None:
    if agent not in _hooked:
        _hooked.add(agent)
        for event, order, hook in HOOKS:
            agent.add_hook(_recorded(hook), event, order=order)
        agent.add_middleware(InvokeModelStage.Input, _call_model)
        if may_change_request(agent):
            agent.add_middleware(InvokeModelStage, _ask_model)


def _call_model(context: InvokeModelContext) -> InvokeModelContext:
    agent: Any = context.agent
    tool, call = TOOL.get(), call_of(agent)
    if tool is None or tool.over or call is None:
        return context
    return tool.called.speak(context, call.place)


async def _ask_model(
    context: InvokeModelContext, call: MiddlewareNext[InvokeModelContext, TypedEvent]
) -> AsyncGenerator[TypedEvent, None]:
    agent: Any = context.agent
    tool, at = TOOL.get(), call_of(agent)
    if tool is not None and not tool.over and at is not None:
        context = tool.called.ask(context, at.place)
    async for event in call(context):
        yield event


def _as_part(name: str) -> str:
    """An agent's name as part of a path."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:64] or "agent"
