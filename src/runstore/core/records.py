"""An event as its readers see it: the envelope of a frame or of a page, decoded."""

from typing import Any

from msgspec import Struct

from runstore.core.events import Cancelled, Completed, EventType, Failed

ENDINGS = frozenset(cls.type for cls in (Completed, Failed, Cancelled))


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
