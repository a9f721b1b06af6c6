"""Which streams a process reads, and up to where it has read each."""

from collections.abc import Collection

BEGINNING = b"0-0"


class Places:
    """Each stream's last id that was read, and the command that asks for what comes after.

    The command is kept in Redis' own form (RESP, "array of bulk strings"): thousands of keys cost a client
    library more time than they cost Redis, and only the ids change from one command to the next.
    """

    def __init__(self, options: tuple[bytes, ...]) -> None:
        self._options = options  # of XREAD
        self._ids: dict[bytes, bytes] = {}  # as they are in the command
        self._beginning: bytes | None = None  # of the command, up to the ids

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def keys(self) -> Collection[bytes]:
        return self._ids.keys()

    def set(self, key: bytes, id: bytes) -> None:
        if key not in self._ids:
            self._beginning = None
        self._ids[key] = _bulk(id)

    def discard(self, key: bytes) -> None:
        if self._ids.pop(key, None) is not None:
            self._beginning = None

    def command(self) -> bytes:
        """XREAD of all streams."""
        if self._beginning is None:
            words = (b"XREAD", *self._options, b"STREAMS", *self._ids)
            count = len(words) + len(self._ids)
            self._beginning = b"*%d\r\n" % count + b"".join(map(_bulk, words))
        return self._beginning + b"".join(self._ids.values())


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)
