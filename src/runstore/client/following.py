"""Following a run over connections that break: where the reader is, what to ask for, when to end. No I/O."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from runstore.client.calls import CONNECT_TIMEOUT_S, is_passing, joined, unreachable
from runstore.client.errors import ClientError, ServerUnreachable, UnexpectedAnswer, error_of
from runstore.client.patience import Patience
from runstore.core.depth import decoded
from runstore.core.records import EventRecord
from runstore.core.sse import Frame, FrameParser, FrameTooLarge

SILENCE_S = 45.0  # three heartbeats: a connection that has said nothing for so long is dead
MEDIA_TYPE = "text/event-stream"

_decode = msgspec.json.Decoder(EventRecord).decode


class Following:
    """One reader's place in a run. Ask `request()`, tell what came, wait `wait_s()`, until it has `ended`.

    Args:
        after: the cursor: events with a greater seq.
        types: a filter; without one, a missing seq is an error.
    """

    def __init__(self, run_id: str, *, after: int, types: Sequence[str] | None, retry_s: float) -> None:
        self.ended = False
        self._path = f"/runs/{quote(run_id, safe='')}/stream"
        self._cursor = after
        self._types = types
        self._patience = Patience(retry_s)
        self._parser = FrameParser()
        self._lost: ClientError = ServerUnreachable()
        self._asked_s = 0.0

    def request(self) -> dict[str, Any]:
        """The next request, as arguments for httpx."""
        headers = {"Accept": MEDIA_TYPE, "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if self._cursor:
            headers["Last-Event-ID"] = str(self._cursor)
        return {
            "method": "GET", "url": self._path, "headers": headers,
            "params": {} if self._types is None else {"types": joined(self._types)},
            "timeout": httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S),
        }  # fmt: skip

    def opened(self, answer: httpx.Response) -> bool:
        """The answer's status has come; True: feed what follows, False: `refused` takes the rest."""
        if answer.status_code == 204:
            self.ended = True
            return True
        if answer.status_code != 200:
            return False
        if answer.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
            raise UnexpectedAnswer(f"{answer.url} is no event stream")
        self._parser = FrameParser()
        self._patience.alive()
        self._lost = ServerUnreachable(f"{answer.url}: the stream was cut")
        return True

    def refused(self, answer: httpx.Response) -> None:
        """An answer that is no stream has been read.

        Raises:
            ApiError: there is no point in asking again.
        """
        error = error_of(answer.status_code, answer.headers, answer.content)
        if not is_passing(error):
            raise error
        self._lost, self._asked_s = error, error.retry_after_s

    def broken(self, error: httpx.TransportError) -> None:
        """The connection broke, or there was none."""
        self._lost = unreachable(error)

    def feed(self, part: bytes) -> list[EventRecord]:
        """The events that are complete with `part`: each once, in order.

        Raises:
            UnexpectedAnswer: an event is missing, or it is none.
        """
        try:
            frames = self._parser.feed(part)
        except FrameTooLarge as error:
            raise UnexpectedAnswer(str(error)) from error
        events = [event for event in map(self._event, frames) if event is not None]
        if events:
            self._patience.progress()
        return events

    def wait_s(self) -> float:
        """How long to wait before the next request.

        Raises:
            ClientError: what went wrong, since it has for too long.
        """
        asked_s, self._asked_s = self._asked_s, 0.0
        return self._patience.wait_s(self._lost, asked_s)

    def _event(self, frame: Frame) -> EventRecord | None:
        try:
            event = decoded(_decode, frame.data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnexpectedAnswer(f"an event of the stream cannot be read: {error}") from error
        if event.seq <= self._cursor or self.ended:
            return None
        if self._types is None and event.seq != self._cursor + 1:
            raise UnexpectedAnswer(f"event {event.seq} of the stream came after event {self._cursor}")
        self._cursor = event.seq
        self.ended = event.ends
        return event
