"""Long answers: cut off if the client does not read, and ended when its login ends."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runstore.core.errors import Busy, LogUnavailable, RunPurged
from runstore.http.errors import Unauthorized
from runstore.http.security.users import Login

SEND_TIMEOUT_S = 30.0  # seconds without reading before a client is cut off
PIECE_BYTES = 16 << 10  # bytes of one write, so that a slow client's progress is visible and its buffer small
CHECK_S = 2.0  # seconds between two checks of the client and its login
# The ASGI extension of a server that itself cuts off a client that does not read.
WATCHED = "runstore.watched"

T = TypeVar("T")


class ConnectionCut(BaseException):
    """Aborts the connection of an answer that cannot end politely; not a failure."""


def _nothing() -> None:
    pass


class ClientGone(Exception):
    """The client has closed its connection."""


class WatchedAnswer(Response):
    """Sends `parts`. An interrupted answer is cut off, so that it does not look complete."""

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        login: Login,
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._parts = parts
        self._login = login
        self._sending_since = math.inf  # start of the write in progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await end(send)
            return
        look = _nothing if WATCHED in scope.get("extensions", {}) else self._check_reader
        pump = asyncio.create_task(self._pump(send))
        gone = asyncio.create_task(disconnected(receive))
        left = False
        try:
            refused = not await first_done({pump, gone}, self._login, look)
            left = refused or not pump.done()
        except ConnectionCut:
            left = True
            raise
        finally:
            gone.cancel()
            pump.cancel()
            await asyncio.wait({pump, gone})
            if left:
                await self._gone()
        if not pump.cancelled():
            _raise(pump)
        elif refused:
            await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        """End the answer early, as the login has ended."""
        raise ConnectionCut

    async def _gone(self) -> None:
        """The client has gone early, does not read, or may not read any more."""

    def _check_reader(self) -> None:
        if time.monotonic() - self._sending_since > SEND_TIMEOUT_S:
            raise ConnectionCut

    async def _pump(self, send: Send) -> None:
        async for part in self._parts:
            for start in range(0, len(part), PIECE_BYTES):
                piece = part[start : start + PIECE_BYTES]
                self._sending_since = time.monotonic()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._sending_since = math.inf
        await end(send)


async def first_done(
    tasks: set[asyncio.Task[Any]], login: Login, look: Callable[[], None] = _nothing
) -> bool:
    """Wait until one of them is done (True) or the login has ended (False), and call `look` regularly."""
    while not (await asyncio.wait(tasks, timeout=CHECK_S, return_when=asyncio.FIRST_COMPLETED))[0]:
        look()
        if not await login.still_valid():
            return False
    return True


async def attended(
    work: Coroutine[Any, Any, T],
    login: Login,
    receive: Receive,
    *,
    left: Callable[[], Awaitable[None]] | None = None,
) -> T:
    """The result of `work`, for a client that waits for it.

    Args:
        left: called if the client goes, or its login ends, before the work is done.

    Raises:
        ClientGone: the client no longer waits for an answer.
        Unauthorized: its login has ended.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(disconnected(receive))
    try:
        holds = await first_done({working, gone}, login) and await login.still_valid()
    finally:
        done = working.done()
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})
    if not done and left is not None:
        await left()
    if not holds:
        raise Unauthorized("the login ended while the request waited")
    if not done:
        raise ClientGone
    return working.result()


async def end(send: Send) -> None:
    """End an answer properly."""
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _raise(pump: "asyncio.Task[None]") -> None:
    try:
        pump.result()
    except (LogUnavailable, Busy, RunPurged) as error:
        raise ConnectionCut from error


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
