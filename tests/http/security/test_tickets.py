"""Tickets: one run's stream for clients that cannot send headers."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.http.conftest import CONFIG
from tests.kit.frames import read_frames
from tests.kit.keys import client, make_key, revoke_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import SILENT_AGENT, ServerProcess, serving, until
from tests.kit.waits import within

ENDED_IN_S = 3.0  # looks at a login 2 s apart, at what may be 1 s old


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str]]:
    """A server that asks for keys, and a key of alice's."""
    folder = tmp_path_factory.mktemp("tickets")
    key = make_key(folder, "alice")
    with serving(folder, CONFIG, SILENT_AGENT, heartbeat_s=0.2) as server:
        yield server, key
        assert_no_traceback(server.log)


@pytest.fixture
def alice(keyed: tuple[ServerProcess, str]) -> Iterator[httpx.Client]:
    with client(*keyed) as http:
        yield http


@pytest.fixture
def stranger(keyed: tuple[ServerProcess, str]) -> Iterator[httpx.Client]:
    with client(keyed[0], None) as http:
        yield http


@pytest.fixture
def run_id(alice: httpx.Client) -> str:
    return begin(alice, "quick")


def begin(http: httpx.Client, agent: str = "silent") -> str:
    return str(http.post(f"/agents/{agent}/start", json={"input": "one two three"}).json()["run_id"])


def ticket_for(http: httpx.Client, run_id: str, **body: object) -> str:
    answer = http.post(f"/runs/{run_id}/ticket", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


def follow(http: httpx.Client, run_id: str, ticket: str) -> int:
    with http.stream("GET", f"/runs/{run_id}/stream", params={"ticket": ticket}) as answer:
        return answer.status_code


def test_a_ticket_opens_its_runs_stream_without_a_header(
    alice: httpx.Client, stranger: httpx.Client, run_id: str
) -> None:
    answer = alice.post(f"/runs/{run_id}/ticket")
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json().keys() == {"ticket", "expires_at", "url"}
    with stranger.stream("GET", answer.json()["url"]) as stream:
        frames = list(read_frames(stream.iter_raw()))
    assert frames[-1].type == "lifecycle.completed"


def test_a_ticket_works_again_and_again_as_an_eventsource_reconnects(
    alice: httpx.Client, stranger: httpx.Client, run_id: str
) -> None:
    ticket = ticket_for(alice, run_id)
    last = alice.get(f"/runs/{run_id}", params={"wait": 20}).json()["last_seq"]
    url, parameters = f"/runs/{run_id}/stream", {"ticket": ticket}
    for after, status in ((0, 200), (2, 200), (last, 204)):
        headers = {"Last-Event-ID": str(after)}
        with stranger.stream("GET", url, params=parameters, headers=headers) as stream:
            assert stream.status_code == status


def test_a_ticket_is_good_for_one_run(alice: httpx.Client, stranger: httpx.Client, run_id: str) -> None:
    assert follow(stranger, begin(alice, "quick"), ticket_for(alice, run_id)) == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/runs"),
        ("GET", "/runs/{run}"),
        ("GET", "/runs/{run}/events"),
        ("POST", "/runs/{run}/stop"),
        ("POST", "/runs/{run}/ticket"),
        ("DELETE", "/runs/{run}"),
        ("GET", "/runs/{run}/stream/"),
    ],
)
def test_a_ticket_is_good_for_nothing_but_the_stream(
    alice: httpx.Client, stranger: httpx.Client, run_id: str, method: str, path: str
) -> None:
    parameters = {"ticket": ticket_for(alice, run_id)}
    assert stranger.request(method, path.format(run=run_id), params=parameters).status_code == 401


def forged(ticket: str, **changes: object) -> str:
    """The ticket with other words and the old signature."""
    payload, _, mac = ticket.partition(".")
    content = msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return urlsafe_b64encode(msgspec.json.encode(content | changes)).rstrip(b"=").decode() + "." + mac


def test_a_ticket_to_answer_is_good_for_nothing_but_that(alice: httpx.Client, stranger: httpx.Client) -> None:
    run_id = begin(alice)
    ticket = ticket_for(alice, run_id, scope="answer")
    for method, path, body, status in (
        ("GET", "inputs", None, 200),
        ("POST", "inputs/1.1", {"answer": 1}, 404),
        ("POST", "inputs", {"content": "x"}, 401),
        ("POST", "fork", {}, 401),
        ("POST", "stop", None, 401),
        ("GET", "stream", None, 401),
    ):
        answer = stranger.request(method, f"/runs/{run_id}/{path}", params={"ticket": ticket}, json=body)
        assert answer.status_code == status, (path, answer.text)
    alice.post(f"/runs/{run_id}/stop")


def test_a_changed_ticket_is_401(alice: httpx.Client, stranger: httpx.Client, run_id: str) -> None:
    ticket = ticket_for(alice, run_id)
    other = begin(alice, "quick")
    wrong = [
        forged(ticket, run_id=other),
        forged(ticket, expires_at=10**15),
        ticket[:-2],
        ticket + "A",
        ticket.replace(".", ""),
        "",
        ".",
        "\u00fc.\u00fc",
        "x" * 5_000,
    ]
    assert [follow(stranger, run_id, each) for each in wrong[1:]] == [401] * (len(wrong) - 1)
    assert follow(stranger, other, wrong[0]) == 401
    assert follow(stranger, run_id, ticket) == 200


def test_a_wrong_ticket_is_401_also_with_a_good_key(alice: httpx.Client, run_id: str) -> None:
    assert follow(alice, run_id, "wrong") == 401


def test_an_expired_ticket_is_401_and_ends_its_stream(
    keyed: tuple[ServerProcess, str], alice: httpx.Client, stranger: httpx.Client
) -> None:
    run_id = begin(alice)
    url = f"/runs/{run_id}/stream"
    with within(1 + ENDED_IN_S, keyed[0].pid):
        ticket = ticket_for(alice, run_id, ttl_s=1)
        with stranger.stream("GET", url, params={"ticket": ticket}) as stream:
            for _ in stream.iter_raw():
                pass
    assert follow(stranger, run_id, ticket) == 401
    assert alice.post(f"/runs/{run_id}/stop").json()["status"] == "running"


def test_a_ticket_ends_with_the_key_that_it_was_got_with(
    keyed: tuple[ServerProcess, str], stranger: httpx.Client
) -> None:
    server, _ = keyed
    key = make_key(server.folder, "heidi")
    with client(server, key) as heidi:
        run_id = begin(heidi)
        ticket = ticket_for(heidi, run_id)
        with stranger.stream("GET", f"/runs/{run_id}/stream", params={"ticket": ticket}) as stream:
            assert stream.status_code == 200
            with within(ENDED_IN_S, server.pid):
                revoke_key(server.folder, key)
                for _ in stream.iter_raw():
                    pass
        assert follow(stranger, run_id, ticket) == 401


@pytest.mark.parametrize("ttl_s", [0, -1, 86_401, 1.5, "60", None])
def test_a_ticket_lasts_1_s_to_24_h(alice: httpx.Client, run_id: str, ttl_s: object) -> None:
    answer = alice.post(f"/runs/{run_id}/ticket", json={"ttl_s": ttl_s})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_body"
    assert "ttl_s" in answer.json()["error"]["message"]


def test_tickets_outlive_a_restart(tmp_path: Path) -> None:
    """Every process on the database signs with the same secret."""
    key = make_key(tmp_path, "alice")
    server = ServerProcess(tmp_path, CONFIG, SILENT_AGENT)
    try:
        with client(server.start(), key) as alice:
            run_id = begin(alice, "quick")
            ticket = ticket_for(alice, run_id)
        server.kill()
        with client(server.start(), None) as stranger:
            assert follow(stranger, run_id, ticket) == 200
    finally:
        server.close()


def test_a_ticket_of_a_server_without_keys_ends_with_the_first_key(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG, SILENT_AGENT) as server:
        run_id = server.begin_silent()
        ticket = ticket_for(server.http, run_id)
        with server.stream(run_id) as by_address, server.stream(run_id, ticket=ticket) as by_ticket:
            assert by_address.status_code == by_ticket.status_code == 200
            with within(ENDED_IN_S, server.pid):
                make_key(tmp_path, "alice")
                for _ in (*by_address.iter_raw(), *by_ticket.iter_raw()):
                    pass
        until(lambda: server.http.get("/runs").status_code == 401, "a key is needed", within_s=5)
        assert follow(server.http, run_id, ticket) == 401
