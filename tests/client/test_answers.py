"""The clients' reaction to answers of scripted servers: errors, keys, retries."""

from typing import Any

import httpx
import pytest

from runstore.client import (
    ApiError,
    Conflict,
    Forbidden,
    RateLimited,
    ServerUnreachable,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from runstore.client.connection import connection
from runstore.client.patience import FIRST_WAIT_S, MAX_WAIT_S, Patience
from runstore.core.errors import ConfigError
from tests.client.conftest import Connect
from tests.client.stranger import stranger

JSON = {"Content-Type": "application/json"}
SSE = {"Content-Type": "text/event-stream"}
RUN = b'{"run_id": "r", "status": "queued", "a_field_of_the_future": 1}'
FRAME = 'id: {0}\nevent: {1}\ndata: {{"run_id":"r","seq":{0},"type":"{1}","at":"","data":null}}\n\n'


def error(status: int, code: str = "no", **headers: str) -> tuple[int, dict[str, str], bytes]:
    return (
        status,
        {**JSON, **headers},
        b'{"error": {"code": "%b", "message": "why", "head": 3}}' % code.encode(),
    )


def frames(*seqs: int, ending: bool = True) -> bytes:
    types = ["custom.x"] * (len(seqs) - ending) + ["lifecycle.completed"] * ending
    return "".join(FRAME.format(seq, type) for seq, type in zip(seqs, types, strict=True)).encode()


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, ApiError),
        (401, Unauthorized),
        (403, Forbidden),
        (409, Conflict),
        (429, RateLimited),
        (500, ApiError),
    ],
)
def test_an_error_has_its_class_code_and_details(connect: Connect, status: int, cls: type[ApiError]) -> None:
    with stranger(error(status, "its_code")) as server:
        client = connect(server.url)
        for ask in (lambda: client.get("r"), lambda: next(client.stream("r"))):
            with pytest.raises(cls) as refusal:
                ask()
            assert (refusal.value.status, refusal.value.code) == (status, "its_code")
            assert str(refusal.value) == "its_code: why"
            assert refusal.value.details == {"head": 3}
    assert len(server.asked) == 2, "nothing was asked again"


def test_the_answer_of_something_in_between_is_shown(connect: Connect) -> None:
    shown = "http_error: 418 I'm a Teapot: <b>short and stout</b>"
    teapot = (418, {"Content-Type": "text/html"}, b"<b>short\nand stout</b>")
    with stranger(teapot) as server, pytest.raises(ApiError, match=shown):
        connect(server.url).get("r")


@pytest.mark.parametrize("body", [b"<html></html>", b"[]", b"{}", b"\xff", b""])
def test_an_answer_of_another_server_is_named_so(connect: Connect, body: bytes) -> None:
    with stranger((200, {"Content-Type": "text/html"}, body)) as server:
        client = connect(server.url)
        for ask in (lambda: client.get("r"), lambda: next(client.stream("r"))):
            with pytest.raises(UnexpectedAnswer):
                ask()


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_passing_failure_is_retried(connect: Connect, status: int) -> None:
    with stranger(error(status), error(status), (200, JSON, RUN)) as server:
        assert connect(server.url).get("r").run_id == "r"
    with stranger(error(status), error(status), (200, SSE, frames(1, 2))) as server:
        assert [event.seq for event in connect(server.url).stream("r")] == [1, 2]


def test_an_error_that_does_not_pass_is_given_up(connect: Connect) -> None:
    with stranger(error(503, "log_unavailable")) as server:
        client = connect(server.url, retry_s=0.3)
        for ask in (
            lambda: client.get("r"),
            lambda: next(client.stream("r")),
            lambda: client.append("r", []),
        ):
            with pytest.raises(Unavailable, match="log_unavailable"):
                ask()
    assert len(server.asked) > 3


def test_without_time_to_try_again_everything_is_tried_once(connect: Connect) -> None:
    with stranger(error(503)) as server, pytest.raises(Unavailable):
        connect(server.url, retry_s=0).get("r")
    assert len(server.asked) == 1


def test_each_start_has_one_key_for_all_its_tries(connect: Connect) -> None:
    with stranger(error(503), error(503), (202, JSON, RUN)) as server:
        client = connect(server.url)
        client.start("a", "hi")
        client.start("a", "hi")
        client.start("a", "hi", idempotency_key="mine")
    keys = [request.headers["Idempotency-Key"] for request in server.asked]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3
    assert keys[-1] == "mine"


def test_a_stream_asks_for_what_comes_after_its_last_event(connect: Connect) -> None:
    first, rest = frames(6, 7, ending=False), frames(8, 9)
    with stranger((200, SSE, first + b"id: 8\ndata: cut"), (200, SSE, rest)) as server:
        assert [event.seq for event in connect(server.url).stream("r", after=5)] == [6, 7, 8, 9]
    assert [request.headers["Last-Event-ID"] for request in server.asked] == ["5", "7"]


def test_an_event_that_comes_again_is_passed_over(connect: Connect) -> None:
    with stranger((200, SSE, frames(1, 2, ending=False)), (200, SSE, frames(1, 2, 3))) as server:
        assert [event.seq for event in connect(server.url).stream("r")] == [1, 2, 3]


def test_a_stream_with_a_hole_is_refused(connect: Connect) -> None:
    shown = "event 4 of the stream came after event 2"
    with stranger((200, SSE, frames(1, 2, 4))) as server, pytest.raises(UnexpectedAnswer, match=shown):
        list(connect(server.url).stream("r"))


def test_a_filtered_stream_has_holes(connect: Connect) -> None:
    with stranger((200, SSE, frames(1, 2, 40))) as server:
        assert [event.seq for event in connect(server.url).stream("r", types=["custom.*"])] == [1, 2, 40]


def test_nothing_is_read_after_the_ending(connect: Connect) -> None:
    with stranger((200, SSE, frames(1, 2) + frames(3))) as server:
        assert [event.seq for event in connect(server.url).stream("r")] == [1, 2]


def test_the_key_is_sent_as_a_bearer(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNSTORE_API_KEY", raising=False)
    with stranger((200, JSON, RUN)) as server:
        connect(server.url, api_key="given").get("r")
        connect(server.url).get("r")
        monkeypatch.setenv("RUNSTORE_API_KEY", "of-the-environment")
        monkeypatch.setenv("RUNSTORE_URL", server.url)
        connect().get("r")
    sent = [request.headers["Authorization"] for request in server.asked]
    assert sent == ["Bearer given", None, "Bearer of-the-environment"]


def test_a_server_below_a_path_is_reached(connect: Connect) -> None:
    with stranger((200, JSON, RUN)) as server:
        connect(f"{server.url}/runstore/").get("r")
    assert server.asked[0].path == "/runstore/runs/r"


def test_a_server_that_is_not_there_is_named(connect: Connect) -> None:
    with stranger((200, JSON, RUN)) as server:
        url = server.url
    with pytest.raises(ServerUnreachable, match=url):
        connect(url, retry_s=0).get("r")


BAD_URLS = [
    "127.0.0.1:8082",
    "ftp://here",
    "http://",
    "nonsense",
    "http://[::1",
    "http://a..b",
    f"http://{'x' * 64}",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_malformed_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError):
        connection(url, None)


@pytest.mark.parametrize(
    "url", ["http://[::1]:8082", "https://bücher.example/runs", f"http://{'x' * 63}.example."]
)
def test_a_url_of_any_host_is_taken(url: str) -> None:
    assert connection(url, None)["base_url"] == url


@pytest.mark.parametrize("key", ["with space", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_at_once(key: str) -> None:
    with pytest.raises(ConfigError):
        connection(None, key)


# How long to try again.


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def waits(patience: Patience, clock: Clock, asked_s: float = 0) -> list[float]:
    """How long it waits each time, until it gives up."""
    found: list[float] = []
    try:
        while True:
            found.append(patience.wait_s(ServerUnreachable("gone"), asked_s))
            clock.now += found[-1]
    except ServerUnreachable:
        return found


def new_patience(clock: Clock, retry_s: float = 60) -> Patience:
    return Patience(retry_s, clock, dice=lambda: 1.0)


def test_waits_grow_to_a_bound_and_end() -> None:
    found = waits(new_patience(clock := Clock()), clock)
    assert found[:4] == [FIRST_WAIT_S * 2**n for n in range(4)]
    assert max(found) == MAX_WAIT_S
    assert 60 - MAX_WAIT_S <= sum(found) <= 60


def test_a_requested_wait_is_honoured_within_the_bound() -> None:
    assert waits(new_patience(clock := Clock()), clock, asked_s=1)[0] == 1
    assert waits(new_patience(clock := Clock()), clock, asked_s=3_600)[0] == MAX_WAIT_S


def test_progress_begins_again_and_a_heartbeat_only_gives_time() -> None:
    patience = new_patience(clock := Clock())
    failed: Any = ServerUnreachable("gone")
    first = [patience.wait_s(failed) for _ in range(3)]
    clock.now = 1_000
    patience.alive()
    assert patience.wait_s(failed) == 2 * first[-1]
    patience.progress()
    assert patience.wait_s(failed) == first[0]


def test_a_broken_connection_is_named_by_its_server() -> None:
    from runstore.client.calls import unreachable

    lost = unreachable(
        httpx.ReadTimeout("", request=httpx.Request("GET", "http://u:p@host:1/x?ticket=secret"))
    )
    assert str(lost) == "http://host:1: ReadTimeout"
