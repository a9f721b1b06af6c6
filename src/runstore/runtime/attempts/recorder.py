"""Records an agent's events in the log."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from runstore.core.codec import EncodedEvent, decode, encode
from runstore.core.errors import LogUnavailable, RunstoreError
from runstore.core.events import Custom, Event, InputAdded
from runstore.core.ports import AddedMessage, EventFilter, LogReader, LogWriter
from runstore.runtime.attempts.announced_waits import AnnouncedWaits
from runstore.runtime.attempts.halves import SurrogateJoiner

ADDED = EventFilter(types=frozenset({InputAdded.type}))
MAX_ADDED = 100  # added messages that an agent takes at once; the next model call gets more
TURN = 32  # events after which an agent that never waits yields to the others of its loop


class Recorder:
    """The port `RunRecorder`, bound to one attempt of one run. Safe to call from any event loop.

    Args:
        fresh: no message had been added when the attempt began; `notify` is called for those since.
    """

    def __init__(
        self,
        log: LogWriter,
        run_id: str,
        attempt: int,
        *,
        reader: LogReader | None = None,
        fresh: bool = False,
    ) -> None:
        self._log = log
        self._reader = reader
        self._run_id = run_id
        self._attempt = attempt
        self._refusal: RunstoreError | None = None
        self._turn = 0
        self._halves = SurrogateJoiner()
        self._silent_since = time.monotonic()
        self._announced = AnnouncedWaits()
        self._lock = threading.Lock()
        self._waiting = 0  # events waiting for the log
        self._told = 0  # the seq of the last added message that is known here
        self._looked = fresh  # whether all added messages before that were read

    @property
    def idle_s(self) -> float:
        """Seconds since the agent's last event, or its start; 0 while it waits for the log.

        While one of its agents waits to repeat a model call, the silence starts when that wait is over.
        """
        if self._waiting:
            return 0
        with self._lock:
            since = max(self._silent_since, self._announced.until)
        return max(0.0, time.monotonic() - since)

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.record`.

        Raises:
            InvalidEvent: the event cannot be stored.
            RunClosed, LeaseLost: the agent no longer owns the run; all further events are refused.
        """
        self._note(event)
        if self._halves.concern(event):
            for each in self._halves.whole(event):
                await self._offer(each)
            return
        await self._offer(event)

    async def flush(self) -> None:
        """Record the held text."""
        for event in self._halves.rest():
            await self._offer(event)

    async def _offer(self, event: Event | Custom | EncodedEvent) -> None:
        encoded = event if isinstance(event, EncodedEvent) else encode(event)
        while not self._log.offer(self._run_id, encoded, attempt=self._attempt, refused=self._refuse):
            with self._waits():
                await self._log.room(self._run_id)
            self._check()
        self._check()
        self._turn += 1
        if self._turn >= TURN:
            self._turn = 0
            await asyncio.sleep(0)

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.commit`. Raises as `record` does."""
        self._check()
        with self._waits():
            events = self._halves.whole(event, hold=False)
            await self._log.append(self._run_id, events, attempt=self._attempt, patient=True)
        self._note(event)

    def notify(self, added: int) -> None:
        """A message with this seq was added to the run. From any thread; an old one changes nothing."""
        with self._lock:
            self._told = max(self._told, added)

    async def added(self, after: int) -> Sequence[AddedMessage]:
        """See `RunRecorder.added`. Empty while the log cannot be read: the next call finds them.

        The log is read at the first call, unless the attempt is fresh, and then only after `notify`.
        """
        if self._looked and self._told <= after:
            return ()
        found: list[AddedMessage] = []
        with suppress(LogUnavailable), self._waits():
            if self._reader is not None:
                page = await self._reader.read(self._run_id, after=after, limit=MAX_ADDED, only=ADDED)
                for event in page:
                    decoded = decode(event.type, event.version, event.data)
                    if isinstance(decoded, InputAdded):
                        found.append(AddedMessage(event.seq, decoded.content))
                        self.notify(event.seq)  # an agent may give it back
                self._looked = not found  # a page of large messages is short, and others may follow it
        return found

    def _note(self, event: Event | Custom | EncodedEvent) -> None:
        self._silent_since = time.monotonic()
        if self._announced.concern(event):
            with self._lock:
                self._announced.note(event, self._silent_since)

    @contextmanager
    def _waits(self) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
            self._silent_since = time.monotonic()

    def _refuse(self, refusal: RunstoreError) -> None:
        self._refusal = refusal

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal
