"""A line between a client and a server, over loopback, that breaks when a test wants it to."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends a reset instead of an ordinary end


class Line:
    """Forwards connections to a port of this machine.

    Args:
        cuts: how many bytes of the answers pass before each connection, one after the other, is cut: with 0
            the request arrives and its answer does not. The connections after those are whole.
        reset: cut with a reset, not with an ordinary end.
        silent: do not cut, but pass nothing more.
    """

    def __init__(self, port: int, cuts: list[int], *, reset: bool = False, silent: bool = False) -> None:
        self.cuts = cuts
        self.connections = 0
        self._target = port
        self._reset = reset
        self._silent = silent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        self.cut_open_ones()

    def cut_open_ones(self) -> None:
        for end in list(self._open):
            self._cut(end)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except ConnectionRefusedError:
                    client.close()
                    continue
                self._open |= {client, server}
                limit = self.cuts.pop(0) if self.cuts else None
                threading.Thread(target=self._pass_on, args=(client, server, None), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, limit), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while (left is None or left >= 0) and (part := source.recv(65_536)):
                target.sendall(part if left is None else part[:left])
                left = None if left is None else left - len(part)
        broken = left is not None and left < 0
        if self._silent and broken:
            return
        self._cut(target, reset=self._reset and broken)
        self._cut(source)

    def _cut(self, end: socket.socket, *, reset: bool = False) -> None:
        self._open.discard(end)
        with suppress(OSError):
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)  # wakes the thread that reads it
        end.close()


@contextmanager
def line_to(port: int, cuts: list[int], *, reset: bool = False, silent: bool = False) -> Iterator[Line]:
    line = Line(port, cuts, reset=reset, silent=silent)
    try:
        yield line
    finally:
        line.close()
