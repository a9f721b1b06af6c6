"""Joins characters that were split: a model's delta may end within a surrogate pair, as in an emoji. Pure."""

from msgspec.structs import replace

from runstore.core.codec import EncodedEvent
from runstore.core.events import AgentEvent, Custom, Event, EventType, Place, Reasoning, Token

TEXT = (Token, Reasoning)

Recordable = Event | Custom | EncodedEvent


class SurrogateJoiner:
    """Holds the first half of a character back until the agent sends the second one.

    A half without a second one is recorded before the agent's next event of another type.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[EventType, Place], Token | Reasoning] = {}

    def whole(self, event: Recordable, *, hold: bool = True) -> list[Recordable]:
        """The events to record now. `hold`: half a character may wait for its other half."""
        if isinstance(event, TEXT):
            return self._text(event, hold)
        if isinstance(event, AgentEvent):
            return [*self.rest(event), event]
        return [event]

    def concern(self, event: Recordable) -> bool:
        """Whether the event needs more than to be recorded. This check runs for every token."""
        return bool(self._held) or (isinstance(event, TEXT) and _is_first_half(event.text[-1:]))

    def rest(self, of: AgentEvent | None = None) -> list[Recordable]:
        """Release the held halves of one agent's call or of all."""
        keys = [key for key in self._held if of is None or key[1] == of.place]
        return [self._held.pop(key) for key in keys]

    def _text(self, event: Token | Reasoning, hold: bool) -> list[Recordable]:
        key = (event.type, event.place)
        held = self._held.pop(key, None)
        text = event.text if held is None else held.text + event.text
        if not text:
            return [event]
        if hold and _is_first_half(text[-1:]):
            self._held[key] = replace(event, text=text[-1:])
            text = text[:-1]
        return [replace(event, text=text)] if text else []


def _is_first_half(character: str) -> bool:
    return "\ud800" <= character <= "\udbff"
