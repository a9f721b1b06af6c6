"""`runstore audit`: reports on all users' runs, over HTTP, for admins and auditors."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runstore.cli.grouped import grouped
from runstore.cli.options import EXIT_INTERRUPTED
from runstore.cli.runs import ApiKey, RunId, Url, connected
from runstore.cli.tables import Field, Form
from runstore.core.run import Status

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from runstore.client.sync import Client
    from runstore.core.audit import AuditEvent

audit = typer.Typer(
    help="The events, usage and cost of all users' runs, for admins and auditors.", no_args_is_help=True
)

RUN_FIELDS = (
    Field("run_id", "RUN"), Field("user_id", "USER"), Field("agent", "AGENT"), Field("session_id"),
    Field("workspace_id"), Field("status", "STATUS", shown="status"),
    Field("created_at", "CREATED", shown="time"), Field("completed_at"),
    Field("deleted", "DELETED", "flag"), Field("purged", "PURGED", "flag"), Field("error_code", "ERROR"),
    Field("stopped_by"), Field("duration_ms", "DURATION", "integer", "duration"),
    Field("calls", "CALLS", "integer"),
    Field("tokens", "TOKENS", "integer"), Field("cost", "COST", "number", "cost"), Field("currency", ""),
    Field("incomplete", None, "flag"), Field("unpriced", "UNPRICED", "flag"),
)  # fmt: skip
USAGE_FIELDS = (
    Field("day", "DAY"), Field("user_id", "USER"), Field("agent", "AGENT"), Field("model", "MODEL"),
    Field("runs", "RUNS", "integer"), Field("succeeded", None, "integer"),
    Field("failed", "FAILED", "integer"), Field("stopped", "STOPPED", "integer"),
    Field("incomplete", None, "integer"),
    Field("calls", "CALLS", "integer"), Field("input_tokens", "INPUT", "integer"),
    Field("output_tokens", "OUTPUT", "integer"), Field("cache_read_tokens", "CACHED", "integer"),
    Field("cache_write_tokens", None, "integer"), Field("reasoning_tokens", None, "integer"),
    Field("first_token_ms", "FIRST MS", "integer"), Field("duration_ms", None, "integer"),
    Field("cost", "COST", "number", "cost"), Field("currency", ""),
    Field("unpriced_calls", "UNPRICED", "integer"),
)  # fmt: skip
TOOL_FIELDS = (
    Field("day", "DAY"), Field("agent", "AGENT"), Field("tool", "TOOL"), Field("calls", "CALLS", "integer"),
    Field("failures", "FAILURES", "integer"), Field("mean_ms", "MEAN MS", "integer"),
    Field("p50_ms", "P50 MS", "integer"), Field("p95_ms", "P95 MS", "integer"),
)  # fmt: skip
HIT_FIELDS = (
    Field("position", None, "integer"), Field("run_id", "RUN"), Field("seq", "SEQ", "integer"),
    Field("at", "AT", shown="time"), Field("user_id", "USER"), Field("kind", "KIND"), Field("agent", "AGENT"),
    Field("deleted", "DELETED", "flag"), Field("snippet", "TEXT"),
)  # fmt: skip

EVENT_FIELDS = (
    Field("position", "POSITION", "integer"), Field("at", "AT", shown="time"), Field("user_id", "USER"),
    Field("agent", "AGENT"), Field("run_id", "RUN"), Field("seq", "SEQ", "integer"), Field("type", "TYPE"),
    Field("by", "BY"), Field("data", "DATA"),
)  # fmt: skip
READ_FIELDS = (
    Field("at", "AT", shown="time"), Field("by", "READER"), Field("what", "WHAT"), Field("key_id", "KEY"),
    Field("run_id"), Field("position", None, "integer"),
)  # fmt: skip

User = Annotated[str | None, typer.Option("--user", help="Only this user.")]
AgentName = Annotated[str | None, typer.Option("--agent", help="Only this agent.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum number of rows; if not given, 100 in a table, else all."),
]


@dataclass(frozen=True)
class Whose:
    """Filters of the reports: user, agent, session and workspace."""

    user: User = None
    agent: AgentName = None
    session_id: Annotated[str | None, typer.Option(help="Only this session.")] = None
    workspace_id: Annotated[str | None, typer.Option(help="Only this workspace.")] = None

    def filters(self) -> dict[str, Any]:
        return {
            "user_id": self.user, "agent": self.agent, "session_id": self.session_id,
            "workspace_id": self.workspace_id,
        }  # fmt: skip


@dataclass(frozen=True)
class Days:
    """The days on which runs were queued."""

    since: Annotated[str | None, typer.Option(help="Queued on this day (UTC) or later: 2026-11-20.")] = None
    until: Annotated[str | None, typer.Option(help="Queued on this day (UTC) or earlier.")] = None


@dataclass(frozen=True)
class Api:
    """The server to ask."""

    url: Url = None
    api_key: ApiKey = None

    def connected(self) -> "AbstractContextManager[Client]":
        return connected(self.url, self.api_key)


@audit.command()
@grouped
def runs(
    *,
    whose: Whose,
    status: Annotated[Status | None, typer.Option(help="Only runs in this state.")] = None,
    error_code: Annotated[str | None, typer.Option(help="Only runs that failed with this code.")] = None,
    stopped_by: Annotated[str | None, typer.Option(help="Only runs that this user stopped.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Queued at this time or later: 2026-11-20T10:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Queued at this time or earlier.")] = None,
    min_duration_ms: Annotated[
        int | None, typer.Option(min=1, help="Only runs of at least this many milliseconds.")
    ] = None,
    min_tokens: Annotated[
        int | None, typer.Option(min=1, help="Only runs with at least this many tokens.")
    ] = None,
    min_cost: Annotated[str | None, typer.Option(help="Only runs of at least this cost: 0.25.")] = None,
    max_duration_ms: Annotated[
        int | None, typer.Option(min=1, help="Only runs of at most this many milliseconds.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Only runs with at most this many tokens.")
    ] = None,
    max_cost: Annotated[str | None, typer.Option(help="Only runs of at most this cost.")] = None,
    text: Annotated[str | None, typer.Option(help='Only runs with these words and "phrases".')] = None,
    sort: Annotated[
        Literal["created", "failed", "cost", "tokens", "duration"],
        typer.Option(help="Order, largest first."),
    ] = "created",
    ascending: Annotated[bool, typer.Option("--ascending", help="Smallest first.")] = False,
    limit: Limit = None,
    form: Form,
    api: Api,
) -> None:
    """Runs with what they used and cost, deleted and purged ones too.

    Example: runstore audit runs --sort cost --since 2026-11-01T00:00:00Z
    """
    filters = {
        **whose.filters(), "status": status, "error_code": error_code, "stopped_by": stopped_by,
        "since": since, "until": until,
        "min_duration_ms": min_duration_ms, "min_tokens": min_tokens, "min_cost": min_cost, "text": text,
        "max_duration_ms": max_duration_ms, "max_tokens": max_tokens, "max_cost": max_cost,
        "sort": sort, "order": "asc" if ascending else None, "totals": "false",
    }  # fmt: skip
    with api.connected() as client:
        form.write_matching(RUN_FIELDS, lambda most: client.report("runs", limit=most, **filters), limit)


@audit.command()
@grouped
def usage(
    *,
    group: Annotated[str, typer.Option(help="Some of day, user, agent and model, with commas.")] = "day",
    user: User = None,
    agent: AgentName = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    days: Days,
    form: Form,
    api: Api,
) -> None:
    """Tokens, times and cost, in sum.

    Example: runstore audit usage --group user,model --since 2026-11-01
    """
    fields = _grouped(USAGE_FIELDS, group.replace("user", "user_id"), {"day", "user_id", "agent", "model"})
    filters: dict[str, Any] = {"user_id": user, "agent": agent, "model": model}
    with api.connected() as client:
        form.write(fields, client.report("usage", group=group, since=days.since, until=days.until, **filters))


@audit.command()
@grouped
def tools(
    *,
    group: Annotated[str, typer.Option(help="Some of day, agent and tool, with commas.")] = "agent,tool",
    agent: Annotated[str | None, typer.Option(help="Only this agent, a path.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only this tool.")] = None,
    days: Days,
    form: Form,
    api: Api,
) -> None:
    """Calls, failures and latencies of tools.

    Example: runstore audit tools --group day,tool --since 2026-11-01
    """
    fields = _grouped(TOOL_FIELDS, group, {"day", "agent", "tool"})
    with api.connected() as client:
        found = client.report(
            "tools", group=group, agent=agent, tool=tool, since=days.since, until=days.until
        )
        form.write(fields, found)


@audit.command()
@grouped
def search(
    *,
    text: Annotated[str, typer.Argument(metavar="TEXT", help='Words and "phrases".', show_default=False)],
    user: User = None,
    agent: AgentName = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None,
    kind: Annotated[
        Literal["input", "answer", "tool"] | None, typer.Option(help="Only text of this kind.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Said at this time or later: 2026-11-20T10:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Said at this time or earlier.")] = None,
    limit: Limit = None,
    form: Form,
    api: Api,
) -> None:
    """Find words in inputs, answers and tool calls, newest first.

    Example: runstore audit search '"credit card" refund' --kind answer
    """
    filters: dict[str, Any] = {
        "user_id": user, "agent": agent, "run_id": run_id, "kind": kind, "since": since, "until": until,
    }  # fmt: skip
    with api.connected() as client:
        form.write_matching(
            HIT_FIELDS, lambda most: client.report("search", limit=most, text=text, **filters), limit
        )


@audit.command()
@grouped
def events(
    *,
    types: Annotated[str | None, typer.Option(help="Only these types: llm.message,tool.*")] = None,
    whose: Whose,
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run, and its readers.")] = None,
    since: Annotated[str | None, typer.Option(help="At this time or later: 2026-11-20T10:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="At this time or earlier.")] = None,
    contains: Annotated[str | None, typer.Option(help="Only data with this text; case matters.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Begin after the event at this position.")] = 0,
    limit: Limit = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new events, as JSON.")] = False,
    form: Form,
    api: Api,
) -> None:
    """All events in the order of the whole log.

    Example: runstore audit events --user alice --types tool.* --since 2026-11-01T00:00:00Z
    """
    from runstore.cli.output import print_json

    form = replace(form, as_json=form.as_json or follow)
    filters: dict[str, Any] = {
        **whose.filters(), "types": types.split(",") if types else None, "run_id": run_id, "since": since,
        "until": until, "contains": contains, "after": after,
    }  # fmt: skip
    with api.connected() as client:
        if follow:
            try:
                print_json(client.follow_audit(**filters))
            except KeyboardInterrupt:
                raise typer.Exit(EXIT_INTERRUPTED) from None
        if form.as_json:
            print_json(client.audit(**filters, limit=limit))
        else:
            form.write_matching(
                EVENT_FIELDS,
                lambda most: (_event_row(e, form.for_people) for e in client.audit(**filters, limit=most)),
                limit,
            )


@audit.command("who-read")
@grouped
def who_read(
    *,
    run_id: RunId,
    limit: Limit = None,
    form: Form,
    api: Api,
) -> None:
    """Which admins and auditors read a run of another user, and how.

    Example: runstore audit who-read 01890a5d-ac96-774b-bcce-b302099a8057
    """
    with api.connected() as client:
        form.write_matching(
            READ_FIELDS,
            lambda most: (
                {"at": e.at, "position": e.position, **e.data}
                for e in client.audit(run_id=run_id, types=["audit.read"], limit=most)
            ),
            limit,
        )


def _grouped(fields: Sequence[Field], group: str, columns: Collection[str]) -> list[Field]:
    """The fields without those, of `columns`, that are not grouped by."""
    return [field for field in fields if field.name in group.split(",") or field.name not in columns]


def _event_row(event: "AuditEvent", for_people: bool) -> dict[str, Any]:
    from msgspec.json import encode
    from msgspec.structs import asdict

    from runstore.cli.output import data_cell

    row = asdict(event)
    row["data"] = data_cell(event.data) if for_people else encode(event.data).decode()
    return row
