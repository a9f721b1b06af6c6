"""A link between runstore and a database or Redis, which fails as a test asks.

A held direction is a cut cable: data stays where it is, without an error, and arrives when the cable is whole
again, as with TCP.
"""

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Literal, Self

from sqlalchemy import make_url

from tests.kit.commits import CommitCut, Commits, Side
from tests.servers.ports import Port

Direction = Literal["requests", "answers"]
RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends a reset instead of an ordinary end


class Link:
    """Passes connections on to a port of this machine. All methods may be called from any thread.

    Args:
        server: the URL of the server.
    """

    def __init__(self, server: str) -> None:
        self._server = make_url(server)
        self.kind = self._server.get_backend_name()
        self._port = Port()
        self.changed = threading.Condition()
        self.held: set[Direction] = set()
        self.connections: set[_Connection] = set()
        self.armed: CommitCut | None = None
        self._listener: socket.socket | None = None
        self.delay_s = 0.0  # for everything that is passed on, each way
        self.accepted = 0  # connections so far
        try:
            self.accept()
        except BaseException:
            self._port.release()
            raise

    @property
    def url(self) -> str:
        """The server's, through this link."""
        return self._server.set(port=self._port.number).render_as_string(hide_password=False)

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            self._listener.close()
            self._listener = None

    def accept(self) -> None:
        """Take new connections, again or for the first time."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port.number), backlog=512)
            threading.Thread(target=self._take, args=[self._listener], daemon=True).start()

    def hold(self, *directions: Direction) -> None:
        """Pass nothing more in these directions, in silence."""
        with self.changed:
            self.held |= set(directions)

    def cut(self) -> None:
        """Break all open connections, at both ends, with a reset."""
        for connection in self._open():
            connection.close(reset=True)

    def cut_commit(self, side: Side, *, silent: bool = False, carrying: bytes = b"") -> CommitCut:
        """Arm the link for the next COMMIT."""
        cut = CommitCut(side, silent=silent, carrying=carrying)
        self.armed = cut
        return cut

    def disarm(self, cut: CommitCut | None) -> bool:
        """Take the cut off; False when it was not on any more."""
        with self.changed:
            found, self.armed = self.armed is cut is not None, None if self.armed is cut else self.armed
        return found

    def restore(self) -> None:
        """Work again. Held data arrives now."""
        self.delay_s = 0.0
        with self.changed:
            self.armed = None
            self.held.clear()
            for connection in self.connections:
                connection.held.clear()
            self.changed.notify_all()
        self.accept()

    def close(self) -> None:
        self.refuse()
        self.cut()
        self._port.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _open(self) -> "list[_Connection]":
        with self.changed:
            return list(self.connections)

    def _take(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.accepted += 1
                try:
                    server = socket.create_connection((self._server.host or "", self._server.port or 0))
                except OSError:
                    client.close()
                    continue
                connection = _Connection(self, client, server)
                with self.changed:
                    self.connections.add(connection)
                connection.start()


class _Connection:
    def __init__(self, link: Link, client: socket.socket, server: socket.socket) -> None:
        self.held: set[Direction] = set()
        self._link = link
        self._ends = (client, server)
        self._closed = False
        self._ended = 0  # directions
        self._commits = Commits(link.kind)
        self._cut: CommitCut | None = None  # whose COMMIT the server has not yet answered

    def start(self) -> None:
        client, server = self._ends
        for end in self._ends:
            with suppress(OSError):  # it may have been cut already
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, target, direction in ((client, server, "requests"), (server, client, "answers")):
            threading.Thread(target=self._pass_on, args=(source, target, direction), daemon=True).start()

    def close(self, *, reset: bool) -> None:
        with self._link.changed:
            if self._closed:
                return
            self._closed = True
            self._link.connections.discard(self)
            self._link.changed.notify_all()
        for end in self._ends:
            with suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
            end.close()

    def _pass_on(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        try:
            while part := source.recv(65_536):
                self._watch(part, direction)
                if self._link.delay_s:
                    time.sleep(self._link.delay_s)
                if not self._may_pass(direction):
                    return
                target.sendall(part)
            if self._may_pass(direction):  # the end of a connection is held like data
                target.shutdown(socket.SHUT_WR)
        except OSError:
            self.close(reset=True)
        self._end()

    def _end(self) -> None:
        with self._link.changed:
            self._ended += 1
        if self._ended == 2:
            self.close(reset=False)

    def _may_pass(self, direction: Direction) -> bool:
        """Wait until this direction is free; False when the connection was closed instead."""
        with self._link.changed:
            self._link.changed.wait_for(lambda: self._closed or direction not in self._link.held | self.held)
            return not self._closed

    def _watch(self, part: bytes, direction: Direction) -> None:
        armed = self._link.armed
        if direction == "answers":
            if self._cut is not None and self._commits.confirmed(part):
                self._break(self._cut, direction)
        elif self._commits.sent(part, armed) and self._link.disarm(armed):
            self._cut = armed
            if armed is not None and armed.side == "before":
                self._break(armed, direction)

    def _break(self, cut: CommitCut, direction: Direction) -> None:
        self._cut = None
        if cut.silent:
            with self._link.changed:
                self.held.add(direction)
        else:
            self.close(reset=True)
        cut.happened.set()
