"""Further fields of a run's record, on request: `?include=trace,ops_log,schema_warnings`."""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from runstore.core.codec import RecordedEvent, decode
from runstore.core.events import EVENT_CLASSES, STREAMED_TYPES, Queued
from runstore.core.ports import EventFilter
from runstore.core.records import EventRecord, raw_record_of
from runstore.http.errors import BadRequest
from runstore.http.json import Seq
from runstore.http.native.event_types import FAMILIES
from runstore.runtime.catalog.output_schema import SchemaWarning, schema_warnings
from runstore.store.runs import RunAt, RunStore
from runstore.threads import WAIT_S, Threads

INCLUDES = ("trace", "ops_log", "schema_warnings")
MAX_INCLUDED = 1_000  # events of a trace or an operations log
CHECKS = 2  # results checked against their schemas at once: a check takes a whole core

_STREAMING = frozenset(name.partition(".")[0] + "." for name in STREAMED_TYPES)
TRACE = EventFilter(frozenset(EVENT_CLASSES) - STREAMED_TYPES, tuple(sorted(FAMILIES - _STREAMING)))
OPS_LOG = EventFilter(prefixes=("cancel.", "lifecycle."))


class EventPage(Struct, frozen=True):
    """Events in their order. The bytes of each event are those of the log."""

    data: list[EventRecord]
    next: Seq | None


class Included(Struct, frozen=True):
    """The requested fields."""

    trace: EventPage | UnsetType = UNSET
    ops_log: list[EventRecord] | UnsetType = UNSET
    schema_warnings: list[SchemaWarning] | UnsetType | None = UNSET


def read_include(text: str) -> list[str]:
    """Names with commas between them."""
    names = text.split(",")
    for name in names:
        if name not in INCLUDES:
            message = f"include: unknown name {name[:50]!r}; known: {', '.join(INCLUDES)}"
            raise BadRequest(message, code="invalid_parameter")
    return names


class Includes:
    """Reads the requested fields, as of the seq of the found run."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._threads = Threads("runstore-schema", CHECKS, share=CHECKS - 1, wait_s=WAIT_S)

    async def read(self, found: RunAt, names: Sequence[str]) -> Included:
        return Included(
            trace=await _trace(self._store, found) if "trace" in names else UNSET,
            ops_log=await _ops_log(self._store, found) if "ops_log" in names else UNSET,
            schema_warnings=await self._warnings(found) if "schema_warnings" in names else UNSET,
        )

    async def _warnings(self, found: RunAt) -> list[SchemaWarning] | None:
        """Where a result breaks its schema; None without a result or without a schema."""
        [first] = await self._store.events(found.run.run_id, limit=1)
        queued = decode(first.type, first.version, first.data)
        schema: Any = queued.definition.get("output_schema") if isinstance(queued, Queued) else None
        if schema is None or found.run.result is None:
            return None
        return await self._threads.call(schema_warnings, schema, found.run.result)


async def _trace(store: RunStore, found: RunAt) -> EventPage:
    """The first page of the trace; further pages are read as events."""
    page = await _events(store, found, TRACE, after=0)
    last = page[-1].seq if page else 0
    return EventPage([raw_record_of(event) for event in page], last if 0 < last < found.last_seq else None)


async def _ops_log(store: RunStore, found: RunAt) -> list[EventRecord]:
    log: list[RecordedEvent] = []
    while len(log) < MAX_INCLUDED:
        page = await _events(store, found, OPS_LOG, after=log[-1].seq if log else 0)
        if not page:
            break
        log += page
    return [raw_record_of(event) for event in log[:MAX_INCLUDED]]


async def _events(store: RunStore, found: RunAt, only: EventFilter, *, after: int) -> list[RecordedEvent]:
    page = await store.events(found.run.run_id, after=after, limit=MAX_INCLUDED, only=only)
    return [event for event in page if event.seq <= found.last_seq]
