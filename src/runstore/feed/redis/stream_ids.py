"""The streams that a process reads, and the last id that it has read in each."""

from collections.abc import Collection

BEGINNING = b"0-0"


class StreamIds:
    """The last id read in each stream, and the command that reads on from there.

    The command is cached in Redis' wire format (RESP, "array of bulk strings"): a client library needs more
    time to encode thousands of keys than Redis needs to read them, and only the ids change between commands.
    """

    def __init__(self, options: tuple[bytes, ...]) -> None:
        self._options = options  # arguments of XREAD before the streams
        self._ids: dict[bytes, bytes] = {}  # encoded as in the command
        self._beginning: bytes | None = None  # the encoded command up to the ids; None: encode it again

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
        """The encoded XREAD of all streams."""
        if self._beginning is None:
            words = (b"XREAD", *self._options, b"STREAMS", *self._ids)
            count = len(words) + len(self._ids)
            self._beginning = b"*%d\r\n" % count + b"".join(map(_bulk, words))
        return self._beginning + b"".join(self._ids.values())


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)
