"""HTTP/1.1 as raw bytes: ambiguous requests are refused, stalled ones end, and everything is bounded."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from runstore.client.connection import connection
from runstore.http.http1 import connections, protocol, reader
from runstore.http.server import Server
from runstore.http.streaming import watched
from tests.kit.proxy import RESET
from tests.kit.server import DEADLINE_S, until

HOST = b"Host: localhost\r\n"
CHUNKED = b"POST /body HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n"
HUGE = 256 << 20  # bytes that a client that reads slowly does not get to the end of
TIMEOUT_S = 0.5
LARGE = 8 << 20  # bytes of an answer: more than the buffers of both ends hold
MEDIUM = 60_000  # bytes: more than the kernel takes for who reads nothing, and less than a write waits for
OK = b"HTTP/1.1 200 "


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it has been given; below `/early` without reading the body."""
    if scope["path"] in GO_ON:
        await answer_in_two(scope["path"], receive, send)
        return
    request = Request(scope, receive)
    early = scope["path"].startswith("/early")
    try:
        body = b"" if early or scope["method"] == "GET" else await request.body()
    except ClientDisconnect:
        return
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    seen = {"target": scope["path"], "headers": headers, "body": body.decode()}
    size = {"/huge": HUGE, "/large": LARGE, "/medium": MEDIUM}.get(scope["path"])
    answer = Response(b"x" * size) if size else JSONResponse(seen)
    await answer(scope, receive, send)


async def answer_in_two(path: str, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    await GO_ON[path](receive)
    await send({"type": "http.response.body", "body": b"ended"})


async def fail(receive: Receive) -> None:
    raise RuntimeError("fails on purpose")


async def wait_for_the_test(receive: Receive) -> None:
    await asyncio.to_thread(released.wait, DEADLINE_S)


async def wait_for_the_client_to_go(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


released = threading.Event()
GO_ON = {"/fails": fail, "/held": wait_for_the_test, "/left": wait_for_the_client_to_go}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of `echo`, in a thread of its own."""
    started = threading.Event()
    server = Server(echo, closing=lambda: None, started=started.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        started.wait()
        yield server
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(server: Server) -> int:
    [listening] = server.servers
    return int(listening.sockets[0].getsockname()[1])


@pytest.fixture
def client(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        yield client


def until_closed(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    try:
        while part := client.recv(65_536):
            received += part
    except ConnectionResetError:
        pass
    return received


def ask(client: socket.socket, request: bytes) -> dict[str, Any]:
    """The answer of `echo` to a request whose connection stays open."""
    client.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        part = client.recv(65_536)
        assert part, received
        received += part
    assert received.startswith(OK), received
    seen: dict[str, Any] = json.loads(received.partition(b"\r\n\r\n")[2])
    return seen


def names(seen: dict[str, Any]) -> list[str]:
    return [name for name, _ in seen["headers"]]


GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST /body HTTP/1.1\r\n" + HOST
REST = b"x" * (256 << 10)
REFUSED = {
    "two hosts": GET + HOST + b"\r\n",
    "two different hosts": GET + b"Host: example.org\r\n\r\n",
    "two logins": GET + b"Authorization: Bearer a\r\nauthorization: Bearer a\r\n\r\n",
    "two different logins": GET + b"Authorization: Bearer a\r\nAuthorization: Basic b\r\n\r\n",
    "obsolete folding": GET + b"X-A: b\r\n c\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "length and chunked": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "only another coding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "chunked in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0 with an upgrade": POST.replace(b"1.1", b"1.0")
    + b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": GET.replace(b"1.1", b"2.0") + b"\r\n",
    "NUL in the target": b"GET /a\0b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a control byte in the target": b"GET /a\x01b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tab in the target": b"GET /a\tb HTTP/1.1\r\n" + HOST + b"\r\n",
    "latin-1 in the target": b"GET /\xe9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in a header": GET + b"X-A: a\0b\r\n\r\n",
    "a control byte in a header": GET + b"X-A: a\x01b\r\n\r\n",
    "CR in a header": GET + b"X-A: a\rb\r\n\r\n",
    "a blank before the colon": GET + b"X-A : b\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "LF alone": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "no path": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    **{
        f"a target {target.decode()}": b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"
        for target in (
            b"ftp://localhost/", b"ws://localhost/", b"file:///etc/passwd", b"localhost:80", b"localhost",
            b"http:///a", b"http://", b"http://user@localhost/", b"http://user:word@localhost/",
            b"http://@localhost/", b"http://localhost:99999/", b"http://localhost:8o/", b"http://localhost:/",
            b"http://localhost/#a", b"/a#b", b"http://localhost@example.org/", b"http:/localhost/a",
        )
    },
    "a tunnel": b"CONNECT localhost:22 HTTP/1.1\r\n" + HOST + b"\r\nhello",
    "a chunk's size that overflows": CHUNKED + b"\r\n10000000000000003\r\nabc",
}  # fmt: skip


@pytest.mark.parametrize("request_", [pytest.param(sent, id=name) for name, sent in REFUSED.items()])
def test_an_ambiguous_request_is_refused(client: socket.socket, request_: bytes) -> None:
    client.sendall(request_)
    answer = until_closed(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_request"' in answer
    assert answer.count(b"\r\nContent-Length") == 1


def test_trailers_are_not_headers(client: socket.socket) -> None:
    trailers = b"Authorization: Bearer x\r\nHost: example.org\r\nX-Remote-User: root\r\n"
    seen = ask(client, CHUNKED + b"\r\n3\r\nabc\r\n0\r\n" + trailers + b"\r\n")
    assert names(seen) == ["host", "transfer-encoding"]
    assert seen["body"] == "abc"


@pytest.mark.parametrize("path", [b"body", b"early"])
def test_a_trailer_that_ends_the_connection_leaves_no_request_without_an_answer(
    client: socket.socket, path: bytes
) -> None:
    chunked = CHUNKED.replace(b"body", path)
    client.sendall(chunked + b"\r\n3\r\nabc\r\n0\r\nConnection: close\r\n\r\n" + GET + b"\r\n")
    assert until_closed(client).count(OK) == 1


@pytest.mark.parametrize("path", [b"body", b"early"])
@pytest.mark.parametrize(
    "endless",
    [b"3\r\nabc\r\n0\r\nX-A: ", b"3\r\nabc\r\n0\r\n" + b"X-A: b\r\n" * 9_000, b"3;a="],
    ids=["one trailer", "many trailers", "a chunk's extension"],
)
def test_trailers_and_extensions_of_chunks_are_bounded(
    client: socket.socket, path: bytes, endless: bytes
) -> None:
    sent = 0
    try:
        client.sendall(CHUNKED.replace(b"body", path) + b"\r\n" + endless)
        while sent < 100 << 20:
            sent += client.send(b"x" * 65_536)
    except OSError:
        pass  # it has been closed
    assert sent < 16 << 20  # what the buffers of both ends hold


def test_a_large_body_in_small_chunks_has_no_overhead(client: socket.socket) -> None:
    seen = ask(client, CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")
    assert len(seen["body"]) == 50_000


@pytest.mark.parametrize(
    "target",
    [
        b"http://example.org",
        b"http://example.org:81/a?b=c",
        b"http://[::1]:80/",
        b"http://example.org?b=c",
        b"https://example.org/a",
        b"HTTP://example.org:65535/a",
        b"http://example.org/a@b",
    ],
)
def test_the_host_of_an_absolute_target_goes_before_the_header(client: socket.socket, target: bytes) -> None:
    seen = ask(client, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    [host] = [value for name, value in seen["headers"] if name == "host"]
    assert host == re.split("[/?]", target.decode().partition("://")[2])[0]
    assert seen["target"].startswith("/")


@pytest.mark.parametrize("protocol_name", [b"h2c", b"websocket"])
def test_an_upgrade_is_ignored_and_the_body_and_next_request_are_read(
    client: socket.socket, protocol_name: bytes
) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: " + protocol_name
    seen = ask(client, POST + upgrade + b"\r\nContent-Length: 24\r\n\r\nGET /smuggled HTTP/1.1\r\n")
    assert seen["body"] == "GET /smuggled HTTP/1.1\r\n"
    assert "upgrade" not in names(seen)
    assert ask(client, GET + b"\r\n")["target"] == "/"


def test_an_upgrade_leaves_a_request_in_its_version(client: socket.socket) -> None:
    """A client of HTTP/1.0 knows no chunks, and reads until the connection is closed."""
    client.sendall(GET.replace(b"1.1", b"1.0") + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    answer = until_closed(client)
    assert answer.startswith(OK)
    assert b"chunked" not in answer.lower()


def test_pipelined_requests_are_answered_in_order_and_bounded(client: socket.socket) -> None:
    client.sendall(b"".join(b"GET /%d HTTP/1.1\r\n" % number + HOST + b"\r\n" for number in range(10)))
    received = b""
    while received.count(OK) < 10 or not received.endswith(b"}"):
        received += client.recv(65_536)
    assert [received.index(b'"/%d"' % number) for number in range(10)] == sorted(
        received.index(b'"/%d"' % number) for number in range(10)
    )
    client.sendall((GET + b"\r\n") * (protocol.MAX_PIPELINED + 2))
    received = until_closed(client)
    assert received.count(OK) == protocol.MAX_PIPELINED + 1
    assert received.count(b"HTTP/1.1 400 ") == 1


BAD_LAST = {
    "the rest of a body that its length cuts short": (b'fg"}', 400),
    "a malformed body": (CHUNKED + b"\r\nxyz\r\n", 400),
    "a request of another version": (GET.replace(b"1.1", b"3.0") + b"\r\n", 400),
    "a head without end": (GET + b"X-Long: " + b"x" * (protocol.MAX_HEAD_BYTES + 1), 431),
}


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize(("rest", "status"), BAD_LAST.values(), ids=BAD_LAST)
def test_requests_before_a_malformed_one_are_answered(
    client: socket.socket, before: int, rest: bytes, status: int
) -> None:
    """A client that counts characters as bytes gives a length that is too short: it must learn of that."""
    client.sendall((POST + b"Content-Length: 5\r\n\r\nabcde") * before + rest)
    received = until_closed(client)
    answers = [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", received)]
    assert answers == [200] * before + [status]
    assert received.count(b'"abcde"') == before


# While the answer to a malformed request waits for an earlier one.


def get(path: bytes) -> bytes:
    return GET.replace(b"/", path, 1) + b"\r\n"


BAD_AFTER = [
    pytest.param(BAD_LAST[name][0], id=name) for name in ("a malformed body", "a request of another version")
]


@pytest.fixture
def hold() -> Iterator[None]:
    released.clear()
    yield
    released.set()


def begin(client: socket.socket, request: bytes) -> bytes:
    """Send it, and read until the answer has begun."""
    client.sendall(request)
    received = b""
    while b"begun" not in received:
        part = client.recv(65_536)
        assert part, received
        received += part
    return received


def connection_of(client: socket.socket, server: Server) -> protocol.HttpProtocol:
    port = client.getsockname()[1]
    every = [each for each in server.server_state.connections if isinstance(each, protocol.HttpProtocol)]
    [connection] = [each for each in every if each.client is not None and each.client[1] == port]
    return connection


@pytest.mark.parametrize("bad", BAD_AFTER)
def test_a_connection_ends_whose_earlier_answer_fails(client: socket.socket, bad: bytes) -> None:
    received = begin(client, get(b"/fails") + bad) + until_closed(client)
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"ended" not in received


@pytest.mark.parametrize("bad", BAD_AFTER)
def test_a_client_that_leaves_ends_the_earlier_answer(
    server: Server, client: socket.socket, bad: bytes
) -> None:
    begin(client, get(b"/left") + bad)
    assert server.server_state.tasks
    client.close()
    until(lambda: not server.server_state.tasks, "it has ended")


@pytest.mark.parametrize("bad", BAD_AFTER)
def test_a_drain_lets_the_earlier_answer_end(
    server: Server, client: socket.socket, hold: None, bad: bytes
) -> None:
    received = begin(client, get(b"/held") + bad)
    connection = connection_of(client, server)
    connection.loop.call_soon_threadsafe(connection.shutdown)
    connection.loop.call_soon_threadsafe(released.set)
    assert (received + until_closed(client)).count(b"ended") == 1


@pytest.mark.parametrize("bad", BAD_AFTER)
def test_a_long_rest_waits_for_the_answers(
    server: Server, client: socket.socket, hold: None, bad: bytes
) -> None:
    received = begin(client, get(b"/held") + bad)
    connection = connection_of(client, server)
    client.sendall(b"x" * (protocol.MAX_REFUSED_REST_BYTES + len(REST)))
    until(lambda: connection.flow.read_paused or connection.transport.is_closing(), "it is too long")
    released.set()
    received += until_closed(client)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", received) == [b"200", b"400"]


def test_the_number_of_headers_is_bounded(client: socket.socket) -> None:
    client.sendall(GET + b"A: b\r\n" * protocol.MAX_HEADERS + b"\r\n")
    assert until_closed(client).startswith(b"HTTP/1.1 431 ")


def test_a_client_that_expects_leave_is_given_it(client: socket.socket) -> None:
    client.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert ask(client, b"abc")["body"] == "abc"


def test_a_client_of_http_1_0_gets_no_interim_answer(client: socket.socket) -> None:
    head = POST.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    client.sendall(head + b"abc")
    answer = until_closed(client)
    assert answer.startswith(OK)
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_client_that_is_not_given_leave_cannot_smuggle_a_request_as_the_body(client: socket.socket) -> None:
    """The bytes may be the body or the next request."""
    client.sendall(POST.replace(b"body", b"early") + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    answer = until_closed(client)
    assert answer.startswith(OK)
    assert answer.count(b"HTTP/1.1 ") == 1


# The rest of a refused request: a connection that is reset under it may lose the answer.

LONG_HEAD = GET + b"X-Long: " + b"x" * (protocol.MAX_HEAD_BYTES + 1)
EARLY = POST.replace(b"body", b"early") + b"Content-Length: %d\r\n" % (2 * len(REST))
LEFT_EARLY = {
    "a head without end": (LONG_HEAD, b"HTTP/1.1 431 "),
    "too many headers": (GET + b"A: b\r\n" * (protocol.MAX_HEADERS + 1), b"HTTP/1.1 431 "),
    "no HTTP": (b"\x16\x03\x01\x02\x00", b"HTTP/1.1 400 "),
    "a malformed body": (CHUNKED + b"\r\nxyz\r\n", b"HTTP/1.1 400 "),
    "an early answer that ends the connection": (EARLY + b"Connection: close\r\n\r\n", OK),
    "an early answer in HTTP/1.0": (EARLY.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n", OK),
    "a body without leave": (EARLY + b"Expect: 100-continue\r\n\r\n", OK),
}  # fmt: skip


@pytest.mark.parametrize(("begin", "status"), LEFT_EARLY.values(), ids=LEFT_EARLY)
def test_a_connection_is_not_reset_under_a_client_that_is_still_sending(
    client: socket.socket, begin: bytes, status: bytes
) -> None:
    client.sendall(begin)
    answer = until_closed(client)
    assert answer.startswith(status)
    assert answer.count(b"\r\n\r\n") == 1
    for _ in range(2):  # the first would find out
        client.sendall(REST)
    assert client.recv(1) == b""


def test_nor_under_a_body_that_is_malformed_after_its_answer(client: socket.socket) -> None:
    ask(client, CHUNKED.replace(b"body", b"early") + b"\r\n")
    client.sendall(b"xyz\r\n")
    assert until_closed(client) == b""
    for _ in range(2):
        client.sendall(REST)


def test_a_route_that_waits_for_a_refused_body_learns_of_it_at_once(
    server: Server, client: socket.socket
) -> None:
    client.sendall(CHUNKED + b"\r\nxyz\r\n")
    until_closed(client)
    until(lambda: not server.server_state.tasks, "it has ended")
    assert server.server_state.connections


def send_until_reset(client: socket.socket, piece: bytes, server: Server) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while server.server_state.connections and time.monotonic() < until_s:
        client.sendall(piece)
    for _ in range(2):
        client.sendall(piece)


@pytest.mark.parametrize("begin", [LONG_HEAD, EARLY + b"Connection: close\r\n\r\n"], ids=["head", "body"])
@pytest.mark.parametrize("bound", ["time", "bytes"])
def test_the_rest_is_read_for_a_while_only(
    server: Server, client: socket.socket, monkeypatch: pytest.MonkeyPatch, begin: bytes, bound: str
) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", 0.2 if bound == "time" else 2 * DEADLINE_S)
    monkeypatch.setattr(protocol, "MAX_REST_BYTES", 1 << 20)
    client.sendall(begin)
    until_closed(client)
    piece = b"x" if bound == "time" else REST
    with pytest.raises(ConnectionError):
        send_until_reset(client, piece, server)


# Idle connections.


PROXY_S = 120.0  # the longest that nginx, Traefik or Caddy keep an idle connection, unless configured


def test_the_server_keeps_idle_connections_for_longer_than_clients_and_proxies(server: Server) -> None:
    assert server.config.timeout_keep_alive > PROXY_S


def test_our_client_drops_an_idle_connection_before_a_server_does_that_keeps_it_for_5_s() -> None:
    """As uvicorn, Node and many more do unless configured: another one may stand before ours."""
    limits: httpx.Limits = connection(None, None)["limits"]
    assert limits.keepalive_expiry is not None
    assert limits.keepalive_expiry <= 4


@pytest.fixture
def connect(port: int) -> Iterator[Callable[[], socket.socket]]:
    with ExitStack() as stack:
        address = ("127.0.0.1", port)
        yield lambda: stack.enter_context(socket.create_connection(address, DEADLINE_S))


def bound_idle(server: Server, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(server.server_state, "max_idle", most)
    monkeypatch.setattr(server.server_state, "most_idle", most)


def test_the_longest_idle_of_too_many_connections_is_closed(
    server: Server, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_idle(server, monkeypatch, 3)
    first, second, third = (connect() for _ in range(3))
    for client in (first, second, third, first):
        ask(client, GET + b"\r\n")
    ask(fourth := connect(), GET + b"\r\n")
    assert until_closed(second) == b""
    for client in (first, third, fourth):
        assert ask(client, GET + b"\r\n")["target"] == "/"


WITHOUT_A_REQUEST = {
    "new": b"",
    "half a head": GET,
    "refused": b"\x16\x03\x01\x02\x00",
    "an answer that its client does not read": GET.replace(b"/", b"/large", 1) + b"\r\n",
    "the same, and then the end": GET.replace(b"/", b"/large", 1) + b"Connection: close\r\n\r\n",
}


@pytest.mark.parametrize("sent", WITHOUT_A_REQUEST.values(), ids=WITHOUT_A_REQUEST)
def test_connections_that_need_no_login_leave_room_for_others(
    server: Server, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Otherwise clients without a login could hold all descriptors of the process."""
    bound_idle(server, monkeypatch, 3)
    for module, name in ((protocol, "HEAD_S"), (protocol, "LINGER_S"), (watched, "SEND_TIMEOUT_S")):
        monkeypatch.setattr(module, name, 2 * DEADLINE_S)
    for _ in range(10):
        connect().sendall(sent)
    assert ask(connect(), GET + b"\r\n")["target"] == "/"
    until(lambda: len(server.server_state.connections) <= 3, "the others are closed")


def test_a_storm_of_new_connections_is_answered(
    server: Server, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clients come back at once after a restart; the server accepts them before it reads a request."""
    monkeypatch.setattr(server.server_state, "max_idle", 3)
    monkeypatch.setattr(connections, "KEPT_S", 2 * DEADLINE_S)
    clients = [connect() for _ in range(20)]
    for client in clients:
        assert ask(client, GET + b"\r\n")["target"] == "/"


def test_connections_that_have_been_idle_for_a_while_leave_room_for_others(
    server: Server, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.server_state, "max_idle", 3)
    monkeypatch.setattr(connections, "KEPT_S", 0)
    clients = [connect() for _ in range(10)]
    for client in clients[:-3]:
        assert until_closed(client) == b""
    assert ask(clients[-1], GET + b"\r\n")["target"] == "/"


def test_requests_in_progress_are_kept(
    server: Server, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_idle(server, monkeypatch, 2)
    busy = []
    for _ in range(4):
        busy.append(connect())
        busy[-1].sendall(POST + b"Content-Length: 3\r\n\r\n")
        until(lambda: len(server.server_state.tasks) == len(busy), "it has begun")
    for _ in range(5):
        connect()
    for client in busy:
        assert ask(client, b"abc")["body"] == "abc"


@pytest.mark.parametrize("ended", [b"", b"Connection: close\r\n"], ids=["reset", "closed"])
def test_a_connection_that_waits_for_its_body_or_has_ended_is_not_idle(
    server: Server, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch, ended: bytes
) -> None:
    bound_idle(server, monkeypatch, 2)
    idle, busy = connect(), connect()
    for client in (busy, idle):
        ask(client, GET + b"\r\n")
    busy.sendall(POST + b"Content-Length: 3\r\n\r\n")
    for _ in range(3):
        left = connect()
        ask(left, GET + ended + b"\r\n")
        left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        left.close()
        until(lambda: len(server.server_state.connections) == 2, "it has gone")
    assert ask(busy, b"abc")["body"] == "abc"
    assert ask(idle, GET + b"\r\n")["target"] == "/"


# Stalled requests.


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    monkeypatch.setattr(protocol, "LINGER_S", 0.2)
    monkeypatch.setattr(watched, "SEND_TIMEOUT_S", 0.2)
    monkeypatch.setattr(watched, "CHECK_S", 0.05)


@pytest.mark.parametrize("sent", [b"G", GET, GET + b"X-A: "], ids=["a byte", "a line", "half a header"])
def test_half_a_head_is_408_and_the_connection_is_closed(
    short_timeouts: None, port: int, sent: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        client.sendall(sent)
        answer = until_closed(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


def test_a_head_that_drips_has_no_longer(short_timeouts: None, client: socket.socket) -> None:
    try:
        client.sendall(b"GET / HTTP/1.1\r\nX-A: ")
        for _ in range(1_000):
            client.sendall(b"x")
            time.sleep(0.01)  # the client sends slowly on purpose
    except OSError:
        return
    pytest.fail("the connection is still open")


def test_large_heads_have_so_much_room_and_the_longest_waiting_one_leaves(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setattr(connections, "LARGE_HEAD_BYTES", 4_000)
    monkeypatch.setattr(connections, "MAX_HEADS_BYTES", 50_000)
    half = GET + b"X-A: " + b"x" * 20_000
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))
            for _ in range(4)
        ]
        for client in clients[:3]:
            client.sendall(half)
        answer = until_closed(clients[0])
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"server_busy"' in answer
        for client in clients[1:3]:
            assert names(ask(client, b"\r\n\r\n")) == ["host", "x-a"]
        clients[3].sendall(half)  # the others have made room
        assert names(ask(clients[3], b"\r\n\r\n")) == ["host", "x-a"]
        assert ask(clients[1], half + b"\r\n\r\n")["target"] == "/"


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """For two heads like HALF."""
    monkeypatch.setattr(connections, "LARGE_HEAD_BYTES", 4_000)
    monkeypatch.setattr(connections, "MAX_HEADS_BYTES", 50_000)


HALF = GET + b"X-A: " + b"x" * 20_000


def test_a_refused_head_takes_no_room_while_its_connection_lingers(
    little_room: None,
    server: Server,
    connect: Callable[[], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    oldest, other = connect(), connect()
    ask(other, GET + b"\r\n")  # both are accepted, with the usual time for a head
    oldest.sendall(HALF)
    with monkeypatch.context() as short:
        short.setattr(protocol, "HEAD_S", 0.2)
        short.setattr(protocol, "LINGER_S", 2 * DEADLINE_S)
        refused = connect()
        refused.sendall(HALF + b"\r\n")
        assert until_closed(refused).startswith(b"HTTP/1.1 408 ")
    lingering = connection_of(refused, server)
    assert not lingering.headers
    assert not lingering.scope["headers"]
    other.sendall(HALF)
    for client in (other, oldest):
        assert names(ask(client, b"\r\n\r\n")) == ["host", "x-a"]


def test_a_large_head_in_one_read_with_the_request_before_it_takes_room(
    little_room: None, connect: Callable[[], socket.socket]
) -> None:
    pipelined, *others = (connect() for _ in range(3))
    ask(pipelined, GET + b"\r\n" + HALF)
    for client in others:
        client.sendall(HALF)
    assert until_closed(pipelined).startswith(b"HTTP/1.1 503 ")
    for client in others:
        assert names(ask(client, b"\r\n\r\n")) == ["host", "x-a"]


def test_too_large_a_head_in_one_read_with_the_request_before_it_is_431(client: socket.socket) -> None:
    ask(client, POST.replace(b"body", b"early") + b"Content-Length: 3\r\n\r\na")
    client.sendall(b"bc" + GET + b"X-A: " + b"x" * (protocol.MAX_HEAD_BYTES + 1))
    assert until_closed(client).startswith(b"HTTP/1.1 431 ")


def test_a_head_in_one_read_with_an_upgrade_takes_room(
    little_room: None, connect: Callable[[], socket.socket]
) -> None:
    pipelined, *others = (connect() for _ in range(3))
    upgrade = b"Upgrade: websocket\r\nConnection: upgrade" + b"," * 15_000 + b"\r\n\r\n"
    ask(pipelined, GET + upgrade + HALF)
    for client in others:
        client.sendall(HALF)
    assert until_closed(pipelined).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(
    "request_before",
    [
        POST + b"X-A: " + b"x" * 3_000 + b"\r\nContent-Length: 6000\r\n\r\n" + b"x" * 6_000,
        CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 1_000 + b"0\r\n\r\n",
    ],
    ids=["length", "chunks"],
)
def test_the_request_before_a_head_in_one_read_is_no_part_of_it(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch, request_before: bytes
) -> None:
    monkeypatch.setattr(protocol, "MAX_HEAD_BYTES", 4_000)
    assert ask(client, request_before + GET + b"X-A: " + b"x" * 2_000)["target"] == "/body"
    assert ask(client, b"\r\n\r\n")["target"] == "/"


def test_a_connection_that_says_nothing_is_closed_without_an_answer(short_timeouts: None, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        assert until_closed(client) == b""


def test_half_a_head_after_an_answer_is_408(short_timeouts: None, client: socket.socket) -> None:
    ask(client, GET + b"\r\n")
    client.sendall(GET)
    assert until_closed(client).startswith(b"HTTP/1.1 408 ")


def test_half_a_head_in_one_read_with_the_request_before_it_is_408(
    short_timeouts: None, client: socket.socket
) -> None:
    ask(client, GET + b"\r\n" + GET)
    assert until_closed(client).startswith(b"HTTP/1.1 408 ")


def test_half_a_head_in_one_read_with_a_body_that_came_late_is_408(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(client, POST.replace(b"body", b"early") + b"Content-Length: 3\r\n\r\na")
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    client.sendall(b"bc" + GET)
    assert until_closed(client).startswith(b"HTTP/1.1 408 ")


def test_the_rest_of_a_body_that_is_not_read_does_not_keep_the_connection(
    short_timeouts: None, client: socket.socket
) -> None:
    client.sendall(POST.replace(b"body", b"early") + b"Content-Length: 9000\r\n\r\nabc")
    assert client.recv(65_536).startswith(OK)
    try:
        for _ in range(1_000):
            client.sendall(b"x")
            time.sleep(0.01)  # the client reads slowly on purpose
    except OSError:
        return
    pytest.fail("the connection is still open")


def test_a_body_that_was_not_read_takes_no_memory_after_the_answer(
    server: Server, client: socket.socket
) -> None:
    ask(client, POST.replace(b"body", b"early") + b"Content-Length: 60000\r\n\r\n" + b"x" * 50_000)
    [connection] = server.server_state.connections
    until(lambda: len(connection.cycle.body) == 0, "it is freed")  # type: ignore[union-attr]


def test_a_request_after_a_body_that_came_late_is_answered(client: socket.socket) -> None:
    ask(client, POST.replace(b"body", b"early") + b"Content-Length: 3\r\n\r\na")
    assert ask(client, b"bc" + GET + b"\r\n")["target"] == "/"


def test_a_client_that_reads_nothing_of_a_plain_answer_is_cut_off(
    short_timeouts: None, client: socket.socket
) -> None:
    client.sendall(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
    client.recv(1)
    time.sleep(1.0)  # in which it reads nothing
    assert len(until_closed(client)) < LARGE


@pytest.mark.parametrize("known", [True, False], ids=["acknowledged", "by the buffer"])
def test_a_client_that_reads_little_and_often_is_not_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch, port: int, known: bool
) -> None:
    """Also where the system does not say what the other side has taken."""
    monkeypatch.setattr(watched, "SEND_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(watched, "CHECK_S", TIMEOUT_S / 20)
    if not known:
        monkeypatch.setattr(reader, "acknowledged", lambda connection: 0)
    step = 512 if known else 1 << 20
    begun = read_at = time.monotonic()
    with socket.socket() as client:
        if known:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /huge HTTP/1.1\r\n" + HOST + b"\r\n")
        while time.monotonic() - begun < 4 * TIMEOUT_S:
            client.settimeout(DEADLINE_S)
            left = step
            while left:
                left -= len(part := client.recv(left))
                assert part, "it was cut off"
            paused, read_at = time.monotonic() - read_at, time.monotonic()
            if paused > TIMEOUT_S / 2:
                begun = read_at  # this process had no core: only what is read steadily counts
            time.sleep(TIMEOUT_S / 20)  # the client reads slowly on purpose


def test_the_rest_of_an_answer_does_not_keep_a_connection_that_reads_nothing(
    short_timeouts: None, server: Server, port: int
) -> None:
    before = server.server_state.total_requests
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /medium HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: server.server_state.total_requests > before, "it is answered")
        until(lambda: not server.server_state.connections, "it is cut off")
