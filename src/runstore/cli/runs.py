"""`runstore runs`: the HTTP API from a shell."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from runstore.core.events import Failed, InputRequested, MultitaskStrategy
from runstore.core.printable import escaped
from runstore.core.run import Status

if TYPE_CHECKING:
    from runstore.client import Client, RunRecord

_EXIT_REFUSED = 1  # the server refused or cannot be reached, or the followed run failed
_EXIT_INTERRUPTED = 130  # the exit code that shells use after Ctrl-C
TAIL_RETRY_S = 600.0  # seconds that `tail` waits for a server that is away

app = typer.Typer(help="Start, follow, read and stop runs on a server.", no_args_is_help=True)

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


@app.command("list")
def list_runs(
    status: Annotated[Status | None, typer.Option(help="Only runs in this state.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    session_id: Annotated[str | None, typer.Option(help="Only runs of this session.")] = None,
    workspace_id: Annotated[str | None, typer.Option(help="All members' runs of this workspace.")] = None,
    user_id: Annotated[
        str | None, typer.Option(help="Only runs of this user; of others for admins and auditors.")
    ] = None,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Only deleted runs, for admins and auditors.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(help="Created at or after this time: 2026-11-20T10:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Created at or before this time.")] = None,
    purged: Annotated[bool, typer.Option("--purged", help="Only runs that were purged.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs.")] = 100,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List runs, newest first.

    Example: runstore runs list --status running --agent demo
    """
    from runstore.cli.output import print_json, print_table

    with connected(url, api_key) as client:
        runs = client.list(
            status=status, agent=agent, session_id=session_id, workspace_id=workspace_id,
            since=since, until=until, purged=purged, user_id=user_id,
            deleted=deleted, limit=limit,
        )  # fmt: skip
        if as_json:
            print_json(runs)
        else:
            print_table(_RUN_COLUMNS, map(_run_row, runs))


@app.command()
def show(
    run_id: RunId,
    at: Annotated[
        int | None, typer.Option(min=1, help="The run's state after the event with this seq.")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(help="Seconds, up to 300, to wait for the run to end.")
    ] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show one run.

    Example: runstore runs show 01890a5d-ac96-774b-bcce-b302099a8057 --wait 60
    """
    with connected(url, api_key) as client:
        _print_run(client.get(run_id, at=at, wait=wait), as_json)


@app.command()
def diff(
    run_id: RunId,
    first: Annotated[int, typer.Argument(metavar="A", min=1, help="A seq of the run.")],
    second: Annotated[int, typer.Argument(metavar="B", min=1, help="Another one.")],
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show which fields of a run changed between two of its events.

    Example: runstore runs diff 01890a5d-ac96-774b-bcce-b302099a8057 2 40
    """
    from runstore.cli.output import print_json, print_table

    with connected(url, api_key) as client:
        before, later = (msgspec.to_builtins(client.get(run_id, at=at)) for at in (first, second))
    changed = [(name, before[name], later[name]) for name in before if before[name] != later[name]]
    if as_json:
        print_json({"field": name, "a": a, "b": b} for name, a, b in changed)
    else:
        print_table(("FIELD", f"AT {first}", f"AT {second}"), changed)


@app.command()
def requests(
    run_id: RunId,
    n: Annotated[
        int | None, typer.Argument(metavar="N", min=1, help="The number of one request.", show_default=False)
    ] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List what a run's models were asked, or print one request, whole, as JSON.

    Example: runstore runs requests 01890a5d-ac96-774b-bcce-b302099a8057 2
    """
    from runstore.cli.output import print_json, print_table

    with connected(url, api_key) as client:
        if n is not None:
            print_json([client.request(run_id, n)])
            return
        found = client.requests(run_id)
        if as_json:
            print_json(found)
        else:
            print_table(
                ("N", "SEQ", "AT", "AGENT", "MODEL", "MESSAGES"),
                ((each.n, each.seq, each.at, each.agent, each.model or "", each.messages) for each in found),
            )


@app.command()
def events(
    run_id: RunId,
    after: After = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of events.")] = None,
    types: Annotated[str | None, typer.Option(help="Only these types: llm.message,tool.*")] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Print the events of a run that are stored so far.

    Example: runstore runs events 01890a5d-ac96-774b-bcce-b302099a8057 --types lifecycle.* --json
    """
    from runstore.cli.output import event_row, print_json, print_table

    with connected(url, api_key) as client:
        found = client.events(run_id, after=after, limit=limit, types=types.split(",") if types else None)
        if as_json:
            print_json(found)
        else:
            print_table(("SEQ", "AT", "TYPE", "BY", "DATA"), map(event_row, found))


@app.command()
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
        MultitaskStrategy | None, typer.Option(help="What to do while the session has another run.")
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
    _follow(run.run_id, 0, as_json, url, api_key)


@app.command()
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
    else:
        typer.echo(forked.run_id)


@app.command()
def retry(run_id: RunId, as_json: Json = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Start a run again from its input, with the same agent; print the new run's id.

    Example: runstore runs retry 01890a5d-ac96-774b-bcce-b302099a8057
    """
    fork(run_id, at=1, as_json=as_json, url=url, api_key=api_key)


@app.command()
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


@app.command()
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
        _follow(run_id[0], after, as_json, url, api_key)


@app.command()
def inputs(run_id: RunId, as_json: Json = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List a run's questions to a person, with their answers.

    Example: runstore runs inputs 01890a5d-ac96-774b-bcce-b302099a8057
    """
    from runstore.cli.answers import shown
    from runstore.cli.output import data_cell, print_json, print_table

    with connected(url, api_key) as client:
        found = client.inputs(run_id)
        if as_json:
            print_json(found)
        else:
            columns = ("request", "status", "agent", "question", "answer", "by")
            print_table(
                columns,
                (
                    (each.request_id, each.status, each.agent, shown(each), data_cell(each.answer),
                     each.answered_by)
                    for each in found
                ),
            )  # fmt: skip


@app.command()
def answer(
    run_id: RunId,
    request_id: Annotated[str, typer.Argument(show_default=False, help="As `runs inputs` shows it.")],
    answer: Annotated[
        str | None, typer.Argument(show_default=False, help="JSON, or text that is no JSON.")
    ] = None,
    approve: Annotated[
        bool | None, typer.Option("--approve/--reject", help="Answer an approval.", show_default=False)
    ] = None,
    reason: Annotated[str | None, typer.Option(help="With --reject: what the agent's model is told.")] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Answer a question of a waiting run.

    Example: runstore runs answer 01890a5d-ac96-774b-bcce-b302099a8057 1.1 --approve
    """
    from runstore.cli.answers import answer_of
    from runstore.cli.output import print_json

    if (answer is None) is (approve is None) or (reason is not None and approve is not False):
        raise typer.BadParameter("give an ANSWER, or --approve, or --reject with or without --reason")
    given: Any = {"approve": approve}
    if reason is not None:
        given["reason"] = reason
    with connected(url, api_key) as client:
        if answer is not None:
            asked = (each for each in client.inputs(run_id) if each.request_id == request_id)
            given = answer_of(answer, next((each.schema for each in asked), None))
        run = client.answer(run_id, request_id, given)
    if as_json:
        print_json([run])
    else:
        typer.echo(f"{run.run_id} {run.status}")


@app.command()
def say(
    run_id: RunId,
    text: Annotated[str, typer.Argument(show_default=False, help="The message.")],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Add a message to a run under way; its agent gets it before its next model call.

    Example: runstore runs say 01890a5d-ac96-774b-bcce-b302099a8057 "Only the inner planets."
    """
    with connected(url, api_key) as client:
        client.say(run_id, text)


@app.command()
def delete(run_id: RunId, url: Url = None, api_key: ApiKey = None) -> None:
    """Delete an ended run from the lists.

    Example: runstore runs delete 01890a5d-ac96-774b-bcce-b302099a8057
    """
    with connected(url, api_key) as client:
        client.delete(run_id)


@contextmanager
def connected(url: str | None, api_key: str | None, retry_s: float = 0) -> "Iterator[Client]":
    """A client. Any of its errors ends the command with a message of one line."""
    from runstore.client import Client, ClientError

    with Client(url, api_key=api_key, retry_s=retry_s) as client:
        try:
            yield client
        except ClientError as error:
            typer.echo(f"runstore: {escaped(' '.join(str(error).split()))}", err=True)
            raise typer.Exit(_EXIT_REFUSED) from error


def _follow(run_id: str, after: int, as_json: bool, url: str | None, api_key: str | None) -> None:
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
        raise typer.Exit(_EXIT_INTERRUPTED) from None
    if last and (ending := ending_of(last)):
        typer.echo(f"runstore: {ending}", err=True)
        raise typer.Exit(_EXIT_REFUSED if last.type == Failed.type else 0)


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
        raise typer.Exit(_EXIT_INTERRUPTED) from None
    if failed:
        raise typer.Exit(_EXIT_REFUSED)


def _print_run(run: "RunRecord", as_json: bool) -> None:
    from runstore.cli.output import print_fields, print_json

    if as_json:
        print_json([run])
    else:
        print_fields(msgspec.to_builtins(run))


_RUN_COLUMNS = ("RUN", "STATUS", "USER", "AGENT", "CREATED", "DURATION", "SESSION")


def _run_row(run: "RunRecord") -> tuple[Any, ...]:
    from runstore.cli.output import duration_cell, status_cell, time_cell

    status = status_cell(run.status, stopping=run.cancel_requested and not run.ended)
    took = duration_cell(run.started_at, run.completed_at)
    created = time_cell(run.created_at)
    return (run.run_id, status, run.user_id, run.agent_name, created, took, run.session_id)


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
