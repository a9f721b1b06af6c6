"""Records the tool calls of a run's agents, and reuses the results that earlier attempts recorded.

strands reports the parallel tools of a turn in one message, after the slowest. To resume a lost worker's run
without repeating a tool, `tool.started` is committed before the tool runs and `tool.finished` after it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Set
from contextlib import aclosing, suppress
from typing import Any

from strands import Agent
from strands.hooks import AfterToolCallEvent, BeforeToolCallEvent
from strands.interrupt import InterruptException
from strands.middleware import ExecuteToolContext, MiddlewareNext, ToolResultEvent, TypedEvent

from runstore.core.events import Place
from runstore.runtime.memory.at_most_once import is_at_most_once
from runstore.runtime.strands.hierarchy import CALL, SubAgentCall, call_of, called_agent
from runstore.runtime.strands.internals import ToolInterruptEvent, is_in_background
from runstore.runtime.strands.recorders.called import Called
from runstore.runtime.strands.recorders.interrupts import Interrupts
from runstore.runtime.strands.recorders.invocations import Invocations
from runstore.runtime.strands.recorders.nodes import Nodes
from runstore.runtime.strands.recorders.recording import Recording
from runstore.runtime.strands.recorders.replies import Replies
from runstore.runtime.strands.recorders.tools import runs_again, write_call, write_result
from runstore.runtime.strands.tool_inputs import why_left_out
from runstore.runtime.user_code import in_a_line

CHANGED = "Error: the call was changed after its approval, and has not run."
ASKS = "Error: a tool that runs in the background cannot ask a person."


class ToolCalls:
    """The tool calls of one attempt.

    Args:
        install: hooks an agent that is called as a tool, at its path.
        at_most_once: names of tools that the configuration marks so; agents as tools do not count.
        approve: names of tools whose calls a person has to approve.
        replies: of a replay: answers the calls, and no person is asked.
    """

    def __init__(
        self,
        recording: Recording,
        interrupts: Interrupts,
        called: Called,
        invocations: Invocations,
        nodes: Nodes,
        *,
        install: Callable[[Agent, str], None],
        at_most_once: Set[str],
        approve: Set[str],
        replies: Replies | None = None,
    ) -> None:
        self._results = recording.results
        self._recorder = recording.recorder
        self._interrupts = interrupts
        self._called = called
        self._model_calls = called.model_calls
        self._invocations = invocations
        self._nodes = nodes
        self._place = recording.agents.place
        self._install = install
        self._at_most_once = at_most_once
        self._approve = approve
        self._replies = replies

    async def before(self, event: BeforeToolCallEvent) -> None:
        """Record a call before the tool runs, unless a person has to answer first."""
        place = self._place(event.agent)
        if self._known(place, event.selected_tool, event.tool_use) is not None:
            return
        use_id, name = event.tool_use["toolUseId"], event.tool_use["name"]
        if self._interrupts.look_at(place, event):
            return  # a hook asks first, and the call does not run
        runs = not event.cancel_tool and why_left_out(name, event.tool_use["input"]) is None
        asks = name in self._approve or self._interrupts.is_judged(event)
        if asks and runs and self._replies is None:
            self._interrupts.approve(place, event)
        agent, inner = called_agent(event.selected_tool), f"{place.agent}/{name}"
        named = agent is None and (asks or name in self._at_most_once)
        once = named or is_at_most_once(event.selected_tool)
        self._called.begin(inner, use_id, apart=agent is not None)
        if agent is not None:
            self._install(agent, inner)
            CALL.set(SubAgentCall(agent, Place(inner, use_id), call_of(event.agent)))
        await write_call(self._recorder, event, place, once=once)
        # Calls that direct the agents have to run.
        if self._replies is not None and not event.cancel_tool and not self._nodes.hands_over(event):
            self._replies.reply(event, place, self._recorder, asks=name in self._approve)

    async def after(self, event: AfterToolCallEvent) -> None:
        """Record a call's result."""
        place = self._place(event.agent)
        use_id, name = event.tool_use["toolUseId"], event.tool_use["name"]
        self._called.end(use_id)
        inner = Place(f"{place.agent}/{name}", use_id)
        failure = self._model_calls.failure_of(inner)
        if self._known(place, event.selected_tool, event.tool_use) is None and not runs_again(event):
            await self._invocations.finish(inner)
            await write_result(self._recorder, event, place, failure, self._model_calls.words)

    async def run(
        self, context: ExecuteToolContext, run: MiddlewareNext[ExecuteToolContext, TypedEvent]
    ) -> AsyncGenerator[TypedEvent, None]:
        """Run a tool, unless an earlier attempt recorded its result."""
        agent: Any = context.agent
        place = self._place(agent)
        known = self._known(place, context.tool, context.tool_use)
        if known is not None:
            yield _result(context, **known)
            return
        if self._interrupts.is_changed(place, context.tool_use):
            yield _result(context, status="error", content=[{"text": CHANGED}])
            return
        events = run(context)
        try:
            async for event in _without_questions(context, events) if is_in_background(context) else events:
                yield event
        except (Exception, GeneratorExit):
            raise
        # Strands lets it through, and a SystemExit would end the loop of all agents.
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            text = f"Error: {in_a_line(error)}"
            yield _result(context, status="error", content=[{"text": text}])

    def _known(self, place: Place, tool: Any, tool_use: Any) -> Any:
        if getattr(tool, "tool_type", None) == "structured_output":
            return None  # the tool passes its object on outside of the message
        return self._results.get(place, {}).get(tool_use["toolUseId"])


async def _without_questions(
    context: ExecuteToolContext, events: AsyncGenerator[TypedEvent, None]
) -> AsyncGenerator[TypedEvent, None]:
    """The events of a tool in the background, which fails if it asks.

    strands keeps its task in memory only, so no later attempt could go on with it.
    """
    with suppress(InterruptException):
        async with aclosing(events):
            async for event in events:
                if isinstance(event, ToolInterruptEvent):
                    break
                yield event
            else:
                return
    yield _result(context, status="error", content=[{"text": ASKS}])


def _result(context: ExecuteToolContext, **outcome: Any) -> ToolResultEvent:
    result: Any = {**outcome, "toolUseId": context.tool_use["toolUseId"]}
    return ToolResultEvent(result)


def _is_cancelled() -> bool:
    """Whether this task is being cancelled, as opposed to a tool raising CancelledError."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
