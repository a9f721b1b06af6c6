"""Commands that show runs."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from runstore.cli.runs.options import After, ApiKey, Json, RunId, Url, connected
from runstore.core.run import Status

if TYPE_CHECKING:
    from runstore.client import RunRecord

_RUN_COLUMNS = ("RUN", "STATUS", "USER", "AGENT", "CREATED", "DURATION", "SESSION")


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
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of runs; if not given, 100 in a table, else all."),
    ] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List runs, newest first.

    Example: runstore runs list --status running --agent demo
    """
    from runstore.cli.output import SHOWN_ROWS, print_json, print_table

    most = SHOWN_ROWS if limit is None and not as_json else None
    with connected(url, api_key) as client:
        runs = client.list(
            status=status, agent=agent, session_id=session_id, workspace_id=workspace_id,
            since=since, until=until, purged=purged, user_id=user_id,
            deleted=deleted, limit=limit if most is None else most + 1,
        )  # fmt: skip
        if as_json:
            print_json(runs)
        else:
            print_table(_RUN_COLUMNS, map(_run_row, runs), most=most)


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
    from runstore.cli.output import print_json, print_table, time_cell

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
                (
                    (each.n, each.seq, time_cell(each.at), each.agent, each.model or "", each.messages)
                    for each in found
                ),
            )


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


def _print_run(run: "RunRecord", as_json: bool) -> None:
    from runstore.cli.output import print_fields, print_json

    if as_json:
        print_json([run])
    else:
        print_fields(msgspec.to_builtins(run))


def _run_row(run: "RunRecord") -> tuple[Any, ...]:
    from runstore.cli.output import duration_cell, status_cell, time_cell

    status = status_cell(run.status, stopping=run.cancel_requested and not run.ended)
    took = duration_cell(run.started_at, run.completed_at)
    created = time_cell(run.created_at)
    return (run.run_id, status, run.user_id, run.agent_name, created, took, run.session_id)
