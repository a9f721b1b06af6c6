"""Options that several commands share."""

import os
import re
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from click import BOOL, BadParameter

from runstore.core.errors import ConfigError

if TYPE_CHECKING:
    from runstore.settings import Settings

SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
MAX_DURATION_S = 100 * 365 * 86_400
# The exit codes of every command. Some also use 1 for a difference: see docs/reference/operating.md.
EXIT_FAILED = 1  # not found, not allowed, not possible now, no answer; or the followed run failed
EXIT_USAGE = 2  # a wrong option, or input that was refused, by this program or by the server; configuration
EXIT_INTERRUPTED = 130  # the exit code that shells use after Ctrl-C

Config = Annotated[
    Path | None,
    typer.Option(envvar="RUNSTORE_CONFIG", help="Configuration file; ./runstore.toml if that exists."),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="RUNSTORE_DATABASE_URL",
        help="sqlite:///FILE, postgresql+psycopg://USER:PASSWORD@HOST/NAME or mysql+pymysql://….",
    ),
]
DatabaseUrlFile = Annotated[
    str | None,
    typer.Option(envvar="RUNSTORE_DATABASE_URL_FILE", help="File that holds the URL, and its password."),
]
DatabaseReadUrl = Annotated[
    str | None,
    typer.Option(envvar="RUNSTORE_DATABASE_READ_URL", help="URL of a PostgreSQL read replica."),
]
DatabaseReadUrlFile = Annotated[
    str | None, typer.Option(envvar="RUNSTORE_DATABASE_READ_URL_FILE", help="File that holds this URL.")
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        envvar="RUNSTORE_REDIS_URL",
        help="redis://HOST:6379, redis+cluster:// or redis+sentinel://, to wake other processes at once.",
    ),
]
RedisUrlFile = Annotated[
    str | None, typer.Option(envvar="RUNSTORE_REDIS_URL_FILE", help="File that holds this URL.")
]
SharedFiles = Annotated[
    bool | None,
    typer.Option(
        "--shared-files/--no-shared-files",
        envvar="RUNSTORE_SHARED_FILES",
        help="Whether other users may open the database's files.",
    ),
]
Projections = Annotated[
    bool | None,
    typer.Option(
        "--projections/--no-projections",
        envvar="RUNSTORE_PROJECTIONS",
        help="Whether to keep asynchronous projections up to date.",
    ),
]
Capacity = Annotated[
    int | None,
    typer.Option(
        envvar="RUNSTORE_CAPACITY", help="Maximum number of concurrent runs; further runs are queued."
    ),
]
AgentProcesses = Annotated[
    int | None,
    typer.Option(
        envvar="RUNSTORE_AGENT_PROCESSES", help="Processes that agents share; 0: no process but this one."
    ),
]
CancelGrace = Annotated[
    float | None,
    typer.Option(envvar="RUNSTORE_CANCEL_GRACE_S", help="Seconds from a stop request to the run's ending."),
]
Drain = Annotated[
    float | None,
    typer.Option(envvar="RUNSTORE_DRAIN_S", help="Seconds that active runs may go on after SIGTERM."),
]
Lease = Annotated[
    float | None,
    typer.Option(envvar="RUNSTORE_LEASE_S", help="Seconds after which a silent worker loses its runs."),
]
LogFormat = Annotated[
    str | None, typer.Option(envvar="RUNSTORE_LOG_FORMAT", help="Format of log lines: logfmt or json.")
]
LogFile = Annotated[
    str | None, typer.Option(envvar="RUNSTORE_LOG_FILE", help="Also write log lines to this file.")
]


def account() -> str:
    """The name of the account that runs the command, for the audit log."""
    from getpass import getuser

    with suppress(OSError, KeyError):
        return getuser()
    return "local"


def seconds_of(option: str, text: str) -> int:
    """The seconds of a duration such as 90d, 12h or 30m.

    Raises:
        ConfigError: the text is malformed, zero, or over MAX_DURATION_S.
    """
    found = re.fullmatch(r"([0-9]{1,9})([mhdw])", text)
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < seconds <= MAX_DURATION_S:
        raise ConfigError(
            f"{option} {text!r} must be a number and m, h, d or w, such as 90d, at most 100 years"
        )
    return seconds


@dataclass(frozen=True)
class DatabaseOptions:
    """The database that a command works on. A group of options: see `grouped`."""

    database_url: DatabaseUrl = None
    database_url_file: DatabaseUrlFile = None
    config: Config = None

    @property
    def url(self) -> str:
        """The URL that was given, else the configuration's. See `settings`."""
        return self.settings().server.database_url

    def settings(self) -> "Settings":
        """The configuration, with the URL that was given. Logging goes to standard error.

        Raises:
            ConfigError: the URL is wrong, or others can open the database's files or the file of the URL.
        """
        from runstore.database.exposure import check_files
        from runstore.database.opening import dialect_of
        from runstore.logs import configure_logs
        from runstore.settings import URLS, load_settings

        configure_logs()
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "config"}
        settings = load_settings(self.config).overridden(given | {"shared_files": _shared_files()})
        server = settings.server
        files = {name: getattr(server, f"{name}_file") for name in URLS if name in given}
        with closing(dialect_of(server.database_url)) as dialect:
            check_files(dialect, files, shared=server.shared_files)
        return settings


@dataclass(frozen=True)
class DatabaseReadOptions(DatabaseOptions):
    """For a command that reads the whole log: also a read replica."""

    database_read_url: DatabaseReadUrl = None
    database_read_url_file: DatabaseReadUrlFile = None


def _shared_files() -> bool | None:
    """The setting in the environment, which is no option of these commands."""
    text = os.environ.get("RUNSTORE_SHARED_FILES")
    try:
        return BOOL.convert(text, None, None) if text else None
    except BadParameter as error:
        raise ConfigError(f"RUNSTORE_SHARED_FILES: {error.message}") from error


@dataclass(frozen=True)
class ServerOptions:
    """Settings of `[server]` for any process that runs agents. A group of options: see `grouped`."""

    database_url: DatabaseUrl = None
    database_url_file: DatabaseUrlFile = None
    database_read_url: DatabaseReadUrl = None
    database_read_url_file: DatabaseReadUrlFile = None
    redis_url: RedisUrl = None
    redis_url_file: RedisUrlFile = None
    shared_files: SharedFiles = None
    projections: Projections = None
    agent_processes: AgentProcesses = None
    capacity: Capacity = None
    cancel_grace_s: CancelGrace = None
    drain_s: Drain = None
    lease_s: Lease = None
    log_format: LogFormat = None
    log_file: LogFile = None
