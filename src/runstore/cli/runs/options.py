"""Options and the connection of the commands on runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from runstore.cli.options import EXIT_FAILED, EXIT_USAGE
from runstore.core.printable import escaped

if TYPE_CHECKING:
    from runstore.client import Client

REFUSED_INPUT = (400, 413)  # statuses with which a server refuses what it was given: EXIT_USAGE

Url = Annotated[
    str | None, typer.Option(envvar="RUNSTORE_URL", help="The server; http://127.0.0.1:8082 if not given.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="RUNSTORE_API_KEY", help="Prefer the environment variable, which `ps` does not show."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, one object on a line.")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", show_default=False)]
After = Annotated[int, typer.Option(min=0, help="Begin after the event with this seq.")]


@contextmanager
def connected(
    url: str | None, api_key: str | None, retry_s: float = 0, *, failed: int = EXIT_FAILED
) -> "Iterator[Client]":
    """A client. Any of its errors ends the command with a message of one line.

    The exit code is EXIT_USAGE if the server refused the input, else `failed`.
    """
    from runstore.client import ApiError, Client, ClientError

    with Client(url, api_key=api_key, retry_s=retry_s) as client:
        try:
            yield client
        except ClientError as error:
            typer.echo(f"runstore: {escaped(' '.join(str(error).split()))}", err=True)
            refused = isinstance(error, ApiError) and error.status in REFUSED_INPUT
            raise typer.Exit(EXIT_USAGE if refused else failed) from error
