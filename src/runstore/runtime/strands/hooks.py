"""strands' hooks, which record tools before they run, messages and sub-agents in a run's log.

strands reports the parallel tools of a turn in one message, after the slowest. To resume a lost worker's run
without repeating a tool, `tool.started` is committed before the tool runs and `tool.finished` after it. The
messages that hooks see added are exactly the agent's memory; the stream omits some of them.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Collection, Sequence, Set
from copy import deepcopy
from typing import Any
from weakref import WeakKeyDictionary

from strands import Agent
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    AfterToolCallEvent,
    BeforeInvocationEvent,
    BeforeModelCallEvent,
    BeforeNodeCallEvent,
    BeforeToolCallEvent,
    MessageAddedEvent,
)
from strands.middleware import (
    ExecuteToolContext,
    ExecuteToolStage,
    InvokeModelContext,
    InvokeModelStage,
    MiddlewareNext,
    ToolResultEvent,
    TypedEvent,
)

from runstore.core.codec import json_size
from runstore.core.content import with_bytes
from runstore.core.errors import AgentError, RunstoreError
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    ContextReduced,
    Discarded,
    Event,
    InputReplaced,
    Message,
    Usage,
)
from runstore.core.ports import RunContext
from runstore.core.run import add_usage
from runstore.runtime.memory.at_most_once import CODE, is_at_most_once
from runstore.runtime.memory.oversized import PART_BYTES
from runstore.runtime.memory.requests import Requests
from runstore.runtime.memory.resume import Conversation, Memory, Place, digest_of, is_root
from runstore.runtime.strands.answers import Answers
from runstore.runtime.strands.called import Called
from runstore.runtime.strands.closable_recorder import ClosableRecorder
from runstore.runtime.strands.conversation import LoggedConversation
from runstore.runtime.strands.events import Translator, bare
from runstore.runtime.strands.hierarchy import CALL, Call, call_of, called_agent
from runstore.runtime.strands.interrupts import Interrupts
from runstore.runtime.strands.model_calls import FIRST, LAST, ModelCalls
from runstore.runtime.strands.nodes import Node, Nodes
from runstore.runtime.strands.redaction import may_change_request, may_redact
from runstore.runtime.strands.reported_usage import report_reasoning
from runstore.runtime.strands.results import ONLY_REASONING
from runstore.runtime.strands.tools import OVER, runs_again, unfit, write_call, write_result
from runstore.runtime.user_code import in_a_line

NONE: frozenset[str] = frozenset()
STATE_KEY = "runstore"  # key of the RunContext in strands' invocation_state
CHANGED = "Error: the call was changed after its approval, and has not run."
GO_ON = "Go on."  # input for a resumed agent whose last message was an answer, but not its last one


class Hooks:
    """The hooks of one attempt of one run, on every agent of its hierarchy.

    Args:
        remembering: record the agents' messages and resume from `memory`. False for an orchestrator that
            restarts from the input.
        at_most_once: names of tools that the configuration marks so; agents as tools do not count.
        approve: names of tools whose calls a person has to approve.
        nodes: of a Graph or Swarm that resumes from `memory`.
    """

    def __init__(
        self,
        context: RunContext,
        recorder: ClosableRecorder,
        memory: Memory,
        requests: Requests,
        *,
        remembering: bool,
        at_most_once: Set[str] = frozenset(),
        approve: Set[str] = frozenset(),
        nodes: Sequence[Node] = (),
    ) -> None:
        self.models: dict[str, str] = {}  # path → model id
        self.remembered: set[str] = set()  # paths of agents whose messages the hooks record
        self.answers = Answers(self.remembered)
        self.usage = memory.usage  # of all attempts
        self.requests = requests
        self.asked: Sequence[Any] = ()  # the input of the run's own agent, as in the log
        self.own = 0  # messages that the run's own agent was built with
        self._context = context
        self._recorder = recorder
        self._memory = memory
        self._remembering = remembering
        self._at_most_once = at_most_once | approve
        self._approve = approve
        # Weak: some agents work for one call only.
        self._homes: WeakKeyDictionary[Agent, str] = WeakKeyDictionary()
        self._inputs: dict[Place, int] = {}  # input messages of an agent that are still to be added
        self._asked: list[dict[str, Any]] = []  # the input before message hooks could rewrite it
        self._results: dict[Place, dict[str, Any]] = {}  # results that a resumed agent reuses
        # Tool use id → why its call is skipped: no event can hold its input, or it is no JSON object.
        self.left_out: dict[str, str] = {}
        self._logged: dict[Place, LoggedConversation] = {}
        self._working: set[Place] = set()
        self._lock = threading.Lock()
        self._model_calls = ModelCalls(context.run_id, recorder, self.answers, self._place, self.models)
        self.called = Called(self, recorder, self._model_calls)
        self.interrupts = Interrupts(context.agent_name)
        self.interrupts.remember(memory.conversations.values())
        self.nodes = Nodes(nodes, self.record, self._visit)

    @property
    def model_errors(self) -> Collection[BaseException]:
        """Errors that models raised, across agents that may work concurrently."""
        return self._model_calls.errors

    def without_provider_words(self, failure: RunstoreError) -> RunstoreError:
        """The failure with all quotes of providers removed.

        Failures of models are fixed sentences already.
        """
        text = self._model_calls.words.replaced(str(failure))
        quotes = isinstance(failure, AgentError) and text != str(failure)
        return AgentError(text, code=failure.code) if quotes else failure

    @property
    def agents(self) -> list[Agent]:
        """Every hooked agent, and every agent that a tool has called and that may be at work."""
        return [*self._homes, *self.called.agents]

    def count(self, usage: Usage) -> None:
        """Add the usage of a model call; callable from any thread."""
        with self._lock:
            self.usage = add_usage(self.usage, usage)

    def translator(self, path: str, call_id: str | None = None, *, apart: Set[str] = NONE) -> Translator:
        """A translator for the stream of an agent at `path`."""
        return Translator(
            path, self.models, call_id=call_id, apart=apart, answers=self.answers,
            recorded=self.called.places, words=self._model_calls.words, calls=self._model_calls.open,
        )  # fmt: skip

    def install(self, agent: Agent, path: str) -> None:
        """Hook an agent once. `path` is its place outside of tool calls."""
        self._introduce(agent, path)
        if agent in self._homes:
            return
        self._homes[agent] = path
        agent.add_hook(self._before_invocation, BeforeInvocationEvent, order=LAST)
        agent.add_hook(self._before_tool, BeforeToolCallEvent, order=LAST)
        agent.add_hook(self._after_tool, AfterToolCallEvent, order=LAST)
        agent.add_hook(self._after_invocation, AfterInvocationEvent, order=LAST)
        self._model_calls.install(agent)
        if self._remembering:
            agent.add_hook(self._add_messages, BeforeModelCallEvent, order=FIRST)
            agent.add_hook(self._message_added, MessageAddedEvent, order=LAST)
            agent.add_hook(self._input_redacted, AfterModelCallEvent, order=FIRST)
            agent.add_hook(self._context_reduced, AfterInvocationEvent, order=LAST)
        agent.add_middleware(ExecuteToolStage, self._run_tool)
        agent.add_middleware(InvokeModelStage.Input, self._call_model)
        if may_change_request(agent):
            agent.add_middleware(InvokeModelStage, self._ask_model)

    def knows(self, agent: Agent) -> bool:
        """Whether an agent has been hooked, and so belongs to this run alone."""
        return agent in self._homes

    def unfinished(self) -> list[Usage]:
        """The usage of the model calls that broke off, as the agents have been left."""
        return self._model_calls.unfinished()

    def note_model(self, path: str, model: Any) -> None:
        """Remember the model of the agent at this path."""
        report_reasoning(model)
        config = model.get_config()
        if isinstance(config, dict) and config.get("model_id"):
            self.models[path] = str(config["model_id"])

    def _introduce(self, agent: Agent, path: str) -> None:
        self.note_model(path, agent.model)
        if self._remembering:
            self.remembered.add(path)

    def _place(self, agent: Agent) -> Place:
        call = call_of(agent)
        return call.place if call else (self._homes[agent], None)

    def _dropped(self, agent: Agent) -> bool:
        """Whether the garbage collector closes an agent, whose run has been dropped with it."""
        return call_of(agent) is None and agent not in self._homes

    # An agent starts.

    async def _before_invocation(self, event: BeforeInvocationEvent) -> None:
        place = self._place(event.agent)
        event.invocation_state.setdefault(STATE_KEY, self._context)
        if self._recorder.closed_by is not None:
            event.cancel = OVER
        if place in self._inputs:
            return  # a plugin continues the agent with new input, which belongs to its memory
        self._results.pop(place, None)  # of an earlier visit: the next one may reuse a tool use id
        if redacts := may_redact(event.agent):
            self.answers.rewritten.add(place)
        past = await self._begin(place, event.messages or (), redacts=redacts)
        if _is_run(place) and not (past and past.messages):
            self._memory.added = 0  # it starts from its input, which lacks all added messages
        self.interrupts.answer(event.agent, past)
        self._inputs[place] = len(event.messages or ())
        if past and past.broken_off and _is_run(place):
            self._recorder.close(AgentError(ONLY_REASONING, code="model_invalid_answer"))
            event.cancel = OVER
        elif past and past.messages and getattr(event.agent, "_session_manager", None) is None:
            await self._say_again(place, past)
            await self.nodes.hand_over(event.agent, past)
            self._resume(event, place, past)
        elif past and past.unrepeatable:
            self._recorder.close(AgentError(_repeats(place[0], past.unrepeatable), code=CODE))
            event.cancel = OVER
        elif _is_run(place) and _bare(event.messages) != _bare(self.asked):
            rewritten = _bare(event.messages)
            await self._recorder.record(
                InputReplaced(agent=place[0], messages=rewritten, count=len(self.asked))
            )
        if _is_run(place):
            self._asked = deepcopy(_bare(event.messages))
        own = self.own if _is_run(place) else 0
        self._logged[place] = LoggedConversation(event.agent.messages, own)

    def _visit(self, path: str | None, event: BeforeNodeCallEvent) -> None:
        """A node is about to work."""
        self.interrupts.answer_node(event)
        if path is not None:
            self._inputs.pop((path, None), None)

    async def _begin(self, place: Place, messages: Sequence[Any], *, redacts: bool) -> Conversation | None:
        """Record that an agent starts; return the conversation that an earlier attempt left."""
        path, call_id = place
        if path in self.nodes.paths:
            digest = digest_of(messages)
            await self._recorder.record(AgentStarted(agent=path, input_digest=digest, redacts=redacts))
            return self._memory.visit(path, digest)
        if call_id is not None:
            self._working.add(place)
            await self._recorder.record(AgentStarted(agent=path, call_id=call_id, redacts=redacts))
        return self._memory.conversations.pop(place, None)

    async def _say_again(self, place: Place, past: Conversation) -> None:
        """Repeat the text that clients drop by `discard_after_seq`, except the root's own text."""
        for token in past.said_below() if is_root(place[0]) else past.all_said():
            await self._recorder.record(token)

    def _resume(self, event: BeforeInvocationEvent, place: Place, past: Conversation) -> None:
        rewritten = _is_run(place) and past.replacements  # the log has the original input
        asked: Any = self.asked if rewritten else event.messages or ()
        messages: list[Any] = past.with_input(asked)
        event.agent.messages.extend(messages)
        event.messages = []
        self._inputs[place] = 0
        self._results[place] = past.results
        if past.ending and not getattr(event.agent, "_default_structured_output_model", None):
            event.agent.messages.pop()  # strands ends the invocation with this text and adds it again
            event.cancel = past.ending
            self._inputs[place] = 1
        elif past.ending is not None:
            event.messages = [{"role": "user", "content": [{"text": GO_ON}]}]

    async def record(self, events: Sequence[Event]) -> None:
        """Record the events of an item of a stream."""
        for event in events:
            if isinstance(event, Usage):
                self.count(event)
            await self.write(event)

    async def write(self, event: Event) -> None:
        """Record an event; commit one that discards others."""
        await (self._recorder.commit if isinstance(event, Discarded) else self._recorder.record)(event)
        if isinstance(event, Message):
            self.requests.log((event.agent, event.call_id), event.message)

    async def _message_added(self, event: MessageAddedEvent) -> None:
        path, call_id = place = self._place(event.agent)
        inputs = self._inputs.get(place)
        if inputs is None:
            return  # strands repairs the initial messages
        added = self._logged[place].add(event.message, event.agent.messages)
        if inputs:
            self._inputs[place] = inputs - 1
            if inputs == 1 and added and _is_run(place):
                await self._input_added(path, event.agent.messages)
        elif added:
            self._results.pop(place, None)  # all used: the next turn may reuse a tool use id
            for each in self.answers.complete(place, event.message):
                await self.write(each)
            said = Message(agent=path, call_id=call_id, message=bare(event.message))
            if await self._recorder.try_record(said):
                self._leave_out_inputs(event.message)
                await self._recorder.record(said)
            self.requests.log(place, event.message)
        else:
            joined = bare(event.message)
            await self._recorder.record(InputReplaced(agent=path, call_id=call_id, messages=[joined]))

    async def _input_added(self, path: str, messages: Sequence[Any]) -> None:
        """Record the run's input if hooks have rewritten it, once all of it is in the conversation."""
        count = len(self._asked)
        if count and (added := _bare(messages[-count:])) != self._asked:
            await self._recorder.record(InputReplaced(agent=path, messages=added, count=count))

    def _leave_out_inputs(self, message: Any) -> None:
        """Remove inputs of tool calls that no event can hold from a message. These tools are not called."""
        for block in message["content"]:
            if (tool_use := block.get("toolUse")) and (wrong := unfit(tool_use["input"])):
                tool_use["input"] = {"left_out": wrong}
                self.left_out[tool_use["toolUseId"]] = f"the input of tool {tool_use['name']!r} {wrong}"

    async def _add_messages(self, event: BeforeModelCallEvent) -> None:
        """Add what people have said since the last model call to the model's input.

        It joins the last message, as providers refuse two messages of one role in a row. What does not fit
        into one event with that message waits for the next model call.
        """
        place, messages = self._place(event.agent), event.agent.messages
        if not _is_run(place) or place not in self._logged or not messages or messages[-1]["role"] != "user":
            return
        if not (added := await self._recorder.added(self._memory.added)):
            return
        last, before = messages[-1], messages[-1]["content"]
        said: list[Any] = []
        room = PART_BYTES - json_size(bare(last))
        for each in added:
            blocks = [{"text": each.content}] if isinstance(each.content, str) else each.content
            room -= json_size(blocks)
            if room < 0:
                break
            said += with_bytes(blocks)
            self._memory.added = each.seq
        if said:
            last["content"] = [*before, *said]
            joined = InputReplaced(agent=place[0], messages=[bare(last)], added=self._memory.added)
            if await self._recorder.try_record(joined):
                last["content"] = before  # the model hears only what is in the log
            self._logged[place].redacted(messages)

    async def _input_redacted(self, event: AfterModelCallEvent) -> None:
        """Record a guardrail's redaction of the model's input, for which strands has no hook."""
        path, call_id = place = self._place(event.agent)
        logged = self._logged.get(place)
        if logged and (message := logged.redacted(event.agent.messages)) is not None:
            await self._recorder.record(InputReplaced(agent=path, call_id=call_id, messages=[bare(message)]))

    async def _context_reduced(self, event: AfterInvocationEvent) -> None:
        """Record the messages left after the conversation manager reduced them.

        The next run starts from these.
        """
        if self._dropped(event.agent):
            return
        place = self._place(event.agent)
        if getattr(event.result, "stop_reason", None) == "interrupt":
            return  # the agent goes on
        kept_elsewhere = event.agent.model.stateful or getattr(event.agent, "_session_manager", None)
        if not _is_run(place) or place not in self._logged or kept_elsewhere:
            return
        reduced = self._logged[place].reduced(event.agent.messages)
        if reduced is not None:
            messages, kept = reduced
            left = ContextReduced(agent=place[0], kept=kept, begins_with=_bare(messages))
            # Ignore a refusal: the next run reduces its conversation itself.
            await self._recorder.try_record(left)

    async def _after_invocation(self, event: AfterInvocationEvent) -> None:
        """Record corrections when an agent ends, as its last message may have been rewritten."""
        if self._dropped(event.agent):
            return
        path, call_id = place = self._place(event.agent)
        self.interrupts.note(place, event.result)
        message = getattr(event.result, "message", None)
        if message is not None and (corrected := self.answers.correct(place, message)):
            for said in corrected:
                await self.write(said)
            if not (_is_run(place) and place in self._logged):  # otherwise `_context_reduced` records it
                await self.write(Message(agent=path, call_id=call_id, message=bare(message)))

    def _call_model(self, context: InvokeModelContext) -> InvokeModelContext:
        agent: Any = context.agent
        return self.called.speak(context, self._place(agent))

    async def _ask_model(
        self, context: InvokeModelContext, call: MiddlewareNext[InvokeModelContext, TypedEvent]
    ) -> AsyncGenerator[TypedEvent, None]:
        """Record a request within all middleware that may change it."""
        agent: Any = context.agent
        async for event in call(self.called.ask(context, self._place(agent))):
            yield event

    # A tool is called.

    async def _before_tool(self, event: BeforeToolCallEvent) -> None:
        place = self._place(event.agent)
        if self._known(place, event.selected_tool, event.tool_use) is not None:
            return
        use_id, name = event.tool_use["toolUseId"], event.tool_use["name"]
        if self.interrupts.look_at(event):
            return  # a hook asks first, and the call does not run
        if name in self._approve and not event.cancel_tool:
            self.interrupts.approve(event)
        agent, inner = called_agent(event.selected_tool), f"{place[0]}/{name}"
        once = is_at_most_once(event.selected_tool) or (agent is None and name in self._at_most_once)
        self.called.begin(inner, use_id, apart=agent is not None)
        if agent is not None:
            self.install(agent, inner)
            CALL.set(Call(agent, (inner, use_id), call_of(event.agent)))
        left_out = self.left_out.pop(use_id, None)
        await write_call(self._recorder, event, place, once=once, left_out=left_out)

    async def _after_tool(self, event: AfterToolCallEvent) -> None:
        place = self._place(event.agent)
        use_id, name = event.tool_use["toolUseId"], event.tool_use["name"]
        self.called.end(use_id)
        inner = (f"{place[0]}/{name}", use_id)
        failure = self._model_calls.failure_of(inner)
        if self._known(place, event.selected_tool, event.tool_use) is None and not runs_again(event):
            await self.finish(inner)
            await write_result(self._recorder, event, place, failure, self._model_calls.words)

    async def finish(self, place: Place) -> None:
        """Record that a sub-agent's work for a call has ended."""
        for unsaid in self.answers.take_back(place, "failed"):
            await self.write(unsaid)
        if place in self._working:
            self._working.discard(place)
            self._inputs.pop(place, None)
            self._logged.pop(place, None)
            self._results.pop(place, None)
            self.requests.forget(place)
            await self._recorder.record(AgentFinished(agent=place[0], call_id=place[1]))

    async def _run_tool(
        self, context: ExecuteToolContext, run: MiddlewareNext[ExecuteToolContext, TypedEvent]
    ) -> AsyncGenerator[TypedEvent, None]:
        """Run a tool, unless an earlier attempt recorded its result."""
        agent: Any = context.agent
        known = self._known(self._place(agent), context.tool, context.tool_use)
        if known is not None:
            yield _result(context, **known)
            return
        if self.interrupts.is_changed(context.tool_use):
            yield _result(context, status="error", content=[{"text": CHANGED}])
            return
        try:
            async for event in run(context):
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


def _is_run(place: Place) -> bool:
    """Whether the run's own agent works at this place."""
    path, call_id = place
    return call_id is None and is_root(path)


def _bare(messages: Sequence[Any] | None) -> list[dict[str, Any]]:
    return [bare(message) for message in messages or ()]


def _repeats(path: str, tool: str) -> str:
    return (
        f"tool {tool!r} of agent {path!r} may be called at most once; it has run, and the agent would start "
        "from its input and call it again"
    )


def _result(context: ExecuteToolContext, **outcome: Any) -> ToolResultEvent:
    result: Any = {**outcome, "toolUseId": context.tool_use["toolUseId"]}
    return ToolResultEvent(result)


def _is_cancelled() -> bool:
    """Whether this task is being cancelled, as opposed to a tool raising CancelledError."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
