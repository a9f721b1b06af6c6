"""Commands that start runs and end them."""

import os
import sys
from typing import Annotated, Any

import msgspec
import typer

from runstore.cli.runs.following import follow as follow_run
from runstore.cli.runs.options import ApiKey, Json, RunId, Url, connected
from runstore.core.events import MultitaskStrategy


def start(
    agent: Annotated[str, typer.Argument(metavar="AGENT", show_default=False)],
    input: Annotated[
        str, typer.Argument(metavar="INPUT", help="Input for the agent; - reads it from standard input.")
    ],
    blocks: Annotated[
        bool, typer.Option("--blocks", help="INPUT is a JSON list of content blocks: text, images, …")
    ] = False,
    session_id: Annotated[str | None, typer.Option(help="Session of the run.")] = None,
    workspace_id: Annotated[
        str | None, typer.Option(help="Workspace whose members may read the run.")
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object, such as '{\"ticket\": 7}'.")] = None,
    multitask_strategy: Annotated[
        MultitaskStrategy | None, typer.Option(help="How to start while the session has another run.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the run as `tail` does.")] = False,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Start a run and print its id.

    Example: runstore runs start demo "Count from 1 to 5" --follow
    """
    from runstore.cli.output import print_json

    text = _utf8(sys.stdin.buffer.read() if input == "-" else os.fsencode(input))
    asked = _json(text, list[dict[str, Any]], "INPUT") if blocks else text
    described = None if metadata is None else _json(metadata, dict[str, Any], "--metadata")
    with connected(url, api_key) as client:
        run = client.start(
            agent, asked, session_id=session_id, workspace_id=workspace_id, metadata=described,
            multitask_strategy=multitask_strategy,
        )  # fmt: skip
    if not follow:
        print_json([run]) if as_json else typer.echo(run.run_id)
        return
    if not as_json:
        typer.echo(run.run_id, err=True)
    follow_run(run.run_id, 0, as_json, url, api_key)


def fork(
    run_id: RunId,
    at: Annotated[int | None, typer.Option(min=1, help="A seq of the run; its last if not given.")] = None,
    input: Annotated[
        str | None, typer.Option(help="Added to the conversation; without it the model answers again.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The id of another model of the same provider.")] = None,
    system_prompt: Annotated[str | None, typer.Option(help="Another system prompt.")] = None,
    agent: Annotated[str | None, typer.Option(help="Another agent.")] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Start a run that begins with the conversation of this one; print its id.

    Example: runstore runs fork 01890a5d-ac96-774b-bcce-b302099a8057 --at 40 --input "And in euros?"
    """
    from runstore.cli.output import print_json

    with connected(url, api_key) as client:
        forked = client.fork(
            run_id, at=at, model=model, system_prompt=system_prompt, input=input, agent=agent
        )
    if as_json:
        print_json([forked])
        return
    typer.echo(forked.run_id)
    if at is not None and forked.forked_at_seq != at:
        boundary = "the last end of a message or tool"
        typer.echo(f"it begins after seq {forked.forked_at_seq}, {boundary} up to {at}", err=True)


def retry(run_id: RunId, as_json: Json = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Start a run again from its input, with the same agent; print the new run's id.

    Example: runstore runs retry 01890a5d-ac96-774b-bcce-b302099a8057
    """
    fork(run_id, at=1, as_json=as_json, url=url, api_key=api_key)


def stop(
    run_id: RunId,
    reason: Annotated[str | None, typer.Option(help="Reason to store with the request.")] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Ask a run to stop; it ends within the server's grace period.

    Example: runstore runs stop 01890a5d-ac96-774b-bcce-b302099a8057
    """
    from runstore.cli.output import print_json

    with connected(url, api_key) as client:
        run = client.stop(run_id, reason=reason)
    if as_json:
        print_json([run])
    else:
        typer.echo(f"{run.run_id} {run.status if run.ended else 'is asked to stop'}")


def delete(run_id: RunId, url: Url = None, api_key: ApiKey = None) -> None:
    """Delete an ended run from the lists.

    Example: runstore runs delete 01890a5d-ac96-774b-bcce-b302099a8057
    """
    with connected(url, api_key) as client:
        client.delete(run_id)


def _utf8(given: bytes) -> str:
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"this is not UTF-8: {error}", param_hint="INPUT") from error


def _json(text: str, kind: Any, where: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise typer.BadParameter(f"this JSON is not valid here: {error}", param_hint=where) from error
