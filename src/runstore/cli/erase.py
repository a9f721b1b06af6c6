"""`runstore erase`: removes a person from the database, directly in it."""

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct
from msgspec.structs import asdict

from runstore.cli.grouped import grouped
from runstore.cli.options import EXIT_INTERRUPTED, DatabaseOptions, account
from runstore.core.errors import ConfigError
from runstore.core.ids import parse_run_id
from runstore.core.printable import escaped

if TYPE_CHECKING:
    from runstore.maintenance.purge import PurgeCount
    from runstore.store.descendants import Fork
    from runstore.store.erasure import Erasable, Erased, Erasure, ToErase

SHOWN_FORKS = 50  # lines for people
MAX_REASON = 200  # characters
EXIT_REMAINS = 1


@grouped
def erase(
    *,
    user: Annotated[str, typer.Option(help="The user to erase.")],
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log; without the name.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run of the user.")] = None,
    pseudonym: Annotated[
        bool,
        typer.Option(
            "--pseudonym", help="Replace the names of user and sessions in the remaining events, too."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the runs and events; change nothing.")
    ] = False,
    by: Annotated[
        str | None, typer.Option(help="The person who asks, for the audit log; your account's name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    database: DatabaseOptions,
) -> None:
    """Erase a person: the events of their runs, hierarchies and keys' labels. Servers may keep running.

    That the runs existed, their times and counts stay. An interrupted erasure is finished by the next one.
    Forks by other users hold copies of the text, and stay: the report lists them.

    Example: runstore erase --user alice --pseudonym --reason "request 4711"
    """
    from runstore.app import opened_erasure
    from runstore.store.erasure import ToErase

    if not dry_run and not (reason is not None and 0 < len(reason.strip()) <= MAX_REASON):
        raise ConfigError(f"runstore erase needs --reason, 1 to {MAX_REASON} characters, or --dry-run")
    asked = ToErase(user, None if run_id is None else parse_run_id(run_id), pseudonym)
    with opened_erasure(database.settings()) as erasure:
        forks = erasure.forks(asked)  # before: with a pseudonym, they are not found by the name afterwards
        if dry_run:
            report = Report(erasure.survey(asked), forks, dry_run=True)
        else:
            report = _erase(erasure, asked, by or account(), reason or "", forks)
    _print(report, as_json=as_json)
    if report.remains:
        raise typer.Exit(EXIT_REMAINS)


class Report(Struct, frozen=True):
    """The outcome. `forks`: runs with copies of the text, which stay. `remains`: steps left to do."""

    counts: "Erasable | Erased"
    forks: "list[Fork]"
    remains: list[str] = []
    dry_run: bool = False


def _erase(erasure: "Erasure", asked: "ToErase", by: str, reason: str, forks: "list[Fork]") -> Report:
    """Erase with a progress bar."""
    from rich.console import Console
    from rich.progress import Progress

    from runstore.core.run import Actor

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("events", total=erasure.survey(asked).events)

        def progress(done: "PurgeCount") -> None:
            bar.update(task, completed=done.events)

        try:
            erased = erasure.purge(asked, by=Actor(by), reason=reason, progress=progress)
            left = [] if erased.remains is None else [erased.remains]
            return Report(erased, forks, [*left, *erasure.settle()])
        except KeyboardInterrupt:
            bar.stop()
            typer.echo("erase: interrupted; the same command continues", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _print(report: Report, *, as_json: bool) -> None:
    counts = report.counts
    if as_json:
        from runstore.cli.output import print_json

        row = {"dry_run": report.dry_run, **asdict(counts), "forks": report.forks, "remains": report.remains}
        print_json([row])
    elif report.dry_run:
        typer.echo(
            f"erase: {_count(counts.runs, 'run')} with {_count(counts.events, 'event')}, "
            f"{_count(counts.keys, 'key')} and {_count(counts.hierarchies, 'hierarchy')} would be erased"
        )
    else:
        typer.echo(
            f"erase: purged {_count(counts.runs, 'run')} and removed {_count(counts.events, 'event')}, "
            f"{_count(counts.keys, 'key')} changed, {_count(counts.hierarchies, 'hierarchy')} removed"
        )
    if not as_json:
        _print_forks(report.forks)
    for what in report.remains:
        typer.echo(f"erase: {escaped(what)}", err=True)


def _print_forks(forks: "list[Fork]") -> None:
    if forks:
        stays = "stays and holds" if len(forks) == 1 else "stay and hold"
        typer.echo(f"erase: {_count(len(forks), 'fork')} {stays} copies of the text; purge them, too:")
    for fork in forks[:SHOWN_FORKS]:
        typer.echo(f"  {fork.run_id} of {escaped(fork.user_id)}, from {fork.parent_run_id}")
    if len(forks) > SHOWN_FORKS:
        typer.echo(f"  … and {len(forks) - SHOWN_FORKS:,} more: --json lists all")


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and noun != "key" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
