"""One OpenTelemetry span for each attempt of a run. Without a tracer provider this has no effect."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runstore.core.events import Ending, Failed
from runstore.core.ports import Asked, RunContext

_PROPAGATOR = TraceContextTextMapPropagator()


@contextmanager
def attempt_span(run: RunContext, traceparent: str | None) -> Iterator[trace.Span]:
    """A span that is current in the task, so that strands' own spans are its children.

    Args:
        traceparent: its parent (W3C Trace Context); None makes it a root.
    """
    carrier = {"traceparent": traceparent} if traceparent else {}
    attributes: dict[str, str | int] = {
        "runstore.run_id": run.run_id,
        "runstore.agent": run.agent_name,
        "runstore.attempt": run.attempt,
        "runstore.user_id": run.user_id,
    }
    if run.session_id is not None:
        attributes["runstore.session_id"] = run.session_id
    with trace.get_tracer("runstore").start_as_current_span(
        f"run {run.agent_name}", _PROPAGATOR.extract(carrier, Context()), attributes=attributes
    ) as span:
        yield span


def traceparent() -> str | None:
    """The current span as a parent for another process; None if this process records none."""
    if not trace.get_current_span().is_recording():
        return None
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def child_of(traceparent: str | None) -> Iterator[None]:
    """Spans started in the block are children of this span of another process."""
    if traceparent is None:
        yield
        return
    token = context.attach(_PROPAGATOR.extract({"traceparent": traceparent}))
    try:
        yield
    finally:
        context.detach(token)


def note_ending(span: trace.Span, ending: Ending | Asked | None, *, handed_over: bool) -> None:
    """Set the attempt's outcome; without an ending of its own the run continued, or was closed, elsewhere."""
    if ending is None:
        span.set_attribute("runstore.status", "handed_over" if handed_over else "lost")
        return
    if isinstance(ending, Asked):
        span.set_attribute("runstore.status", "waiting")
        return
    span.set_attribute("runstore.status", ending.status)
    if isinstance(ending, Failed):
        span.set_attribute("runstore.error_code", ending.code)
        span.set_status(trace.StatusCode.ERROR, ending.message)


def flush_spans(timeout_s: float) -> None:
    """Export pending spans: a process that exits at once runs none of its exit handlers."""
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flushing = threading.Thread(target=flush, daemon=True)
        with suppress(RuntimeError):  # the machine allows no more threads
            flushing.start()
            flushing.join(timeout_s)
