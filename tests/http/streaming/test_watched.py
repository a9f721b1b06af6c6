"""An answer ends with its client or its login, whatever server it is sent by."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest
from starlette.types import Message, Receive, Send

from runstore.core.errors import LogUnavailable
from runstore.http.errors import Unauthorized
from runstore.http.security import users
from runstore.http.security.users import LOCAL, Login
from runstore.http.streaming import watched
from runstore.http.streaming.watched import ClientGone, ConnectionCut, WatchedAnswer, attended
from tests.kit.polling import DEADLINE_S

SCOPE = {"type": "http", "method": "GET"}


class Lasting(Login):
    """A login whose checks are counted, and which ends when told to."""

    def __init__(self) -> None:
        super().__init__(LOCAL)
        self.checks = 0
        self.ended = self.unknown = self.broken = False

    async def still_valid(self) -> bool:
        self.checks += 1
        if self.unknown:
            raise LogUnavailable
        if self.broken:
            raise ValueError
        return not self.ended


async def forever() -> AsyncGenerator[bytes, None]:
    yield b"x"
    await asyncio.Event().wait()


async def taken(message: Message) -> None:
    pass


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def after(turns: int, then: Message) -> Receive:
    """Gives messages without content, and then this one."""
    messages = iter([{"type": "http.request"}] * turns + [then])

    async def receive() -> Message:
        return next(messages)

    return receive


async def answered(login: Login, *, receive: Receive = never, send: Send = taken) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await WatchedAnswer(forever(), login, media_type="text/plain")(SCOPE, receive, send)


async def checked(login: Lasting, times: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while login.checks < times:
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "CHECK_S", 0.001)


async def test_all_answers_of_a_login_share_its_checks_and_end_with_it() -> None:
    login = Lasting()
    answers = [asyncio.create_task(answered(login)) for _ in range(50)]
    await checked(login, 3)
    assert login.checks < 10
    login.ended = True
    ends = await asyncio.gather(*answers, return_exceptions=True)
    assert all(isinstance(end, ConnectionCut) for end in ends)


async def test_a_stream_whose_client_goes_while_it_is_written_to_is_closed_at_once() -> None:
    """Not when it is collected: until then its run would be followed, and polled."""
    closed, stuck = asyncio.Event(), asyncio.Event()

    async def parts() -> AsyncGenerator[bytes, None]:
        try:
            yield b"x"
        finally:
            closed.set()

    async def receive() -> Message:
        await stuck.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            stuck.set()
            await never()

    gc.disable()
    try:
        async with asyncio.timeout(DEADLINE_S):
            await WatchedAnswer(parts(), Lasting(), media_type="text/plain")(SCOPE, receive, send)
        assert closed.is_set()
    finally:
        gc.enable()


@pytest.mark.parametrize("ends", ["client", "login"])
async def test_an_answer_that_ends_early_leaves_nothing_to_collect(ends: str) -> None:
    login, held = Lasting(), list[weakref.ref[Part]]()

    async def parts() -> AsyncGenerator[bytes, None]:
        part = Part()
        held.append(weakref.ref(part))
        yield b"x"
        await asyncio.Event().wait()

    async def receive() -> Message:
        return await (never() if ends == "login" else after(0, {"type": "http.disconnect"})())

    login.ended = ends == "login"
    gc.disable()
    try:
        with suppress(ConnectionCut):
            async with asyncio.timeout(DEADLINE_S):
                await WatchedAnswer(parts(), login, media_type="text/plain")(SCOPE, receive, taken)
        await asyncio.sleep(0)  # asyncio holds the cancellation until this turn of the loop ends
        assert [part() for part in held] == [None]
    finally:
        gc.enable()


class Part:
    """Something that a stream holds."""


async def test_an_answer_outlasts_a_database_that_cannot_say_whether_its_login_holds() -> None:
    login = Lasting()
    answer = asyncio.create_task(answered(login))
    login.unknown = True
    await checked(login, 3)
    assert not answer.done()
    login.unknown, login.ended = False, True
    with pytest.raises(ConnectionCut):
        await answer


async def test_an_answer_that_follows_the_last_one_of_its_login_is_checked_as_well() -> None:
    login = Lasting()
    await answered(login, receive=after(0, {"type": "http.disconnect"}))
    login.ended = True
    with pytest.raises(ConnectionCut):
        await answered(login)


async def test_each_event_loop_checks_its_own_answers() -> None:
    """An application may be called from several loops; one of them may end while it has an answer open."""
    login, left_open = Lasting(), []

    async def leave_one_open() -> None:
        left_open.append(login.while_valid(lambda: None))
        left_open[0].__enter__()

    await asyncio.to_thread(asyncio.run, leave_one_open())
    login.ended = True
    with pytest.raises(ConnectionCut):
        await answered(login)


async def test_an_answer_that_begins_when_the_last_one_of_its_login_ends_goes_on() -> None:
    login, ends = Lasting(), [0]
    with login.while_valid(ends.clear):
        await asyncio.sleep(0)
    with login.while_valid(ends.clear):
        await checked(login, 3)
    assert ends


async def test_an_answer_ends_if_the_check_of_its_login_fails() -> None:
    login = Lasting()
    login.broken = True
    with pytest.raises(ConnectionCut):
        await answered(login)


async def test_an_answer_ends_when_its_client_goes() -> None:
    await answered(Lasting(), receive=after(2, {"type": "http.disconnect"}))


async def test_work_that_a_client_waits_for_ends_with_the_client_or_its_login() -> None:
    left = 0

    async def leave() -> None:
        nonlocal left
        left += 1

    login = Lasting()
    with pytest.raises(ClientGone):
        await attended(never(), login, after(0, {"type": "http.disconnect"}), left=leave)
    login.ended = True
    with pytest.raises(Unauthorized):
        await attended(never(), login, never, left=leave)
    with pytest.raises(Unauthorized):
        await attended(taken({}), login, never, left=leave)
    assert left == 2


async def test_in_another_server_a_client_that_takes_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watched, "SEND_TIMEOUT_S", 0.01)

    async def stuck(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    with pytest.raises(ConnectionCut):
        await answered(Lasting(), send=stuck)
