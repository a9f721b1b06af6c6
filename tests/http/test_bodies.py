"""Request bodies: stalled ones end, all together are bounded, and decoding delays no other request."""

import asyncio
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from runstore.core.errors import RunstoreError
from runstore.core.limits import Limits
from runstore.http import bodies
from runstore.http.bodies import MAX_BODY_VALUES, SMALL_BYTES, Bodies, has_more_values
from runstore.http.errors import BadRequest, status_of
from runstore.http.security.users import SCOPE_KEY, Login, User
from runstore.store.runs import RunStore

MIB = 1 << 20
LARGEST = 8 * MIB


class Sender:
    """A client that sends a body in given parts."""

    def __init__(self, length: int | None, user: str = "alice") -> None:
        framing = (
            (b"transfer-encoding", b"chunked") if length is None else (b"content-length", b"%d" % length)
        )
        self._parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self.asked = asyncio.Event()
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "headers": [framing],
        }
        scope[SCOPE_KEY] = Login(User(user))
        self.request = Request(scope, self._receive)

    def send(self, part: bytes, *, more: bool = False) -> None:
        self._parts.put_nowait((part, more))

    async def _receive(self) -> dict[str, Any]:
        self.asked.set()
        body, more = await self._parts.get()
        return {"type": "http.request", "body": body, "more_body": more}


@pytest.fixture
def room() -> Bodies:
    return Bodies(cast(RunStore, SimpleNamespace(limits=Limits(body_bytes=LARGEST))))


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.05)


async def refusal(reading: Any) -> tuple[int, str]:
    with pytest.raises(RunstoreError) as caught:
        await reading
    return status_of(caught.value), caught.value.code


async def test_a_body_is_read(room: Bodies) -> None:
    sender = Sender(6)
    sender.send(b"abc", more=True)
    sender.send(b"def")
    assert await room.read(sender.request, bytes) == b"abcdef"


@pytest.mark.parametrize("length", [10, 8 * MIB, None])
async def test_a_body_that_stalls_is_408(short_timeouts: None, room: Bodies, length: int | None) -> None:
    sender = Sender(length)
    sender.send(b"abc", more=True)
    assert await refusal(room.read(sender.request, bytes)) == (408, "body_timeout")


async def test_a_body_that_drips_is_408(monkeypatch: pytest.MonkeyPatch, room: Bodies) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.3)
    sender = Sender(10_000)

    async def drip() -> None:
        while True:
            sender.send(b"x", more=True)
            await asyncio.sleep(0.001)

    dripping = asyncio.create_task(drip())
    try:
        assert await refusal(room.read(sender.request, bytes)) == (408, "body_timeout")
    finally:
        dripping.cancel()


async def test_a_large_body_that_drips_is_408_long_before_its_end(
    monkeypatch: pytest.MonkeyPatch, room: Bodies
) -> None:
    """Each window comes in time, so that it kept its room for 43 minutes."""
    monkeypatch.setattr(bodies, "BODY_S", 0.3)
    monkeypatch.setattr(bodies, "BODY_BYTES_PER_S", 10 * bodies.WINDOW_BYTES)
    sender = Sender(LARGEST)

    async def drip() -> None:
        for _ in range(LARGEST // bodies.WINDOW_BYTES):
            sender.send(b"x" * bodies.WINDOW_BYTES, more=True)
            await asyncio.sleep(0.15)  # the client sends slowly on purpose

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(5):
            with pytest.raises(BadRequest, match="KiB/s on average"):
                await room.read(sender.request, bytes)
    finally:
        dripping.cancel()


async def test_a_body_that_comes_fast_has_its_time_to_stall_and_no_more(
    monkeypatch: pytest.MonkeyPatch, room: Bodies
) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.05)
    sender = Sender(LARGEST)
    sender.send(b"x" * (LARGEST - 1), more=True)
    async with asyncio.timeout(5):  # the average would allow 256 s
        assert await refusal(room.read(sender.request, bytes)) == (408, "body_timeout")


async def test_a_body_that_is_over_the_limit_is_413_before_it_comes(room: Bodies) -> None:
    assert await refusal(room.read(Sender(LARGEST + 1).request, bytes)) == (413, "body_too_large")


async def test_large_bodies_of_a_user_wait_for_half_of_the_room(room: Bodies) -> None:
    senders = [Sender(LARGEST) for _ in range(5)]
    reading = [asyncio.create_task(room.read(sender.request, len)) for sender in senders]
    for sender in senders[:4]:
        await sender.asked.wait()
    assert not senders[4].asked.is_set()  # 32 MiB are taken
    other, small, chunked = Sender(LARGEST, "bob"), Sender(9), Sender(None, "bob")
    for each in (other, small, chunked):
        each.send(b"[1, 2, 3]")
        assert await room.read(each.request, len) == 9
    senders[0].send(b"x" * LARGEST)
    assert await reading[0] == LARGEST
    for sender in senders[1:]:
        sender.send(b"")
    assert await asyncio.gather(*reading[1:]) == [0] * 4


async def test_all_large_bodies_together_have_so_much_room(room: Bodies) -> None:
    senders = [Sender(LARGEST, f"user {number}") for number in range(9)]
    reading = [asyncio.create_task(room.read(sender.request, len)) for sender in senders]
    for sender in senders[:8]:
        await sender.asked.wait()
    assert not senders[8].asked.is_set()
    reading[0].cancel()  # its client has gone
    await senders[8].asked.wait()
    for task in reading[1:]:
        task.cancel()
    await asyncio.wait(reading)


async def test_a_large_body_that_finds_no_room_is_503(room: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [asyncio.create_task(room.read(Sender(LARGEST).request, len)) for _ in range(4)]
    await asyncio.sleep(0)
    monkeypatch.setattr(bodies, "BODY_S", 0.05)
    assert await refusal(room.read(Sender(LARGEST).request, len)) == (503, "server_busy")
    for task in first:
        task.cancel()
    await asyncio.wait(first)


async def test_small_bodies_that_stall_have_so_much_room_and_a_user_half_of_it(room: Bodies) -> None:
    fitting = bodies.MAX_SMALL_BODIES_BYTES // SMALL_BYTES
    reading = []
    for user in ("alice", "bob"):
        senders = [Sender(SMALL_BYTES, user) for _ in range(fitting // 2)]
        reading += [asyncio.create_task(room.read(sender.request, len)) for sender in senders]
        await asyncio.gather(*(sender.asked.wait() for sender in senders))
        assert await refusal(room.read(Sender(1, user).request, len)) == (503, "server_busy")
    assert await refusal(room.read(Sender(1, "carol").request, len)) == (503, "server_busy")
    for task in reading:
        task.cancel()  # their clients have gone
    await asyncio.wait(reading)
    sender = Sender(1)
    sender.send(b"1")
    assert await room.read(sender.request, len) == 1


async def test_a_large_body_is_decoded_beside_the_loop_and_a_small_one_at_once(room: Bodies) -> None:
    def where(_: bytes) -> bool:
        return threading.current_thread() is threading.main_thread()

    for size, here in ((100, True), (MIB, False)):
        sender = Sender(size)
        sender.send(b"x" * size)
        assert await room.read(sender.request, where) is here


OVER = MAX_BODY_VALUES + 1
SHAPES: list[tuple[str, Callable[[int], bytes]]] = [
    ("lists", lambda n: b"[" + b"[]," * (n - 2) + b"[]]"),
    ("objects", lambda n: b"[" + b"{}," * (n - 2) + b"{}]"),
    ("numbers", lambda n: b"[" + b"1," * (n - 2) + b"1]"),
    ("texts", lambda n: b"[" + b'",[{",' * (n - 2) + b'"x"]'),
    ("fields", lambda n: json.dumps({f"a,{i}": i for i in range(n - 1)}).encode()),
    ("texts with quotes", lambda n: b"[" + rb'"\"\\\",[",' * (n - 2) + b'""]'),
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in SHAPES])
def test_values_are_counted(make: Callable[[int], bytes]) -> None:
    for count in (1_000, 1_001):
        json.loads(make(count))
        assert has_more_values(make(count), 1_000 * 2) is False
    assert has_more_values(make(2_100), 1_000)


@pytest.mark.parametrize("text", [b",[{" * 100_000, rb"\",[" * 100_000, rb"\\" * 100_000])
def test_brackets_inside_a_text_are_not_values(text: bytes) -> None:
    body = b'{"a": "%b", "b": [1, 2]}' % text
    json.loads(body)
    assert has_more_values(body, 6) is False
    assert has_more_values(body, 3)


async def test_a_body_with_too_many_values_is_413_and_not_decoded(room: Bodies) -> None:
    body = SHAPES[0][1](OVER * 2)
    sender = Sender(len(body))
    sender.send(body)
    decoded: list[bytes] = []
    assert await refusal(room.read(sender.request, decoded.append)) == (413, "body_too_large")
    assert not decoded
