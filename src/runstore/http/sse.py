"""Server-sent events (WHATWG HTML, 9.2), by hand: a tail's bytes are the response's bytes."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runstore.http.users import Login

HEARTBEAT = b":\n"  # a comment without a blank line: clients would take an empty frame for an event
SEND_TIMEOUT_S = 30.0  # a client that has not read for so long is cut off,
CHECK_S = 2.0  # as this look every so often finds, and that a login has ended
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
MEDIA_TYPE = "text/event-stream"


class ClientStuck(BaseException):
    """The client keeps its connection open and reads nothing: no failure, but the connection is aborted."""


class Frames(Protocol):
    """What a stream sends: a tail."""

    def frames(self) -> AsyncIterator[bytes]:
        """Server-sent events, as many as there are; b"" when there have been none for a while."""


class EventStream(Response):
    """Follows a run until it ends, the client goes, its login ends, or the server closes.

    The run does not notice, unless `left` tells it: that is called when the client goes, or is cut off,
    before the end.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        tail: Frames,
        login: Login,
        place: AbstractContextManager[object],
        headers: Mapping[str, str] | None = None,
        *,
        left: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._tail = tail
        self._login = login
        self._place = place  # among the open streams; left when this one ends
        self._left = left
        self._sending_since = math.inf  # when the write that is under way began

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            await self._stream(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        pump = asyncio.create_task(self._pump(send))
        gone = asyncio.create_task(disconnected(receive))
        left = False
        try:
            refused = await self._watch({pump, gone})
            left = refused or not pump.done()
        except ClientStuck:
            left = True
            raise
        finally:
            gone.cancel()
            pump.cancel()
            await asyncio.wait({pump, gone})
            if left and self._left is not None:
                await self._left()
        if not pump.cancelled():
            pump.result()
        elif refused:
            if self._sending_since < math.inf:
                raise ClientStuck  # the end of the response would wait for it as well
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, tasks: set[asyncio.Task[None]]) -> bool:
        """Wait until one of them is done (False), or the login has ended (True)."""
        while not (await asyncio.wait(tasks, timeout=CHECK_S, return_when=asyncio.FIRST_COMPLETED))[0]:
            if time.monotonic() - self._sending_since > SEND_TIMEOUT_S:
                raise ClientStuck
            if not await self._login.still_valid():
                return True
        return False

    async def _pump(self, send: Send) -> None:
        await self._send(send, HEARTBEAT)  # shows at once that the stream is open, also through a proxy
        async for frames in self._tail.frames():
            await self._send(send, frames or HEARTBEAT)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, body: bytes) -> None:
        self._sending_since = time.monotonic()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        self._sending_since = math.inf


def nothing_left() -> Response:
    """204 at the end of a closed run. The type keeps clients quiet that look for it whatever the status."""
    return Response(status_code=204, headers=HEADERS, media_type=MEDIA_TYPE)


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
