"""Output of the commands on runs: tables for people, JSON for scripts, a run's text as it streams."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runstore.core.codec import one_line
from runstore.core.events import Cancelled, Discarded, Failed
from runstore.core.folds.transcript import SEPARATOR, Transcript
from runstore.core.printable import escaped
from runstore.core.records import EventRecord

SHOWN_ROWS = 100  # rows of a table for people unless `--limit` says otherwise; programs get all
_SHOWN = 200  # characters of an event's data in a table cell
_PIPE_WIDTH = 1 << 21  # columns of a table that goes to a pipe: more than any event has characters
_COLOURS = {"running": "cyan", "success": "green", "error": "red", "stopped": "yellow"}
RULE = "─" * 8


def print_json(items: Iterable[Any]) -> None:
    """Write each item as one line and flush it at once."""
    for item in items:
        sys.stdout.buffer.write(one_line(msgspec.json.encode(item)) + b"\n")
        sys.stdout.buffer.flush()


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, most: int | None = None, whole: str = "--json"
) -> None:
    """Print rows under headings.

    In a narrow terminal the widest cells take several lines; in a pipe nothing is wrapped. No cell is cut.

    Args:
        most: rows to print. If there are more, a line on standard error says so.
        whole: the options that print all rows, for that line.
    """
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    left = iter(rows)
    for row in islice(left, most):
        table.add_row(*[value if isinstance(value, Text) else Text(_cell(value)) for value in row])
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
    else:
        Console(width=_PIPE_WIDTH, highlight=False, soft_wrap=True).print(table)
    if most is not None and next(left, None) is not None:
        typer.echo(f"these are the first {most:,} rows: --limit N shows more, {whole} all", err=True)


def status_cell(status: str, *, stopping: bool = False) -> Text:
    """A run's status in its colour."""
    return Text(f"{status}, stopping" if stopping else status, style=_COLOURS.get(status, ""))


def time_cell(at: str | None) -> str:
    """A time for people: how long ago it was, or when it comes, in a terminal; RFC 3339 elsewhere."""
    if not at or not sys.stdout.isatty():
        return at or ""
    ago_s = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    return f"{duration(ago_s)} ago" if ago_s >= 0 else f"in {duration(-ago_s)}"


def duration_cell(begin: str | None, end: str | None) -> str:
    """The time between two times; empty without both."""
    if not begin or not end:
        return ""
    return duration((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())


def duration(seconds: float) -> str:
    """A duration in its two largest units, such as 1.2 s, 3 min 20 s, or 2 d 4 h."""
    if seconds < 60:
        return f"{max(seconds, 0):.1f} s"
    whole, units = round(seconds), ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    place = next(place for place, (size, _) in enumerate(units) if whole >= size)
    (large, name), (small, other) = units[place : place + 2]
    rest = whole % large // small
    return f"{whole // large} {name}" + (f" {rest} {other}" if rest else "")


def print_fields(fields: dict[str, Any]) -> None:
    """Print one field on each line, without empty fields."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in (None, "", {}, False):
            typer.echo(f"{name:<{width}}  {_cell(value)}")


def event_row(event: EventRecord) -> tuple[Any, ...]:
    return (event.seq, time_cell(event.at), event.type, event.by, data_cell(event.data))


def data_cell(data: Any) -> str:
    """An event's data; in a terminal only their beginning."""
    text = _cell(data)
    return f"{text[:_SHOWN]}…" if sys.stdout.isatty() and len(text) > _SHOWN else text


class TextPrinter:
    """Prints a run's text as it streams.

    When text no longer counts, because a new attempt repeats it or it was redacted, a line marks the place
    and the text starts over: only the text after the last such line counts.
    """

    def __init__(self) -> None:
        self._transcript = Transcript()
        self._speaker: str | None = None
        self._column = 0  # 0 at the beginning of a line

    def show(self, event: EventRecord) -> None:
        dropped = self._transcript.add(event)
        if dropped:
            self.end_line()
            self._write(f"{RULE} {_why_dropped(event)} {RULE}\n")
            self._speaker = None
            self._write(self._transcript.text)
        elif self._transcript.added:
            self._say(self._transcript.added, event.data.get("agent"))
        if event.ends:
            self.end_line()

    def end_line(self) -> None:
        if self._column:
            self._write("\n")

    def _say(self, text: str, speaker: str | None) -> None:
        if speaker and self._speaker not in (None, speaker):
            self.end_line()
            self._write(f"[{speaker}]\n")
            text = text.removeprefix(SEPARATOR)
        self._speaker = speaker
        self._write(text)

    def _write(self, text: str) -> None:
        shown = escaped(text.replace("\r", ""), keep="\n\t") if sys.stdout.isatty() else text
        if shown:
            sys.stdout.write(shown)
            sys.stdout.flush()
            self._column = not shown.endswith("\n")


def _why_dropped(event: EventRecord) -> str:
    if event.type == Discarded.type:
        return f"{event.data['reason']}: dropped text that no longer counts"
    return f"attempt {event.data['attempt']}: dropped the text so far and started over"


def ending_of(event: EventRecord) -> str:
    """One line on how a run ended; empty when it completed or has not ended."""
    if event.type == Failed.type:
        return f"the run failed: {event.data['code']}: {_cell(event.data['message'])}"
    if event.type == Cancelled.type:
        return f"the run was stopped: {_cell(event.data['reason'])}"
    return ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return escaped(" ".join(text.split()))
