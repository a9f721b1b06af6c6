"""Bodies of requests: received within a time and a total of bytes, decoded beside the loop.

All bodies of a process share one total. A large one waits for room in it, so that bodies that stall cost
neither memory nor the requests of other users. A small one needs none.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from runstore.core.errors import Busy, TooLarge
from runstore.core.threads import Threads
from runstore.http.errors import BadRequest
from runstore.http.security.users import login_of
from runstore.store.runs import RunStore

SMALL_BYTES = 64 << 10  # of a body that needs no room, and is decoded at once
MAX_BODIES_BYTES = (
    64 << 20
)  # of all larger ones that are being received or decoded; at least two of the largest
MAX_BODY_VALUES = 100_000  # texts, numbers, lists, …: decoding holds up everybody by up to 1 µs for each
BODY_S = 20.0  # in which WINDOW_BYTES of a body must come, or the rest of it; also the wait for room
WINDOW_BYTES = 64 << 10
BODY_BYTES_PER_S = 32 << 10  # on average, after the first BODY_S: 8 MiB keep their room for up to 276 s
DECODERS = 2  # threads; of one user one less

_MARKS = b'",[{'  # what begins a value, or stands before one, and what texts stand between
_OTHERS = bytes(sorted(set(range(256)) - set(_MARKS)))

T = TypeVar("T")


class Bodies:
    """Receives and decodes the bodies of one application's requests."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._held = 0
        self._of_users = Counter[str]()
        self._freed = asyncio.Condition()
        self._decoders = Threads("runstore-decoder", DECODERS, share=DECODERS - 1)

    async def read(self, request: Request, decode: Callable[[bytes], T]) -> T:
        """What `decode` makes of the request's body; of a large one it is called in a thread.

        Raises:
            TooLarge
            BadRequest: it breaks off, stalls, or has too many values.
            Busy: there is no room for it now.
        """
        size = self._announced(request)
        async with self._room(login_of(request).user.user_id, size):
            body = await self._receive(request)
            if len(body) <= SMALL_BYTES:
                return decode(body)
            return await self.beside(_decode_large, body, decode)

    def is_large(self, request: Request) -> bool:
        """Whether a request's body is, or may be, one that takes long to work on."""
        return self._announced(request) > SMALL_BYTES

    async def beside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work` in a thread: what takes long only since a body is large."""
        return await self._decoders.call(work, *arguments)

    @property
    def _largest(self) -> int:
        return self._store.limits.body_bytes

    def _announced(self, request: Request) -> int:
        """How large the body will be at most."""
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit():
            return self._check(int(length))
        framed = request.scope["http_version"].startswith("1") and "transfer-encoding" not in request.headers
        return 0 if framed else self._largest

    def _check(self, size: int) -> int:
        if size > self._largest:
            message = f"the body is larger than {self._largest:,} bytes"
            raise TooLarge("body_bytes", message, code="body_too_large")
        return size

    @asynccontextmanager
    async def _room(self, user_id: str, size: int) -> AsyncIterator[None]:
        if size <= SMALL_BYTES:
            yield
            return

        def fits() -> bool:
            most = max(MAX_BODIES_BYTES, 2 * self._largest)
            return self._held + size <= most and self._of_users[user_id] + size <= most // 2

        try:
            async with asyncio.timeout(BODY_S), self._freed:
                await self._freed.wait_for(fits)
                self._held += size
                self._of_users[user_id] += size
        except TimeoutError:
            raise Busy("too many large bodies are being received; try again") from None
        try:
            yield
        finally:
            self._held -= size
            self._of_users[user_id] -= size
            if not self._of_users[user_id]:
                del self._of_users[user_id]
            async with self._freed:
                self._freed.notify_all()

    async def _receive(self, request: Request) -> bytes:
        body, lately = bytearray(), 0
        loop = asyncio.get_running_loop()
        begun, dripping = loop.time(), False
        try:
            async with asyncio.timeout(BODY_S) as limit:
                async for part in request.stream():
                    self._check(len(body) + len(part))
                    body += part
                    lately += len(part)
                    if lately >= WINDOW_BYTES:
                        stalled, slow = loop.time() + BODY_S, begun + BODY_S + len(body) / BODY_BYTES_PER_S
                        limit.reschedule(min(stalled, slow))
                        lately, dripping = 0, slow < stalled
        except ClientDisconnect:  # nobody will read this answer, and it is no error of ours
            raise BadRequest("the body broke off", code="invalid_body") from None
        except TimeoutError:
            message = f"less than {WINDOW_BYTES >> 10} KiB of the body came within {BODY_S:g} s"
            if dripping:
                message = (
                    f"the body came too slowly: after the first {BODY_S:g} s it must have come at "
                    f"{BODY_BYTES_PER_S >> 10} KiB/s on average"
                )
            raise BadRequest(message, code="body_timeout", status=408) from None
        return bytes(body)


def _decode_large(body: bytes, decode: Callable[[bytes], T]) -> T:
    check_values(body)
    collects = gc.isenabled()
    gc.disable()  # it would look at all of the process's objects, again and again while new ones are made
    try:
        return decode(body)
    finally:
        if collects:
            gc.enable()


def check_values(json: bytes) -> None:
    """Refuse JSON with more values than a body may have.

    Raises:
        BadRequest: it has.
    """
    if has_more_values(json, MAX_BODY_VALUES):
        message = f"the body has more than {MAX_BODY_VALUES:,} values"
        raise BadRequest(message, code="body_too_large", status=413)


def has_more_values(body: bytes, most: int) -> bool:
    """Whether JSON has more values than `most`, names of fields not counted; of other data it says nothing.

    All loops are the interpreter's own, and none holds the GIL for long.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) <= most:
        return False
    marks = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _OTHERS).replace(b'""', b"")
    if marks.count(b'"') > 4 * most:  # two texts of two quotes for each value
        return True
    return sum(map(len, marks.split(b'"')[::2])) > most
