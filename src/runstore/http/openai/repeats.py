"""What a chat's client need not be sent twice: text that was taken back, and is then said again. Pure.

OpenAI's format cannot take anything back. So when a model call is made again, what the client has is
compared with what now comes: as long as that is the same, nothing is sent, and the answer goes on where the
failed call broke off. Only when it differs is the client told to drop what it has.
"""

from itertools import groupby
from typing import Literal, NamedTuple

from runstore.core.transcript import Speaker

MAX_SENT = 65_536  # characters of a message that are remembered; text of a longer one is not compared

Kind = Literal["content", "reasoning_content"]


class Piece(NamedTuple):
    kind: Kind
    text: str


class Repeats:
    """What a client has been sent of the message that is being said."""

    def __init__(self) -> None:
        self._sent: list[tuple[int, Speaker, Piece]] = []
        self._size = 0
        self._before = ""  # joined: has been taken back, and is still with the client
        self._again: list[Piece] = []  # what has been said in its place; not sent, as it is the same so far
        self._same = 0  # so many characters of `_before` have been said again
        self._keep: int | None = None  # the seq up to which a client that drops keeps what it has

    def send(self, seq: int, speaker: Speaker, piece: Piece) -> str | None:
        """How much to send of a piece that is said; None: it is time for `drop`."""
        if self._size <= MAX_SENT:
            self._sent.append((seq, speaker, piece))
            self._size += len(piece.text)
        if not self._before:
            return piece.text
        goes_on = bool(self._again) and self._again[-1].kind == piece.kind
        self._again.append(piece)
        said = piece.text if goes_on else _joined([piece])
        left = len(self._before) - self._same
        if not self._before.startswith(said[:left], self._same):
            return None
        self._same += min(len(said), left)
        if len(said) < left:
            return ""
        self._before, self._again, self._same = "", [], 0
        return piece.text[len(piece.text) - (len(said) - left) :]

    def take_back(self, from_seq: int, speaker: Speaker | None = None) -> bool:
        """What an agent, or all, have said from a seq on no longer counts; False: it is time for `drop`."""
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
        """The message is complete; False: the client has more than it, and it is time for `drop`."""
        self._sent, self._size = [], 0
        if not self._before:
            self._keep = None
        return not self._before

    def drop(self) -> tuple[int, str, str]:
        """The seq after which the client is to drop what it has; the content and the reasoning instead."""
        keep, again = self._keep or 0, self._again
        self._keep, self._before, self._again, self._same = None, "", [], 0
        content, reasoning = (
            "".join(piece.text for piece in again if piece.kind == kind)
            for kind in ("content", "reasoning_content")
        )
        return keep, content, reasoning


def _joined(pieces: list[Piece]) -> str:
    """Pieces as one text, in which a change of the kind is to be seen."""
    runs = groupby(pieces, key=lambda piece: piece.kind)
    return "".join(f"\0{kind}\0" + "".join(piece.text for piece in run) for kind, run in runs)
