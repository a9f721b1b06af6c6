"""The command line."""

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from io import FileIO, TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from runstore import __version__
from runstore.cli.audit import audit
from runstore.cli.erase import erase
from runstore.cli.export import export
from runstore.cli.grouped import grouped
from runstore.cli.keys import keys
from runstore.cli.options import (
    EXIT_USAGE,
    Config,
    DatabaseOptions,
    ServerOptions,
)
from runstore.cli.projections import projections
from runstore.cli.replay import fixture, replay
from runstore.cli.retention import retention
from runstore.cli.runs import app as runs
from runstore.cli.secrets import take_secrets, wipe
from runstore.core.errors import ConfigError, RunstoreError
from runstore.core.garbage import without_collections
from runstore.core.names import check_text
from runstore.core.printable import escaped

SCARCE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.EAGAIN,
)  # fmt: skip
NO_THREAD = "can't start new thread"  # Python's message where the system refuses a thread
EXIT_OUTPUT_LOST = 1  # also click's exit code where the reader of a pipe has gone

app = typer.Typer(
    name="runstore",
    help="An event-sourced run store for LLM agents: every token is an event, and no run is lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(projections, name="projections")
app.add_typer(keys, name="keys")
app.add_typer(runs, name="runs")
app.add_typer(audit, name="audit")
app.add_typer(export, name="export")
app.command()(replay)
app.command()(fixture)
app.command()(retention)
app.command()(erase)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"runstore {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
@grouped
def serve(
    *,
    host: Annotated[
        str | None,
        typer.Option(envvar="RUNSTORE_HOST", help="Address to bind; loopback only until an API key exists."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(envvar="RUNSTORE_PORT", help="Port; 0 picks a free one.")
    ] = None,
    options: ServerOptions,
    worker: Annotated[
        bool | None,
        typer.Option("--worker/--no-worker", envvar="RUNSTORE_WORKER", help="Whether to run agents as well."),
    ] = None,
    console: Annotated[
        bool | None,
        typer.Option(
            "--console/--no-console", envvar="RUNSTORE_CONSOLE", help="Whether to serve the console."
        ),
    ] = None,
    heartbeat_s: Annotated[
        float | None,
        typer.Option(envvar="RUNSTORE_HEARTBEAT_S", help="Seconds between heartbeats of a stream."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="RUNSTORE_ALLOWED_HOST", help="Host name to accept in requests; may be repeated."
        ),
    ] = None,
    config: Config = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when the agents' code or configuration changes.")
    ] = False,
) -> None:
    """Serve the HTTP API and run agents.

    Example: runstore serve --port 8082 --database-url sqlite:///runstore.db
    """
    with without_collections():
        from runstore.process import serve as run_server

    settings = _settings(
        config, options, host=host, port=port, worker=worker, console=console, heartbeat_s=heartbeat_s,
        allowed_hosts=allowed_host or None,
    )  # fmt: skip
    if reload:
        from runstore.cli.reload import serve_reloading

        _run(serve_reloading, settings)
    else:
        _run(run_server, settings)


@app.command()
@grouped
def worker(*, options: ServerOptions, config: Config = None) -> None:
    """Run agents without the HTTP API; other processes on the same database serve it.

    Example: runstore worker --database-url postgresql+psycopg://runstore@db/runstore --redis-url
    redis://cache
    """
    with without_collections():
        from runstore.process import work

    _run(work, _settings(config, options, worker=True))


@app.command()
@grouped
def workers(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each worker.")] = False,
    database: DatabaseOptions,
) -> None:
    """List the workers of a database with their runs and their last heartbeats.

    Example: runstore workers --database-url postgresql+psycopg://runstore@db/runstore
    """
    from runstore.cli.output import print_json, print_table, time_cell
    from runstore.database.opening import read_from
    from runstore.store.workers import read_workers

    with read_from(database.url) as connection:
        found = read_workers(connection)
    if as_json:
        print_json(found)
    else:
        print_table(
            ("WORKER", "HOST", "PID", "CAPACITY", "RUNS", "STARTED", "HEARTBEAT"),
            [
                [
                    each.worker_id, each.host, each.pid, each.capacity, each.runs,
                    *map(time_cell, (each.started_at, each.heartbeat_at)),
                ]
                for each in found
            ],
        )  # fmt: skip


@app.command()
def demo(
    config: Config = None,
    agent: Annotated[str, typer.Option(help="The agent to run.")] = "demo",
) -> None:
    """Show on real servers and a temporary database that runs survive lost clients and killed servers.

    Example: runstore demo --config runstore.toml --agent mine
    """
    from runstore.demo.story import run_demo

    raise typer.Exit(run_demo(config, agent))


@app.command()
@grouped
def migrate(*, database: DatabaseOptions) -> None:
    """Upgrade a database to this release's schema.

    Example: runstore migrate --database-url sqlite:///runstore.db
    """
    from runstore.core.times import now_ms
    from runstore.database.opening import opened_database
    from runstore.maintenance.partitioning import try_to_add_months
    from runstore.migrations import HEAD

    with opened_database(database.url, create=True, upgrade=True) as upgraded:
        try_to_add_months(upgraded, now_ms())
        typer.echo(f"{upgraded.dialect.location}: schema {HEAD}")


@app.command()
@grouped
def partition(*, database: DatabaseOptions) -> None:
    """Partition the events of a PostgreSQL database by month, so that retention drops partitions.

    Servers may keep running. If it is interrupted, run it again. On a partitioned database it adds the
    partitions of the coming months.

    Example: runstore partition --database-url postgresql://me@db/runs
    """
    from runstore.core.times import now_ms
    from runstore.database.opening import opened_database
    from runstore.maintenance.partitioning import partition_events

    with opened_database(database.url) as opened:
        added = partition_events(opened, now_ms(), lambda step: typer.echo(f"partition: {step}"))
    typer.echo(f"partition: partitioned by month; added {', '.join(added) or 'no month'}")


def main() -> None:
    """Run the command line. A RunstoreError prints one line and exits with 2, without a traceback."""
    from runstore.logs import configure_logs, flush_logs

    _, secrets = take_secrets(sys.argv[1:])
    wipe(list(secrets.values()))
    _prepare_output()
    configure_logs()
    try:
        _check_arguments()
        app()
    except SystemExit as left:
        output = getattr(sys.stdout, "buffer", None)
        if not left.code and isinstance(output, _NoOutput) and output.lost:
            sys.exit(EXIT_OUTPUT_LOST)
        raise
    except RunstoreError as error:
        flush_logs()
        typer.echo(f"runstore: {escaped(str(error), keep=chr(10))}", err=True)
        sys.exit(EXIT_USAGE)
    except (OSError, MemoryError, RuntimeError) as error:
        if not _is_scarcity(error):
            raise
        typer.echo(
            f"runstore: {str(error) or 'out of memory'}: see the limits of this process (ulimit -a)", err=True
        )
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # The interpreter flushes the rest of the output at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EXIT_USAGE)


def _is_scarcity(error: BaseException) -> bool:
    """Whether the machine, or a limit of this process, refuses more memory, threads, files or bytes."""
    if isinstance(error, OSError):
        return error.errno in SCARCE
    return isinstance(error, MemoryError) or NO_THREAD in str(error)


class _NoOutput(FileIO):
    """Stands for a closed standard output. `lost`: whether a command has printed something."""

    lost = False

    def write(self, data: Any) -> int:
        self.lost = True
        return super().write(data)


def _prepare_output() -> None:
    """Make printing safe on ASCII terminals and on closed descriptors."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)

        if stream is None:
            # Otherwise the next opened file, perhaps the database, gets this descriptor and the output.
            file: Any = _NoOutput(os.devnull, "w")
            setattr(sys, name, TextIOWrapper(file, encoding="utf-8", write_through=True))
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_arguments() -> None:
    for argument in sys.argv[1:]:
        check_text(argument, f"the argument {ascii(argument)[:100]}")


def _run(process: Callable[..., None], settings: Any) -> None:
    from runstore.cli.distinct_files import check_distinct
    from runstore.logs import configure_logs

    if isinstance(getattr(sys.stdout, "buffer", None), _NoOutput):  # what agents print is no result
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        check_distinct(settings)
        configure_logs(settings.server.log_format, settings.server.log_file, queued=True)
        process(settings)
    except ConfigError as error:
        raise settings.located(error) from error


def _settings(config: Path | None, options: ServerOptions, **changes: Any) -> Any:
    """The configuration, with the options that were given."""
    from runstore.settings import load_settings

    return load_settings(config, models=True).overridden(asdict(options) | changes)
