"""Long answers: cut off if the client does not read, and ended when its login ends."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from runstore.core.errors import Busy, LogUnavailable, RunPurged
from runstore.http.errors import Unauthorized
from runstore.http.security.users import Login

SEND_TIMEOUT_S = 30.0  # seconds without reading before a client is cut off
PIECE_BYTES = 16 << 10  # bytes of one write, so that a slow client's progress is visible and its buffer small
CHECK_S = 2.0  # seconds between two looks at whether a client reads

T = TypeVar("T")


class ConnectionCut(BaseException):
    """Aborts the connection of an answer that cannot end politely; not a failure."""


class ClientGone(Exception):
    """The client has closed its connection."""


class WatchedClient(ABC):
    """The `receive` of a server that sees each lost connection, and cuts off a client that does not read."""

    @abstractmethod
    async def __call__(self) -> Message: ...

    @abstractmethod
    def when_gone(self, gone: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `gone` if the client goes before the end of the block."""


class WatchedAnswer(Response):
    """Sends `parts`. An interrupted answer is cut off, so that it does not look complete."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        login: Login,
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._parts = parts
        self._login = login
        self._sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await end(send)
            return
        try:
            async with attending(self._login, receive):
                await self._pump(send if isinstance(receive, WatchedClient) else _impatient(send))
        except ClientGone:
            await self._gone()
        except Unauthorized:
            await self._gone()
            await self._refuse(send)
        except ConnectionCut:
            await self._gone()
            raise
        except (LogUnavailable, Busy, RunPurged) as error:
            raise ConnectionCut from error

    async def _refuse(self, send: Send) -> None:
        """End the answer early, as the login has ended."""
        raise ConnectionCut

    async def _gone(self) -> None:
        """The client has gone early, does not read, or may not read any more."""

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._parts):  # otherwise its subscriptions stay until it is collected
            async for part in self._parts:
                self._sending = True
                for start in range(0, len(part), PIECE_BYTES):
                    piece = part[start : start + PIECE_BYTES]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._sending = False
        await end(send)


@asynccontextmanager
async def attending(login: Login, receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when its client goes, or its login ends.

    Raises:
        ClientGone: the client no longer waits for an answer.
        Unauthorized: its login has ended.
    """
    loop, patience = asyncio.get_running_loop(), asyncio.timeout(None)
    reasons: list[Exception] = []

    def leave(reason: Exception) -> None:
        if not reasons:
            patience.reschedule(loop.time())
        reasons.append(reason)

    def end_login() -> None:
        leave(Unauthorized("the login ended while the request waited"))

    try:
        async with patience:
            with login.while_valid(end_login), _while_there(receive, lambda: leave(ClientGone())):
                yield
    except TimeoutError:
        if not patience.expired():
            raise
        raise reasons.pop(0) from None  # not kept in a local, which would keep the stream alive


def _while_there(receive: Receive, gone: Callable[[], None]) -> AbstractContextManager[None]:
    if isinstance(receive, WatchedClient):
        return receive.when_gone(gone)
    return until_disconnected(receive, gone)


@contextmanager
def until_disconnected(receive: Receive, gone: Callable[[], None]) -> Iterator[None]:
    """Call `gone` if a message says in the block that the client has gone; other messages are dropped."""

    def left(task: "asyncio.Task[None]") -> None:
        gone()

    disconnect = asyncio.create_task(disconnected(receive))
    disconnect.add_done_callback(left)
    try:
        yield
    finally:
        disconnect.remove_done_callback(left)
        disconnect.cancel()


def _impatient(send: Send) -> Send:
    """Raises ConnectionCut if a client takes nothing for SEND_TIMEOUT_S."""

    async def impatient(message: Message) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send(message)
        except TimeoutError as error:
            raise ConnectionCut from error

    return impatient


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
        ClientGone, Unauthorized: see `attending`.
    """
    try:
        async with attending(login, receive):
            result = await work
    except (ClientGone, Unauthorized):
        if left is not None:
            await left()
        raise
    if not await login.still_valid():
        raise Unauthorized("the login ended while the request waited")
    return result


async def end(send: Send) -> None:
    """End an answer properly."""
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
