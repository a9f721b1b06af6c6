"""The cursors of a reader in several runs, as one text that is the id of each of its frames. Pure.

Named runs: `CHECK.SEQ.SEQ…`, in the order of the names, which the reader sends again. `CHECK` is a checksum
of the names: cursors of other runs are refused.
All of a user's runs: `own.POSITION.SECONDS`, then `.RUN:SEQ` for each run that has not ended. A user's runs
begin in the log in the order in which they were queued, so a run that begins beyond POSITION is new. SECONDS
is the time since 1970 at which the newest known run was made.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID
from zlib import crc32

from runstore.core.errors import InvalidCursor

MAX_FOLLOWED_RUNS = 100  # runs that one reader follows at a time: each frame's id names all their cursors
GONE = "x"  # replaces the seq of a run whose events were deleted, once the reader knows

_SEQ = "[0-9]{1,18}"
_NAMED = re.compile(rf"[0-9a-f]{{8}}(\.(?:{_SEQ}|{GONE})){{1,{MAX_FOLLOWED_RUNS}}}")
_OWN = re.compile(rf"own\.{_SEQ}\.{_SEQ}(\.[A-Za-z0-9_-]{{22}}:{_SEQ}){{0,{MAX_FOLLOWED_RUNS}}}")


class NamedRunCursors:
    """The cursors in runs that are followed by name. They include runs that have ended.

    Args:
        seqs: the last seq that the reader has of each run.
    """

    def __init__(self, seqs: dict[str, int]) -> None:
        self._check = f"{crc32(','.join(seqs).encode()):08x}"
        self._seqs = {run_id: str(seq) for run_id, seq in seqs.items()}

    def resume(self, text: str) -> None:
        """Continue from the text of an earlier frame.

        Raises:
            InvalidCursor: the text is malformed, or belongs to other runs.
        """
        if _NAMED.fullmatch(text) is None:
            raise _no_cursor(text)
        check, *seqs = text.split(".")
        if check != self._check or len(seqs) != len(self._seqs):
            raise InvalidCursor(f"the cursor {text[:50]!r} belongs to other runs, or another order of runs")
        self._seqs = dict(zip(self._seqs, seqs, strict=True))

    @property
    def text(self) -> str:
        return ".".join([self._check, *self._seqs.values()])

    def open(self) -> dict[str, int]:
        """The runs to follow, and the seqs that the reader has of them."""
        return {run_id: int(seq) for run_id, seq in self._seqs.items() if seq != GONE}

    def move(self, run_id: str, seq: int) -> None:
        self._seqs[run_id] = str(seq)

    def end(self, run_id: str) -> None:
        """The run has ended, and the reader has all of its events."""

    def lose(self, run_id: str) -> None:
        """The reader learns that the run's events were deleted."""
        self._seqs[run_id] = GONE


class OwnRunCursors:
    """The cursors in all of a user's runs. A run leaves them when it ends.

    Args:
        position: of the newest known run's first event in the log.
        seconds: since 1970, when that run was made.
    """

    def __init__(self, position: int, seconds: int) -> None:
        self.position = position
        self.seconds = seconds
        self._seqs: dict[str, str] = {}
        self._names: dict[str, str] = {}  # the runs' short names: the text is written for each frame

    @classmethod
    def parse(cls, text: str) -> "OwnRunCursors":
        """Raises InvalidCursor."""
        if _OWN.fullmatch(text) is None:
            raise _no_cursor(text)
        _, position, seconds, *runs = text.split(".")
        cursors = cls(int(position), int(seconds))
        for name, _, seq in (run.partition(":") for run in runs):
            run_id = str(UUID(bytes=urlsafe_b64decode(f"{name}==")))
            cursors._seqs[run_id] = seq
            cursors._names[run_id] = _short(run_id)
        return cursors

    @property
    def text(self) -> str:
        runs = [f".{self._names[run_id]}:{seq}" for run_id, seq in self._seqs.items()]
        return f"own.{self.position}.{self.seconds}{''.join(runs)}"

    @property
    def free(self) -> int:
        """The number of runs that may still be added."""
        return MAX_FOLLOWED_RUNS - len(self._seqs)

    def add(self, run_id: str, position: int) -> bool:
        """Follow a new run; False if it is known already."""
        self.position = max(self.position, position)
        self.seconds = max(self.seconds, (UUID(run_id).int >> 80) // 1_000)
        if run_id in self._seqs:
            return False
        self._seqs[run_id] = "0"
        self._names[run_id] = _short(run_id)
        return True

    def open(self) -> dict[str, int]:
        return {run_id: int(seq) for run_id, seq in self._seqs.items()}

    def move(self, run_id: str, seq: int) -> None:
        self._seqs[run_id] = str(seq)

    def end(self, run_id: str) -> None:
        del self._seqs[run_id], self._names[run_id]

    lose = end


StreamCursors = NamedRunCursors | OwnRunCursors


def _short(run_id: str) -> str:
    return urlsafe_b64encode(UUID(run_id).bytes).rstrip(b"=").decode()


def _no_cursor(text: str) -> InvalidCursor:
    return InvalidCursor(f"the cursor {text[:50]!r} is not the id of an event of such a stream")
