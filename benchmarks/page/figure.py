"""A figure of the page: what runstore did in each round, beside a ceiling or a peer in the same round."""

from collections.abc import Sequence
from statistics import median
from typing import Literal, NamedTuple

from benchmarks.report import Report

COLUMNS = ("what", "runstore", "against", "it", "ratio", "spread", "aim", "met", "client")
NOTE = (
    "Medians of rounds in turns. Ratio: of runstore to what it is measured against, the median of the ratios "
    "within each round, with the lowest and the highest. Client: how much of a core the load generator used, "
    "at most; it is a process of its own."
)


class Aim(NamedTuple):
    """A bound of the ratio, of runstore's own value, or of how much that value is beyond the other."""

    least: float | None = None
    most: float | None = None
    of: Literal["ratio", "value", "difference"] = "ratio"

    def __str__(self) -> str:
        sign, bound = ("≥", self.least) if self.least is not None else ("≤", self.most)
        return f"{self.of} {sign} {bound:g}"

    def met(self, found: float) -> bool:
        return (self.least is None or found >= self.least) and (self.most is None or found <= self.most)


class Figure(NamedTuple):
    """`ours` and `theirs` have a value for each round, in `unit`; `clients`: seconds of CPU a second."""

    what: str
    against: str
    unit: str
    aim: Aim
    ours: Sequence[float]
    theirs: Sequence[float]
    clients: Sequence[float] = ()

    @property
    def ratios(self) -> list[float]:
        return sorted(our / their for our, their in zip(self.ours, self.theirs, strict=True))

    def row(self) -> tuple[str, ...]:
        """The cells of COLUMNS."""
        ratios, ours, theirs = self.ratios, median(self.ours), median(self.theirs)
        found = {"ratio": median(ratios), "value": ours, "difference": ours - theirs}[self.aim.of]
        return (
            self.what,
            f"{_short(ours)} {self.unit}",
            self.against,
            f"{_short(theirs)} {self.unit}",
            f"{median(ratios):.2f}",
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
            str(self.aim),
            "yes" if self.aim.met(found) else "no",
            f"{max(self.clients):.0%}" if self.clients else "",
        )


def page(title: str, figures: Sequence[Figure]) -> Report:
    values = [{**figure._asdict(), "aim": str(figure.aim), "ratios": figure.ratios} for figure in figures]
    return Report(title, COLUMNS, NOTE, [figure.row() for figure in figures], values)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
