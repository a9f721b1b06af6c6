"""Sends a chat's client no text twice when a model call is repeated. Pure.

OpenAI's format cannot retract text. So when a model call is repeated, the new text is compared with the text
that the client has. While they are equal, nothing is sent, and the answer continues where the failed call
broke off. Only at a difference must the client drop its text.
"""

from itertools import groupby
from typing import Literal, NamedTuple

from runstore.core.events import Place

MAX_SENT = 65_536  # characters of a message to remember; text beyond that is not compared

Kind = Literal["content", "reasoning_content"]


class Piece(NamedTuple):
    kind: Kind
    text: str


class SentText:
    """The text that a client has of the current message."""

    def __init__(self) -> None:
        self._sent: list[tuple[int, Place, Piece]] = []
        self._size = 0
        self._before = ""  # joined text that was discarded, and that the client still has
        self._again: list[Piece] = []  # pieces repeated so far, which are equal and not sent
        self._same = 0  # characters of `_before` that were repeated
        self._keep: int | None = None  # the seq up to which a client that drops text keeps it

    def send(self, seq: int, speaker: Place, piece: Piece) -> str | None:
        """How much of a new piece to send; None: call `drop`."""
        if self._size <= MAX_SENT:
            self._sent.append((seq, speaker, piece))
            self._size += len(piece.text)
        if not self._before:
            return piece.text
        goes_on = bool(self._again) and self._again[-1].kind == piece.kind
        self._again.append(piece)
        text = piece.text if goes_on else _joined([piece])
        left = len(self._before) - self._same
        if not self._before.startswith(text[:left], self._same):
            return None
        self._same += min(len(text), left)
        if len(text) < left:
            return ""
        self._before, self._again, self._same = "", [], 0
        return piece.text[len(piece.text) - (len(text) - left) :]

    def take_back(self, from_seq: int, speaker: Place | None = None) -> bool:
        """Discard the text of an agent, or of all, from a seq on; False: call `drop`."""
        self._keep = from_seq - 1 if self._keep is None else self._keep
        self._again, self._same = [], 0
        taken = [each for each in self._sent if each[0] >= from_seq]
        if self._size > MAX_SENT or any(speaker not in (None, each[1]) for each in taken):
            return False
        self._sent = self._sent[: len(self._sent) - len(taken)]
        self._size -= sum(len(piece.text) for _, _, piece in taken)
        if not self._before:
            self._before = _joined([piece for _, _, piece in taken])
        return True

    def end(self) -> bool:
        """The message is complete; False if the client has more than it: call `drop`."""
        self._sent, self._size = [], 0
        if not self._before:
            self._keep = None
        return not self._before

    def drop(self) -> tuple[int, str, str]:
        """The seq after which the client must drop its text.

        Then the content and the reasoning to send instead.
        """
        keep, again = self._keep or 0, self._again
        self._keep, self._before, self._again, self._same = None, "", [], 0
        content, reasoning = (
            "".join(piece.text for piece in again if piece.kind == kind)
            for kind in ("content", "reasoning_content")
        )
        return keep, content, reasoning


def _joined(pieces: list[Piece]) -> str:
    """Pieces as one text that also marks where their kind changes."""
    runs = groupby(pieces, key=lambda piece: piece.kind)
    return "".join(f"\0{kind}\0" + "".join(piece.text for piece in run) for kind, run in runs)
