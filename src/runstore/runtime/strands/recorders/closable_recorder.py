"""Recording what an agent says, until the run is no longer its own."""

from collections.abc import Awaitable, Callable, Sequence

from runstore.core.codec import EncodedEvent
from runstore.core.errors import InvalidEvent
from runstore.core.events import Event
from runstore.core.ports import AddedMessage, RunRecorder
from runstore.runtime.memory.oversized import fitting


class ClosableRecorder:
    """A recorder that closes for good at its first refusal, and then ignores events.

    It does not raise the refusal: strands would log it, retry, or answer the model with it. `closed_by` holds
    the refusal, and `on_close` ends the agent.
    """

    def __init__(self, recorder: RunRecorder, on_close: Callable[[], None]) -> None:
        self.closed_by: Exception | None = None
        self._recorder = recorder
        self._on_close = on_close

    def close(self, reason: Exception) -> None:
        """Ignore all further events. The first reason counts."""
        if self.closed_by is None:
            self.closed_by = reason
            self._on_close()

    async def added(self, after: int) -> Sequence[AddedMessage]:
        """See `RunRecorder.added`; none once it is closed."""
        if self.closed_by is not None:
            return ()
        try:
            return await self._recorder.added(after)
        except Exception as refusal:  # such as RunPurged
            self.close(refusal)
            return ()

    async def record(self, event: Event | EncodedEvent) -> None:
        if self.closed_by is not None:
            return
        try:
            await self._recorder.record(event)
        except InvalidEvent as error:
            if isinstance(event, EncodedEvent):
                self.close(error)
                return
            await self.record_fitting(event, error)
        except Exception as refusal:
            self.close(refusal)

    async def commit(self, event: Event) -> None:
        if error := await self.try_commit(event):
            await self.record_fitting(event, error)

    async def try_record(self, event: Event) -> InvalidEvent | None:
        """Record an event. Returns the reason if it cannot be stored, and stays open."""
        return await self._write(self._recorder.record, event)

    async def try_commit(self, event: Event) -> InvalidEvent | None:
        """Commit an event. Returns as `try_record` does."""
        return await self._write(self._recorder.commit, event)

    async def record_fitting(self, event: Event, error: InvalidEvent) -> None:
        """Record an event that cannot be stored whole: in several parts, or shortened."""
        try:
            for part in fitting(event, error):
                await self._recorder.record(part)
        except Exception as refusal:
            self.close(refusal)

    async def _write(self, write: Callable[[Event], Awaitable[None]], event: Event) -> InvalidEvent | None:
        if self.closed_by is None:
            try:
                await write(event)
            except InvalidEvent as error:
                return error
            except Exception as refusal:
                self.close(refusal)
        return None
