"""The client at the other end of a connection, as the reader of its answers."""

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from runstore.http.streaming import watched


class Reader:
    """Finds a client that does not read, whether or not its answer is complete."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None  # while it has not taken all bytes
        self._unsent = 0  # untaken bytes at the last check
        self._taken = 0  # bytes that the client's system had taken at the last check
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
        taken = acknowledged(self._transport.get_extra_info("socket"))
        if unsent < self._unsent or taken > self._taken:
            self.has_read()
        self._unsent, self._taken, self._timer = unsent, taken, None
        if time.monotonic() - self._read_at > watched.SEND_TIMEOUT_S:
            cut()
        elif unsent:
            self._timer = self._loop.call_later(watched.CHECK_S, self._look, cut)


def acknowledged(connection: socket.socket) -> int:
    """The bytes that the other side's system has taken (tcp(7), TCP_INFO); 0 where the system does not say.

    It shows progress of some KiB, and the buffer of a transport only that of the whole kernel buffer.
    """
    with suppress(OSError):
        if sys.platform == "linux":
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            return int.from_bytes(info[120:128], sys.byteorder)
    return 0
