"""The options of a run, read from its first event."""

import msgspec
from msgspec import Raw, Struct

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.depth import decoded


class QueuedRun(Struct, frozen=True, gc=False):
    """The fields of `lifecycle.queued` or `run.purged` by which other packages classify a run.

    `input`: its JSON, not decoded. `multitask_strategy`: may be a value that only a newer release knows.
    """

    agent: str
    user_id: str
    session_id: str | None = None
    multitask_strategy: str = "enqueue"
    key_id: str | None = None
    input: Raw = Raw(b"null")


_read = msgspec.json.Decoder(QueuedRun).decode


def read_queued(first: EncodedEvent | RecordedEvent) -> QueuedRun:
    """A run's options, from its `lifecycle.queued` or `run.purged`."""
    return decoded(_read, first.data)
