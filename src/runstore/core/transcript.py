"""What a run has said: a fold over its events that drops what a new attempt says again. Pure."""

from collections.abc import Iterable

from runstore.core.events import Started, Token
from runstore.core.records import EventRecord


class Transcript:
    """The text of a run while its events come in; of all its agents, in their order."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, str]] = []

    @property
    def text(self) -> str:
        """What has been said and is not dropped."""
        return "".join([piece for _, piece in self._pieces])

    def add(self, event: EventRecord) -> str:
        """Take the next event of the run; returns the text that it makes a reader drop, mostly none.

        An `llm.token` adds its text. A `lifecycle.started` with `discard_after_seq` drops the text that
        came after this seq, since the new attempt says it again.
        """
        if event.type == Token.type:
            self._pieces.append((event.seq, event.data["text"]))
        elif event.type == Started.type and (keep := event.data.get("discard_after_seq")) is not None:
            kept = len(self._pieces)
            while kept and self._pieces[kept - 1][0] > keep:
                kept -= 1
            dropped = "".join([piece for _, piece in self._pieces[kept:]])
            del self._pieces[kept:]
            return dropped
        return ""


def text(events: Iterable[EventRecord]) -> str:
    """The text of a run's events, in the order of the run; what a new attempt said again is there once."""
    transcript = Transcript()
    for event in events:
        transcript.add(event)
    return transcript.text
