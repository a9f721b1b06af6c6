"""Server-sent events on the wire. Between two frames only heartbeats are allowed."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from runstore.core.codec import RecordedEvent, TailEvent
from runstore.http.streaming.frames import frame

HEARTBEAT = b":\n"
FRAME = re.compile(rb"(retry: 1000\n)?id: (\d+)\nevent: ([a-z][\w.-]+)\ndata: ([^\r\n]+)\n\n", re.ASCII)
ENDINGS = ("lifecycle.completed", "lifecycle.failed", "lifecycle.cancelled")


@dataclass(frozen=True)
class Frame:
    """One event of a stream, with the bytes that it came in."""

    raw: bytes
    seq: int
    type: str
    line: bytes = field(repr=False)

    @cached_property
    def event(self) -> dict[str, Any]:
        return json.loads(self.line)

    @property
    def data(self) -> Any:
        return self.event["data"]

    @property
    def at_s(self) -> float:
        """Seconds since 1970."""
        return datetime.fromisoformat(self.event["at"]).timestamp()

    @property
    def ends(self) -> bool:
        return self.type in ENDINGS


class FrameReader:
    """Takes what comes over a connection, part by part; half a frame at its end, where it broke, is lost."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, part: bytes) -> Iterator[Frame]:
        """The frames that are complete now."""
        self._buffer += part
        while True:
            self._buffer = without_heartbeats(self._buffer)
            found = FRAME.match(self._buffer)
            if found is None:
                assert b"\n\n" not in self._buffer, f"this is no frame: {self._buffer[:200]!r}"
                return
            self._buffer = self._buffer[found.end() :]
            yield _frame(found)


def read_frames(parts: Iterable[bytes]) -> Iterator[Frame]:
    """The frames in all that came over a connection."""
    reader = FrameReader()
    for part in parts:
        yield from reader.feed(part)


def frame_of(event: RecordedEvent) -> bytes:
    """The frame of an event that the log holds."""
    e = event
    return frame(TailEvent(e.run_id, e.seq, e.type, e.ends, e.at, e.data, e.version))


def without_heartbeats(buffer: bytes) -> bytes:
    while buffer.startswith(HEARTBEAT):
        buffer = buffer.removeprefix(HEARTBEAT)
    return buffer


def seqs(frames: Iterable[Frame]) -> list[int]:
    return [frame.seq for frame in frames]


def joined(frames: Iterable[Frame]) -> bytes:
    return b"".join(frame.raw for frame in frames)


def said(frames: Iterable[Frame]) -> str:
    """The text of all tokens."""
    return "".join(frame.data["text"] for frame in frames if frame.type == "llm.token")


def _frame(found: re.Match[bytes]) -> Frame:
    retry, seq, type, line = found.groups()
    assert (retry is not None) == (seq == b"1"), "the first event's frame alone brings `retry`"
    return Frame(found[0], int(seq), type.decode(), line)
