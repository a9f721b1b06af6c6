"""strands' hooks, which record a run's agents in its log, and let them go on from an earlier attempt.

Each kind of hooks has a file of its own: tool calls, messages, model calls, added messages.
"""

import threading
from collections.abc import AsyncGenerator, Collection, Sequence, Set
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
    ExecuteToolStage,
    InvokeModelContext,
    InvokeModelStage,
    MiddlewareNext,
    TypedEvent,
)

from runstore.core.errors import AgentError, RunstoreError
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    Discarded,
    Event,
    InputReplaced,
    Message,
    Place,
    Usage,
)
from runstore.core.ports import AgentResult, RunContext
from runstore.core.run import add_usage
from runstore.runtime.memory.at_most_once import CODE
from runstore.runtime.memory.held import bare
from runstore.runtime.memory.request_references import Requests
from runstore.runtime.memory.resume import Conversation, Memory, digest_of, is_root, is_run
from runstore.runtime.strands import background
from runstore.runtime.strands.added import AddedMessages
from runstore.runtime.strands.answers import OpenAnswers
from runstore.runtime.strands.called import Called
from runstore.runtime.strands.closable_recorder import ClosableRecorder
from runstore.runtime.strands.conversation import LoggedConversation
from runstore.runtime.strands.end_reasons import keep_reasons
from runstore.runtime.strands.events import Translator
from runstore.runtime.strands.first_pieces import keep_first_pieces
from runstore.runtime.strands.hierarchy import call_of
from runstore.runtime.strands.internals import answers_object, has_session_manager
from runstore.runtime.strands.interrupts import Interrupts
from runstore.runtime.strands.messages import MessageRecorder, all_bare
from runstore.runtime.strands.model_calls import FIRST, LAST, ModelCalls
from runstore.runtime.strands.nodes import Node, Nodes
from runstore.runtime.strands.redaction import may_change_request, may_redact
from runstore.runtime.strands.replies import Replies
from runstore.runtime.strands.results import ONLY_REASONING
from runstore.runtime.strands.servers.mended import mend_answers
from runstore.runtime.strands.servers.reported_usage import report_reasoning
from runstore.runtime.strands.tool_calls import ToolCalls
from runstore.runtime.strands.tools import OVER

NONE: frozenset[str] = frozenset()
STATE_KEY = "runstore"  # key of the RunContext in strands' invocation_state
GO_ON = "Go on."  # input for a resumed agent whose last message was an answer, but not its last one


class Hooks:
    """The hooks of one attempt of one run, on every agent of its hierarchy.

    Args:
        remembering: record the agents' messages and resume from `memory`. False for an orchestrator that
            restarts from the input.
        at_most_once: names of tools that the configuration marks so; agents as tools do not count.
        approve: names of tools whose calls a person has to approve.
        nodes: of a Graph or Swarm that resumes from `memory`.
        replies: answers tool calls from the log of another run.
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
        replies: Replies | None = None,
    ) -> None:
        self.models: dict[str, str] = {}  # path → model id
        self.remembered: set[str] = set()  # paths of agents whose messages the hooks record
        self.answers = OpenAnswers(self.remembered)
        self.usage = memory.usage  # of all attempts
        self.requests = requests
        self.asked: Sequence[Any] = ()  # the input of the run's own agent, as in the log
        self._in_session = False  # whether the run's own agent goes on in its own session
        self.own = 0  # messages that the run's own agent was built with
        self._context = context
        self._recorder = recorder
        self._memory = memory
        self._remembering = remembering
        self._replies = replies
        # Weak: some agents work for one call only.
        self._homes: WeakKeyDictionary[Agent, str] = WeakKeyDictionary()
        self._working: set[Place] = set()
        self._lock = threading.Lock()
        self._model_calls = ModelCalls(context.run_id, recorder, self.answers, self._place, self.models)
        self.called = Called(self, recorder, self._model_calls, at_most_once=at_most_once, approve=approve)
        self.interrupts = Interrupts(context.agent_name)
        self.interrupts.remember(memory.conversations.values())
        self.nodes = Nodes(nodes, self.record, self._visit)
        self.tools = ToolCalls(
            recorder, self.interrupts, self.called, self._model_calls, place=self._place,
            install=self.install, finish=self.finish, at_most_once=at_most_once, approve=approve,
            reply=None if replies is None else self._reply,
        )  # fmt: skip
        logged: dict[Place, LoggedConversation] = {}
        self.added = AddedMessages(context.run_id, recorder, memory, self._place, self.nodes.paths, logged)
        self._messages = MessageRecorder(
            recorder, self.answers, requests, self.tools, self._place, self.write, self.added, logged
        )

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

    def result(self, result: dict[str, Any]) -> AgentResult:
        """The outcome of the run, whose agent has come to this result."""
        added = self.added
        return AgentResult(result, self.usage, self._memory.unheard.after, added.refused, added.hears)

    def responses(self, agent: Agent) -> list[Any]:
        """The answers that an agent with a session manager goes on with; none if it begins from its input.

        Raises:
            AgentError: its session cannot go on with them.
        """
        past = self._memory.conversations.get(Place(self._context.agent_name))
        if past is None or not past.answers or not has_session_manager(agent):
            return []
        self._in_session = True
        return self.interrupts.responses(agent, past.answers.values())

    def count(self, usage: Usage) -> None:
        """Add the usage of a model call; callable from any thread."""
        with self._lock:
            self.usage = add_usage(self.usage, usage)

    def _reply(self, event: BeforeToolCallEvent, place: Place, asks: bool) -> None:
        """Let another run's log answer a call, unless it directs the agents: then it has to run."""
        if self._replies is not None and not self.nodes.hands_over(event):
            self._replies.reply(event, place, self._recorder, asks=asks)

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
        agent.add_hook(self.tools.before, BeforeToolCallEvent, order=LAST)
        agent.add_hook(self.tools.after, AfterToolCallEvent, order=LAST)
        agent.add_hook(self._after_invocation, AfterInvocationEvent, order=LAST)
        self._model_calls.install(agent)
        if self._remembering:
            agent.add_hook(self.added.before_call, BeforeModelCallEvent, order=FIRST)
            agent.add_hook(self._messages.added, MessageAddedEvent, order=LAST)
            agent.add_hook(self._messages.redacted, AfterModelCallEvent, order=FIRST)
            agent.add_hook(self._context_reduced, AfterInvocationEvent, order=LAST)
        agent.add_middleware(ExecuteToolStage, self.tools.run)
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
        keep_reasons(model)
        keep_first_pieces(model)
        mend_answers(model)
        config = model.get_config()
        if isinstance(config, dict) and config.get("model_id"):
            self.models[path] = str(config["model_id"])

    def _introduce(self, agent: Agent, path: str) -> None:
        self.note_model(path, agent.model)
        if self._remembering:
            self.remembered.add(path)

    def _place(self, agent: Agent) -> Place:
        call = call_of(agent)
        return call.place if call else Place(self._homes[agent])

    def _dropped(self, agent: Agent) -> bool:
        """Whether the garbage collector closes an agent, whose run has been dropped with it."""
        return call_of(agent) is None and agent not in self._homes

    # An agent starts.

    async def _before_invocation(self, event: BeforeInvocationEvent) -> None:
        place = self._place(event.agent)
        event.invocation_state.setdefault(STATE_KEY, self._context)
        if self._recorder.closed_by is not None:
            event.cancel = OVER
        if place in self._messages.inputs:
            return  # a plugin continues the agent with new input, which belongs to its memory
        self.tools.results.pop(place, None)  # of an earlier visit: the next one may reuse a tool use id
        if redacts := may_redact(event.agent):
            self.answers.rewritten.add(place)
        past = await self._begin(place, event.messages or (), redacts=redacts)
        resumes = bool(past and past.messages) and not has_session_manager(event.agent)
        if past and not resumes:
            self._memory.give_back(past)
        if past and is_run(place) and self._in_session:
            self.tools.results[place] = past.results  # the session may lack what finished before a crash
            self._messages.inputs[place] = 0
            self._messages.begin(place, event.agent, (), 0)
            return
        self.interrupts.answer(event.agent, past)
        self._messages.inputs[place] = len(event.messages or ())
        if past and past.broken_off and is_run(place):
            self._recorder.close(AgentError(ONLY_REASONING, code="model_invalid_answer"))
            event.cancel = OVER
        elif past and resumes:
            await self._say_again(place, past)
            await self.nodes.hand_over(event.agent, past)
            await self._resume(event, place, past)
        elif past and past.unrepeatable:
            self._recorder.close(AgentError(_repeats(place.agent, past.unrepeatable), code=CODE))
            event.cancel = OVER
        elif is_run(place) and all_bare(event.messages) != all_bare(self.asked):
            rewritten = all_bare(event.messages)
            await self._recorder.record(
                InputReplaced(agent=place.agent, messages=rewritten, count=len(self.asked))
            )
        self._messages.begin(place, event.agent, event.messages, self.own if is_run(place) else 0)

    def _visit(self, path: str | None, event: BeforeNodeCallEvent) -> None:
        """A node is about to work."""
        self.interrupts.answer_node(event)
        if path is not None:
            self._messages.inputs.pop(Place(path), None)

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
        for token in past.said_below() if is_root(place.agent) else past.all_said():
            await self._recorder.record(token)

    async def _resume(self, event: BeforeInvocationEvent, place: Place, past: Conversation) -> None:
        rewritten = is_run(place) and past.replacements  # the log has the original input
        asked: Any = self.asked if rewritten else event.messages or ()
        messages: list[Any] = past.with_input(asked)
        event.agent.messages.extend(messages)
        event.messages = []
        self._messages.inputs[place] = 0
        self.tools.results[place] = past.results
        waits = background.give_back(event.agent, past)
        makes_object = answers_object(event.agent)
        if past.ending and is_run(place) and (turn := await self.added.next_turn(place)) is not None:
            event.messages = [turn]  # people have spoken since
        elif past.ending and not makes_object and not waits:
            event.agent.messages.pop()  # strands ends the invocation with this text and adds it again
            event.cancel = past.ending
            self._messages.inputs[place] = 1
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
            self.requests.log(event.place, event.message)

    async def _context_reduced(self, event: AfterInvocationEvent) -> None:
        if not self._dropped(event.agent):
            await self._messages.reduced(event)

    async def _after_invocation(self, event: AfterInvocationEvent) -> None:
        """Record corrections when an agent ends, as its last message may have been rewritten."""
        if self._dropped(event.agent):
            return
        path, call_id = place = self._place(event.agent)
        self.interrupts.note(place, event.result)
        message = getattr(event.result, "message", None)
        if message is not None and (corrected := self.answers.correct(place, message)):
            for each in corrected:
                await self.write(each)
            recorded = is_run(place) and place in self._messages.logged  # `_context_reduced` records it
            if not recorded:
                await self.write(Message(agent=path, call_id=call_id, message=bare(message)))
        if self._remembering:
            await self.added.after_invocation(event)

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

    async def finish(self, place: Place) -> None:
        """Record that a sub-agent's work for a call has ended."""
        for unsaid in self.answers.take_back(place, "failed"):
            await self.write(unsaid)
        if place in self._working:
            self._working.discard(place)
            self._messages.forget(place)
            self.tools.results.pop(place, None)
            self.requests.forget(place)
            await self._recorder.record(AgentFinished(agent=place.agent, call_id=place.call_id))


def _repeats(path: str, tool: str) -> str:
    return (
        f"tool {tool!r} of agent {path!r} may be called at most once; it has run, and the agent would start "
        "from its input and call it again"
    )
