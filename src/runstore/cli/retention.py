"""`runstore retention`: purges old runs directly in the database."""

from typing import TYPE_CHECKING, Annotated

import typer

from runstore.cli.grouped import grouped
from runstore.cli.options import EXIT_INTERRUPTED, DatabaseOptions, seconds_of
from runstore.core.times import now_ms, timestamp

if TYPE_CHECKING:
    from runstore.maintenance.purge import Found, PurgeCount


@grouped
def retention(
    *,
    older_than: Annotated[
        str, typer.Option(help="Purge runs that ended longer ago than this: 90d, 12h or 30m.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the runs and events to purge; change nothing.")
    ] = False,
    whole_months: Annotated[
        bool,
        typer.Option(
            "--whole-months",
            help="Leave the month (UTC) in which this age falls: partitions are then dropped whole.",
        ),
    ] = False,
    database: DatabaseOptions,
) -> None:
    """Purge old runs: remove their events for good and keep a record of each run. Servers may keep running.

    The next purge finishes an interrupted one.

    Example: runstore retention --older-than 90d --dry-run
    """
    from runstore.maintenance.purge import ended_before

    before = now_ms() - seconds_of("--older-than", older_than) * 1_000
    found = ended_before(before, whole_months=whole_months)
    summary = (_would_purge if dry_run else _purge)(database.url, found)
    typer.echo(f"retention: {summary} (ended before {timestamp(before)})")


def _would_purge(url: str, to_purge: "Found") -> str:
    from runstore.app import survey_purge

    found = survey_purge(url, to_purge)
    summary = f"{_count(found.runs, 'run')} with {_count(found.events, 'event')} would be purged"
    return (
        f"{summary}, and {_count(found.begun, 'run')} that an earlier purge has begun"
        if found.begun
        else summary
    )


def _purge(url: str, to_purge: "Found") -> str:
    from rich.console import Console
    from rich.progress import Progress

    from runstore.app import purge_runs, survey_purge

    console = Console(stderr=True)
    runs = events = 0
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(
            "events", total=survey_purge(url, to_purge).events if console.is_terminal else None
        )

        def progress(done: "PurgeCount") -> None:
            nonlocal runs, events
            runs, events = done.runs, done.events
            bar.update(task, completed=events)

        try:
            purge_runs(url, to_purge, progress)
        except KeyboardInterrupt:
            bar.stop()
            typer.echo(f"retention: {_purged(runs, events)}, interrupted; the next purge continues", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
    return _purged(runs, events)


def _purged(runs: int, events: int) -> str:
    return f"purged {_count(runs, 'run')} and removed {_count(events, 'event')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
