"""`python -m benchmarks.plots RESULTS.json … FOLDER`: draw what benchmarks have written by `--json`, as SVG.

`growth` gives `growth-NAME.svg` for each database: time per append, start, list and replay against the size
of the log. `append` gives `tokens-NAME.svg`: tokens per second against runs at once.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.growth import QUESTIONS

DRAWN = ("start", "append", "runs", "replay")  # the questions of `growth` that are lines
WIDTH, HEIGHT = 720, 420  # of a plot, in pixels
LEFT, RIGHT, TOP, BOTTOM = 70, 220, 50, 50  # its margins; the names of the lines are at the right
COLORS = ("#4269d0", "#b3570f", "#a62a3a", "#2b7a3d", "#7b4fb5")  # dark enough for text on white
SUFFIXES = {0: "", 3: " thousand", 6: " million"}

Point = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """Lines through points, on logarithmic axes; all values must be positive."""

    title: str
    across: str
    up: str
    lines: Mapping[str, Sequence[Point]]


def plots_of(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, Plot]]:
    """The plots that the tables of benchmarks make, by the names of their files."""
    for table in results.get("growth", ()):
        if found := re.match(r"A log that grows, on (\w+)", table["title"]):
            yield f"growth-{found[1].lower()}", _growth(found[1], table)
    for table in results.get("append", ()):
        if found := re.match(r"Appends of running agents \((\w+)", table["title"]):
            points = [(_number(runs), _number(rate)) for runs, rate, *_ in table["rows"]]
            title = f"Tokens that are committed per second, on {found[1]}"
            yield f"tokens-{found[1].lower()}", Plot(title, "runs at once", "tokens/s", {"tokens/s": points})


def _growth(database: str, table: Mapping[str, Any]) -> Plot:
    sizes = [_number(column) for column in table["columns"] if column.endswith(" events")]
    rows = {name: cells for name, *cells in table["rows"]}
    lines = {
        QUESTIONS[name]: list(zip(sizes, map(_number, rows[QUESTIONS[name]]), strict=False)) for name in DRAWN
    }
    return Plot(f"What the size of the log costs, on {database}", "events in the log", "ms", lines)


def _number(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))


def svg_of(plot: Plot) -> str:
    """The plot as an SVG document."""
    points = [point for line in plot.lines.values() for point in line]
    across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img"><title>{escape(plot.title)}</title>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 22, plot.title, size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, plot.across, anchor="middle"),
        _text(LEFT, TOP - 10, plot.up),
    ]
    for value in across.ticks:
        x = across.place(value)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 18, _shown(value), anchor="middle"))
    for value in up.ticks:
        y = up.place(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, _shown(value), anchor="end"))
    parts += _lines(plot, across, up)
    return "\n".join([*parts, "</svg>", ""])


def _lines(plot: Plot, across: "_Axis", up: "_Axis") -> Iterator[str]:
    """The lines with their names, which are moved apart where lines end close together."""
    lowest = TOP - 16.0
    ends = sorted(plot.lines.items(), key=lambda line: up.place(line[1][-1][1]))
    for number, (name, points) in enumerate(ends):
        color = COLORS[number % len(COLORS)]
        places = [(across.place(x), up.place(y)) for x, y in points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places)
        lowest = max(lowest + 16, places[-1][1])
        yield _text(WIDTH - RIGHT + 10, lowest + 4, name, color=color)


class _Axis:
    """A logarithmic axis, over whole powers of ten."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        self._low = floor(log10(min(values)))
        self._high = max(ceil(log10(max(values))), self._low + 1)
        self._first, self._last = first, last

    @property
    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self._low, self._high + 1)]

    def place(self, value: float) -> float:
        """In pixels."""
        share = (log10(value) - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)


def _shown(value: float) -> str:
    for power, suffix in sorted(SUFFIXES.items(), reverse=True):
        if value >= 10**power:
            return f"{value / 10**power:g}{suffix}"
    return f"{value:g}"


def _text(
    x: float, y: float, said: str, *, anchor: str = "start", size: int = 12, color: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">'
        f"{escape(said)}</text>"
    )


def main(
    files: Annotated[list[Path], typer.Argument(help="What --json has written; at last the folder.")],
) -> None:
    """Draw the tables of benchmarks as SVG.

    Example: python -m benchmarks.plots growth.json append.json docs/images
    """
    *results, folder = files
    for file in results:
        for name, plot in plots_of(json.loads(file.read_text())):
            path = folder / f"{name}.svg"
            path.write_text(svg_of(plot))
            print(path)


if __name__ == "__main__":
    typer.run(main)
