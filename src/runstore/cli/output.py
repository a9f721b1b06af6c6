"""Output of the commands on runs: tables for people, JSON for scripts, a run's text as it streams."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runstore.core.events import Cancelled, Discarded, Failed
from runstore.core.printable import escaped
from runstore.core.records import EventRecord
from runstore.core.transcript import SEPARATOR, Transcript

_SHOWN = 200  # characters of an event's data in a table cell
_PIPE_WIDTH = 1_000  # columns of a table that goes to a pipe
RULE = "─" * 8


def print_json(items: Iterable[Any]) -> None:
    """Write each item as one line and flush it at once."""
    for item in items:
        sys.stdout.buffer.write(msgspec.json.encode(item) + b"\n")
        sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under headings; in a narrow terminal the last column takes several lines."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name != columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*[Text(_cell(value)) for value in row])
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False).print(table)


def print_fields(fields: dict[str, Any]) -> None:
    """Print one field on each line, without empty fields."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in (None, "", {}, False):
            typer.echo(f"{name:<{width}}  {_cell(value)}")


def event_row(event: EventRecord) -> tuple[Any, ...]:
    return (event.seq, event.at, event.type, _cell(event.data)[:_SHOWN])


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
