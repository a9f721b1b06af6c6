"""Bad requests get a 4xx that names the error, and leave nothing in the server's log."""

import json
import socket
from typing import Any

import httpx
import pytest

from tests.kit.server import DEADLINE_S, SILENT_HEAD, ServerProcess

NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"  # a run id that no run has
JSON = {"Content-Type": "application/json"}
DEEP = b"[" * 20_000 + b"]" * 20_000
BIG = 9 << 20  # bytes; over the limit of a body


def assert_error(answer: httpx.Response, status: int, code: str, *words: str) -> None:
    assert answer.status_code == status, answer.url
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert answer.json().keys() == {"error"}
    assert error.keys() >= {"code", "message"}
    assert error["code"] == code
    for word in words:
        assert word in error["message"]


# Bodies.

STARTS = ("/agents/silent/start", "/agents/silent/stream")
BODIES: list[tuple[str, bytes, str, str]] = [  # why, body, code, what the message names
    ("no json", b"{input: hi}", "invalid_json", ""),
    ("cut off", b'{"input": "h', "invalid_json", ""),
    ("more than one", b'{"input": "hi"} {}', "invalid_json", ""),
    ("no utf-8", b'{"input": "\xff\xfe"}', "invalid_json", ""),
    ("half an emoji", rb'{"input": "\ud83d"}', "invalid_body", "$.input"),
    ("not a number", b'{"input": "hi", "metadata": {"n": NaN}}', "invalid_json", ""),
    ("too deep", b'{"input": "hi", "metadata": {"n": ' + DEEP + b"}}", "event_too_deep", "64"),
    ("no body", b"", "invalid_json", ""),
    ("an array", b'["hi"]', "invalid_body", "object"),
    ("null", b"null", "invalid_body", "object"),
    ("no input", b"{}", "invalid_body", "input"),
    ("input a number", b'{"input": 5}', "invalid_body", "$.input"),
    ("input null", b'{"input": null}', "invalid_body", "$.input"),
    ("input an object", b'{"input": {"text": "hi"}}', "invalid_body", "$.input"),
    ("session a number", b'{"input": "hi", "session_id": 5}', "invalid_body", "$.session_id"),
    ("session empty", b'{"input": "hi", "session_id": ""}', "invalid_body", "session_id"),
    ("session too long", b'{"input": "hi", "session_id": "%b"}' % (b"s" * 256), "invalid_body", "session_id"),
    ("metadata a list", b'{"input": "hi", "metadata": []}', "invalid_body", "$.metadata"),
    ("unknown field", b'{"input": "hi", "sessionid": "s"}', "invalid_body", "sessionid"),
]  # fmt: skip


@pytest.mark.parametrize("path", STARTS)
@pytest.mark.parametrize(("body", "code", "named"), [pytest.param(*row[1:], id=row[0]) for row in BODIES])
def test_a_run_is_not_started_with_a_bad_body(
    http: httpx.Client, path: str, body: bytes, code: str, named: str
) -> None:
    before = newest_run(http)
    assert_error(http.post(path, content=body, headers=JSON), 400, code, named)
    assert newest_run(http) == before


def newest_run(http: httpx.Client) -> list[str]:
    return [run["run_id"] for run in http.get("/runs", params={"limit": 1, "agent": "silent"}).json()["data"]]


EVENTS: list[tuple[str, Any, str, str]] = [
    ("neither", {}, "invalid_body", "`events`"),
    ("both", {"type": "custom.a", "events": []}, "invalid_body", "`events`"),
    ("data beside events", {"data": 1, "events": [{"type": "custom.a"}]}, "invalid_body", "data"),
    ("no events", {"events": []}, "invalid_event", "1 to"),
    ("a type of ours", {"type": "llm.token", "data": {"text": "hi"}}, "invalid_event", "custom."),
    ("an ending", {"type": "lifecycle.completed"}, "invalid_event", "custom."),
    ("no type", {"type": ""}, "invalid_event", "custom."),
    ("no name", {"type": "custom."}, "invalid_event", "custom."),
    ("a type of two lines", {"type": "custom.a\nid: 99"}, "invalid_event", "custom."),
    ("a type too long", {"type": "custom." + "a" * 121}, "invalid_event", "custom."),
    ("a type that is a number", {"type": 5}, "invalid_body", "$.type"),
    ("events an object", {"events": {"type": "custom.a"}}, "invalid_body", "$.events"),
    ("an event without a type", {"events": [{"data": 1}]}, "invalid_body", "type"),
    ("an event with a seq", {"events": [{"type": "custom.a", "seq": 3}]}, "invalid_body", "seq"),
    ("an unknown field", {"type": "custom.a", "expected": 2}, "invalid_body", "expected"),
    ("expected_seq a text", {"type": "custom.a", "expected_seq": "2"}, "invalid_body", "$.expected_seq"),
    ("expected_seq a fraction", {"type": "custom.a", "expected_seq": 2.5}, "invalid_body", "$.expected_seq"),
]


@pytest.mark.parametrize(("body", "code", "named"), [pytest.param(*row[1:], id=row[0]) for row in EVENTS])
def test_a_bad_append_stores_nothing(
    server: ServerProcess, silent_run: str, body: Any, code: str, named: str
) -> None:
    assert_error(server.http.post(f"/runs/{silent_run}/events", json=body), 400, code, named)
    assert server.record(silent_run)["last_seq"] == SILENT_HEAD


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"stop!", "invalid_json"),
        (b'{"reason": 5}', "invalid_body"),
        (b'{"reason": ""}', "invalid_body"),
        (b'{"reason": "%b"}' % (b"x" * 201), "invalid_body"),
        (b'{"why": "enough"}', "invalid_body"),
    ],
    ids=["no json", "a number", "empty", "too long", "unknown field"],
)
def test_a_bad_stop_stops_nothing(server: ServerProcess, silent_run: str, body: bytes, code: str) -> None:
    assert_error(server.http.post(f"/runs/{silent_run}/stop", content=body, headers=JSON), 400, code)
    assert server.record(silent_run)["cancel_requested"] is False


WITH_A_BODY = (*STARTS, "/runs/{run}/events", "/runs/{run}/stop")


@pytest.mark.parametrize("path", WITH_A_BODY)
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_body_of_another_type_is_415(http: httpx.Client, silent_run: str, path: str, kind: str) -> None:
    body = b'{"input": "hi"}'
    answer = http.post(path.format(run=silent_run), content=body, headers={"Content-Type": kind})
    assert_error(answer, 415, "unsupported_media_type", "application/json")


@pytest.mark.parametrize("path", WITH_A_BODY)
@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([("Content-Type", "application/json"), ("Content-Encoding", "gzip")], "Content-Encoding 'gzip'"),
        ([("Content-Type", "application/json"), ("Content-Type", "text/plain")], "application/json"),
    ],
    ids=["encoded", "two types"],
)
def test_a_body_that_is_encoded_or_of_two_types_is_415(
    http: httpx.Client, silent_run: str, path: str, headers: list[tuple[str, str]], words: str
) -> None:
    answer = http.post(path.format(run=silent_run), content=b'{"input": "hi"}', headers=headers)
    assert_error(answer, 415, "unsupported_media_type", words)


def test_a_place_in_a_stream_that_is_given_twice_is_400(http: httpx.Client, silent_run: str) -> None:
    headers = [("Last-Event-ID", "1"), ("Last-Event-ID", "2")]
    answer = http.get(f"/runs/{silent_run}/stream", headers=headers)
    assert_error(answer, 400, "invalid_cursor", "more than once")


@pytest.mark.parametrize("path", WITH_A_BODY)
def test_a_body_over_the_limit_is_413(http: httpx.Client, silent_run: str, path: str) -> None:
    body = json.dumps({"input": "x" * BIG}).encode()
    answer = http.post(path.format(run=silent_run), content=body, headers=JSON)
    assert_error(answer, 413, "body_too_large", "8,388,608")


def test_a_body_without_a_length_is_413_as_soon_as_it_is_over_the_limit(http: httpx.Client) -> None:
    def endless() -> Any:
        for _ in range(1_000):
            yield b"x" * (1 << 20)

    try:
        answer = http.post("/agents/silent/start", content=endless(), headers=JSON)
    except httpx.WriteError:
        return  # it stopped listening: as good
    assert_error(answer, 413, "body_too_large")


@pytest.mark.parametrize("path", STARTS)
def test_an_input_larger_than_an_event_is_413(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={"input": "x" * ((1 << 20) + 1)})
    assert_error(answer, 413, "limit_exceeded", "1,048,576")
    assert answer.json()["error"]["limit"] == "input_bytes"


# Runs that are not there.

ROUTES_OF_A_RUN = [
    ("GET", "/runs/{run}", None),
    ("GET", "/runs/{run}?wait=1", None),
    ("GET", "/runs/{run}?at=1", None),
    ("DELETE", "/runs/{run}", None),
    ("GET", "/runs/{run}/events", None),
    ("POST", "/runs/{run}/events", {"type": "custom.a"}),
    ("GET", "/runs/{run}/stream", None),
    ("POST", "/runs/{run}/stop", None),
    ("POST", "/runs/{run}/ticket", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES_OF_A_RUN)
def test_an_unknown_run_is_404(http: httpx.Client, method: str, path: str, body: Any) -> None:
    answer = http.request(method, path.format(run=NOBODY), json=body)
    assert_error(answer, 404, "run_not_found", NOBODY)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES_OF_A_RUN)
def test_a_run_id_in_upper_case_is_the_same_run_on_every_route(
    http: httpx.Client, silent_run: str, method: str, path: str, body: Any
) -> None:
    with http.stream(method, path.format(run=silent_run.upper()), json=body) as answer:
        if answer.headers["content-type"].startswith("text/event-stream"):
            text = next(answer.iter_text(400))
        else:
            text = answer.read().decode()
    assert silent_run in text
    assert silent_run.upper() not in text


@pytest.mark.parametrize(("method", "path", "body"), ROUTES_OF_A_RUN)
@pytest.mark.parametrize(
    "run_id", ["101", "{01890a5d-ac96-774b-bcce-b302099a8057}", "no-uuid", "%ff", "٣", "x" * 3_000]
)
def test_an_id_that_is_not_a_uuid_is_404(
    http: httpx.Client, method: str, path: str, body: Any, run_id: str
) -> None:
    answer = http.request(method, path.format(run=run_id), json=body)
    assert_error(answer, 404, "run_not_found", "UUID")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/runs/",
        "/agents/silent",
        "/agents//start",
        "/runs/%2e%2e/x",
        "/agents/silent/start/",
    ],
)
def test_an_unknown_path_is_404_as_json(http: httpx.Client, path: str) -> None:
    assert_error(http.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/agents", {"GET", "HEAD"}),
        ("GET", "/agents/silent/start", {"POST"}),
        ("PUT", "/agents/silent/stream", {"POST"}),
        ("DELETE", "/runs", {"GET", "HEAD"}),
        ("POST", "/runs/{run}", {"GET", "HEAD", "DELETE"}),
        ("PUT", "/runs/{run}/events", {"GET", "HEAD", "POST"}),
        ("POST", "/runs/{run}/stream", {"GET", "HEAD"}),
        ("OPTIONS", "/runs/{run}/stop", {"POST"}),
        ("PATCH", "/healthz", {"GET", "HEAD"}),
        ("TRACE", "/readyz", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_405_and_the_right_ones_are_named(
    http: httpx.Client, closed_run: str, method: str, path: str, allowed: set[str]
) -> None:
    answer = http.request(method, path.format(run=closed_run))
    assert_error(answer, 405, "method_not_allowed", method)
    assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed


# Query parameters.

PARAMETERS: list[tuple[str, str, str]] = [  # path, code, what the message names
    ("/agents?limit=1", "unknown_parameter", "limit"),
    ("/runs?state=running", "unknown_parameter", "status"),
    ("/runs?status=done", "invalid_parameter", "success"),
    ("/runs?status=", "invalid_parameter", "success"),
    ("/runs?status=running&status=queued", "invalid_parameter", "more than once"),
    ("/runs?limit=0", "invalid_parameter", "1 to 1000"),
    ("/runs?limit=1001", "invalid_parameter", "1 to 1000"),
    ("/runs?limit=many", "invalid_parameter", "1 to 1000"),
    ("/runs?limit=-1", "invalid_parameter", "1 to 1000"),
    ("/runs?limit=1e2", "invalid_parameter", "1 to 1000"),
    ("/runs?limit=%D9%A3", "invalid_parameter", "1 to 1000"),
    ("/runs?since=yesterday", "invalid_parameter", "since"),
    ("/runs?since=2026-11-20", "invalid_parameter", "zone"),
    ("/runs?until=2026-11-20T10:00:00", "invalid_parameter", "zone"),
    ("/runs?until=1700000000", "invalid_parameter", "until"),
    ("/runs?until=2026-13-20T10:00:00Z", "invalid_parameter", "until"),
    ("/runs?after=5", "invalid_cursor", "next"),
    ("/runs/{run}?at=0", "invalid_parameter", "at="),
    ("/runs/{run}?at=first", "invalid_parameter", "at="),
    ("/runs/{run}?at=4", "invalid_cursor", "1 to 3"),
    ("/runs/{run}?at=9999999999999999999", "invalid_parameter", "at="),
    ("/runs/{run}?wait=long", "invalid_parameter", "seconds"),
    ("/runs/{run}?wait=-1", "invalid_parameter", "seconds"),
    ("/runs/{run}?wait=nan", "invalid_parameter", "seconds"),
    ("/runs/{run}?wait=inf", "invalid_parameter", "seconds"),
    ("/runs/{run}?wait=1_0", "invalid_parameter", "seconds"),
    ("/runs/{run}?wait=\N{FULLWIDTH DIGIT FIVE}", "invalid_parameter", "seconds"),
    ("/runs/{run}?wait=301", "invalid_parameter", "seconds"),
    ("/runs/{run}?fields=status", "unknown_parameter", "wait"),
    ("/runs/{run}/events?after=x", "invalid_cursor", "seq"),
    ("/runs/{run}/events?after=-1", "invalid_cursor", "seq"),
    ("/runs/{run}/events?after=1.0", "invalid_cursor", "seq"),
    ("/runs/{run}/events?after=", "invalid_cursor", "seq"),
    ("/runs/{run}/events?after=4", "invalid_cursor", "ahead"),
    ("/runs/{run}/events?after=9999999999999999999999", "invalid_cursor", "seq"),
    ("/runs/{run}/events?limit=0", "invalid_parameter", "1 to 1000"),
    ("/runs/{run}/events?types=llm.tokens", "invalid_parameter", "llm.token"),
    ("/runs/{run}/events?types=", "invalid_parameter", "llm.token"),
    ("/runs/{run}/events?types=llm.token,", "invalid_parameter", "llm.token"),
    ("/runs/{run}/events?types=lifecycle.q*", "invalid_parameter", "lifecycle.*"),
    ("/runs/{run}/events?types=lifecycle.queue.*", "invalid_parameter", "lifecycle.*"),
    ("/runs/{run}/events?types=custom.%0A", "invalid_parameter", "custom.*"),
    ("/runs/{run}/events?types=*", "invalid_parameter", "lifecycle.*"),
    ("/runs/{run}/events?page=2", "unknown_parameter", "after"),
    ("/runs/{run}/stream?after=x", "invalid_cursor", "seq"),
    ("/runs/{run}/stream?after=4", "invalid_cursor", "ahead"),
    ("/runs/{run}/stream?types=tool", "invalid_parameter", "tool.*"),
    ("/runs/{run}/stream?limit=5", "unknown_parameter", "types"),
]


def ask(http: httpx.Client, path: str, headers: dict[str, bytes] | None = None) -> httpx.Response:
    """The whole refusal; only the beginning of an accepted answer, which may never end."""
    with http.stream("GET", path, headers=headers) as answer:
        if not answer.is_success:
            answer.read()
        return answer


@pytest.fixture(scope="session")
def one_run(running_server: ServerProcess) -> str:
    """A run at SILENT_HEAD, for requests that change nothing."""
    return running_server.begin_silent()


@pytest.mark.parametrize(("path", "code", "named"), PARAMETERS)
def test_a_wrong_parameter_is_400_and_named(
    http: httpx.Client, one_run: str, path: str, code: str, named: str
) -> None:
    assert_error(ask(http, path.format(run=one_run)), 400, code, named)


@pytest.mark.parametrize("path", ["/agents/silent/start", "/runs/{run}/stop", "/runs/{run}/events"])
def test_a_post_takes_no_query_parameters(http: httpx.Client, one_run: str, path: str) -> None:
    answer = http.post(path.format(run=one_run), params={"force": "1"}, json={})
    assert_error(answer, 400, "unknown_parameter", "force")


@pytest.mark.parametrize("cursor", ["x", "-1", "4", "1,2", "\xff", "1 x", "0x10", "9" * 40])
@pytest.mark.parametrize("surface", ["stream", "events"])
def test_a_wrong_last_event_id_is_400(http: httpx.Client, one_run: str, surface: str, cursor: str) -> None:
    headers = {"Last-Event-ID": cursor.encode("latin-1")}
    assert_error(ask(http, f"/runs/{one_run}/{surface}", headers), 400, "invalid_cursor")


@pytest.mark.parametrize("surface", ["events", "stream"])
def test_a_good_last_event_id_excuses_no_wrong_after(http: httpx.Client, one_run: str, surface: str) -> None:
    answer = ask(http, f"/runs/{one_run}/{surface}?after=x", {"Last-Event-ID": "1"})
    assert_error(answer, 400, "invalid_cursor")


# Names of this server.


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8082", "127.0.0.1.evil.example", "localhost.", "", "0.0.0.0"]
)
def test_an_unknown_host_is_400(http: httpx.Client, host: str) -> None:
    assert_error(http.get("/runs", headers={"Host": host}), 400, "unknown_host", "127.0.0.1")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8082", "[::1]", "[::1]:8082"]
)
def test_a_loopback_host_is_answered_on_every_port(http: httpx.Client, host: str) -> None:
    assert http.get("/healthz", headers={"Host": host}).status_code == 200


# Not even HTTP.


def test_a_complete_head_that_is_too_large_is_431(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as connection:
        connection.sendall(b"GET /runs HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * (65 << 10) + b"\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"headers_too_large"' in received


UNFINISHED = b"POST /agents/silent/start HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        UNFINISHED,
        UNFINISHED + b'Content-Length: 99\r\n\r\n{"input": "h',
    ],
    ids=["tls", "version", "length", "header cut off", "body cut off"],
)
def test_an_incomplete_request_gets_a_4xx_or_nothing_and_leaves_no_trace(
    server: ServerProcess, sent: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert not received or received.startswith(b"HTTP/1.1 4")
    assert server.http.get("/healthz").status_code == 200


def test_headers_without_end_are_431_and_the_connection_is_closed(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"x" * 100_000)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"headers_too_large"' in answer
