"""`runstore runs`: the HTTP API from a shell."""

import typer

from runstore.cli.runs import asking, comparing, following, reading, starting
from runstore.cli.runs.options import ApiKey, RunId, Url, connected

__all__ = ["ApiKey", "RunId", "Url", "app", "connected"]

app = typer.Typer(help="Start, follow, read and stop runs on a server.", no_args_is_help=True)
app.command("list")(reading.list_runs)
for command in (
    reading.show,
    comparing.diff,
    reading.requests,
    reading.events,
    starting.start,
    starting.fork,
    starting.retry,
    starting.stop,
    following.tail,
    asking.inputs,
    asking.answer,
    asking.say,
    starting.delete,
):
    app.command()(command)
