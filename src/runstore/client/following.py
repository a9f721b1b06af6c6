"""Follows runs over connections that break: holds the cursor, makes requests, detects the end. No I/O."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from runstore.client.calls import CONNECT_TIMEOUT_S, is_passing, unreachable
from runstore.client.errors import ClientError, ServerUnreachable, UnexpectedAnswer, error_of
from runstore.client.patience import Patience
from runstore.client.sse import Frame, FrameParser, FrameTooLarge
from runstore.core.audit import AuditEvent
from runstore.core.records import EventRecord

SILENCE_S = 45.0  # seconds of silence, three heartbeats, before a connection counts as dead
MEDIA_TYPE = "text/event-stream"
GONE = "stream.gone"  # the type of an event that says a followed run was deleted or purged

_decode = msgspec.json.Decoder(EventRecord).decode
_decode_audit = msgspec.json.Decoder(AuditEvent).decode


T = TypeVar("T")


class Stream(Generic[T]):
    """One reader's position in a stream.

    Loop: send `request()`, pass its outcome to `opened`, `refused`, `broken` and `feed`, then wait `wait_s()`
    seconds, until `ended`.
    """

    def __init__(self, path: str, params: list[tuple[str, str]], last_id: str, retry_s: float) -> None:
        self.ended = False
        self._path = path
        self._params = params
        self._last_id = last_id
        self._patience = Patience(retry_s)
        self._parser = FrameParser()
        self._lost: ClientError = ServerUnreachable()
        self._asked_s = 0.0

    def request(self) -> dict[str, Any]:
        """The next request, as arguments for httpx."""
        headers = {"Accept": MEDIA_TYPE, "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        return {
            "method": "GET", "url": self._path, "headers": headers,
            "params": self._params,
            "timeout": httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S),
        }  # fmt: skip

    def opened(self, answer: httpx.Response) -> bool:
        """Take the answer's status; return whether it is a stream.

        If so, pass the body to `feed`; otherwise read it and call `refused`.
        """
        if answer.status_code == 204:
            self.ended = True
            return True
        if answer.status_code != 200:
            return False
        if answer.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
            raise UnexpectedAnswer(f"{answer.url} is not an event stream")
        self._parser = FrameParser()
        self._patience.alive()
        self._lost = ServerUnreachable(f"{answer.url}: the stream was cut")
        return True

    def refused(self, answer: httpx.Response) -> None:
        """Take an answer that is not a stream, whose body has been read.

        Raises:
            ApiError: retrying cannot help.
        """
        error = error_of(answer.status_code, answer.headers, answer.content)
        if not is_passing(error):
            raise error
        self._lost, self._asked_s = error, error.retry_after_s

    def broken(self, error: httpx.TransportError) -> None:
        """Record that the connection broke or could not be made."""
        self._lost = unreachable(error)

    def feed(self, part: bytes) -> list[T]:
        """The events that `part` completes, each once and in order.

        Raises:
            UnexpectedAnswer: an event is missing or malformed.
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
        """Seconds to wait before the next request.

        Raises:
            ClientError: the last failure, when the retry time is over.
        """
        asked_s, self._asked_s = self._asked_s, 0.0
        return self._patience.wait_s(self._lost, asked_s)

    def _event(self, frame: Frame) -> T | None:
        """The event of a frame; None if the reader has had it."""
        raise NotImplementedError


class RunStream(Stream[EventRecord]):
    """One reader's position in a run.

    Args:
        after: the cursor; the stream has the events with a greater seq.
        types: a filter; without one, a missing seq is an error.
    """

    def __init__(self, run_id: str, *, after: int, types: Sequence[str] | None, retry_s: float) -> None:
        path = f"/runs/{quote(run_id, safe='')}/stream"
        super().__init__(path, _filter(types), str(after) if after else "", retry_s)
        self._cursor = after
        self._filtered = types is not None

    def _event(self, frame: Frame) -> EventRecord | None:
        event = _read(frame, _decode)
        if event.seq <= self._cursor or self.ended:
            return None
        _check_next(event, None if self._filtered else self._cursor)
        self._cursor = event.seq
        self._last_id = str(event.seq)
        self.ended = event.ends
        return event


class FollowingSeveral(Stream[EventRecord]):
    """One reader's positions in several runs.

    Args:
        run_ids: the runs; without any, all of the user's own runs.
    """

    def __init__(self, run_ids: Sequence[str], *, types: Sequence[str] | None, retry_s: float) -> None:
        super().__init__(
            "/stream", [*(("run_id", run_id) for run_id in run_ids), *_filter(types)], "", retry_s
        )
        self._cursors = dict.fromkeys(map(str.lower, run_ids), 0)
        self._filtered = types is not None

    def _event(self, frame: Frame) -> EventRecord | None:
        event = _read(frame, _decode)
        self._last_id = frame.id
        if event.seq == 0:
            return event if event.type == GONE else None
        cursor = self._cursors.get(event.run_id, 0)
        _check_next(event, None if self._filtered else cursor)
        self._cursors[event.run_id] = event.seq
        if event.ends:
            del self._cursors[event.run_id]
        return event


class FollowingAudit(Stream[AuditEvent]):
    """One reader's position in the whole log."""

    def __init__(self, filters: Mapping[str, Any], *, after: int, retry_s: float) -> None:
        params = [(name, str(value)) for name, value in filters.items()]
        super().__init__("/audit/events/stream", params, str(after) if after else "", retry_s)
        self._cursor = after

    def _event(self, frame: Frame) -> AuditEvent | None:
        event = _read(frame, _decode_audit)
        if event.position <= self._cursor:
            return None
        self._cursor = event.position
        self._last_id = frame.id
        return event


def _filter(types: Sequence[str] | None) -> list[tuple[str, str]]:
    return [] if types is None else [("types", ",".join(types))]


def _read(frame: Frame, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(frame.data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(f"an event of the stream cannot be read: {error}") from error


def _check_next(event: EventRecord, cursor: int | None) -> None:
    if cursor is not None and event.seq != cursor + 1:
        raise UnexpectedAnswer(f"event {event.seq} of the stream came after event {cursor}")
