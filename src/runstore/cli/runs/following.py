"""Commands that follow runs."""

from typing import Annotated

import typer

from runstore.cli.options import EXIT_FAILED, EXIT_INTERRUPTED
from runstore.cli.runs.options import After, ApiKey, Json, Url, connected
from runstore.core.events import Failed, InputRequested

TAIL_RETRY_S = 600.0  # seconds that `tail` waits for a server that is away


def tail(
    run_id: Annotated[list[str], typer.Argument(metavar="RUN_ID…", show_default=False)],
    after: After = 0,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Follow a run to its end and print its text; the exit code is 1 if the run failed.

    Several runs are followed as one stream of JSON (--json), each from its beginning. The command waits for a
    server that restarts. Ctrl-C stops following; the run goes on. When a new attempt repeats text, a line
    marks the place: only the text after the last such line counts. If the run asks a person, the command asks
    at a terminal, and passes the answer on.

    Example: runstore runs tail 01890a5d-ac96-774b-bcce-b302099a8057
    """
    if len(run_id) > 1 and (after or not as_json):
        raise typer.BadParameter("following several runs requires --json and excludes --after")
    with connected(url, api_key) as client:
        for each in run_id:
            client.get(each)  # report an unknown run or a wrong key before following
    if len(run_id) > 1:
        _follow_several(run_id, url, api_key)
    else:
        follow(run_id[0], after, as_json, url, api_key)


def follow(run_id: str, after: int, as_json: bool, url: str | None, api_key: str | None) -> None:
    from runstore.cli.answers import prompt_for
    from runstore.cli.output import TextPrinter, ending_of, print_json

    printer, last, seen = TextPrinter(), None, after
    try:
        with connected(url, api_key, TAIL_RETRY_S) as client:
            for last in client.stream(run_id, after=after):
                print_json([last]) if as_json else printer.show(last)
                if last.type == InputRequested.type and not as_json:
                    printer.end_line()
                    prompt_for(client, run_id, last.data["request_id"])
                seen = last.seq
    except KeyboardInterrupt:
        printer.end_line()
        typer.echo(f"the run goes on; follow it: runstore runs tail {run_id} --after {seen}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if last and (ending := ending_of(last)):
        typer.echo(f"runstore: {ending}", err=True)
        raise typer.Exit(EXIT_FAILED if last.type == Failed.type else 0)


def _follow_several(run_ids: list[str], url: str | None, api_key: str | None) -> None:
    from runstore.cli.output import print_json

    failed = False
    try:
        with connected(url, api_key, TAIL_RETRY_S) as client:
            for event in client.follow(*run_ids):
                print_json([event])
                failed = failed or event.type == Failed.type
    except KeyboardInterrupt:
        typer.echo("the runs go on", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if failed:
        raise typer.Exit(EXIT_FAILED)
