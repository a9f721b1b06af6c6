"""Decoded events for readers: the envelope of a frame or of a page."""

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runstore.core.codec import RecordedEvent, TailEvent, posted_of
from runstore.core.depth import decoded
from runstore.core.events import ENDINGS, EventType
from runstore.core.times import timestamp


class EventRecord(Struct, frozen=True, omit_defaults=True):
    """One event of a run. `at`: RFC 3339, UTC; `data`: what its type says, see docs/reference/events.md.

    `by`: the user who appended a custom event, with the API key `key_id`; None: the run's own agent.
    """

    run_id: str
    seq: int
    type: EventType
    at: str
    data: Any
    by: str | None = None
    key_id: str | None = None

    @property
    def ends(self) -> bool:
        """Whether it is the run's terminal event."""
        return self.type in ENDINGS


def record_of(event: RecordedEvent | TailEvent) -> EventRecord:
    """The event, decoded."""
    record = raw_record_of(event)
    return replace(record, data=decoded(msgspec.json.decode, bytes(record.data)))


def raw_record_of(event: RecordedEvent | TailEvent) -> EventRecord:
    """The event, with its data still encoded."""
    posted = posted_of(event.type, event.version, event.data)
    if posted is None:
        return EventRecord(event.run_id, event.seq, event.type, timestamp(event.at), msgspec.Raw(event.data))
    return EventRecord(
        event.run_id, event.seq, event.type, timestamp(event.at), posted.data, posted.by, posted.key_id
    )
