"""The way out for what an agent says, until nobody wants to hear it any more."""

from collections.abc import Awaitable, Callable

from runstore.core.events import Event
from runstore.core.ports import RunRecorder


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
        await self._write(self._recorder.record, event)

    async def commit(self, event: Event) -> None:
        await self._write(self._recorder.commit, event)

    async def _write(self, write: Callable[[Event], Awaitable[None]], event: Event) -> None:
        if self.closed_by is None:
            try:
                await write(event)
            except Exception as refusal:
                self.close(refusal)
