"""The text of a run: a fold over its events that drops text that no longer counts. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from runstore.core.codec import to_json
from runstore.core.events import Completed, Discarded, EventType, Message, Place, Started, Token, ToolStarted
from runstore.core.records import EventRecord

SEPARATOR = "\n\n"  # separates two messages of a run; pieces of one message are joined without it

RESULT = Place("")  # the speaker of a run's result


class _Speech(Struct):
    """Consecutive text of one message."""

    speaker: Place
    seq: int  # seq of the first piece
    ended: int | None = None  # seq of the event that ended the message


class MessageBounds:
    """Finds where one message of a run's text ends and the next begins. Keeps no text.

    A message ends with the agent's `llm.message`, with a tool call, and where another agent speaks.
    """

    def __init__(self) -> None:
        self._speeches: list[_Speech] = []

    @property
    def silent(self) -> bool:
        """Whether the run's own agents have said nothing, without those that work for a tool call."""
        return all(speech.speaker.call_id is not None for speech in self._speeches)

    def separator(self, seq: int, speaker: Place) -> str:
        """The separator before an agent's next piece of text; usually empty."""
        last = self._speeches[-1] if self._speeches else None
        if last is not None and last.ended is None and last.speaker == speaker:
            return ""
        self._speeches.append(_Speech(speaker, seq))
        return "" if last is None else SEPARATOR

    def is_open(self, speaker: Place) -> bool:
        """Whether any text of the agent's current message was said."""
        return self._last_of(speaker) is not None

    def end(self, seq: int, speaker: Place) -> None:
        """The agent's message is complete."""
        if (speech := self._last_of(speaker)) is not None:
            speech.ended = seq

    def _last_of(self, speaker: Place) -> _Speech | None:
        """The agent's text of its current message so far."""
        last = next((speech for speech in reversed(self._speeches) if speech.speaker == speaker), None)
        return last if last is not None and last.ended is None else None

    def discard(self, after: int, of: Place | None = None) -> None:
        """Forget text after a seq, of one agent or of all."""
        self._speeches = [
            speech for speech in self._speeches if speech.seq <= after or of not in (None, speech.speaker)
        ]
        for speech in self._speeches:
            if speech.ended is not None and speech.ended > after and of in (None, speech.speaker):
                speech.ended = None


class _Piece(NamedTuple):
    seq: int
    speaker: Place
    separator: str
    text: str


class Transcript:
    """The text of a run as its events arrive, across all its agents in order.

    `added`: the text that the last event added, with the blank line that separates messages.
    `cut`: the run's result has only the beginning of its text, and no other event has all of it.

    Args:
        of: the type of the events whose text to collect.
        kept: whether to keep the whole `text`.
    """

    def __init__(self, of: EventType = Token.type, *, kept: bool = True) -> None:
        self.added = ""
        self.cut = False
        self._type = of
        self._kept = kept
        self._pieces: list[_Piece] = []
        self._messages = MessageBounds()
        # Agents whose message has come in part, and whether its text was streamed before.
        self._parts: dict[Place, bool] = {}
        # The message to the run's own agent that no answer has followed yet, in its parts.
        self._heard: list[Mapping[str, Any]] = []

    @property
    def text(self) -> str:
        """The text so far, without dropped parts."""
        first, rest = self._pieces[:1], self._pieces[1:]
        return "".join([piece.text for piece in first] + [piece.separator + piece.text for piece in rest])

    def add(self, event: EventRecord) -> str:
        """Take the next event of the run; return the text that a reader must drop, usually none.

        An `llm.token` adds its text, and so does an `llm.message` whose text was not streamed. An
        `llm.discarded` drops its agent's text in this call from `from_seq` on. A `lifecycle.started` with
        `discard_after_seq` drops the text after this seq, since the new attempt repeats it. A
        `lifecycle.completed` adds the part of its result that no agent has said.
        """
        self.added = ""
        if event.type == self._type:
            self._say(event.seq, speaker_of(event.data), event.data["text"])
        elif event.type == Message.type:
            self._hear(event.seq, speaker_of(event.data), event.data)
        elif event.type == ToolStarted.type:
            self._messages.end(event.seq, speaker_of(event.data))
        elif event.type == Discarded.type:
            return self._discard(event.data["from_seq"] - 1, speaker_of(event.data))
        elif event.type == Started.type and (keep := event.data.get("discard_after_seq")) is not None:
            return self._discard(keep)
        elif event.type == Completed.type and self._type == Token.type:
            self.end(event.seq, event.data["result"])
        return ""

    def _hear(self, seq: int, speaker: Place, data: Mapping[str, Any]) -> None:
        """Take a message, or a part of one that is too large for an event."""
        if speaker.call_id is None:
            of_model = data["message"].get("role") != "user"
            before = self._heard if speaker in self._parts else []
            self._heard = [] if of_model else [*before, data["message"]]
        streamed = self._parts.pop(speaker, self._messages.is_open(speaker))
        if not streamed and self._type == Token.type and (text := _answer(data["message"])):
            self._say(seq, speaker, text)
        if data.get("more"):
            self._parts[speaker] = streamed
        else:
            self._messages.end(seq, speaker)

    def end(self, seq: int, result: Mapping[str, Any]) -> None:
        """Add the part of a run's result that no agent has said: its object, or the text of a silent run."""
        self.added = ""
        counts = result.get("structured_output") is not None or self._messages.silent
        if counts and (text := self._result_text(result)):
            self._say(seq, RESULT, text)

    def _result_text(self, result: Mapping[str, Any]) -> str:
        """The answer in a result; where tools ended the run, and it is cut there, their own text."""
        text = result_text(result)
        if result.get("truncated") and result.get("structured_output") is None:
            results = _whole_results(self._heard)
            if results.startswith(text):
                return results
            self.cut = True
        return text

    def say(self, seq: int, speaker: tuple[str, str | None], text: str) -> None:
        """Add text that is in no token. `speaker`: the agent's path, and its call."""
        self._say(seq, Place(*speaker), text)

    def _say(self, seq: int, speaker: Place, text: str) -> None:
        separator = self._messages.separator(seq, speaker)
        self.added = separator + text
        if self._kept:
            self._pieces.append(_Piece(seq, speaker, separator, text))

    def _discard(self, after: int, of: Place | None = None) -> str:
        self._messages.discard(after, of)
        if of is None:
            self._parts = {}
        else:
            self._parts.pop(of, None)
        dropped = [piece for piece in self._pieces if piece.seq > after and of in (None, piece.speaker)]
        gone = {piece.seq for piece in dropped}
        self._pieces = [piece for piece in self._pieces if piece.seq not in gone]
        return "".join([piece.separator + piece.text for piece in dropped])


def text(events: Iterable[EventRecord]) -> str:
    """The text of a run's events in order, without text that no longer counts."""
    transcript = Transcript()
    for event in events:
        transcript.add(event)
    return transcript.text


def speaker_of(data: dict[str, Any]) -> Place:
    """The agent of an event, and its call."""
    return Place(data.get("agent", ""), data.get("call_id"))


def length_of(text: str) -> int:
    """The length of a text in UTF-16 code units, as JavaScript counts: half of a surrogate pair is one."""
    return len(text) + sum(character > "\uffff" for character in text)


def _answer(message: Mapping[str, Any]) -> str:
    """The text of a model's message; empty for a message to the model."""
    return message_text(message) if message.get("role") == "assistant" else ""


def result_text(result: Mapping[str, Any]) -> str:
    """The answer in a run's result: its object as JSON, or else its text."""
    answer = result.get("structured_output")
    if answer is None:
        answer = result.get("text")
    if answer is None or isinstance(answer, str):
        return answer or ""
    return to_json(answer).decode()


def tool_text(message: Mapping[str, Any]) -> str:
    """The text of the tool results in a message to the model; empty for any other message."""
    results = [block["toolResult"] for block in message["content"] if "toolResult" in block]
    texts = [
        to_json(block["json"]).decode() if "json" in block else block["text"]
        for result in results
        for block in blocks_of(result.get("content"))
        if block.keys() & {"text", "json"}
    ]
    return "\n".join(texts)


def _whole_results(parts: Iterable[Mapping[str, Any]]) -> str:
    """The text of the tool results in a message; empty if its events leave out some of it."""
    blocks = [block for part in parts for block in blocks_of(part.get("content")) if "toolResult" in block]
    whole = all("content" in block["toolResult"] for block in blocks)
    return tool_text({"content": blocks}) if whole else ""


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message, without its tool calls and reasoning, joined as it was streamed."""
    content: list[dict[str, Any]] = []
    for block in blocks_of(message.get("content")):
        cited = block.get("citationsContent")
        content += blocks_of(cited.get("content")) if isinstance(cited, dict) else [block]
    return "".join([text for block in content if isinstance(text := block.get("text"), str)])


def blocks_of(content: Any) -> list[dict[str, Any]]:
    """The blocks of a message. Programs may have stored other values, which become blocks, too."""
    found = content if isinstance(content, list) else [] if content is None else [content]
    return [block if isinstance(block, dict) else _block(block) for block in found]


def _block(value: Any) -> dict[str, Any]:
    return {"text": value} if isinstance(value, str) else {"json": value}


def within(value: Any, *names: str) -> Any:
    """The value at a path of names; None if an object on the way lacks one or is no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
