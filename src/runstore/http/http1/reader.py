"""The client at the other end of a connection, as the reader of its answers."""

import asyncio
import time
from collections.abc import Callable

from runstore.http.streaming import watched


class Reader:
    """Finds a client that does not read, whether or not its answer is complete."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None  # while it has not taken all bytes
        self._unsent = 0  # untaken bytes at the last check
        self._read_at = 0.0  # time of the last sign that the client reads

    def watch(self, cut: Callable[[], None]) -> None:
        """Call `cut` if the client stops to read before it has taken all bytes."""
        if self._timer is None:
            self.has_read()
            self._look(cut)

    def has_read(self) -> None:
        self._read_at = time.monotonic()

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, cut: Callable[[], None]) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self.has_read()
        self._unsent, self._timer = unsent, None
        if time.monotonic() - self._read_at > watched.SEND_TIMEOUT_S:
            cut()
        elif unsent:
            self._timer = self._loop.call_later(watched.CHECK_S, self._look, cut)
