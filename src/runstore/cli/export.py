"""`runstore export`: past runs for other systems, over HTTP, for admins and auditors."""

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runstore.cli.options import EXIT_FAILED
from runstore.cli.runs import ApiKey, Url, connected
from runstore.core.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from runstore.client import Client

SPANS_AT_ONCE = 500  # spans of one request to the receiver

export = typer.Typer(help="Past runs for other systems, for admins and auditors.", no_args_is_help=True)


@export.callback()
def _several() -> None:
    """Keep `otlp` a command of its own, as others will follow."""


@export.command()
def otlp(
    since: Annotated[str, typer.Option(help="Runs queued at this time or later: 2026-11-20T10:00:00Z.")],
    until: Annotated[str | None, typer.Option(help="Runs queued at this time or earlier.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only this user.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent.")] = None,
    session_id: Annotated[str | None, typer.Option(help="Only this session.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Where to send the spans: a URL with its path; else as OTEL_EXPORTER_OTLP_* say."),
    ] = None,
    content: Annotated[
        bool, typer.Option("--content/--no-content", help="Whether to send inputs and outputs.")
    ] = True,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Send runs that have ended as OpenTelemetry spans, as Langfuse or Phoenix show them.

    A repeated export gives the same spans. Purged runs have nothing to send.

    Example: runstore export otlp --since 2026-11-01T00:00:00Z --endpoint http://localhost:4318/v1/traces
    """
    from opentelemetry.sdk.trace.export import SpanExportResult

    exporter = _exporter(endpoint)
    filters = {"since": since, "until": until, "user_id": user, "agent": agent, "session_id": session_id}
    sent = 0
    try:
        with connected(url, api_key) as client:
            for spans in _batches(_spans(client, content, **filters)):
                if exporter.export(spans) is not SpanExportResult.SUCCESS:
                    typer.echo("export: the receiver refused the spans, or did not answer", err=True)
                    raise typer.Exit(EXIT_FAILED)
                sent += len(spans)
    except BaseException:
        if sent:
            typer.echo(f"export: only {sent:,} spans sent", err=True)
        raise
    finally:
        exporter.shutdown()
    typer.echo(f"export: {sent:,} spans sent", err=True)


def _exporter(endpoint: str | None) -> "SpanExporter":
    try:
        module = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        missing = "runstore export otlp needs a package that is missing: pip install 'runstore[otlp]'"
        raise ConfigError(missing) from error
    exporter: SpanExporter = module.OTLPSpanExporter(endpoint=endpoint)
    return exporter


def _spans(client: "Client", content: bool, **filters: Any) -> "Iterator[ReadableSpan]":
    """The spans of all matching runs that have ended, newest first."""
    from runstore.cli.otlp import spans_of
    from runstore.client import Gone

    for listed in client.list(deleted=None, **filters):
        if not listed.ended:
            continue
        try:
            trace = client.trace(listed.run_id)
        except Gone:  # purged since it was listed
            continue
        yield from spans_of(listed, trace, content=content)


def _batches(spans: "Iterator[ReadableSpan]") -> "Iterator[list[ReadableSpan]]":
    batch: list[ReadableSpan] = []
    for span in spans:
        batch.append(span)
        if len(batch) == SPANS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
