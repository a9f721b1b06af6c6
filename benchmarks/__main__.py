"""`python -m benchmarks [--quick] [NAME ...]`: run all benchmarks, or those named."""

import os
import platform
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import append, by_hand, guarded, isolation, serving
from benchmarks.report import Report

BENCHMARKS = {
    "append": append.run,
    "serving": serving.run,
    "isolation": isolation.run,
    "guarded": guarded.run,
    "by_hand": by_hand.run,
}


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(BENCHMARKS)}; all by default.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Smaller sizes: to see that it works, not how fast.")] = False,
) -> None:
    """Measure how fast the log appends and a server streams, and what isolation, keys and metrics cost."""
    console = Console()
    console.print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}")
    for name in names or BENCHMARKS:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"{name!r}; known: {', '.join(BENCHMARKS)}")
        for report in BENCHMARKS[name](quick):
            console.print(_table(report))


def _table(report: Report) -> Table:
    table = Table(title=report.title, title_justify="left", caption=report.note, caption_justify="left")
    for column in report.columns:
        table.add_column(column, justify="left" if column == report.columns[0] else "right")
    for row in report.rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    typer.run(main)
