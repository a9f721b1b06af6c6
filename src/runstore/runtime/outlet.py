"""The way out for what an agent says, until nobody wants to hear it any more."""

from collections.abc import Awaitable, Callable

from runstore.core.errors import InvalidEvent
from runstore.core.events import Event
from runstore.core.ports import RunRecorder
from runstore.runtime.oversized import fitting


class Outlet:
    """A recorder that closes for good at its first refusal, and then takes events without a word.

    An exception on its way through a foreign event loop is logged there, made an answer for the model, or
    retried. So nothing is raised here: `closed_by` says why, and `on_close` ends the agent.
    """

    def __init__(self, recorder: RunRecorder, on_close: Callable[[], None]) -> None:
        self.closed_by: Exception | None = None
        self._recorder = recorder
        self._on_close = on_close

    def close(self, reason: Exception) -> None:
        """Take nothing more. The first reason is the one that counts."""
        if self.closed_by is None:
            self.closed_by = reason
            self._on_close()

    async def record(self, event: Event) -> None:
        if error := await self.try_record(event):
            await self.record_fitting(event, error)

    async def commit(self, event: Event) -> None:
        if error := await self.try_commit(event):
            await self.record_fitting(event, error)

    async def try_record(self, event: Event) -> InvalidEvent | None:
        """Record an event; returns why it cannot be stored, which closes nothing."""
        return await self._write(self._recorder.record, event)

    async def try_commit(self, event: Event) -> InvalidEvent | None:
        """Commit an event; returns as `try_record`."""
        return await self._write(self._recorder.commit, event)

    async def record_fitting(self, event: Event, error: InvalidEvent) -> None:
        """Record what cannot be stored in one piece as several, or in short."""
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
