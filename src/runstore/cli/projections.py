"""`runstore projections`: lists, rebuilds, verifies and operates projections, beside running servers."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runstore.cli.grouped import grouped
from runstore.cli.options import EXIT_INTERRUPTED, DatabaseOptions, DatabaseReadOptions, account
from runstore.core.errors import ConfigError, ProjectionFailed
from runstore.core.printable import escaped

if TYPE_CHECKING:
    from runstore.maintenance.projections import Projections
    from runstore.maintenance.rebuild import ProjectionReport

SIGNAL_CHECK_S = 0.2  # seconds between two checks for a signal
STOP_S = 5.0  # seconds for the transaction in progress
MAX_JOBS = 8  # rebuilds at once; each needs a connection
GC_THRESHOLDS = (20_000, 50, 100)  # a batch makes many objects, nearly all of them freed without a collection

OTHER_SETTINGS = "made with other settings than this command has: rebuild it, if these are right"
EXIT_DIFFERENT = 1

projections = typer.Typer(
    help="State derived from the log: list, rebuild, verify and operate it.", no_args_is_help=True
)

Names = Annotated[list[str] | None, typer.Argument(help="Projections, as in the list.")]
Name = Annotated[str, typer.Argument(help="A projection, as in the list.")]
Jobs = Annotated[
    int,
    typer.Option(min=1, max=MAX_JOBS, help="Threads that share the projections. Each reads the log once."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object for each projection.")]


@contextmanager
def opened_in(database: DatabaseOptions) -> Iterator["Projections"]:
    """The projections of a database."""
    from runstore.database.opening import opened_database
    from runstore.maintenance.projections import Projections

    settings = database.settings()
    server, known = settings.server, settings.find_projections()
    read_url = server.database_read_url if isinstance(database, DatabaseReadOptions) else None
    with opened_database(server.database_url, read_url=read_url) as found:
        yield Projections(found, known)


@projections.command(name="list")
@grouped
def list_(
    *,
    as_json: AsJson = False,
    database: DatabaseOptions,
) -> None:
    """List the projections: version, checkpoint, lag, state, and what they wait for.

    Example: runstore projections list --json
    """
    from runstore.cli.output import print_json, print_table

    with opened_in(database) as opened:
        found = opened.status()
    if as_json:
        print_json(found)
        return
    rows = []
    for each in found:
        notes = [each.error.error] if each.error is not None else []
        notes += [] if each.configured else [OTHER_SETTINGS]
        notes += [f"rebuilt up to {each.rebuilt_to:,}"] if each.rebuilt_to is not None else []
        notes += [f"{each.skipped:,} skipped"] if each.skipped else []
        notes += [each.waits] if each.waits else []
        lag = ("", "") if each.inline else (f"{each.lag_events:,}", f"{each.lag_s:.1f}")
        checkpoint = "inline" if each.inline else "" if each.position is None else f"{each.position:,}"
        version = each.live_version if each.live_version is not None else each.version
        rows.append((each.name, version, each.state, checkpoint, *lag, "; ".join(notes)))
    print_table(("NAME", "VERSION", "STATE", "CHECKPOINT", "LAG EVENTS", "LAG S", "NOTES"), rows)


@projections.command()
@grouped
def run(
    *,
    names: Names = None,
    once: Annotated[
        bool, typer.Option("--once", help="Stop when everything that is in the log is applied.")
    ] = False,
    database: DatabaseReadOptions,
) -> None:
    """Keep projections up to date in a process of their own; all of them without names.

    Example: runstore projections run --database-url postgresql+psycopg://runstore@db/runstore
    """
    with opened_in(database) as opened:
        runner = opened.runner(names or ())
        if once:
            runner.run(once=True)
        else:
            _run_until_signalled(runner)


def _run_until_signalled(runner: Any) -> None:
    """The handler only notes the signal: it must take no lock, as the main thread may hold it."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: signals.append(number))
    running = threading.Thread(target=runner.run, daemon=True)
    running.start()
    while running.is_alive() and not signals:
        running.join(SIGNAL_CHECK_S)
    runner.request_stop()
    running.join(STOP_S)


@projections.command()
@grouped
def rebuild(
    *,
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="Rebuild all projections.")] = False,
    jobs: Jobs = 1,
    as_json: AsJson = False,
    database: DatabaseReadOptions,
) -> None:
    """Rebuild projections from the log while the system runs, and print how they differed.

    The live tables serve until the new ones replace them. An interrupted rebuild is continued by the next
    one, or by a running server.

    Example: runstore projections rebuild --all --jobs 2
    """
    with opened_in(database) as opened:
        if bool(names) == every:
            known = ", ".join(opened.names)
            raise ConfigError(f"runstore projections rebuild needs names, or --all; known: {known}")
        reports = _each(opened, names or opened.names, jobs, opened.rebuild_all)
    _print(reports, "rebuilt from the log, ", as_json)


@projections.command()
@grouped
def verify(
    *,
    names: Names = None,
    jobs: Jobs = 1,
    as_json: AsJson = False,
    database: DatabaseReadOptions,
) -> None:
    """Compare projections with the log, all of them without names; exit 1 when one differs.

    Nothing that is read changes.

    Example: runstore projections verify runs
    """
    with opened_in(database) as opened:
        reports = _each(opened, names or opened.built(), jobs, opened.verify_all)
    _print(reports, "", as_json)
    if not all(report.equal for report in reports):
        raise typer.Exit(EXIT_DIFFERENT)


@projections.command()
@grouped
def pause(
    *,
    name: Name,
    database: DatabaseOptions,
) -> None:
    """Let a projection take no more events until `resume`.

    Example: runstore projections pause usage
    """
    with opened_in(database) as opened:
        opened.pause(name, by=account())
    typer.echo(f"{name}: paused")


@projections.command()
@grouped
def resume(
    *,
    name: Name,
    database: DatabaseOptions,
) -> None:
    """Let a paused or failed projection take events again.

    Example: runstore projections resume usage
    """
    with opened_in(database) as opened:
        opened.resume(name, by=account())
    typer.echo(f"{name}: resumed")


@projections.command()
@grouped
def skip(
    *,
    name: Name,
    database: DatabaseOptions,
) -> None:
    """Leave out the event at which a projection failed, and let it go on.

    Example: runstore projections skip usage
    """
    with opened_in(database) as opened:
        for event in opened.skip(name, by=account()):
            typer.echo(f"{name}: skipped event {event.seq} of run {event.run_id}, {escaped(str(event.type))}")


@projections.command()
@grouped
def drop(
    *,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Empty even the run list of a running system.")] = False,
    database: DatabaseOptions,
) -> None:
    """Remove what a projection has stored. The log stays as it is, so that the projection can be rebuilt.

    Example: runstore projections drop usage
    """
    with opened_in(database) as opened:
        if opened.serves_lists(name) and not yes:
            raise ConfigError(
                f"projection {name!r}: drop empties the lists of all users until a rebuild. To mend "
                f"them, use runstore projections rebuild {name}; to empty them, add --yes"
            )
        opened.drop(name, by=account())
    typer.echo(f"{name}: dropped")


class _Stopped(Exception):
    """The command was interrupted."""


def _each(
    opened: "Projections",
    names: Sequence[str],
    jobs: int,
    work: Callable[..., "Sequence[ProjectionReport]"],
) -> list["ProjectionReport"]:
    """Do the work for all projections, with progress bars; the first failure stops the others.

    Each job reads the log once for its share of the projections.
    """
    opened.check(names)
    gc.set_threshold(*GC_THRESHOLDS)
    names = sorted({*names})
    shares = [share for first in range(jobs) if (share := names[first::jobs])]
    stopping = threading.Event()
    with _bars() as bars, ThreadPoolExecutor(len(shares) or 1) as pool:
        tasks = {name: bars.add_task(name, total=None) for name in names}

        def progress(name: str, reached: int, goal: int) -> None:
            if stopping.is_set():
                raise _Stopped
            bars.update(tasks[name], completed=reached, total=goal)

        doing = [pool.submit(work, share, progress) for share in shares]
        try:
            return sorted((report for each in doing for report in each.result()), key=_name_of)
        except ProjectionFailed as error:
            stopping.set()
            bars.stop()
            typer.echo(f"runstore: {escaped(str(error))}", err=True)
            raise typer.Exit(EXIT_DIFFERENT) from None
        except KeyboardInterrupt:
            stopping.set()
            bars.stop()
            typer.echo("interrupted; the next rebuild, or a running server, continues", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        finally:
            stopping.set()


def _name_of(report: "ProjectionReport") -> str:
    return report.projection


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:,.0f} events/s" if task.speed else "")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _print(reports: Sequence["ProjectionReport"], done: str, as_json: bool) -> None:
    if as_json:
        from msgspec import to_builtins

        from runstore.cli.output import print_json

        print_json(to_builtins(report) | {"equal": report.equal} for report in reports)
        return
    for report in reports:
        if report.tables is None:
            typer.echo(f"{report.projection}: built from the log")
        for table, difference in (report.tables or {}).items():
            name = report.projection if table == report.projection else f"{report.projection}, {table}"
            typer.echo(f"{name}: {done}{_shown(difference)}")
            for key in difference.keys:
                values = ", ".join(f"{column} = {escaped(str(value))}" for column, value in key.key.items())
                typer.echo(f"  {'too many' if key.how == 'extra' else key.how}: {values}")


def _shown(difference: Any) -> str:
    rows = f"{difference.rows:,} row{'s' * (difference.rows != 1)}"
    if difference.equal:
        return f"equal: {rows}"
    counts = (difference.missing, "missing"), (difference.wrong, "wrong"), (difference.extra, "too many")
    return f"different: {', '.join(f'{count:,} {how}' for count, how in counts)}, of {rows}"
