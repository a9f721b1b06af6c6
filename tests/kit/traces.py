"""Traces of runs whose events a test holds."""

from collections.abc import Iterable

from runstore.core.codec import RecordedEvent
from runstore.core.folds.trace import Trace, TraceFold


def trace_of(run_id: str, events: Iterable[RecordedEvent]) -> Trace:
    """The trace of a run from its events, in order."""
    folding = TraceFold(run_id)
    for event in events:
        folding.add(event)
    return folding.trace
