"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(envvar="RUNSTORE_CONFIG", help="Configuration file; ./runstore.toml if it is there."),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="RUNSTORE_DATABASE_URL",
        help="sqlite:///FILE, postgresql+psycopg://USER:PASSWORD@HOST/NAME or mysql+pymysql://….",
    ),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(envvar="RUNSTORE_REDIS_URL", help="redis://HOST:6379, which wakes other processes at once."),
]
Capacity = Annotated[
    int | None, typer.Option(envvar="RUNSTORE_CAPACITY", help="Runs at once; more wait as queued.")
]
CancelGrace = Annotated[
    float | None, typer.Option(envvar="RUNSTORE_CANCEL_GRACE_S", help="Seconds from a stop to its ending.")
]
Drain = Annotated[
    float | None, typer.Option(envvar="RUNSTORE_DRAIN_S", help="Seconds for active runs on SIGTERM.")
]
Lease = Annotated[
    float | None,
    typer.Option(envvar="RUNSTORE_LEASE_S", help="Seconds after which a silent worker loses its runs."),
]
LogFormat = Annotated[
    str | None, typer.Option(envvar="RUNSTORE_LOG_FORMAT", help="Of log lines: logfmt or json.")
]
LogFile = Annotated[
    str | None, typer.Option(envvar="RUNSTORE_LOG_FILE", help="Write log lines to this file too.")
]


def database_of(config: Path | None, database_url: str | None) -> str:
    """The URL that was given, else the configuration's. What opening it logs goes to standard error."""
    from runstore.logs import configure_logs
    from runstore.settings import load_settings, override

    configure_logs()
    return override(load_settings(config).server, {"database_url": database_url}).database_url
