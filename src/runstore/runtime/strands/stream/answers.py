"""Tracks each agent's answer until it becomes a message, and discards streamed text that does not count.

A model call may fail after it has streamed text and be repeated; a hook may reject an answer, and a
guardrail, hook or middleware may replace one. strands streams all of that. The message that strands adds to
the conversation decides: streamed text that is not in it is discarded, and missing text is added.
"""

from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple

from msgspec import Struct, field

from runstore.core.events import Discarded, DiscardReason, Event, Place, Reasoning, Token
from runstore.core.folds.transcript import length_of, message_text
from runstore.runtime.strands.stream.chunks import SaidText


class AnswerText(NamedTuple):
    """The reasoning and the text of an answer."""

    thoughts: str
    text: str

    @property
    def length(self) -> int:
        return length_of(self.thoughts) + length_of(self.text)


class OpenAnswer(Struct):
    """The text of a model call so far."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    # Number of texts before each start of a provider's stream.
    starts: list[int] = field(default_factory=list)

    @property
    def words(self) -> AnswerText:
        return AnswerText("".join(self.thoughts), "".join(self.texts))


class OpenAnswers:
    """The open model calls of one attempt, each of one agent at one place.

    Args:
        written: paths of agents whose messages the hooks record, so that the stream's are duplicates.
    """

    def __init__(self, written: Set[str] = frozenset()) -> None:
        self.written = written
        self.stopping = False  # the run is stopping: text so far stays, unless it is redacted
        self.cancelled: set[Place] = set()  # places whose answers strands has replaced by a note
        self.cut: set[Place] = set()  # places whose answers a limit has cut; strands appends a note to them
        self.rewritten: set[Place] = set()  # places whose answers a hook or middleware may rewrite
        self.judged_last: set[Place] = set()  # places whose last answers a hook may rewrite as the agent ends
        self._unjudged: set[Place] = set()  # of those, the ones whose last answers no hook has judged
        self._open: dict[Place, OpenAnswer] = {}
        # The last message's words, and how much of them was streamed.
        self._last: dict[Place, tuple[AnswerText, int]] = {}

    def at(self, place: Place) -> OpenAnswer:
        """The answer of the agent at a place."""
        answer = self._open.get(place)
        if answer is None:
            answer = self._open[place] = OpenAnswer()
            self._unjudged.discard(place)  # it was not the last
        return answer

    def say(self, place: Place, piece: SaidText) -> Token | Reasoning:
        """The event of a text that the agent at a place says now."""
        answer = self.at(place)
        (answer.texts if piece.event is Token else answer.thoughts).append(piece.text)
        return piece.event(agent=place.agent, call_id=place.call_id, text=piece.text)

    def start(self, place: Place) -> None:
        """Note that a provider's stream starts, perhaps not the first one of this model call."""
        if (answer := self._open.get(place)) is not None:
            answer.starts.append(len(answer.texts))

    def take_back(self, place: Place, reason: DiscardReason) -> list[Event]:
        """Discard an agent's answer."""
        answer = self._close(place)
        if answer is None or (self.stopping and reason != "redacted"):
            return []
        return _discarded(place, reason, answer.words.length)

    def take_back_all(self, reason: DiscardReason) -> list[Event]:
        """Discard all incomplete answers."""
        return [event for place in list(self._open) for event in self.take_back(place, reason)]

    def redact(self, place: Place, text: str) -> list[Event]:
        """Replace an agent's answer, and withhold the original."""
        events = self.take_back(place, "redacted")
        return [*events, *self._say(place, text)]

    def complete(self, place: Place, message: Mapping[str, Any]) -> list[Event]:
        """Compare an agent's answer with the message that it has become."""
        self._unjudged.discard(place)
        if message.get("role") != "assistant":
            return []
        answer = self._close(place) or OpenAnswer()
        if self.stopping and place in self.cancelled:
            self._last.pop(place, None)
            return []
        self._unjudged |= {place} & self.judged_last
        recorded, words = answer.words, _words_of(message)
        # A provider's reasoning may be missing from the message without a hook's doing.
        rethought = place in self.rewritten and recorded.thoughts not in ("", words.thoughts)
        if words.text.startswith(recorded.text) and not rethought:
            # Text that was not streamed at all is in its `llm.message`.
            rest = words.text[len(recorded.text) :] if recorded.text and place not in self.cut else ""
            self.cut.discard(place)
            self._last[place] = words, recorded.length + length_of(rest)
            return list(_token(place, rest))
        self._last[place] = words, words.length
        again = any("".join(answer.texts[start:]) == words.text for start in answer.starts)
        reason: DiscardReason = "retried" if again else "redacted"
        return [*_discarded(place, reason, recorded.length), *_say(place, words)]

    def correct(self, place: Place, message: Mapping[str, Any]) -> list[Event]:
        """Compare an agent's last message with its answer, as it may have been rewritten afterwards."""
        words, length = self._last.pop(place, (AnswerText("", ""), 0))
        now = _words_of(message)
        if message.get("role") != "assistant" or words in (now, AnswerText("", "")):
            return []
        discarded = Discarded(agent=place.agent, call_id=place.call_id, reason="redacted", length=length)
        return [discarded, *_say(place, now)]

    def judged(self, place: Place) -> None:
        """Note that the hooks for the end of an agent have succeeded."""
        self._unjudged.discard(place)

    def withhold(self, place: Place) -> list[Event]:
        """Withhold the last answer of an agent that ends, if such a hook has failed."""
        if place not in self._unjudged:
            return []
        self._unjudged.discard(place)
        _, length = self._last.pop(place, (AnswerText("", ""), 0))
        return [Discarded(agent=place.agent, call_id=place.call_id, reason="redacted", length=length)]

    def end_all(self) -> list[Event]:
        """Discard all answers that are incomplete, or that a hook has failed to judge."""
        unjudged = [event for place in list(self._unjudged) for event in self.withhold(place)]
        return [*self.take_back_all("failed"), *unjudged]

    def _close(self, place: Place) -> OpenAnswer | None:
        return self._open.pop(place, None)

    def _say(self, place: Place, text: str) -> Iterator[Event]:
        if text and not self.stopping:
            self.at(place).texts.append(text)
            yield from _token(place, text)


def _discarded(place: Place, reason: DiscardReason, length: int) -> list[Event]:
    path, call_id = place
    return [Discarded(agent=path, call_id=call_id, reason=reason, length=length)] if length else []


def _say(place: Place, words: AnswerText) -> Iterator[Event]:
    if words.thoughts:
        yield Reasoning(agent=place.agent, call_id=place.call_id, text=words.thoughts)
    yield from _token(place, words.text)


def _words_of(message: Mapping[str, Any]) -> AnswerText:
    blocks = [block["reasoningContent"] for block in message["content"] if "reasoningContent" in block]
    thoughts = [block.get("reasoningText", {}).get("text") or "" for block in blocks]
    return AnswerText("".join(thoughts), message_text(message))


def _token(place: Place, text: str) -> Iterator[Event]:
    if text:
        yield Token(agent=place.agent, call_id=place.call_id, text=text)
