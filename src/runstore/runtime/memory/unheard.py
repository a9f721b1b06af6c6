"""Finds the messages that people added to a run and that no agent has taken yet. Pure."""

from collections.abc import Iterable
from sys import maxsize

from msgspec import Struct, field

Range = tuple[int, int]  # seqs: after the first, up to the second


class UnheardMessages(Struct):
    """The seqs of these messages, as ranges in order. The last one has no end."""

    ranges: list[Range] = field(default_factory=lambda: [(0, maxsize)])

    @property
    def after(self) -> int:
        """The seq up to which all messages have been taken."""
        return self.ranges[0][0]

    def __contains__(self, seq: int) -> bool:
        return any(after < seq <= upto for after, upto in self.ranges)

    def take(self, seq: int) -> list[Range]:
        """Take the messages up to this seq; returns their ranges."""
        taken = [(after, min(upto, seq)) for after, upto in self.ranges if after < seq]
        self.ranges = [(max(after, seq), upto) for after, upto in self.ranges if upto > seq]
        return taken

    def give_back(self, taken: Iterable[Range]) -> None:
        """Let others take these messages: the agent that has them starts again."""
        joined: list[Range] = []
        for after, upto in sorted([*self.ranges, *taken]):
            if joined and after <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], upto))
            else:
                joined.append((after, upto))
        self.ranges = joined
