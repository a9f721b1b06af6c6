"""What a benchmark has to say."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """A table: `rows` have a cell for each of `columns`; `values`: the numbers behind them, for JSON."""

    title: str
    columns: Sequence[str]
    note: str = ""
    rows: list[Sequence[str]] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append([cell if isinstance(cell, str) else f"{cell:,.0f}" for cell in cells])


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the values lie; nan when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
