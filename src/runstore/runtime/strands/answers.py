"""What each agent's model says, until it is a message: what strands throws away of it is taken back.

A model's call may fail after it has said something and be made again; a hook may not take an answer, and a
guardrail, hook or middleware may replace one. strands streams it all. What counts in the end is the message
that it adds to the conversation: text that is not in it is discarded, and text that was not streamed is said.
"""

from collections.abc import Iterator, Mapping, Set
from typing import Any

from msgspec import Struct, field

from runstore.core.events import Discarded, DiscardReason, Event, Token
from runstore.core.transcript import length_of, message_text
from runstore.runtime.resume import Place


class Answer(Struct):
    """What a model call has said so far. `open`: it is still saying it."""

    path: str = ""
    call_id: str | None = None
    open: bool = True
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # texts before each start of a provider's stream

    @property
    def length(self) -> int:
        return sum(map(length_of, self.texts)) + sum(map(length_of, self.thoughts))


class Answers:
    """The model calls of one attempt that are under way, each of one agent at one place.

    Args:
        written: paths of agents whose messages the hooks write; the stream's are no news.
    """

    def __init__(self, written: Set[str] = frozenset()) -> None:
        self.written = written
        self.stopping = False  # the run is to stop: what was said until then stays, unless it is redacted
        self.cancelled: set[Place] = set()  # whose answers strands has put a note in the place of
        self.cut: set[Place] = set()  # whose answers a limit has cut: strands adds to them that it did
        self._open: dict[Place, Answer] = {}
        self._last: dict[Place, tuple[str, int]] = {}  # the last message's text, and how much was said in it

    def at(self, place: Place) -> Answer:
        """The answer that an agent is giving."""
        answer = self._open.get(place)
        if answer is None:
            answer = self._open[place] = Answer(*place)
        return answer

    def start(self, place: Place) -> None:
        """A provider's stream begins; maybe not the first one of this model call."""
        if (answer := self._open.get(place)) is not None:
            answer.starts.append(len(answer.texts))

    def take_back(self, place: Place, reason: DiscardReason) -> list[Event]:
        """An agent's answer does not count."""
        answer = self._close(place)
        if answer is None or (self.stopping and reason != "redacted"):
            return []
        return _discarded(place, reason, answer.length)

    def take_back_all(self, reason: DiscardReason) -> list[Event]:
        """No answer counts that is not complete."""
        return [event for place in list(self._open) for event in self.take_back(place, reason)]

    def redact(self, place: Place, text: str) -> list[Event]:
        """An agent's answer is replaced, and withheld."""
        events = self.take_back(place, "redacted")
        return [*events, *self._say(place, text)]

    def complete(self, place: Place, message: Mapping[str, Any]) -> list[Event]:
        """An agent's answer has become this message of its conversation."""
        if message.get("role") != "assistant":
            return []
        answer = self._close(place) or Answer()
        if self.stopping and place in self.cancelled:
            return []
        said, text = "".join(answer.texts), message_text(message)
        if text.startswith(said):  # what was not streamed at all is said by its `llm.message`
            rest = text[len(said) :] if said and place not in self.cut else ""
            self.cut.discard(place)
            self._last[place] = text, answer.length + length_of(rest)
            return list(_token(place, rest))
        self._last[place] = text, length_of(text)
        again = any("".join(answer.texts[start:]) == text for start in answer.starts)
        reason: DiscardReason = "retried" if again else "redacted"
        return [*_discarded(place, reason, answer.length), *_token(place, text)]

    def correct(self, place: Place, message: Mapping[str, Any]) -> list[Event]:
        """An agent has ended with this message; it may have been rewritten since it was complete."""
        text, length = self._last.pop(place, ("", 0))
        now = message_text(message)
        if self.stopping or message.get("role") != "assistant" or not text or now == text:
            return []
        discarded = Discarded(agent=place[0], call_id=place[1], reason="redacted", length=length)
        return [discarded, *_token(place, now)]

    def _close(self, place: Place) -> Answer | None:
        answer = self._open.pop(place, None)
        if answer is not None:
            answer.open = False
        return answer

    def _say(self, place: Place, text: str) -> Iterator[Event]:
        if text and not self.stopping:
            self.at(place).texts.append(text)
            yield from _token(place, text)


def _discarded(place: Place, reason: DiscardReason, length: int) -> list[Event]:
    path, call_id = place
    return [Discarded(agent=path, call_id=call_id, reason=reason, length=length)] if length else []


def _token(place: Place, text: str) -> Iterator[Event]:
    if text:
        yield Token(agent=place[0], call_id=place[1], text=text)
