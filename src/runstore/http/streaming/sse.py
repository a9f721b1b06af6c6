"""A stream of server-sent events as an answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runstore.core.errors import UNAVAILABLE_RETRY_S, LogUnavailable, RunDeleted, RunNotFound, RunPurged
from runstore.core.run import Actor
from runstore.http.security.users import Login
from runstore.http.streaming.watched import WatchedAnswer, end
from runstore.store.runs import RunStore

OnDisconnect = Literal["continue", "cancel"]
CLIENT_DISCONNECT = "client_disconnect"  # the reason of a stop request for a lost client

HEARTBEAT = b":\n"  # a comment without a blank line: clients would take an empty frame for an event
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
MEDIA_TYPE = "text/event-stream"


class EventStream(WatchedAnswer):
    """Follows a run until it ends, the client goes, its login ends, or the server closes.

    `frames`: server-sent events as they come; b"" after a while without events. The run continues
    without the stream. `left` is called if the client goes, or is cut off, before the end.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        login: Login,
        resources: AbstractContextManager[object],
        headers: Mapping[str, str] | None = None,
        *,
        left: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(_parts(frames), login, media_type=MEDIA_TYPE, headers={**HEADERS, **(headers or {})})
        self._resources = resources  # closed when the stream ends
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._resources:
            await super().__call__(scope, receive, send)

    async def _refuse(self, send: Send) -> None:
        """End the stream: a reader reconnects and then gets the error.

        A client that does not read is cut off.
        """
        if self._sending:
            await super()._refuse(send)
        await end(send)

    async def _gone(self) -> None:
        """See `WatchedAnswer`."""
        if self._left is not None:
            await self._left()


async def cancel_run(store: RunStore, run_id: str, by: Actor) -> None:
    """Ask a run to stop because its client has gone; waits until the log accepts the request."""
    while True:
        try:
            await store.stop(run_id, by=by, reason=CLIENT_DISCONNECT)
        except (RunNotFound, RunDeleted, RunPurged):
            return
        except LogUnavailable:
            await asyncio.sleep(UNAVAILABLE_RETRY_S)
        else:
            return


def nothing_left() -> Response:
    """204 at the end of a closed run. Some clients check the media type of any answer, so it has one."""
    return Response(status_code=204, headers=HEADERS, media_type=MEDIA_TYPE)


async def _parts(frames: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield HEARTBEAT  # shows at once, also through a proxy, that the stream is open
    async for some in frames:
        yield some or HEARTBEAT
