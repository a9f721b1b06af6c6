"""The shared state of one attempt's recorders: its log, and the place of each of its agents."""

import threading
from collections.abc import Sequence
from typing import Any

from runstore.core.events import Discarded, Event, Message, Place, Usage
from runstore.core.ports import RunContext
from runstore.core.run import add_usage
from runstore.runtime.memory.request_references import Requests
from runstore.runtime.memory.resume import Memory
from runstore.runtime.strands.recorders.closable_recorder import ClosableRecorder
from runstore.runtime.strands.recorders.conversation import LoggedConversation
from runstore.runtime.strands.recorders.hooked_agents import HookedAgents
from runstore.runtime.strands.stream.answers import OpenAnswers


class Recording:
    """The recording of one attempt.

    Args:
        memory: what earlier attempts have left.
        remembering: record the agents' messages, and resume from `memory`. False for an orchestrator that
            restarts from the input.
    """

    def __init__(
        self,
        context: RunContext,
        recorder: ClosableRecorder,
        memory: Memory,
        requests: Requests,
        *,
        remembering: bool,
    ) -> None:
        self.context = context
        self.recorder = recorder
        self.memory = memory
        self.requests = requests
        self.agents = HookedAgents()
        self.remembering = remembering
        self.remembered: set[str] = set()  # paths of agents whose messages the hooks record
        self.answers = OpenAnswers(self.remembered)
        self.usage = memory.usage  # sum of all attempts
        self.inputs: dict[Place, int] = {}  # input messages of an agent that are still to be added
        self.logged: dict[Place, LoggedConversation] = {}  # each agent at work → its conversation in the log
        self.results: dict[Place, dict[str, Any]] = {}  # results that a resumed agent reuses
        self._lock = threading.Lock()

    async def record(self, events: Sequence[Event]) -> None:
        """Record the events of an item of a stream."""
        for event in events:
            await self.write(event)

    async def write(self, event: Event) -> None:
        """Record an event; commit one that discards others. From any thread."""
        if isinstance(event, Usage):
            with self._lock:
                self.usage = add_usage(self.usage, event)
        await (self.recorder.commit if isinstance(event, Discarded) else self.recorder.record)(event)
        if isinstance(event, Message):
            self.requests.log(event.place, event.message)

    def forget(self, place: Place) -> None:
        """Forget an agent whose work has ended."""
        self.inputs.pop(place, None)
        self.logged.pop(place, None)
        self.results.pop(place, None)
        self.requests.forget(place)
