"""Every limit: a request over it is refused by name, and a request at it is accepted."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from select import select
from typing import Any

import httpx
import pytest

from tests.kit.command_line import call_command
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import SILENT_AGENT, ServerProcess, serving, until

LIMITS = {
    "body_bytes": 2_000,
    "input_bytes": 500,
    "event_bytes": 100,
    "events_per_append": 3,
    "inputs_per_run": 2,
    "runs_per_user": 4,
    "subscribers_per_run": 2,
    "subscribers_per_user": 3,
    "run_timeout_s": 0.5,
    "max_run_timeout_s": 100,
}
CONFIG = """
[limits]
{limits}

[agents.silent]
factory = "agents:silent"
run_timeout_s = 90

[agents.hasty]
factory = "agents:silent"

[agents.quick]
model = "scripted"
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    config = CONFIG.format(limits="\n".join(f"{name} = {value}" for name, value in LIMITS.items()))
    with serving(tmp_path_factory.mktemp("limits"), config, SILENT_AGENT, heartbeat_s=0.2) as server:
        make_key(server.folder, "somebody")
        until(lambda: server.http.get("/runs").status_code == 401, "keys are asked for")
        yield server
        assert_no_traceback(server.log)


@pytest.fixture
def user(running: ServerProcess, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A user of this test alone, so that runs and streams of other tests do not count."""
    with client(running, make_key(running.folder, request.node.name[:255])) as http:
        until(lambda: http.get("/runs").status_code == 200, "the key is known")
        yield http


def begin(http: httpx.Client, agent: str = "silent") -> str:
    answer = http.post(f"/agents/{agent}/start", json={"input": "hi"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


def assert_refused(answer: httpx.Response, status: int, limit: str, code: str = "limit_exceeded") -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["limit"]) == (code, limit)
    assert error["message"]
    assert ("retry-after" in answer.headers) is (status == 429)


def fitting(http: httpx.Client, run_id: str, limit: str, over: int) -> httpx.Response:
    """A request that is `over` bytes, or events, over a limit."""
    most = LIMITS[limit] + over
    if limit == "input_bytes":
        return http.post("/agents/quick/start", json={"input": "x" * (int(most) - 2)})
    if limit == "body_bytes":
        body = b'{"input": "hi"}'.ljust(int(most))
        return http.post("/agents/quick/start", content=body, headers={"Content-Type": "application/json"})
    if limit == "event_bytes":
        body = {"type": "custom.a", "data": "x" * (int(most) - 2)}
        return http.post(f"/runs/{run_id}/events", json=body)
    return http.post(f"/runs/{run_id}/events", json={"events": [{"type": "custom.a"}] * int(most)})


@pytest.mark.parametrize(
    ("limit", "code", "status"),
    [
        ("body_bytes", "body_too_large", 202),
        ("input_bytes", "limit_exceeded", 202),
        ("event_bytes", "event_too_large", 201),
        ("events_per_append", "limit_exceeded", 201),
    ],
)
def test_a_size_over_its_limit_is_413_and_one_at_it_is_taken(
    user: httpx.Client, limit: str, code: str, status: int
) -> None:
    run_id = begin(user)
    before = user.get(f"/runs/{run_id}/events").json()["data"]
    assert_refused(fitting(user, run_id, limit, 1), 413, limit, code)
    assert [e for e in user.get(f"/runs/{run_id}/events").json()["data"] if e["type"] == "custom.a"] == []
    assert len(before) <= 3
    assert fitting(user, run_id, limit, 0).status_code == status


def test_a_run_takes_the_allowed_number_of_added_messages(user: httpx.Client) -> None:
    run_id = begin(user)
    path, said = f"/runs/{run_id}/inputs", {"content": "And socks."}
    assert user.post(path, json={"content": ""}).status_code == 400
    assert [user.post(path, json=said).status_code for _ in range(2)] == [201, 201]
    assert_refused(user.post(path, json=said), 413, "inputs_per_run")
    assert user.post(f"/runs/{run_id}/stop").status_code == 202
    assert user.get(f"/runs/{run_id}", params={"wait": 20}).json()["status"] == "stopped"
    assert user.post(path, json=said).status_code == 409


def test_a_user_may_have_the_allowed_number_of_active_runs(user: httpx.Client) -> None:
    runs = [begin(user) for _ in range(4)]
    assert_refused(user.post("/agents/silent/start", json={"input": "hi"}), 429, "runs_per_user")
    assert_refused(user.post("/agents/silent/stream", json={"input": "hi"}), 429, "runs_per_user")
    assert user.post(f"/runs/{runs[0]}/stop").status_code == 202
    assert user.get(f"/runs/{runs[0]}", params={"wait": 20}).json()["status"] == "stopped"
    begin(user)


def test_starts_at_the_same_moment_do_not_go_over_the_limit(user: httpx.Client) -> None:
    def start(_: int) -> int:
        return user.post("/agents/silent/start", json={"input": "hi"}).status_code

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(start, range(24)))
    assert sorted(answers) == [202] * 4 + [429] * 20
    assert len(user.get("/runs").json()["data"]) == 4


def test_one_users_runs_do_not_count_for_another(running: ServerProcess, user: httpx.Client) -> None:
    for _ in range(4):
        begin(user)
    with client(running, make_key(running.folder, "another")) as other:
        begin(other)


def follow(stack: ExitStack, http: httpx.Client, url: str) -> httpx.Response:
    """Open a stream that stays open; returns its answer, read if it is a refusal."""
    answer = stack.enter_context(http.stream("GET", url))
    if answer.is_error:
        answer.read()
    return answer


def test_a_runs_open_streams_are_bounded_and_their_ends_make_room(user: httpx.Client) -> None:
    url = f"/runs/{begin(user)}/stream"
    with ExitStack() as stack:
        assert [follow(stack, user, url).status_code for _ in range(2)] == [200, 200]
        assert_refused(follow(stack, user, url), 429, "subscribers_per_run")
    until(lambda: opens(user, url), "the places are free again")


def opens(http: httpx.Client, url: str) -> bool:
    with http.stream("GET", url) as answer:
        return answer.status_code == 200


def test_a_request_that_waits_has_a_place_among_the_streams_until_its_client_goes(
    running: ServerProcess, user: httpx.Client
) -> None:
    url = f"/runs/{begin(user)}"
    head = f"GET {url}?wait=300 HTTP/1.1\r\nHost: localhost\r\n"
    request = f"{head}Authorization: {user.headers['authorization']}\r\n\r\n".encode()
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port))) for _ in range(4)
        ]
        for client in clients:
            client.sendall(request)
        until(lambda: len(select(clients, [], [], 0)[0]) == 2, "two are answered")
        for client in select(clients, [], [], 0)[0]:
            assert b"subscribers_per_run" in client.recv(65_536)
        assert_refused(user.get(url, params={"wait": 300}), 429, "subscribers_per_run")
        assert user.get(url).status_code == 200
    until(lambda: opens(user, f"{url}/stream"), "the places are free again")


def test_a_users_open_streams_are_bounded(user: httpx.Client) -> None:
    urls = [f"/runs/{begin(user)}/stream" for _ in range(4)]
    with ExitStack() as stack:
        assert [follow(stack, user, url).status_code for url in urls[:3]] == [200] * 3
        assert_refused(follow(stack, user, urls[3]), 429, "subscribers_per_user")
    until(lambda: opens(user, urls[3]), "the places are free again")


def test_a_stream_that_would_be_refused_starts_no_run(user: httpx.Client) -> None:
    urls = [f"/runs/{begin(user)}/stream" for _ in range(3)]
    with ExitStack() as stack:
        for url in urls:
            follow(stack, user, url)
        answer = user.post("/agents/silent/stream", json={"input": "hi"})
        assert_refused(answer, 429, "subscribers_per_user")
        assert len(user.get("/runs").json()["data"]) == 3


def test_a_refused_start_leaves_its_place_among_the_streams(user: httpx.Client) -> None:
    for _ in range(5):
        assert user.post("/agents/silent/stream", json={"input": 5}).status_code == 400
    assert opens(user, f"/runs/{begin(user)}/stream")


def test_an_agent_without_a_timeout_has_the_default_one(user: httpx.Client) -> None:
    record = user.get(f"/runs/{begin(user, 'hasty')}", params={"wait": 20}).json()
    assert (record["status"], record["error_code"]) == ("error", "timeout")


WRONG: list[tuple[str, Any, str]] = [
    ("body_bytes", 0, "`body_bytes` must be from 1,024"),
    ("event_bytes", (1 << 20) + 1, "`event_bytes` must be from 1 to 1,048,576"),
    ("events_per_append", 1_001, "`events_per_append` must be from 1 to 1,000"),
    ("runs_per_user", 0, "`runs_per_user` must be from 1"),
    ("runs_per_user", '"many"', "Expected `int`"),
    ("run_timeout_s", 0, "`run_timeout_s` must be from 0.001"),
    ("max_run_timeout_s", 5, "`run_timeout_s` must not be more than `max_run_timeout_s`"),
    ("max_runs", 5, "unknown field `max_runs`"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_wrong_limit_stops_the_start(tmp_path: Path, name: str, value: Any, said: str) -> None:
    (tmp_path / "runstore.toml").write_text(f"[limits]\n{name} = {value}\n")
    ended = call_command("serve", "--port", "0", folder=tmp_path)
    assert ended.returncode == 2
    assert "runstore.toml:" in ended.stderr
    assert "[limits]: " in ended.stderr
    assert said in ended.stderr


def test_an_agents_timeout_over_the_highest_stops_the_start(tmp_path: Path) -> None:
    limits = "[limits]\nrun_timeout_s = 1\nmax_run_timeout_s = 10\n"
    config = limits + "[agents.a]\nmodel = 'scripted'\nrun_timeout_s = 11\n"
    (tmp_path / "runstore.toml").write_text(config)
    ended = call_command("serve", "--port", "0", folder=tmp_path)
    assert ended.returncode == 2
    assert "runstore.toml:6: [agents.a]: `run_timeout_s` must be at most" in ended.stderr
