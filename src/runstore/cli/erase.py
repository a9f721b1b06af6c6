"""`runstore erase`: removes a person from the database, directly in it."""

from typing import TYPE_CHECKING, Annotated

import typer

from runstore.cli.options import Config, DatabaseUrl, DatabaseUrlFile, account, settings_of
from runstore.core.errors import ConfigError
from runstore.core.ids import parse_run_id
from runstore.core.printable import escaped

if TYPE_CHECKING:
    from runstore.maintenance.purge import PurgeCount
    from runstore.store.erasure import Erasure, ToErase

MAX_REASON = 200  # characters
EXIT_REMAINS = 1
EXIT_INTERRUPTED = 130  # the exit code that shells use after Ctrl-C


def erase(
    user: Annotated[str, typer.Option(help="The user to erase.")],
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log; without the name.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run of the user.")] = None,
    pseudonym: Annotated[
        bool,
        typer.Option("--pseudonym", help="Replace the names of user and sessions in what is left, too."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be erased; change nothing.")
    ] = False,
    by: Annotated[str | None, typer.Option(help="Who asks, for the audit log; your account's name.")] = None,
    database_url: DatabaseUrl = None,
    database_url_file: DatabaseUrlFile = None,
    config: Config = None,
) -> None:
    """Erase a person: the events of their runs, hierarchies and keys' labels. Servers may keep running.

    That the runs existed, their times and counts stay. An interrupted erasure is finished by the next one.

    Example: runstore erase --user alice --pseudonym --reason "request 4711"
    """
    from runstore.app import opened_erasure
    from runstore.store.erasure import ToErase

    if not dry_run and not (reason is not None and 0 < len(reason.strip()) <= MAX_REASON):
        raise ConfigError(f"runstore erase needs --reason, 1 to {MAX_REASON} characters, or --dry-run")
    asked = ToErase(user, None if run_id is None else parse_run_id(run_id), pseudonym)
    with opened_erasure(settings_of(config, database_url, database_url_file)) as erasure:
        if dry_run:
            found = erasure.survey(asked)
            typer.echo(
                f"erase: {_count(found.runs, 'run')} with {_count(found.events, 'event')}, "
                f"{_count(found.keys, 'key')} and {_count(found.hierarchies, 'hierarchy')} would be erased"
            )
            return
        remains = _erase(erasure, asked, by or account(), reason or "")
    for what in remains:
        typer.echo(f"erase: {escaped(what)}", err=True)
    if remains:
        raise typer.Exit(EXIT_REMAINS)


def _erase(erasure: "Erasure", asked: "ToErase", by: str, reason: str) -> list[str]:
    """Erase with a progress bar; return what remains."""
    from rich.console import Console
    from rich.progress import Progress

    from runstore.core.run import Actor

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("events", total=erasure.survey(asked).events if console.is_terminal else None)

        def progress(done: "PurgeCount") -> None:
            bar.update(task, completed=done.events)

        try:
            done = erasure.purge(asked, by=Actor(by), reason=reason, progress=progress)
            remains = erasure.settle()
        except KeyboardInterrupt:
            bar.stop()
            typer.echo("erase: interrupted; the same command continues", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
    typer.echo(
        f"erase: purged {_count(done.runs, 'run')} and removed {_count(done.events, 'event')}, "
        f"{_count(done.keys, 'key')} changed, {_count(done.hierarchies, 'hierarchy')} removed"
    )
    return remains


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and noun != "key" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
