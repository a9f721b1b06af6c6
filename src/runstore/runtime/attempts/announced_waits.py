"""Tracks how long a run's agents wait before they repeat model calls, as `llm.retrying` announces. Pure."""

import msgspec
from msgspec import Struct

from runstore.core.codec import EncodedEvent
from runstore.core.events import AgentEvent, Custom, Event, Place, Retrying, ToolFailed, ToolFinished

MAX_WAIT_S = 600.0  # seconds of one wait that do not count as silence; strands waits up to 240
ENDS_CALL = (ToolFinished.type, ToolFailed.type)

Recordable = Event | Custom | EncodedEvent


class AnnouncedWaits:
    """A wait ends with the next event of the waiting agent, or with the tool call that it works for.

    Events of agents beside it do not end it.
    """

    def __init__(self) -> None:
        self._until: dict[Place, float] = {}

    @property
    def until(self) -> float:
        """The end of the last wait, on the clock of `note`; 0 without any."""
        return max(self._until.values(), default=0.0)

    def concern(self, event: Recordable) -> bool:
        """Whether `note` must be called. This check runs for every token."""
        return bool(self._until) or event.type == Retrying.type

    def note(self, event: Recordable, now_s: float) -> None:
        """Note an agent's event. `now_s`: seconds of a monotonic clock."""
        fields = _fields_of(event)
        if fields is None:
            return
        own = Place(fields.agent, fields.call_id)
        self._until.pop(own, None)
        if event.type in ENDS_CALL:
            for place in [place for place in self._until if fields.is_call_of(place)]:
                del self._until[place]
        if event.type == Retrying.type:
            self._until[own] = now_s + min(max(0.0, fields.wait_s), MAX_WAIT_S)


class _AgentFields(Struct, frozen=True):
    """The fields of any event of an agent."""

    agent: str
    call_id: str | None = None
    name: str = ""  # the tool's name
    tool_use_id: str | None = None
    wait_s: float = 0

    def is_call_of(self, place: Place) -> bool:
        """Whether the agent at this place works for this tool call."""
        path = f"{self.agent}/{self.name}"
        return place.call_id == self.tool_use_id and f"{place.agent}/".startswith(f"{path}/")


def _fields_of(event: Recordable) -> _AgentFields | None:
    if isinstance(event, EncodedEvent):
        is_agents = event.type.startswith(("agent.", "llm.", "tool."))
        return msgspec.json.decode(event.data, type=_AgentFields) if is_agents else None
    return (
        msgspec.convert(event, _AgentFields, from_attributes=True) if isinstance(event, AgentEvent) else None
    )
