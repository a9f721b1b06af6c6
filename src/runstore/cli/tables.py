"""Rows of a report, as a table for people or as JSON, CSV or Parquet for programs."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import Struct

from runstore.cli.output import SHOWN_ROWS, duration, print_json, print_table, status_cell, time_cell
from runstore.core.errors import ConfigError
from runstore.core.printable import csv_cell

BATCH_ROWS = 10_000  # rows of a Parquet file that are in memory at once
BATCH_CHARACTERS = 64 << 20  # characters that end a batch: an event may have 1 MiB
AT_LEAST = "≥ "  # stands before a cost that may be higher
LEGEND = (
    f"{AT_LEAST}marks the cost of runs whose answer broke off before its usage was known: it is at least that"
)
WHOLE = "--json, --csv or --parquet"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, one object on a line.")]
CsvFile = Annotated[Path | None, typer.Option("--csv", help="Write CSV to this file; - for standard output.")]
ParquetFile = Annotated[
    Path | None, typer.Option("--parquet", help="Write Parquet to this file (extra `parquet`).")
]

SQLITE = b"SQLite format 3\0"  # the first bytes of each database

Row = dict[str, Any]


class Field(Struct, frozen=True):
    """A field of a report's rows. `heading`: of its column in a table for people, which may leave it out.

    `shown`: how a table shows the value, as in the lists of runs; `duration`: of milliseconds; `cost`: marked
    as a lower bound in a row that is incomplete.
    """

    name: str
    heading: str | None = None
    type: Literal["text", "integer", "number", "flag"] = "text"
    shown: Literal["value", "status", "time", "duration", "cost"] = "value"


@dataclass(frozen=True)
class Form:
    """How to print rows: a table unless one of these is given. A group of options: see `grouped`.

    Raises:
        BadParameter: more than one of them is given.
    """

    as_json: AsJson = False
    csv: CsvFile = None
    parquet: ParquetFile = None

    def __post_init__(self) -> None:
        if self.as_json + (self.csv is not None) + (self.parquet is not None) > 1:
            raise typer.BadParameter("give one of --json, --csv and --parquet")

    @property
    def for_people(self) -> bool:
        """Whether the rows are printed as a table."""
        return not self.as_json and self.csv is None and self.parquet is None

    def write_matching(
        self, fields: Sequence[Field], read: Callable[[int | None], Iterable[Row]], limit: int | None
    ) -> None:
        """Write the matching rows: all of them for a program, the first ones for people.

        Args:
            read: the first rows of a number, page by page; None: all.
            limit: the number that was asked for.

        Raises:
            ConfigError: see `write`.
        """
        if limit is None and self.for_people:
            self.write(fields, read(SHOWN_ROWS + 1), most=SHOWN_ROWS)
        else:
            self.write(fields, read(limit))

    def write(self, fields: Sequence[Field], rows: Iterable[Row], *, most: int | None = None) -> None:
        """Write all rows, or in a table at most so many.

        Raises:
            ConfigError: a file cannot be written, or the package for Parquet is missing.
        """
        if self.as_json:
            print_json(rows)
        elif self.csv is not None:
            _write_csv(self.csv, fields, rows)
        elif self.parquet is not None:
            _write_parquet(self.parquet, fields, rows)
        else:
            shown = [field for field in fields if field.heading is not None]
            cells = [[_cell(field, row) for field in shown] for row in rows]
            print_table([field.heading or "" for field in shown], cells, most=most, whole=WHOLE)
            if any(str(cell).startswith(AT_LEAST) for row in cells[:most] for cell in row):
                typer.echo(LEGEND, err=True)


def _cell(field: Field, row: Row) -> Any:
    value: Any = row.get(field.name)
    match field.shown:
        case "status":
            return status_cell(value, stopping=row["cancel_requested"] and row["completed_at"] is None)
        case "time":
            return time_cell(value)
        case "duration":
            return duration(value / 1_000) if value else ""  # it never started
        case "cost":
            return "" if value is None else f"{AT_LEAST if row.get('incomplete') else ''}{value:,.4f}"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4f}" if isinstance(value, float) else value


def _write_csv(path: Path, fields: Sequence[Field], rows: Iterable[Row]) -> None:
    if str(path) == "-":
        _write_lines(sys.stdout, fields, rows)
        return
    with _whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        _write_lines(file, fields, rows)


def _write_lines(file: Any, fields: Sequence[Field], rows: Iterable[Row]) -> None:
    lines = csv.writer(file)
    lines.writerow([field.name for field in fields])
    lines.writerows([csv_cell(row.get(field.name)) for field in fields] for row in rows)


def _write_parquet(path: Path, fields: Sequence[Field], rows: Iterable[Row]) -> None:
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        missing = "--parquet needs a package that is missing: pip install 'runstore[parquet]'"
        raise ConfigError(missing) from error
    types = {
        "text": pyarrow.string(), "integer": pyarrow.int64(), "number": pyarrow.float64(),
        "flag": pyarrow.bool_(),
    }  # fmt: skip
    schema = pyarrow.schema([(field.name, types[field.type]) for field in fields])
    left = iter(rows)
    with _whole(path) as part, parquet.ParquetWriter(part, schema) as writer:
        while some := list(_batch(left)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))


def _batch(rows: Iterator[Row]) -> Iterator[Row]:
    """The next rows, as many as may be in memory at once."""
    size = 0
    for row in islice(rows, BATCH_ROWS):
        yield row
        size += sum(len(value) for value in row.values() if isinstance(value, str))
        if size >= BATCH_CHARACTERS:
            return


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside the path that takes its name when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.is_file() and _is_database(path):
            raise ConfigError(f"{path}: is a database, which is not replaced: give another file")
        yield part
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
