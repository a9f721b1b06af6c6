"""A run as passages that people read: who said, asked or did what. A fold over its events. Pure.

Streamed text is kept only until the message comes that repeats it. So a fold needs the memory of the text
that is being said, and not of the run.
"""

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import UNSET, Struct

from runstore.core.events import Place
from runstore.core.folds.transcript import blocks_of, message_text, result_text, speaker_of, within
from runstore.core.records import EventRecord

IMAGES = frozenset({"png", "jpeg", "gif", "webp"})  # formats that a browser shows and that hold no script


class ShownImage(Struct, frozen=True):
    """`data`: base64, as the event holds it."""

    format: str
    data: str


class Passage(Struct, frozen=True):
    """The part of a transcript from one event, or from streamed text. `value`: UNSET without one."""

    heading: str
    text: str = ""
    value: Any = UNSET
    images: tuple[ShownImage, ...] = ()


class _Speech(Struct):
    """Streamed text that no message has repeated yet, in pieces of its seq and text."""

    text: list[tuple[int, str]] = []
    reasoning: list[tuple[int, str]] = []


class Passages:
    """Folds a run's events into passages."""

    def __init__(self) -> None:
        self._speeches: dict[Place, _Speech] = {}
        self._spoke = False  # whether an agent has said anything

    def add(self, event: EventRecord) -> Iterator[Passage]:
        """The passages that the run's next event completes."""
        if event.type.startswith("custom."):
            yield _content(f"{event.type.removeprefix('custom.')}{_of(event.by)}", _note(event.data))
        elif handle := HANDLERS.get(event.type):
            yield from handle(self, event)

    def end(self) -> Iterator[Passage]:
        """The text that no message has ended yet."""
        for speaker in list(self._speeches):
            yield from self._say(speaker)

    def _queued(self, event: EventRecord) -> Iterator[Passage]:
        yield _content(f"Input of {event.data['user_id']}", event.data["input"])

    def _started(self, event: EventRecord) -> Iterator[Passage]:
        discarded = event.data.get("discard_after_seq") is not None
        for speaker in list(self._speeches):
            yield from self._say(speaker, "discarded" if discarded else "")
        if event.data["attempt"] > 1:
            yield Passage(f"Attempt {event.data['attempt']}, {event.at}")

    def _token(self, event: EventRecord) -> Iterator[Passage]:
        self._open(event).text.append((event.seq, event.data["text"]))
        return iter(())

    def _reasoning(self, event: EventRecord) -> Iterator[Passage]:
        self._open(event).reasoning.append((event.seq, event.data["text"]))
        return iter(())

    def _message(self, event: EventRecord) -> Iterator[Passage]:
        message = event.data["message"]
        if message.get("role") != "assistant":
            return
        self._speeches.pop(speaker_of(event.data), None)
        blocks = blocks_of(message.get("content"))
        thoughts = [within(block, "reasoningContent", "reasoningText", "text") for block in blocks]
        reasoning = "".join(thought for thought in thoughts if isinstance(thought, str))
        yield from self._speech(event.data["agent"], message_text(message), reasoning, "", _images(blocks))

    def _discarded(self, event: EventRecord) -> Iterator[Passage]:
        """Show text that no longer counts, unless it was withheld or the agent is about to repeat it."""
        speech, speaker = self._open(event), speaker_of(event.data)
        first, reason = event.data["from_seq"], event.data["reason"]
        if reason in ("retried", "redacted"):
            speech.text = [piece for piece in speech.text if piece[0] < first]
            speech.reasoning = [piece for piece in speech.reasoning if piece[0] < first]
        else:
            yield from self._say(speaker, "discarded")

    def _finished(self, event: EventRecord) -> Iterator[Passage]:
        yield from self._say(speaker_of(event.data))

    def _tool_started(self, event: EventRecord) -> Iterator[Passage]:
        yield Passage(f"Tool {event.data['name']}{_of(event.data['agent'])}", value=event.data.get("input"))

    def _tool_ended(self, event: EventRecord) -> Iterator[Passage]:
        word = "Error" if event.type == "tool.failed" else "Result"
        yield _content(f"{word} of {event.data['name']}", event.data.get("output"))

    def _asked(self, event: EventRecord) -> Iterator[Passage]:
        data = event.data
        call = {name: data[name] for name in ("tool", "input") if data.get(name) is not None}
        yield Passage(f"Question{_of(data['agent'])}", data["prompt"], call or UNSET)

    def _answered(self, event: EventRecord) -> Iterator[Passage]:
        by = event.data.get("by")
        yield Passage(f"Answer{_of(by) or ' by default'}", value=event.data["answer"])

    def _added(self, event: EventRecord) -> Iterator[Passage]:
        yield _content(f"Message{_of(event.data['by'])}", event.data["content"])

    def _stop(self, event: EventRecord) -> Iterator[Passage]:
        yield Passage(f"Stop asked for by {event.data['by']}, {event.at}", event.data["reason"])

    def _ended(self, event: EventRecord) -> Iterator[Passage]:
        yield from self.end()
        if event.type == "lifecycle.failed":
            yield Passage(f"Failed: {event.data['code']}, {event.at}", event.data["message"])
        elif event.type == "lifecycle.cancelled":
            yield Passage(f"Stopped, {event.at}", event.data["reason"])
        elif not self._spoke:
            yield Passage(f"Result, {event.at}", result_text(event.data["result"]), event.data["result"])

    def _open(self, event: EventRecord) -> _Speech:
        return self._speeches.setdefault(speaker_of(event.data), _Speech())

    def _say(self, speaker: Place, note: str = "") -> Iterator[Passage]:
        speech = self._speeches.pop(speaker, _Speech())
        text, reasoning = ("".join(each for _, each in pieces) for pieces in (speech.text, speech.reasoning))
        yield from self._speech(speaker[0], text, reasoning, note)

    def _speech(
        self, agent: str, text: str, reasoning: str, note: str, images: tuple[ShownImage, ...] = ()
    ) -> Iterator[Passage]:
        self._spoke = self._spoke or bool(text)
        if reasoning:
            yield Passage(f"{agent}, reasoning", reasoning)
        if text or images:
            yield Passage(f"{agent} ({note})" if note else agent, text, images=images)


HANDLERS: dict[str, Callable[[Passages, EventRecord], Iterator[Passage]]] = {
    "lifecycle.queued": Passages._queued,
    "lifecycle.started": Passages._started,
    "agent.finished": Passages._finished,
    "llm.token": Passages._token,
    "llm.reasoning": Passages._reasoning,
    "llm.message": Passages._message,
    "llm.discarded": Passages._discarded,
    "tool.started": Passages._tool_started,
    "tool.finished": Passages._tool_ended,
    "tool.failed": Passages._tool_ended,
    "input.requested": Passages._asked,
    "input.given": Passages._answered,
    "input.added": Passages._added,
    "cancel.requested": Passages._stop,
    "lifecycle.completed": Passages._ended,
    "lifecycle.failed": Passages._ended,
    "lifecycle.cancelled": Passages._ended,
}


def _of(name: str | None) -> str:
    return f" of {name}" if name else ""


def _note(data: Any) -> Any:
    """The text of a note, or all of another event."""
    return data["text"] if isinstance(data, dict) and isinstance(data.get("text"), str) else data


def _content(heading: str, value: Any) -> Passage:
    """Text as text, content blocks as their texts and images, and anything else as it is."""
    if isinstance(value, str):
        return Passage(heading, value)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return Passage(heading, value=value)
    texts = [block["text"] for block in value if isinstance(block.get("text"), str)]
    images = _images(value)
    shown = len(texts) + len(images) == len(value)
    return Passage(heading, "\n".join(texts), UNSET if shown else value, images)


def _images(blocks: list[dict[str, Any]]) -> tuple[ShownImage, ...]:
    found = [
        (within(block, "image", "format"), within(block, "image", "source", "bytes")) for block in blocks
    ]
    return tuple(
        ShownImage(format, data)
        for format, data in found
        if isinstance(format, str) and format in IMAGES and isinstance(data, str)
    )
