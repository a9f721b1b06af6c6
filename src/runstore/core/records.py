"""Decoded events for readers: the envelope of a frame or of a page."""

from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.codec import RecordedEvent, TailEvent
from runstore.core.depth import decoded
from runstore.core.events import ENDINGS, EventType
from runstore.core.times import timestamp


class EventRecord(Struct, frozen=True):
    """One event of a run. `at`: RFC 3339, UTC; `data`: what its type says, see docs/reference/events.md."""

    run_id: str
    seq: int
    type: EventType
    at: str
    data: Any = None

    @property
    def ends(self) -> bool:
        """Whether it is the run's terminal event."""
        return self.type in ENDINGS


def record_of(event: RecordedEvent | TailEvent) -> EventRecord:
    """The event, decoded."""
    data = decoded(msgspec.json.decode, event.data)
    return EventRecord(event.run_id, event.seq, event.type, timestamp(event.at), data)
