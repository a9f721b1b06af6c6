"""HTTP/1.1 on a socket: uvicorn's protocol with limits, and with the strictness of RFC 9112.

A connection costs bounded memory and is closed when its client stalls. Requests that a proxy may have parsed
differently are refused before a route sees them. In another server (`MountedApp`) its own rules apply.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from runstore.forks import forget, keep_from_forks
from runstore.http.http1.connections import Connections
from runstore.http.http1.reader import Reader
from runstore.http.http1.request_head import (
    Refused,
    check_head,
    malformed,
    take_host_of_target,
    without_upgrade,
)

MAX_HEAD_BYTES = 64 << 10  # bytes of a request before its body
MAX_HEADERS = 256  # header lines of a request
MAX_FRAMING_BYTES = 16 << 10  # bytes of a chunked body besides its content: trailers, chunk extensions
CHUNK_FRAMING_BYTES = 64  # further bytes per chunk: its size and line ends
MAX_PIPELINED = 16  # requests that wait for an earlier answer on their connection
# That a connection waits for another request. Longer than the other side keeps it (clients' pools 4 s in Node
# to 90 s in Go, nginx 60 s, Caddy 120 s): to close it under a request loses one that may not be repeated.
KEEP_ALIVE_S = 130
HEAD_S = 10.0  # seconds from a connection, or a request's first byte, to the end of its head
LINGER_S = 2.0  # seconds to read the rest of a request after the answer, so that the client can read it
MAX_REST_BYTES = 128 << 20  # bytes of that rest: reading them costs the process up to 0.1 s
MAX_REFUSED_REST_BYTES = 1 << 20  # bytes of the rest of a request that is not valid HTTP
MAX_UNSENT_BYTES = 16 << 10  # bytes buffered in the kernel, so that a slow reader's progress is visible

log = structlog.get_logger(__name__)


class _UntilClosed(int):
    """The length of a body that ends with its connection, to be set instead of a number of bytes."""

    def __lt__(self, other: object) -> bool:  # it has at least any number of bytes
        return False

    def __sub__(self, other: object) -> "_UntilClosed":
        return self

    def __ne__(self, other: object) -> bool:  # nothing is missing at its end
        return False


class _Answering:
    """The transport of a request's answer: to close it may leave time to read the answer."""

    def __init__(self, connection: "HttpProtocol") -> None:
        transport = connection.transport
        self.write, self.abort, self.is_closing = transport.write, transport.abort, transport.is_closing
        self.close = connection.leave
        self.when_lost = connection.when_lost


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    server_state: Connections
    _in_head: bool = True  # in a request's head, or before one
    _begun: bool = False  # this read has bytes after the last complete request
    # Bytes received of an incomplete head. If a request ended in the same read, an upper bound: all bytes but
    # those that this request is known to have had.
    _head_bytes = 0
    _body_begun: bool = False
    _before: RequestResponseCycle | None = None  # the request before one whose body is not complete
    _framing_bytes = 0  # bytes received of a body, without its content
    _framing_allowed = 0
    _deadline: asyncio.TimerHandle | None = None  # ends the wait for a head, or for the rest of a body
    _rest: int | None = None  # after the last request: bytes that may still come, and are dropped
    _refused: Refused | None = None  # the answer to the last request, to follow those to earlier ones

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reader = Reader(self.loop, transport)
        self._socket = transport.get_extra_info("socket")
        keep_from_forks(self._socket)
        if hasattr(socket, "TCP_NOTSENT_LOWAT") and self.client is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        self._lost: dict[object, Callable[[], None]] = {}  # functions to call when it is lost
        self._end_in(HEAD_S)
        self.server_state.rest(self)

    def connection_lost(self, exc: Exception | None) -> None:
        forget(self._socket)
        self._cancel_deadline()
        self._reader.leave()
        self._unset_keepalive_if_required()
        self.server_state.wake(self)
        self.server_state.release_head(self)
        self._before = None
        if self.cycle is not None:
            self.cycle.transport = self.transport  # without a reference to this object
        super().connection_lost(exc)
        for lost in tuple(self._lost.values()):
            lost()

    @contextmanager
    def when_lost(self, lost: Callable[[], None]) -> Iterator[None]:
        """Call `lost` if the connection is lost within the block, which is read to notice that."""
        self._lost[block := object()] = lost
        self.flow.resume_reading()
        try:
            yield
        finally:
            del self._lost[block]

    # Reading

    def data_received(self, data: bytes) -> None:
        if self._rest is not None:
            self._rest -= len(data)
            if self._rest < 0 and self._refused is not None:
                self.flow.pause_reading()  # until the answers to earlier requests are complete
            elif self._rest < 0:
                self.transport.close()
            return
        self._unset_keepalive_if_required()
        self._begun = True
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._head_bytes = len(data)
            self._framing_bytes += len(data)
        try:
            self._feed(data)
            if self._in_head:
                self._wait_for_head()
            self._check_bounds()
        except Refused as refused:
            self._refuse(refused)
        except httptools.HttpParserError as error:
            own = error.__context__  # raised by a callback
            invalid = malformed(f"this is not an HTTP/1.1 request: {error}")
            self._refuse(own if isinstance(own, Refused) else invalid)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            else:
                return

    def _without_upgrade(self) -> bytes:
        """The head again, for a new parser: this one would not read a body after it."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = without_upgrade(method, self.url, version, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head

    def _wait_for_head(self) -> None:
        if not self._begun:
            self._head_bytes = 0
        elif self._deadline is None and not self._answering():
            self._unset_keepalive_if_required()  # the end of a body in this read may have set it
            self._end_in(HEAD_S)

    def _check_bounds(self) -> None:
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            raise _too_large_head()
        self.server_state.hold_head(self, self._head_bytes if self._in_head else 0)
        if self._framing_bytes > MAX_FRAMING_BYTES + self._framing_allowed:
            message = f"at most {MAX_FRAMING_BYTES >> 10} KiB of trailers and chunk extensions are allowed"
            raise Refused(431, "headers_too_large", message)

    def on_message_begin(self) -> None:
        self._begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # drop a trailer: no proxy has checked it, and no route needs one
        if len(self.headers) >= MAX_HEADERS:
            raise Refused(431, "headers_too_large", f"at most {MAX_HEADERS} headers are allowed in a request")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser calls again without it
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            raise _too_large_head()  # it came in one read
        version = self.parser.get_http_version()
        check_head(version, self.headers)
        if version == "1.0":
            self.expect_100_continue = False  # its clients know no interim answer (RFC 9110, 10.1.1)
        self.url = take_host_of_target(self.url, self.headers)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise malformed(f"more than {MAX_PIPELINED} requests wait for an answer")
        self.server_state.wake(self)
        self._in_head, self._body_begun = False, False
        self._head_bytes -= size + len(self.headers) * len(b":\r\n")
        self._framing_bytes = self._framing_allowed = 0
        self._cancel_deadline()
        self._before = self.cycle
        super().on_headers_complete()
        self.cycle.transport = _Answering(self)  # type: ignore[assignment]
        if version == "1.0":  # HTTP/1.0 has no chunks (RFC 9112, 6.1); uvicorn sends them
            self.cycle.chunked_encoding = False
            self.cycle.expected_content_length = _UntilClosed()

    def on_body(self, body: bytes) -> None:
        self._body_begun = True
        self._framing_bytes -= len(body)
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """Called by the parser."""
        self._framing_allowed += CHUNK_FRAMING_BYTES
        self._head_bytes -= len(b"0\r\n\r\n")

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head, self._begun, self._before = True, False, None
        self._framing_bytes = self._framing_allowed = 0
        self._cancel_deadline()
        super().on_message_complete()
        if not self.parser.should_keep_alive():  # a trailer may end it: the parser reads nothing after that
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
        if self.cycle.response_complete:  # the answer was complete before the body
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self.server_state.rest(self)

    def on_response_complete(self) -> None:
        unasked = self.expect_100_continue and not self._in_head and not self._body_begun
        if not self._answering():  # else the next request has arrived
            self.cycle.body = bytearray()  # its unread bytes, as of a refused request
        if self._rest is not None and self._refused is None:
            self.server_state.total_requests += 1
            return
        more = bool(self.pipeline)
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch_reader()
        if more:
            return
        self.server_state.rest(self)
        if self.transport.is_closing():
            return
        if self._refused is not None:
            self._rest = None
            self._refuse(self._refused)
        elif unasked:
            self._linger(MAX_REST_BYTES)  # the client may now send its body or its next request
        elif not self._in_head:
            self._end_in(LINGER_S)
        elif self._head_bytes:
            self._unset_keepalive_if_required()
            self._end_in(HEAD_S)

    def _answering(self) -> bool:
        """Whether a request has arrived whose answer is not complete."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _end_in(self, seconds: float) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, self._end)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        if self._in_head and self._head_bytes:
            message = f"the head of the request did not arrive within {HEAD_S:g} s"
            self._refuse(Refused(408, "request_timeout", message))
        else:
            self.transport.close()

    def _refuse(self, refused: Refused) -> None:
        """Answer, after the answers to earlier requests, and close; only close if an answer has begun."""
        if self.transport.is_closing():
            return
        if not self._in_head and self.pipeline:  # refused without a route: the last request is the one before
            self.pipeline.popleft()
            self.cycle, self._before = self._before, None  # type: ignore[assignment]  # as uvicorn's own None
            self._in_head = True
        if self._in_head and self._answering():
            self._refused = refused
            self._stop_reading(MAX_REFUSED_REST_BYTES)
            return
        self._refused = None
        if self._in_head or not self.cycle.response_started:
            self.transport.write(refused.answer)
        elif self._answering():
            self._stop_reading(0)
            self.transport.close()
            return
        self._linger(MAX_REFUSED_REST_BYTES)

    def give_up_head(self) -> None:
        """Answer an incomplete head, and free it at once: its bytes must not wait for the client."""
        if self._rest is not None or self.transport.is_closing():
            return
        if self._answering():
            self._refuse(_TOO_MANY_HEADS)
        else:
            self.transport.write(_TOO_MANY_HEADS.answer)
            self._stop_reading(0)
            self.transport.close()

    def make_room(self) -> None:
        """Close a connection without a request in progress at once, for others."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # to close it would wait for its client to read
        elif self._head_bytes and self._rest is None:
            self.give_up_head()
        else:
            self.transport.close()

    # Leaving

    def leave(self) -> None:
        """Close after an answer. No other one follows."""
        if self._refused is not None:
            self._refused = self._rest = None
            self._linger(MAX_REFUSED_REST_BYTES)
        elif self._in_head:
            self.transport.close()
        else:
            self._linger(MAX_REST_BYTES)

    def shutdown(self) -> None:
        if self._rest is not None and self._refused is None:
            self.transport.close()
        else:
            super().shutdown()

    def _linger(self, rest: int) -> None:
        """End the answers, and drop what the client still sends, for LINGER_S (RFC 9112, 9.6).

        If data arrives at a closed socket, the system resets the connection, and the client may lose the
        answer. After `rest` bytes the connection is closed nevertheless.
        """
        if self._rest is not None or self.transport.is_closing():
            return
        self._stop_reading(rest)
        self._unset_keepalive_if_required()
        self.server_state.rest(self)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        self._cancel_deadline()
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _stop_reading(self, rest: int) -> None:
        """Drop what still comes, up to `rest` bytes, and free the memory of an incomplete head."""
        self._rest = rest
        if self.transport.get_write_buffer_size():
            self._watch_reader()
        self.server_state.release_head(self)
        self.url, self.headers = b"", []
        self.parser = None  # type: ignore[assignment]  # it may hold a part of a header
        if self.scope is not None:
            self.scope = {**self.scope, "headers": self.headers}

    # Writing

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._reader.has_read()
        super().resume_writing()

    def _watch_reader(self) -> None:
        self._reader.watch(self._cut)

    def _cut(self) -> None:
        log.info("client_cut", client=self.client, path=self.scope.get("path"))
        self.transport.abort()


_TOO_MANY_HEADS = Refused(503, "server_busy", "too many heads of requests arrive; try again")


def _too_large_head() -> Refused:
    return Refused(
        431, "headers_too_large", f"at most {MAX_HEAD_BYTES >> 10} KiB of headers are allowed in a request"
    )
