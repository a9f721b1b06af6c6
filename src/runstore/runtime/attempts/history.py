"""Reads a run's history, on which the supervisor acts."""

from typing import TypeVar, cast

from runstore.core.codec import RecordedEvent, decode
from runstore.core.errors import RunNotFound
from runstore.core.events import EVENT_CLASSES, STREAMED_TYPES, Cancelled, CancelRequested, Event, Queued
from runstore.core.pages import pages
from runstore.core.ports import EventFilter, LogReader

_REMEMBERED = EventFilter(types=frozenset(EVENT_CLASSES) - STREAMED_TYPES)

E = TypeVar("E", bound=Event)


async def read_start(log: LogReader, run_id: str) -> Queued:
    """How the run was started."""
    return await _first(log, run_id, Queued)


async def read_cancellation(log: LogReader, run_id: str) -> Cancelled:
    """The ending that the run's cancel request asks for."""
    return Cancelled(reason=(await _first(log, run_id, CancelRequested)).reason)


async def read_history(log: LogReader, run_id: str) -> list[RecordedEvent]:
    """All that a new attempt can build on: everything but streamed text."""
    history: list[RecordedEvent] = []
    async for page in pages(log, run_id, only=_REMEMBERED):
        history += page
    return history


async def _first(log: LogReader, run_id: str, cls: type[E]) -> E:
    for event in await log.read(run_id, only=EventFilter(types=frozenset({cls.type})), limit=1):
        if event.type == cls.type:
            return cast(E, decode(event.type, event.version, event.data))
    raise RunNotFound(f"run {run_id} has no {cls.type} event")
