"""Extends uvicorn's shutdown: open streams are closed first, and a second signal stops at once."""

import asyncio
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import HANDLED_SIGNALS

from runstore.forks import forget, keep_from_forks
from runstore.http.http1.connections import Connections
from runstore.http.http1.protocol import KEEP_ALIVE_S, HttpProtocol
from runstore.http.streaming.watched import ConnectionCut, WatchedClient, until_disconnected

GRACEFUL_S = 2  # seconds for requests in flight at a stop; clients that never read are cut off
BACKLOG = 2_048  # connections waiting to be accepted
MAX_IDLE = 4_096  # connections that have been idle for a while; see `Connections`

log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Serves an app. `closing` is called at the start of the shutdown, so that streams may end."""

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
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACEFUL_S,
                backlog=BACKLOG,
            )
        )
        self.server_state = _connections()
        self._closing = closing
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in sockets or ():
            keep_from_forks(listening)
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing()
        for listening in sockets or ():
            forget(listening)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Keep the signal handlers.

        Uvicorn restores the old ones when it is done, and the process still drains.
        """
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED_SIGNALS:
                signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    def _cut_off(self, app: ASGIApp) -> ASGIApp:
        """Abort a connection: a polite close would wait for a client that does not read."""

        async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, _Client(receive), send)
            except asyncio.CancelledError:
                if not self.should_exit:
                    raise  # otherwise a request did not end, and the process exits
            except ConnectionCut:
                run_id = scope.get("path_params", {}).get("run_id")
                log.info("client_cut", run_id=run_id, client=scope.get("client"), path=scope["path"])
                # The client's address does not identify the connection, as a proxy's headers have changed
                # it.
                send.__self__.transport.abort()  # type: ignore[attr-defined]
                while (await receive())["type"] != "http.disconnect":
                    pass

        return cut_off


class _Client(WatchedClient):
    """The `receive` of a request over HttpProtocol, which tracks every byte."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def __call__(self) -> Message:
        return await self._receive()

    def when_gone(self, gone: Callable[[], None]) -> AbstractContextManager[None]:
        cycle = self._receive.__self__  # type: ignore[attr-defined]
        if cycle.more_body:  # it must be received, or the connection is not read
            return until_disconnected(self._receive, gone)
        if cycle.transport.is_closing():
            gone()
            return nullcontext()
        lost: AbstractContextManager[None] = cycle.transport.when_lost(gone)
        return lost


def _connections() -> Connections:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    half = sys.maxsize if descriptors == resource.RLIM_INFINITY else descriptors // 2
    return Connections(max_idle=min(MAX_IDLE, half), most_idle=half)
