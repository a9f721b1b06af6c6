"""Gives the run's agents the messages that people add while they work.

Each message goes to one agent: to the one that calls its model next. Of an `Agent` this is the run's own
agent, not one that a tool calls; of a Graph or Swarm any node. A message that comes after an agent's last
model call gives it one more turn.
"""

from collections.abc import Callable, Sequence, Set
from typing import Any

import structlog
from strands.hooks import AfterInvocationEvent, BeforeModelCallEvent

from runstore.core.codec import json_size
from runstore.core.content import with_bytes
from runstore.core.errors import InvalidEvent
from runstore.core.events import InputReplaced, Place
from runstore.core.ports import AddedMessage
from runstore.runtime.memory.held import bare
from runstore.runtime.memory.oversized import PART_BYTES
from runstore.runtime.memory.resume import is_run
from runstore.runtime.strands.recorders.recording import Recording

ENDED = ("end_turn", "stop_sequence")  # stop reasons of an agent that may take another turn

log = structlog.get_logger(__name__)


class AddedMessages:
    """The added messages of one attempt.

    Args:
        nodes: the paths of the nodes of a Graph or Swarm.
    """

    def __init__(self, recording: Recording, nodes: Set[str]) -> None:
        self.refused: list[int] = []  # seqs of the messages that no event can hold with the model's input
        self.hears = False  # whether another attempt takes the messages that come from now on
        self._run_id = recording.context.run_id
        self._recorder = recording.recorder
        self._unheard = recording.memory.unheard
        self._place = recording.agents.place
        self._nodes = nodes
        self._logged = recording.logged
        self._recorded: set[Place] = set()  # places whose next message is in the log already

    async def before_call(self, event: BeforeModelCallEvent) -> None:
        """Add what people have said since the last model call to the model's input.

        It joins the last message, as providers refuse two messages of one role in a row. Messages that do not
        fit into one event with it wait for the next model call.
        """
        place, messages = self._place(event.agent), event.agent.messages
        if not self._listens(place) or not messages or messages[-1]["role"] != "user":
            return
        last = messages[-1]
        before = last["content"]

        async def join(added: Sequence[AddedMessage]) -> InvalidEvent | None:
            last["content"] = [*before, *_blocks(added)]
            wrong = await self._record(place, added, last, count=1)
            if wrong is not None:
                last["content"] = before  # the model gets only messages that the log has
            self._logged[place].redacted(messages)
            return wrong

        await self._give(await self._new(), PART_BYTES - json_size(bare(last)), join)

    async def after_invocation(self, event: AfterInvocationEvent) -> None:
        """Let an agent that is about to end take another turn, if people have added messages."""
        place, result = self._place(event.agent), event.result
        if result is None or event.resume is not None or not self._listens(place):
            return
        if result.stop_reason not in ENDED and result.structured_output is None:
            return
        self.hears = is_run(place)
        left = event.agent.messages[-1:]  # none, if the conversation manager keeps none
        if left and left[0]["role"] == "user":  # the last model call made an object of a tool's input
            event.resume = [] if await self._new() else None
        elif (message := await self.next_turn(place)) is not None:
            event.resume = [message]

    async def next_turn(self, place: Place) -> Any | None:
        """The message, already recorded, that begins an agent's next turn: what people have said."""
        turns: list[Any] = []

        async def begin(added: Sequence[AddedMessage]) -> InvalidEvent | None:
            message = {"role": "user", "content": _blocks(added)}
            wrong = await self._record(place, added, message, count=0)
            if wrong is None:
                turns.append(message)
            return wrong

        await self._give(await self._new(), PART_BYTES, begin)
        if not turns or self._recorder.closed_by is not None:
            return None
        self._recorded.add(place)
        return turns[0]

    def is_recorded(self, place: Place) -> bool:
        """Whether the message that strands adds at this place is in the log. Only once for each message."""
        recorded = place in self._recorded
        self._recorded.discard(place)
        return recorded

    def _listens(self, place: Place) -> bool:
        listens = is_run(place) or (place.call_id is None and place.agent in self._nodes)
        return listens and place in self._logged and self._recorder.closed_by is None

    async def _new(self) -> list[AddedMessage]:
        """The messages that no agent has taken."""
        found = await self._recorder.added(self._unheard.after)
        return [each for each in found if each.seq in self._unheard]  # others may have taken some

    async def _give(
        self,
        added: Sequence[AddedMessage],
        room: int,
        give: Callable[[Sequence[AddedMessage]], Any],
    ) -> None:
        """Give an agent the messages that fit into `room` bytes; if they are refused, the first one alone."""
        fitting = [*_fitting(added, room)]
        if not fitting or await give(fitting) is None:
            return
        for each in fitting:
            if (wrong := await give([each])) is None:
                return
            self.refused.append(each.seq)
            self._unheard.take(each.seq)
            log.warning("added_message_refused", run_id=self._run_id, seq=each.seq, error=str(wrong))

    async def _record(
        self, place: Place, added: Sequence[AddedMessage], message: Any, *, count: int
    ) -> InvalidEvent | None:
        """Record the input that an agent gets. `count`: the messages that it replaces."""
        taken = self._unheard.take(added[-1].seq)  # now: another node must not take them, too
        replaced = InputReplaced(
            agent=place.agent, messages=[bare(message)], count=count, added=added[-1].seq
        )
        wrong = await self._recorder.try_record(replaced)
        if wrong is not None:
            self._unheard.give_back(taken)
        return wrong


def _fitting(added: Sequence[AddedMessage], room: int) -> Sequence[AddedMessage]:
    fitting: list[AddedMessage] = []
    for each in added:
        room -= json_size(_raw(each))
        if room < 0:
            break
        fitting.append(each)
    return fitting


def _blocks(added: Sequence[AddedMessage]) -> list[Any]:
    return [block for each in added for block in with_bytes(_raw(each))]


def _raw(added: AddedMessage) -> list[dict[str, Any]]:
    return [{"text": added.content}] if isinstance(added.content, str) else added.content
