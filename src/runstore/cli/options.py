"""Options that several commands share."""

import os
import re
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from click import BOOL

from runstore.core.errors import ConfigError

if TYPE_CHECKING:
    from runstore.settings import Settings

SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
MAX_DURATION_S = 100 * 365 * 86_400

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
RedisUrl = Annotated[
    str | None,
    typer.Option(envvar="RUNSTORE_REDIS_URL", help="redis://HOST:6379, to wake other processes at once."),
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
    int | None, typer.Option(envvar="RUNSTORE_CAPACITY", help="Runs at once; more wait as queued.")
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


def database_of(config: Path | None, database_url: str | None, database_url_file: str | None) -> str:
    """The URL that was given, else the configuration's. See `settings_of`."""
    return settings_of(config, database_url, database_url_file).server.database_url


def settings_of(config: Path | None, database_url: str | None, database_url_file: str | None) -> "Settings":
    """The configuration, with the URL that was given. Logging goes to standard error.

    Raises:
        ConfigError: the URL is wrong, or others can open the database's files or the file of the URL.
    """
    from runstore.database.exposure import check_files
    from runstore.database.opening import dialect_of
    from runstore.logs import configure_logs
    from runstore.settings import load_settings

    configure_logs()
    shared = os.environ.get("RUNSTORE_SHARED_FILES")
    given = {
        "database_url": database_url,
        "database_url_file": database_url_file,
        "shared_files": BOOL.convert(shared, None, None) if shared else None,
    }
    settings = load_settings(config).overridden(given)
    server = settings.server
    with closing(dialect_of(server.database_url)) as dialect:
        check_files(dialect, {"database_url": server.database_url_file}, shared=server.shared_files)
    return settings
