"""Records where the agents of a run begin and end, and lets them go on from an earlier attempt."""

from collections.abc import Sequence
from typing import Any

from strands import Agent
from strands.hooks import AfterInvocationEvent, BeforeInvocationEvent

from runstore.core.errors import AgentError
from runstore.core.events import AgentFinished, AgentStarted, InputReplaced, Place
from runstore.runtime.memory.at_most_once import CODE
from runstore.runtime.memory.resume import Conversation, digest_of, is_root, is_run
from runstore.runtime.strands.internals import answers_object, has_session_manager
from runstore.runtime.strands.recorders import background
from runstore.runtime.strands.recorders.added import AddedMessages
from runstore.runtime.strands.recorders.interrupts import Interrupts
from runstore.runtime.strands.recorders.messages import MessageRecorder, all_bare
from runstore.runtime.strands.recorders.nodes import Nodes
from runstore.runtime.strands.recorders.recording import Recording
from runstore.runtime.strands.recorders.tools import OVER
from runstore.runtime.strands.results import ONLY_REASONING
from runstore.runtime.strands.stream.redaction import may_redact, may_redact_last

STATE_KEY = "runstore"  # key of the RunContext in strands' invocation_state
GO_ON = "Go on."  # input for a resumed agent whose last message was an answer, but not its last one


class Invocations:
    """The invocations of the agents of one attempt."""

    def __init__(
        self,
        recording: Recording,
        interrupts: Interrupts,
        messages: MessageRecorder,
        added: AddedMessages,
        nodes: Nodes,
    ) -> None:
        self._recording = recording
        self._recorder = recording.recorder
        self._memory = recording.memory
        self._interrupts = interrupts
        self._messages = messages
        self._added = added
        self._nodes = nodes
        self._asked: Sequence[Any] = ()  # the input of the run's own agent, as in the log
        self._own = 0  # messages that the run's own agent was built with
        self._in_session = False  # whether the run's own agent goes on in its own session
        self._working: set[Place] = set()

    def expect(self, agent: Agent, asked: Sequence[Any], own: int) -> list[Any]:
        """Get ready for the run's own agent, and return the answers that it goes on with in its session.

        Args:
            asked: its input, as in the log.
            own: the number of messages that it was built with.

        Raises:
            AgentError: its session cannot go on with the answers.
        """
        self._asked, self._own = asked, own
        past = self._memory.conversations.get(Place(self._recording.context.agent_name))
        if past is None or not past.answers or not has_session_manager(agent):
            return []
        self._in_session = True
        return self._interrupts.responses(agent, past.answers.values())

    async def before(self, event: BeforeInvocationEvent) -> None:
        """An agent begins: from its input, or where an earlier attempt left it."""
        place = self._recording.agents.place(event.agent)
        event.invocation_state.setdefault(STATE_KEY, self._recording.context)
        if self._recorder.closed_by is not None:
            event.cancel = OVER
        inputs, results = self._recording.inputs, self._recording.results
        if place in inputs:
            return  # a plugin continues the agent with new input, which belongs to its memory
        results.pop(place, None)  # drop an earlier visit's: the next one may reuse a tool use id
        if may_redact(event.agent):
            self._recording.answers.rewritten.add(place)
        if may_redact_last(event.agent):
            self._recording.answers.judged_last.add(place)
        past = await self._begin(place, event.agent, event.messages or ())
        resumes = bool(past and past.messages) and not has_session_manager(event.agent)
        if past and not resumes:
            self._memory.give_back(past)
        if past and is_run(place) and self._in_session:
            results[place] = past.results  # the session may lack what finished before a crash
            inputs[place] = 0
            self._messages.begin(place, event.agent, (), 0)
            return
        self._interrupts.answer(event.agent, past)
        inputs[place] = len(event.messages or ())
        if past and past.broken_off and is_run(place):
            self._recorder.close(AgentError(ONLY_REASONING, code="model_invalid_answer"))
            event.cancel = OVER
        elif past and resumes:
            await self._say_again(place, past)
            await self._nodes.hand_over(event.agent, past)
            await self._resume(event, place, past)
        elif past and past.unrepeatable:
            self._recorder.close(AgentError(_repeats(place.agent, past.unrepeatable), code=CODE))
            event.cancel = OVER
        elif is_run(place) and all_bare(event.messages) != all_bare(self._asked):
            rewritten = all_bare(event.messages)
            await self._recorder.record(
                InputReplaced(agent=place.agent, messages=rewritten, count=len(self._asked))
            )
        self._messages.begin(place, event.agent, event.messages, self._own if is_run(place) else 0)

    async def after(self, event: AfterInvocationEvent) -> None:
        """An agent has ended."""
        if not self._recording.agents.dropped(event.agent):
            place = self._recording.agents.place(event.agent)
            self._interrupts.note(place, event.result)
            await self.judged(event, place)
            if self._recording.remembering:
                await self._added.after_invocation(event)

    async def judged(self, event: AfterInvocationEvent, place: Place) -> None:
        """Record what the hooks for an agent's end have made of its last answer."""
        await self._messages.corrected(event, place)
        self._recording.answers.judged(place)

    async def finish(self, place: Place) -> None:
        """Record that a sub-agent's work for a call has ended."""
        answers = self._recording.answers
        for unsaid in (*answers.take_back(place, "failed"), *answers.withhold(place)):
            await self._recording.write(unsaid)
        if place in self._working:
            self._working.discard(place)
            self._recording.forget(place)
            await self._recorder.record(AgentFinished(agent=place.agent, call_id=place.call_id))

    async def _begin(self, place: Place, agent: Agent, messages: Sequence[Any]) -> Conversation | None:
        """Record that an agent starts; return the conversation that an earlier attempt left."""
        path, call_id = place
        redacts, last = may_redact(agent), may_redact_last(agent)
        if path in self._nodes.paths:
            digest = digest_of(messages)
            await self._recorder.record(
                AgentStarted(agent=path, input_digest=digest, redacts=redacts, redacts_last=last)
            )
            return self._memory.visit(path, digest)
        if call_id is not None:
            self._working.add(place)
            await self._recorder.record(
                AgentStarted(agent=path, call_id=call_id, redacts=redacts, redacts_last=last)
            )
        return self._memory.conversations.pop(place, None)

    async def _say_again(self, place: Place, past: Conversation) -> None:
        """Repeat the text that clients drop by `discard_after_seq`, except the root's own text."""
        for token in past.said_below() if is_root(place.agent) else past.all_said():
            await self._recorder.record(token)

    async def _resume(self, event: BeforeInvocationEvent, place: Place, past: Conversation) -> None:
        rewritten = is_run(place) and past.replacements  # the log has the original input
        asked: Any = self._asked if rewritten else event.messages or ()
        messages: list[Any] = past.with_input(asked)
        event.agent.messages.extend(messages)
        event.messages = []
        self._recording.inputs[place] = 0
        self._recording.results[place] = past.results
        waits = background.give_back(event.agent, past)
        makes_object = answers_object(event.agent)
        if past.ending and is_run(place) and (turn := await self._added.next_turn(place)) is not None:
            event.messages = [turn]  # people have spoken since
        elif past.ending and not makes_object and not waits:
            event.agent.messages.pop()  # strands ends the invocation with this text and adds it again
            event.cancel = past.ending
            self._recording.inputs[place] = 1
        elif past.ending is not None:
            event.messages = [{"role": "user", "content": [{"text": GO_ON}]}]


def _repeats(path: str, tool: str) -> str:
    return (
        f"tool {tool!r} of agent {path!r} may be called at most once; it has run, and the agent would start "
        "from its input and call it again"
    )
