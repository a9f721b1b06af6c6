"""Bodies of requests: received within limits of time and total bytes, decoded off the event loop, checked.

All bodies of a process share a total, the small ones another. A large body waits for room in it, so that
stalled bodies cost neither memory nor the requests of other users. A small body is refused without it: a
thousand of the largest small ones fit, and those that arrive without a stall hold their room for no time.
"""

import asyncio
import json
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.requests import ClientDisconnect, Request

from runstore.core.codec import TOO_DEEP, mended
from runstore.core.depth import MAX_DEPTH, check_decodable
from runstore.core.errors import Busy, EventTooDeep, TooLarge
from runstore.core.garbage import without_collections
from runstore.core.names import holds_nul
from runstore.http.errors import BadRequest
from runstore.http.security.users import login_of
from runstore.store.runs import RunStore
from runstore.threads import Threads

SMALL_BYTES = 64 << 10  # bytes of a body that does not wait for room and is decoded at once
MAX_SMALL_BODIES_BYTES = 64 << 20  # bytes of all these bodies that are being received
# Bytes of all larger bodies that are being received or decoded; at least two of the largest fit.
MAX_BODIES_BYTES = 64 << 20
MAX_BODY_VALUES = 100_000  # texts, numbers, lists, …: decoding blocks the process for up to 1 µs each
BODY_S = 20.0  # seconds for WINDOW_BYTES of a body or its rest, and for the wait for room
WINDOW_BYTES = 64 << 10
BODY_BYTES_PER_S = 32 << 10  # average after the first BODY_S: a body of 8 MiB keeps its room for up to 276 s
DECODERS = 2  # threads that decode bodies; one user may occupy all but one

_MARKS = b'",[{'  # bytes that start or precede a value, and the separators of texts
_OTHERS = bytes(sorted(set(range(256)) - set(_MARKS)))

BODY_LEVELS = 3  # nesting levels around a value: {"events": [{"data": value}]}
# In msgspec's message, such as `$.teams[0].name`; missing for the body itself.
PATH = re.compile(r" - at `(\$[^`]*)`\Z")
T = TypeVar("T")


class _Room:
    """The bytes of bodies that are being received or decoded. A user may have half of them."""

    def __init__(self) -> None:
        self._held = 0
        self._of_users = Counter[str]()

    def fits(self, user_id: str, size: int, most: int) -> bool:
        return self._held + size <= most and self._of_users[user_id] + size <= most // 2

    def take(self, user_id: str, size: int) -> None:
        self._held += size
        self._of_users[user_id] += size

    def give_back(self, user_id: str, size: int) -> None:
        self._held -= size
        self._of_users[user_id] -= size
        if not self._of_users[user_id]:
            del self._of_users[user_id]


class Bodies:
    """Receives and decodes the bodies of one application's requests."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._small, self._large = _Room(), _Room()
        self._freed = asyncio.Condition()
        self._decoders = Threads("runstore-decoder", DECODERS, share=DECODERS - 1)

    async def read(self, request: Request, decode: Callable[[bytes], T]) -> T:
        """Decode the request's body with `decode`, which runs in a thread for a large one.

        Raises:
            TooLarge
            BadRequest: the body breaks off, stalls, or has too many values.
            Busy: there is no room for it now.
        """
        size = self._announced(request)
        async with self._room(login_of(request).user.user_id, size):
            body = await self._receive(request)
            if len(body) <= SMALL_BYTES:
                return decode(body)
            return await self.beside(_decode_large, body, decode)

    def is_large(self, request: Request) -> bool:
        """Whether a request's body is, or may be, large enough to take long."""
        return self._announced(request) > SMALL_BYTES

    async def beside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work` in a thread, as it takes long for a large body."""
        return await self._decoders.call(work, *arguments)

    @property
    def _largest(self) -> int:
        return self._store.limits.body_bytes

    def _announced(self, request: Request) -> int:
        """An upper bound of the body's bytes."""
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
            if not self._small.fits(user_id, size, MAX_SMALL_BODIES_BYTES):
                raise Busy("too many bodies are being received; try again")
            self._small.take(user_id, size)
            try:
                yield
            finally:
                self._small.give_back(user_id, size)
            return
        most = max(MAX_BODIES_BYTES, 2 * self._largest)
        try:
            async with asyncio.timeout(BODY_S), self._freed:
                await self._freed.wait_for(lambda: self._large.fits(user_id, size, most))
                self._large.take(user_id, size)
        except TimeoutError:
            raise Busy("too many large bodies are being received; try again") from None
        try:
            yield
        finally:
            self._large.give_back(user_id, size)
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
        except ClientDisconnect:  # the client has gone; this is no error of the server
            raise BadRequest("the body ended early", code="invalid_body") from None
        except TimeoutError:
            message = f"less than {WINDOW_BYTES >> 10} KiB of the body arrived within {BODY_S:g} s"
            if dripping:
                message = (
                    f"the body arrived too slowly: after the first {BODY_S:g} s it must have arrived at "
                    f"{BODY_BYTES_PER_S >> 10} KiB/s on average"
                )
            raise BadRequest(message, code="body_timeout", status=408) from None
        return bytes(body)


def _decode_large(body: bytes, decode: Callable[[bytes], T]) -> T:
    check_values(body)
    with without_collections():
        return decode(body)


def check_values(json: bytes) -> None:
    """Refuse JSON with more values than a body may have.

    Raises:
        BadRequest: it has more.
    """
    if has_more_values(json, MAX_BODY_VALUES):
        message = f"the body has more than {MAX_BODY_VALUES:,} values"
        raise BadRequest(message, code="body_too_large", status=413)


def has_more_values(body: bytes, most: int) -> bool:
    """Whether JSON has more values than `most`, without names of fields; undefined for other data.

    All loops run inside the interpreter, and none holds the GIL for long.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) <= most:
        return False
    marks = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _OTHERS).replace(b'""', b"")
    if marks.count(b'"') > 4 * most:  # two texts of two quotes for each value
        return True
    return sum(map(len, marks.split(b'"')[::2])) > most


class Body(Struct, Generic[T], frozen=True):
    """How to read the JSON body of an operation.

    Args:
        cls: the struct to decode to.
        schema: additions to its JSON Schema.
        optional: without a body, the struct has its defaults.
        any_type: accept any media type if the request has an `Authorization` header. A browser sends none to
            another origin without a preflight, so the request cannot be a foreign page's form.
        any_text: accept the character NUL, which no database accepts in a name.
        mend: repairs a JSON value that does not fit `cls`; it is called once.
    """

    cls: type[T]
    schema: Meta | None = None
    optional: bool = False
    any_type: bool = False
    any_text: bool = False
    mend: Callable[[Any], Any] | None = None

    @property
    def described(self) -> Any:
        """The type from which JSON Schemas are made."""
        return self.cls if self.schema is None else Annotated[self.cls, self.schema]

    async def read(self, request: Request, bodies: Bodies) -> T:
        """The body of a request. A large one is decoded off the event loop.

        Raises:
            BadRequest: 415 its type is not JSON, 408 it stalls, 400 for any other fault.
            TooLarge
            EventTooDeep: it is nested too deep.
        """
        kinds = request.headers.getlist("content-type")
        kind = ", ".join(each.partition(";")[0].strip().lower() for each in kinds)
        for encoding in request.headers.getlist("content-encoding"):
            if encoding.strip().lower() not in ("", "identity"):
                raise BadRequest(
                    f"the body must be sent unencoded, not in Content-Encoding {encoding[:50]!r}",
                    code="unsupported_media_type",
                    status=415,
                )
        known = kind == "application/json" or (self.any_type and "authorization" in request.headers)
        return await bodies.read(request, partial(_decode, self, None if known else kind))


def _decode(body: Body[T], foreign: str | None, content: bytes) -> T:
    """`foreign`: the media type of the body, if it is not JSON."""
    content = content.removeprefix(BOM_UTF8)  # a reader of JSON may ignore it (RFC 8259, 8.1)
    if not content and body.optional:
        return body.cls()
    if foreign is not None:
        raise BadRequest(
            f"the body must be application/json, not {foreign or 'of no type'}",
            code="unsupported_media_type",
            status=415,
        )
    try:
        check_decodable(content, MAX_DEPTH + BODY_LEVELS)
        decoded = _decoded(body, content)
    except RecursionError as error:
        raise EventTooDeep(TOO_DEEP.format("the body")) from error
    except msgspec.ValidationError as error:
        path = PATH.search(str(error))
        message = f"the body is invalid: {error}"
        raise BadRequest(message, code="invalid_body", field=path[1] if path else "$") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if half := path_of_half_a_pair(content):
            message = f"{half[:200]} holds half of a surrogate pair, as \\ud83d alone, which is not UTF-8"
            raise BadRequest(message, code="invalid_body", field=half) from error
        raise BadRequest(f"the body is not JSON: {error}", code="invalid_json") from error
    if not body.any_text and holds_nul(content):
        nul = path_of(msgspec.json.decode(content), holds_nul_character) or "$"
        message = f"{nul[:200]} must not hold the character NUL (\\u0000)"
        raise BadRequest(message, code="invalid_body", field=nul)
    return decoded


def _decoded(body: Body[T], content: bytes) -> T:
    try:
        return msgspec.json.decode(content, type=body.cls)
    except msgspec.ValidationError:
        if body.mend is None:
            raise
        value = msgspec.json.decode(content)
    except msgspec.DecodeError:
        if body.mend is None or rb"\u" not in content:
            raise
        value = _with_whole_characters(content)
        if value is None:
            raise
    return msgspec.convert(body.mend(value), body.cls)


def _with_whole_characters(content: bytes) -> Any:
    """The value of JSON in which U+FFFD stands for half of a surrogate pair; None if it is no JSON."""

    def whole(value: Any) -> Any:
        if isinstance(value, str):
            return mended(value)
        if isinstance(value, dict):
            return {mended(name): whole(each) for name, each in value.items()}
        return [whole(each) for each in value] if isinstance(value, list) else value

    try:
        return whole(json.loads(content.decode(), parse_constant=_no_json))
    except ValueError:
        return None


def _no_json(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


# ---- refused texts ----


def path_of(value: Any, refused: Callable[[str], bool]) -> str | None:
    """The path of a refused text, such as `$.messages[0].content`.

    For a field's name, that of its object.
    """
    left = [("$", value, 0)]
    while left:
        path, value, depth = left.pop()
        if isinstance(value, str) and refused(value):
            return path
        if depth > 2 * MAX_DEPTH:
            continue  # refused elsewhere, for its depth
        if isinstance(value, dict):
            if any(map(refused, value)):
                return path
            left += [(f"{path}.{name}", each, depth + 1) for name, each in reversed(value.items())]
        elif isinstance(value, list):
            left += [(f"{path}[{n}]", each, depth + 1) for n, each in reversed([*enumerate(value)])]
    return None


def path_of_half_a_pair(body: bytes) -> str | None:
    """The path of half a surrogate pair in JSON, such as a lone `\\ud83d`.

    JSON allows it, UTF-8 does not.
    """
    if rb"\u" not in body:
        return None
    try:
        return path_of(json.loads(body.decode()), is_no_utf8)
    except (ValueError, RecursionError):
        return None


def is_no_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def holds_nul_character(text: str) -> bool:
    return "\0" in text
