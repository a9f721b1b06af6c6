"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(envvar="RUNSTORE_CONFIG", help="Configuration file; ./runstore.toml if it is there."),
]
DatabaseUrl = Annotated[
    str | None, typer.Option(envvar="RUNSTORE_DATABASE_URL", help="For example sqlite:///runstore.db.")
]


def database_of(config: Path | None, database_url: str | None) -> str:
    """The URL that was given, else the configuration's. What opening it logs goes to standard error."""
    from runstore.logs import configure_logs
    from runstore.settings import load_settings, override

    configure_logs()
    return override(load_settings(config).server, {"database_url": database_url}).database_url
