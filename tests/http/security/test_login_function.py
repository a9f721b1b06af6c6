"""A hanging login function locks out only the clients that made it hang."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from socket import create_connection, socket
from typing import Any, cast

import pytest
from starlette.requests import Request

from runstore.core.errors import Busy
from runstore.http.security import login_function
from runstore.http.security.auth import Authenticator
from runstore.http.security.login_function import ADDRESS_SHARE, LOGIN_SHARE, LOGIN_THREADS, LoginFunction
from runstore.http.security.signing import TicketSigner
from runstore.http.security.users import User
from runstore.threads import asking
from tests.kit.polling import DEADLINE_S
from tests.kit.server import ServerProcess, serving, until


def request(user: str, address: str = "192.0.2.1") -> Request:
    headers = [(b"x-user", user.encode())]
    return Request({"type": "http", "headers": headers, "client": (address, 1)})


class Directory:
    """A login function that hangs for some users, until the test has ended."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.hanging = 0
        self.login = LoginFunction(self)

    def __call__(self, request: Request) -> User:
        name = request.headers["x-user"]
        if name.startswith("stuck"):
            self.hanging += 1
            self.end.wait(DEADLINE_S)
        return User(name)


@pytest.fixture(autouse=True)
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even on a busy machine, a call that may begin does begin and is not given up."""
    monkeypatch.setattr(login_function, "LOGIN_WAIT_S", DEADLINE_S)
    monkeypatch.setattr(login_function, "AUTHENTICATE_S", DEADLINE_S)


@asynccontextmanager
async def stuck(*requests: Request, begun: int) -> AsyncIterator[Directory]:
    directory = Directory()
    asked = [asyncio.create_task(directory.login.login(request)) for request in requests]
    async with asyncio.timeout(DEADLINE_S):
        while directory.hanging < begun:
            await asyncio.sleep(0.001)
    yield directory
    directory.end.set()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_calls_that_hang_lock_out_no_other_user() -> None:
    requests = [request(f"stuck {number}") for number in range(100)]
    async with stuck(*requests, begun=100) as directory:
        assert (await directory.login.login(request("ann"))).user == User("ann")


async def test_requests_that_are_alike_take_their_share_of_the_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = [request("stuck") for _ in range(2 * LOGIN_SHARE)]
    async with stuck(*requests, begun=LOGIN_SHARE) as directory:
        with monkeypatch.context() as impatient:
            impatient.setattr(directory.login._threads, "_wait_s", 0.02)
            with pytest.raises(Busy):
                await directory.login.login(request("stuck"))
        assert (await directory.login.login(request("ann"))).user == User("ann")
        assert directory.hanging == LOGIN_SHARE


async def test_one_address_leaves_places_for_others() -> None:
    requests = [request(f"stuck {number}") for number in range(LOGIN_THREADS)]
    async with stuck(*requests, begun=ADDRESS_SHARE) as directory:
        with pytest.raises(Busy):
            await directory.login.login(request("ann"))
        assert (await directory.login.login(request("ann", "192.0.2.2"))).user == User("ann")


async def test_the_addresses_of_one_ipv6_network_are_one() -> None:
    """A client that has one address there has 2 ** 64."""
    requests = [request(f"stuck {number}", f"2001:db8::{number:x}") for number in range(LOGIN_THREADS)]
    async with stuck(*requests, begun=ADDRESS_SHARE) as directory:
        with pytest.raises(Busy, match="2001:db8::/64"):
            await directory.login.login(request("ann", "2001:db8::ffff"))
        for other in ("2001:db8:0:1::1", "192.0.2.2", "::ffff:192.0.2.3", "unknown"):
            assert (await directory.login.login(request("ann", other))).user == User("ann")


async def test_a_login_without_an_answer_in_time_is_refused_as_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(login_function, "AUTHENTICATE_S", 0.02)
    async with stuck(begun=0) as directory:
        with pytest.raises(Busy, match="has not answered"):
            await directory.login.login(request("stuck"))


async def test_a_timeout_of_the_functions_own_is_its_error() -> None:
    def lookup(_request: Request) -> User:
        raise TimeoutError("the directory is slow")

    with pytest.raises(TimeoutError, match="the directory is slow"):
        await LoginFunction(lookup).login(request("ann"))


@pytest.mark.parametrize(
    "raised", [asyncio.CancelledError, GeneratorExit, SystemExit, KeyboardInterrupt, ValueError]
)
@pytest.mark.parametrize("in_thread", [True, False])
async def test_every_exception_is_answered_as_an_error_of_the_server(
    raised: type[BaseException], in_thread: bool
) -> None:
    def raises(request: Request) -> User:
        raise raised

    async def raises_too(request: Request) -> User:
        raise raised

    with pytest.raises(BaseException) as error:  # noqa: PT011
        await LoginFunction(raises if in_thread else raises_too).login(request("ann"))
    assert isinstance(error.value, Exception)  # which becomes 500 `internal_error`


async def test_work_of_a_request_counts_for_its_address_and_then_for_its_user() -> None:
    done_for: list[str] = []

    def login(request: Request) -> User:
        done_for.append(asking.get())
        return User("ann")

    tickets = TicketSigner(b"")
    authenticator = Authenticator(cast(Any, None), tickets, function=LoginFunction(login), exposed=True)
    await authenticator.admit({**request("ann").scope, "query_string": b""})
    assert [*done_for, asking.get()] == ["address 192.0.2.1", "ann"]


HANGS = """
import threading

def login(request):
    if request.headers.get("x-user") == "stuck":
        threading.Event().wait()
    return {"user_id": "ann"}
"""
STUCK = """
import time
from runstore import User

def login(request):
    if request.headers["x-user"] == "stuck":
        with open("stuck", "a") as file:
            file.write("x")
        time.sleep(600)
    return User("ann")
"""
CONFIG = '[server]\nauthenticate = "agents:login"\n[agents.quick]\nmodel = "scripted"\n'


def test_a_server_serves_and_ends_though_its_login_function_hangs(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG, HANGS) as server:
        connections = []
        for number in range(40):
            connections.append(connection := create_connection(("127.0.0.1", server.port)))
            head = f"GET /runs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-User: stuck\r\nX-Number: {number}\r\n\r\n"
            connection.sendall(head.encode())
        assert server.http.get("/runs").status_code == 200
        server.process.terminate()
        assert server.process.wait(DEADLINE_S) == 0
        for connection in connections:
            connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "a stranger's"])
def test_the_address_is_the_one_that_a_trusted_proxy_forwards(tmp_path: Path, trusted: bool) -> None:
    with ExitStack() as stack:
        server = ServerProcess(tmp_path, CONFIG, STUCK)
        stack.callback(server.close)
        server.variables["FORWARDED_ALLOW_IPS"] = "127.0.0.1" if trusted else "192.0.2.99"
        server.start()

        def ask(user: str, number: int, address: str) -> socket:
            connection = stack.enter_context(create_connection(("127.0.0.1", server.port), DEADLINE_S))
            lines = {"Host": "127.0.0.1", "X-User": user, "X-Number": number, "X-Forwarded-For": address}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            connection.sendall(f"GET /runs HTTP/1.1\r\n{head}\r\n".encode())
            return connection

        (tmp_path / "stuck").touch()
        for number in range(ADDRESS_SHARE):
            ask("stuck", number, "192.0.2.1")
        until(lambda: len((tmp_path / "stuck").read_text()) == ADDRESS_SHARE, "all of them hang")
        same, other = ask("ann", 1, "192.0.2.1").recv(12), ask("ann", 1, "192.0.2.2").recv(12)
        assert (same, other) == (b"HTTP/1.1 503", b"HTTP/1.1 200" if trusted else b"HTTP/1.1 503")
