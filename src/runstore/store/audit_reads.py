"""Records what admins and auditors read of other users' runs, before they get it."""

import time
from collections.abc import Mapping

from msgspec import Struct

from runstore.core.events import AuditedRead, AuditRead
from runstore.core.ids import READS_OF_ALL, reads_id
from runstore.core.ports import EventLog
from runstore.core.run import Actor

REPEAT_S = 600.0  # seconds in which the same read is recorded once: pages, polls, reconnects
MAX_KNOWN = 10_000  # reads that are remembered


class _Read(Struct, frozen=True):
    reader: Actor
    what: AuditedRead
    run_id: str | None
    query: tuple[tuple[str, str], ...]


class AuditReads:
    """Each read becomes an `audit.read` in a stream of its own, once in REPEAT_S.

    Both methods return when the event is stored, and raise LogUnavailable if it cannot be: a read that is
    not recorded does not happen.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._known: dict[_Read, float] = {}

    async def of_run(self, reader: Actor, run_id: str, what: AuditedRead) -> None:
        """Another user's run was read."""
        await self._record(_Read(reader, what, run_id, ()), reads_id(run_id))

    async def of_all(self, reader: Actor, what: AuditedRead, query: Mapping[str, str]) -> None:
        """All users' runs or events were searched."""
        await self._record(_Read(reader, what, None, tuple(sorted(query.items()))), READS_OF_ALL)

    async def _record(self, read: _Read, stream_id: str) -> None:
        now = time.monotonic()
        if now - self._known.get(read, -REPEAT_S) < REPEAT_S:
            return
        event = AuditRead(
            by=read.reader.user_id, key_id=read.reader.key_id, what=read.what, run_id=read.run_id,
            query=dict(read.query),
        )  # fmt: skip
        await self._log.append(stream_id, [event])
        if len(self._known) >= MAX_KNOWN:
            self._known = {known: at for known, at in self._known.items() if now - at < REPEAT_S}
        if len(self._known) < MAX_KNOWN:
            self._known[read] = now
