"""COMMITs in the bytes between a driver and its database, and the cut of a connection at one of them."""

import re
import threading
from typing import Literal

Side = Literal["before", "after"]
DEADLINE_S = 120.0

# The end of a transaction as a message of its own, and the answer to a COMMIT. PostgreSQL: a Query, or a
# Parse with a name of its statement; CommandComplete has the tag. MariaDB: COM_QUERY, and a packet OK.
END = {
    "postgresql": re.compile(rb"(?:Q\0\0\0.|P\0\0\0.[^\0]*\0)(COMMIT|ROLLBACK);?\0", re.S),
    "mysql": re.compile(rb"\x03(COMMIT|ROLLBACK);?\Z"),
}
COMMITTED = {
    "postgresql": re.compile(rb"C\0\0\0\x0bCOMMIT\0"),
    "mysql": re.compile(rb"\A...\x01\0", re.S),
}
LONGEST_END = 64  # bytes of such a message: so many may have come with the part before


class CommitCut:
    """Cuts the connection that commits next, once.

    Args:
        side: "before" the server sees the COMMIT, or "after" it has executed it, with its answer lost.
        silent: hold the connection instead of closing it: the COMMIT, or its answer, arrives with `restore`.
        carrying: only of a transaction in which these bytes were sent since then: a process has several
            connections that commit, and its COMMITs are all alike.
    """

    def __init__(self, side: Side, *, silent: bool, carrying: bytes) -> None:
        self.side = side
        self.silent = silent
        self.carrying = carrying
        self.happened = threading.Event()

    def wait(self) -> None:
        """Return when it has been cut."""
        assert self.happened.wait(DEADLINE_S), f"there was no COMMIT to cut {self.side}"


class Commits:
    """Finds the COMMITs of one connection; `kind` is that of its database."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._before = b""  # the last bytes sent: a message may come in two parts
        self._carried = b""  # the bytes sent in this transaction since `_watched_for`
        self._watched_for: CommitCut | None = None

    def sent(self, part: bytes, armed: CommitCut | None) -> bool:
        """Whether the COMMIT that `armed` waits for is in what the client sends next."""
        if self._kind not in END:
            return False
        if armed is not self._watched_for:
            self._watched_for, self._carried = armed, b""
        if armed is not None and armed.carrying:
            self._carried += part
        end = END[self._kind].search(self._before + part)
        if end is None:
            self._before = (self._before + part)[-LONGEST_END:]
            return False
        carried = armed is not None and any(each in self._carried for each in _forms(armed.carrying))
        self._before = self._carried = b""
        return carried and end[1] == b"COMMIT"

    def confirmed(self, part: bytes) -> bool:
        """Whether the server says that it has committed."""
        return COMMITTED[self._kind].search(part) is not None


def _forms(carried: bytes) -> tuple[bytes, bytes]:
    """As a value and as a literal."""
    return carried, carried.hex().encode()
