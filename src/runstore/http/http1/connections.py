"""The connections of a server, and what all of them together may take."""

import time
from typing import Protocol

from uvicorn.server import ServerState

# Seconds that an idle connection is kept, however many there are: if thousands of clients connect at once,
# some send their request seconds later.
KEPT_S = 10.0
LARGE_HEAD_BYTES = 8 << 10  # bytes of an incomplete head that counts towards MAX_HEADS_BYTES
MAX_HEADS_BYTES = 16 << 20  # bytes of all incomplete heads that are so large


class Connection(Protocol):
    """As far as its server may end it."""

    def make_room(self) -> None:
        """Close, as it has no request in progress."""

    def give_up_head(self) -> None:
        """Refuse the request whose head is incomplete."""


class Connections(ServerState):
    """All connections of a server.

    Args:
        max_idle: connections without a request in progress: new ones, those that wait for another request or
            the rest of its head, and those whose client has yet to read its answer. They need no login, so
            they must not take all descriptors: beyond it, those that have waited longest are closed, if they
            have waited for KEPT_S.
        most_idle: beyond it, the longest waiting one is closed, however short it has waited.
    """

    def __init__(self, max_idle: int, most_idle: int) -> None:
        super().__init__()
        self.max_idle = max_idle
        self.most_idle = most_idle
        self._idle: dict[Connection, float] = {}  # since when, in this order: monotonic seconds
        self._heads: dict[Connection, int] = {}  # bytes of large incomplete heads, the oldest first
        self._heads_bytes = 0  # their sum

    def rest(self, connection: Connection) -> None:
        self.wake(connection)
        now = self._idle[connection] = time.monotonic()
        while len(self._idle) > self.max_idle:
            longest, since = next(iter(self._idle.items()))
            if now - since < KEPT_S and len(self._idle) <= self.most_idle:
                break
            self.wake(longest)
            longest.make_room()

    def wake(self, connection: Connection) -> None:
        self._idle.pop(connection, None)

    def hold_head(self, connection: Connection, size: int) -> None:
        """Note the bytes of an incomplete head. If there is no room, the longest waiting one is refused."""
        if size <= LARGE_HEAD_BYTES:
            self.release_head(connection)
            return
        self._heads_bytes += size - self._heads.get(connection, 0)
        self._heads[connection] = size
        while self._heads_bytes > MAX_HEADS_BYTES:
            longest = next(iter(self._heads))
            self.release_head(longest)
            longest.give_up_head()

    def release_head(self, connection: Connection) -> None:
        """A head is complete, or is not read further."""
        self._heads_bytes -= self._heads.pop(connection, 0)
