"""`python -m benchmarks [OPTION ...] [NAME ...]`: run all benchmarks, or those named."""

import json
import logging
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import (
    agent_processes,
    append,
    beside,
    growth,
    guarded,
    isolation,
    lists,
    page,
    partitions,
    projections,
    replicas,
    scaling,
    serving,
    speaking,
    stops,
    writers,
)
from benchmarks.options import Options
from benchmarks.peers import by_hand, langgraph_server
from benchmarks.report import Report

BENCHMARKS = {
    "page": page.run,
    "append": append.run,
    "writers": writers.run,
    "serving": serving.run,
    "speaking": speaking.run,
    "isolation": isolation.run,
    "agent_processes": agent_processes.run,
    "guarded": guarded.run,
    "by_hand": by_hand.run,
    "lists": lists.run,
    "growth": growth.run,
    "projections": projections.run,
    "partitions": partitions.run,
    "beside": beside.run,
    "replicas": replicas.run,
    "scaling": scaling.run,
    "stops": stops.run,
    "langgraph": langgraph_server.run,
}
WIDTH = 200  # of what is no terminal


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"Of {', '.join(BENCHMARKS)}; by default the first."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Smaller sizes: to see that it works, not how fast.")] = False,
    database_url: Annotated[
        list[str] | None,
        typer.Option(help="A server, for a database that is made there and dropped; may be repeated."),
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="For page, replicas, scaling and stops.")] = None,
    events: Annotated[
        int | None, typer.Option(min=100_000, help="For growth: events of the largest log.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the tables there too.")] = None,
) -> None:
    """Measure runstore beside ceilings and peers (`page`), or one part of it at length.

    Example: python -m benchmarks append --database-url postgresql+psycopg://postgres@127.0.0.1/postgres
    """
    options = Options(quick, tuple(database_url or ()), redis_url, events)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    tables: dict[str, list[dict[str, Any]]] = {}
    console.print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}")
    for name in names or ["page"]:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"{name!r}; known: {', '.join(BENCHMARKS)}")
        for report in BENCHMARKS[name](options):
            console.print(_table(report))
            tables.setdefault(name, []).append(asdict(report))
    if json_file is not None:
        json_file.write_text(json.dumps(tables, indent=2) + "\n")


def _table(report: Report) -> Table:
    table = Table(title=report.title, title_justify="left", caption=report.note, caption_justify="left")
    for column in report.columns:
        table.add_column(column, justify="left" if column == report.columns[0] else "right")
    for row in report.rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    typer.run(main)
