"""A reader with a browser's rules: EventSource as WHATWG HTML, 9.2 has it, over a blocking client."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Message:
    """An event as a page's listener gets it."""

    type: str
    data: str
    last_event_id: str


class EventSource:
    """Connects, reconnects and gives up as a browser does.

    Args:
        url: may be relative to the client's base URL.
        wait: called with the reconnection time, in seconds, before each new try.
    """

    def __init__(self, client: httpx.Client, url: str, wait: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._url = url
        self._wait = wait
        self.last_event_id = ""
        self.reconnection_s = (
            3.0  # "an implementation-defined value, probably in the region of a few seconds"
        )
        self.closed = False
        self.opened = 0  # how often `onopen` fired
        self.errors = 0  # how often `onerror` fired

    def messages(self) -> Iterator[Message]:
        """The events that the page gets, until the connection has failed for good."""
        while not self.closed:
            yield from self._connect()
            self.errors += 1
            if not self.closed:
                self._wait(self.reconnection_s)

    def _connect(self) -> Iterator[Message]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        try:
            with self._client.stream("GET", self._url, headers=headers) as answer:
                kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
                if answer.status_code != 200 or kind != "text/event-stream":
                    self.closed = True  # "fail the connection"
                    return
                self.opened += 1
                yield from self.interpret(read_lines(answer.iter_raw()))
        except httpx.TransportError:
            return  # "reestablish the connection", as at the end of the stream

    def interpret(self, lines: Iterable[str]) -> Iterator[Message]:
        """9.2.6 Interpreting an event stream. Data after the last blank line is discarded."""
        data: list[str] = []
        kind, event_id = "", self.last_event_id
        for line in lines:
            if not line:
                self.last_event_id = event_id
                if data:
                    yield Message(kind or "message", "\n".join(data), event_id)
                data, kind = [], ""
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "id" and "\0" not in value:
                event_id = value
            elif name == "retry" and value.isascii() and value.isdigit():
                self.reconnection_s = int(value) / 1000
            # a comment has no name; an unknown field is ignored


def read_lines(parts: Iterable[bytes]) -> Iterator[str]:
    """Lines that end in CR, LF or CRLF, decoded; a byte order mark at the beginning is dropped."""
    buffer, first = b"", True
    for part in parts:
        buffer += part
        if first and len(buffer) >= 3:
            buffer, first = buffer.removeprefix(b"\xef\xbb\xbf"), False
        while (line := _cut(buffer)) is not None:
            text, buffer = line
            yield text.decode(errors="replace")


def _cut(buffer: bytes) -> tuple[bytes, bytes] | None:
    """The first line and the rest; None while it is not known where the line ends."""
    for place, byte in enumerate(buffer):
        if byte == 0x0A:
            return buffer[:place], buffer[place + 1 :]
        if byte == 0x0D:
            if place + 1 == len(buffer):
                return None  # a LF may follow
            return buffer[:place], buffer[place + 1 + (buffer[place + 1] == 0x0A) :]
    return None
