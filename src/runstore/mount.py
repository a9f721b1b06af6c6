"""The API inside another ASGI application: `Mount("/runstore", app=MountedApp(url))`."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from runstore.app import Runtime, build_app, check_exposure, open_runtime
from runstore.http.app import SURFACES
from runstore.http.errors import Unauthorized, answer_error, respond
from runstore.http.surfaces import FindSurface
from runstore.library import LocalStore
from runstore.logs import log_as_library
from runstore.projections.projection import Projection
from runstore.settings import override
from runstore.settings.program import Agents, program_settings


class MountedApp:
    """The HTTP API as an ASGI application.

    It answers while `open()` is entered, usually by the outer lifespan.

    Without API keys and without an `authenticate` function it answers only clients on this machine, even if
    the outer server is bound to other addresses.

    Args:
        url, config, agents, projections, shared_files: as of `runstore.open`.
        allowed_hosts: host names, besides the loopback ones, by which clients know the outer server.

    Raises:
        ConfigError: an argument or the configuration is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        config: Path | str | None = None,
        agents: Agents | None = None,
        projections: Sequence[Projection] = (),
        allowed_hosts: Sequence[str] = (),
        shared_files: bool | None = None,
    ) -> None:
        settings = program_settings(url, config, agents, shared_files, projections)
        hosts = [*settings.server.allowed_hosts, *allowed_hosts]
        server = override(settings.server, {"host": "127.0.0.1", "allowed_hosts": hosts})
        self._settings = msgspec.structs.replace(settings, server=server)
        self._runtime: Runtime | None = None
        self._app: ASGIApp | None = None
        self._entrance = FindSurface(self._answer, SURFACES)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LocalStore]:
        """Open the database, run agents and answer requests; yields the store for the outer application.

        The outer server waits for open connections before it ends its lifespan, so streams end at SIGTERM or
        SIGINT. If the application stops in another way, call `close_streams`.
        """
        log_as_library()
        check_exposure(self._settings)
        async with open_runtime(self._settings) as runtime:
            self._runtime, self._app = runtime, build_app(runtime, self._settings)
            loop = asyncio.get_running_loop()
            try:
                with _before_signals(lambda: loop.call_soon_threadsafe(self.close_streams)):
                    yield LocalStore(runtime, runs_agents=True)
            finally:
                self.close_streams()
                self._runtime = self._app = None

    def close_streams(self) -> None:
        """End every open stream, and each new one at once; clients reconnect to the next process."""
        if self._runtime is not None:
            self._runtime.feed.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entrance(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None or self._runtime is None:
            if scope["type"] == "http":
                message = "the application has not opened its run store"
                response = respond(scope, 503, "not_ready", message)
                await response(scope, receive, send)
            return
        needs_login = scope["type"] == "http" and not _is_local(scope)
        if needs_login and not await self._runtime.authenticator.required():
            refusal = Unauthorized("without API keys only clients of this machine are answered")
            response = await answer_error(Request(scope), refusal)
            await response(scope, receive, send)
            return
        if scope["type"] == "http" and self._may_have_trailers(scope):
            message = "send a Content-Length: this server may take the trailers of a chunked body for headers"
            await respond(scope, 400, "malformed_request", message)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may_have_trailers(self, scope: Scope) -> bool:
        """Whether a login function might trust trailers, which uvicorn adds to the headers."""
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        return chunked and self._settings.server.authenticate is not None


def _is_local(scope: Scope) -> bool:
    """Whether the client is on this machine; False if its address is unknown."""
    try:
        return ip_address((scope.get("client") or ("",))[0]).is_loopback
    except ValueError:
        return False


@contextmanager
def _before_signals(notice: Callable[[], object]) -> Iterator[None]:
    """Call `notice` on SIGTERM or SIGINT, before any other handler of the signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        notice()
        previous = before[number]
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for signalled in (signal.SIGTERM, signal.SIGINT):
        # None: the handler was not set from Python and cannot be called.
        if (previous := signal.getsignal(signalled)) is not None:
            before[signalled] = previous
            signal.signal(signalled, handle)
    try:
        yield
    finally:
        for number, previous in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, previous)
