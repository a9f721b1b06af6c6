"""Parses server-sent events (WHATWG HTML, 9.2.5 and 9.2.6): bytes in, frames out. Pure."""

from msgspec import Struct

from runstore.core.errors import RunstoreError

MAX_FRAME_BYTES = 16 << 20  # bytes of one frame; an event's data is far smaller
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FrameTooLarge(RunstoreError):
    """The stream sent a frame without an end."""

    code = "frame_too_large"


class Frame(Struct, frozen=True, gc=False):
    """One server-sent event.

    `id`: the last event id, which may come from an earlier frame. `data`: UTF-8 as received, lines joined by
    LF. `raw`: the frame's own lines, each ended by LF, without comments: the bytes that our server sent.
    """

    type: str
    id: str
    data: bytes
    raw: bytes


class FrameParser:
    """Splits a stream into frames, however it was split on its way. Reads each byte once."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry_ms: int | None = None  # reconnection delay that the stream asks for
        self._line: list[bytes] = []  # parts of an incomplete line
        self._block: list[bytes] = []  # lines of an incomplete frame
        self._size = 0
        self._first = True
        self._after_cr = False  # a LF that follows belongs to the line before

    def feed(self, part: bytes) -> list[Frame]:
        """The frames that `part` completes.

        Raises:
            FrameTooLarge: no blank line came within MAX_FRAME_BYTES.
        """
        if self._after_cr and part:
            part = part.removeprefix(b"\n")
            self._after_cr = False
        frames: list[Frame] = []
        for line in part.splitlines(keepends=True):
            self._size += len(line)
            if line.endswith((b"\n", b"\r")):
                frame = self._end_line(line.rstrip(b"\r\n"))
                if frame is not None:
                    frames.append(frame)
            else:
                self._line.append(line)
            if self._size > MAX_FRAME_BYTES:
                raise FrameTooLarge(f"a frame of the stream has more than {MAX_FRAME_BYTES:,} bytes")
        self._after_cr = part.endswith(b"\r") if part else self._after_cr
        return frames

    def _end_line(self, line: bytes) -> Frame | None:
        if self._line:
            line = b"".join((*self._line, line))
            self._line.clear()
        if self._first:
            line = line.removeprefix(BYTE_ORDER_MARK)
            self._first = False
        if line:
            if not line.startswith(b":"):
                self._block.append(line)
            elif not self._block:
                self._size = 0  # heartbeats between frames do not count
            return None
        block, self._block, self._size = self._block, [], 0
        return self._interpret(block)

    def _interpret(self, block: list[bytes]) -> Frame | None:
        kind, data = b"", []
        for line in block:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value
            elif name == b"id" and b"\0" not in value:
                self.last_id = value.decode(errors="replace")
            elif name == b"retry" and value.isdigit():
                self.retry_ms = int(value[:9])
        if not data:
            return None
        raw = b"\n".join((*block, b"", b""))
        return Frame(kind.decode(errors="replace") or "message", self.last_id, b"\n".join(data), raw)
