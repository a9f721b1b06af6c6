"""Records the messages of a run's agents, as strands' hooks see them.

The messages that hooks see added are exactly the agent's memory; the stream omits some of them.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from strands import Agent
from strands.hooks import AfterInvocationEvent, AfterModelCallEvent, MessageAddedEvent

from runstore.core.events import ContextReduced, InputReplaced, Message, Place
from runstore.runtime.memory.held import bare
from runstore.runtime.memory.resume import is_run
from runstore.runtime.strands.internals import has_session_manager
from runstore.runtime.strands.recorders.added import AddedMessages
from runstore.runtime.strands.recorders.conversation import LoggedConversation
from runstore.runtime.strands.recorders.recording import Recording
from runstore.runtime.strands.tool_inputs import left_out, unfit


class MessageRecorder:
    """The messages of one attempt."""

    def __init__(self, recording: Recording, people: AddedMessages) -> None:
        self._asked: list[dict[str, Any]] = []  # the run's input before message hooks could rewrite it
        self._recording = recording
        self._recorder = recording.recorder
        self._agents = recording.agents
        self._logged = recording.logged
        self._people = people

    def begin(self, place: Place, agent: Agent, input: Sequence[Any] | None, own: int) -> None:
        """An agent begins to work. `own`: how many of its messages belong to its definition."""
        if is_run(place):
            self._asked = deepcopy(all_bare(input))
        self._logged[place] = LoggedConversation(agent.messages, own)

    async def added(self, event: MessageAddedEvent) -> None:
        """Record a message that strands adds to an agent's conversation."""
        path, call_id = place = self._agents.place(event.agent)
        inputs = self._recording.inputs.get(place)
        if inputs is None:
            return  # strands repairs the initial messages
        added = self._logged[place].add(event.message, event.agent.messages)
        if inputs:
            self._recording.inputs[place] = inputs - 1
            if inputs == 1 and added and is_run(place):
                await self._input_added(path, event.agent.messages)
        elif self._people.is_recorded(place):
            return
        elif added:
            self._recording.results.pop(place, None)  # all used: the next turn may reuse a tool use id
            for each in self._recording.answers.complete(place, event.message):
                await self._recording.write(each)
            recorded = Message(agent=path, call_id=call_id, message=bare(event.message))
            if await self._recorder.try_record(recorded):
                leave_out_inputs(event.message)
                await self._recorder.record(recorded)
            self._recording.requests.log(place, event.message)
        else:
            joined = bare(event.message)
            await self._recorder.record(InputReplaced(agent=path, call_id=call_id, messages=[joined]))

    async def redacted(self, event: AfterModelCallEvent) -> None:
        """Record a guardrail's redaction of the model's input, for which strands has no hook."""
        path, call_id = place = self._agents.place(event.agent)
        logged = self._logged.get(place)
        if logged and (message := logged.redacted(event.agent.messages)) is not None:
            await self._recorder.record(InputReplaced(agent=path, call_id=call_id, messages=[bare(message)]))

    async def corrected(self, event: AfterInvocationEvent, place: Place) -> None:
        """Record corrections when an agent ends, as its last message may have been rewritten."""
        path, call_id = place
        message = getattr(event.result, "message", None)
        if message is None or not (corrected := self._recording.answers.correct(place, message)):
            return
        for each in corrected:
            await self._recording.write(each)
        if not is_run(place) or place not in self._logged:  # otherwise `reduced` records it
            await self._recording.write(Message(agent=path, call_id=call_id, message=bare(message)))

    async def reduced(self, event: AfterInvocationEvent) -> None:
        """Record the messages left after the conversation manager reduced them.

        The next run starts from these.
        """
        if self._agents.dropped(event.agent):
            return
        place = self._agents.place(event.agent)
        if getattr(event.result, "stop_reason", None) == "interrupt":
            return  # the agent goes on
        kept_elsewhere = event.agent.model.stateful or has_session_manager(event.agent)
        if not is_run(place) or place not in self._logged or kept_elsewhere:
            return
        reduced = self._logged[place].reduced(event.agent.messages)
        if reduced is not None:
            left = ContextReduced(
                agent=place.agent,
                kept=reduced.kept,
                begins_with=all_bare(reduced.begins_with),
                pinned=reduced.pinned,
            )
            # Ignore a refusal: the next run reduces its conversation itself.
            await self._recorder.try_record(left)

    async def _input_added(self, path: str, messages: Sequence[Any]) -> None:
        """Record the run's input if hooks have rewritten it, once all of it is in the conversation."""
        count = len(self._asked)
        if count and (added := all_bare(messages[-count:])) != self._asked:
            await self._recorder.record(InputReplaced(agent=path, messages=added, count=count))


def all_bare(messages: Sequence[Any] | None) -> list[dict[str, Any]]:
    """Messages as they are logged and sent, without strands' own annotations."""
    return [bare(message) for message in messages or ()]


def leave_out_inputs(message: Any) -> None:
    """Remove inputs of tool calls that no event can hold from a message."""
    for block in message["content"]:
        if (tool_use := block.get("toolUse")) and (wrong := unfit(tool_use["input"])):
            tool_use["input"] = left_out(tool_use["name"], wrong)
