"""uvicorn, taught to end: open streams are closed first, a second signal stops at once."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import HANDLED_SIGNALS

from runstore.http.errors import error_response
from runstore.http.watched import ConnectionCut

GRACEFUL_S = 2  # for requests in flight when the process is told to stop; clients that never read are cut
MAX_HEAD_BYTES = 64 << 10  # of a request before its body
BACKLOG = 2_048  # connections that wait to be accepted

TOO_LARGE_BODY = bytes(error_response(431, "headers_too_large", "a request may have 64 KiB of headers").body)
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(TOO_LARGE_BODY), TOO_LARGE_BODY)
)

log = structlog.get_logger(__name__)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, with a bound for the request line and headers, which it has none for."""

    _head_bytes = 0  # received of a head that is not complete
    _in_head = True

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse()  # it came in one read
        else:
            super().on_headers_complete()

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()


class Server(uvicorn.Server):
    """Serves an app. `closing` is called when the server is told to stop, so that streams may end."""

    def __init__(self, app: ASGIApp, closing: Callable[[], None], started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                self._cut_off(app),
                http=HttpProtocol,
                log_config=None,
                access_log=False,
                ws="none",
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=GRACEFUL_S,
                backlog=BACKLOG,
            )
        )
        self._closing = closing
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals for good: uvicorn gives them back when it is done, and then the process drains."""
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED_SIGNALS:
                signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    def _cut_off(self, app: ASGIApp) -> ASGIApp:
        """Abort a connection: closing it politely would wait for who reads nothing, and end what is cut."""

        async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not self.should_exit:
                    raise  # else it was a request that would not end, and the process leaves
            except ConnectionCut:
                run_id = scope.get("path_params", {}).get("run_id")
                log.info("client_cut", run_id=run_id, client=scope.get("client"), path=scope["path"])
                # The address does not tell which one it is: a proxy's headers have changed it.
                send.__self__.transport.abort()  # type: ignore[attr-defined]
                while (await receive())["type"] != "http.disconnect":
                    pass

        return cut_off
