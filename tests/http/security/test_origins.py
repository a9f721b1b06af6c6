"""Pages of other origins, and names that a proxy gives the server."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.kit.command_line import call_command
from tests.kit.keys import client, make_key
from tests.kit.server import ServerProcess, serving

ORIGIN = "https://app.example.com"
CONFIG = """
[server]
cors_origins = ["https://app.example.com", "http://localhost:3000"]
allowed_hosts = ["runs.example.com"]

[agents.quick]
model = "scripted"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("origins"), CONFIG) as server:
        yield server


def preflight(
    http: httpx.Client, origin: str, path: str = "/agents/quick/start", more: str = "last-event-id"
) -> httpx.Response:
    wanted = f"authorization, content-type, idempotency-key, {more}"
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": wanted,
    }
    return http.options(path, headers=headers)


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
def test_a_page_of_an_allowed_origin_may_send_its_headers_and_read_ours(
    server: ServerProcess, origin: str
) -> None:
    asked = preflight(server.http, origin)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == origin
    allowed = {name.strip().lower() for name in asked.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type", "idempotency-key", "last-event-id"} <= allowed
    answer = server.http.post("/agents/quick/start", json={"input": "hi"}, headers={"Origin": origin})
    assert answer.headers["access-control-allow-origin"] == origin
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"X-Run-Id", "Location", "ETag"} <= exposed
    assert "access-control-allow-credentials" not in answer.headers


def test_openais_client_may_chat_from_a_page(server: ServerProcess) -> None:
    path, sent = "/v1/chat/completions", "x-session-id, x-stainless-lang, x-stainless-retry-count"
    assert preflight(server.http, ORIGIN, path, sent).status_code == 200
    assert preflight(server.http, "https://evil.example", path, sent).status_code == 400
    chat = {"prompt": "hi", "model": "quick"}
    answer = server.http.post(path, json=chat, headers={"Origin": ORIGIN, "X-Stainless-Lang": "js"})
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"X-Run-Id", "X-Should-Retry"} <= exposed


def test_an_error_and_a_stream_can_be_read_too(server: ServerProcess) -> None:
    headers = {"Origin": ORIGIN}
    assert server.http.get("/runs?x=1", headers=headers).headers["access-control-allow-origin"] == ORIGIN
    run_id = server.begin("quick")
    answer = server.http.get(f"/runs/{run_id}/stream", headers=headers)
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example.com", "null", f"{ORIGIN}.evil"]
)
def test_a_page_of_another_origin_may_not(server: ServerProcess, origin: str) -> None:
    assert preflight(server.http, origin).status_code == 400
    answer = server.http.get("/runs", headers={"Origin": origin})
    assert "access-control-allow-origin" not in answer.headers


def test_a_401_can_be_read_by_the_page(tmp_path: Path) -> None:
    key = make_key(tmp_path, "alice")
    with serving(tmp_path, CONFIG) as server:
        assert preflight(server.http, ORIGIN).status_code == 200  # a preflight never has a key
        answer = server.http.get("/runs", headers={"Origin": ORIGIN})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        with client(server, key) as alice:
            assert alice.get("/runs", headers={"Origin": ORIGIN}).status_code == 200


# Hosts.


@pytest.mark.parametrize("host", ["runs.example.com", "RUNS.example.com:443", "localhost"])
def test_an_allowed_host_is_answered(server: ServerProcess, host: str) -> None:
    assert server.http.get("/runs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["example.com", "x.runs.example.com", "192.168.1.5"])
def test_another_host_is_not(server: ServerProcess, host: str) -> None:
    answer = server.http.get("/runs", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unknown_host"


def test_hosts_may_be_named_on_the_command_line(tmp_path: Path) -> None:
    with serving(tmp_path, allowed_host="one.example") as server:
        for host, status in (("one.example", 200), ("two.example", 400)):
            assert server.http.get("/healthz", headers={"Host": host}).status_code == status


def test_a_server_for_the_network_answers_to_every_address_but_to_no_unknown_name(tmp_path: Path) -> None:
    """A page cannot rebind an address, only a name."""
    make_key(tmp_path, "alice")
    with serving(tmp_path, CONFIG, host="0.0.0.0") as server:
        hosts = {"192.168.1.5": 200, "10.0.0.1:8082": 200, "[fe80::1]": 200, "evil.example": 400}
        for host, status in hosts.items():
            assert server.http.get("/healthz", headers={"Host": host}).status_code == status


# Wrong settings.


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('allowed_hosts = ["https://x.example"]', "`allowed_hosts`: 'https://x.example' must be a name"),
        ('allowed_hosts = ["x.example:80"]', "`allowed_hosts`"),
        ('allowed_hosts = "x.example"', "Expected `array`"),
        ('cors_origins = ["app.example.com"]', "`cors_origins`: 'app.example.com' must be an origin"),
        ('cors_origins = ["https://app.example.com/"]', "`cors_origins`"),
    ],
)
def test_a_wrong_name_or_origin_stops_the_start(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "runstore.toml").write_text(f"[server]\nport = 0\n{line}\n")
    ended = call_command("serve", folder=tmp_path)
    assert ended.returncode == 2
    assert "runstore.toml:3: [server]: " in ended.stderr
    assert said in ended.stderr


def test_any_origin_needs_keys(tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text('[server]\nport = 0\ncors_origins = ["*"]\n')
    ended = call_command("serve", folder=tmp_path)
    assert ended.returncode == 2
    assert "without API keys any web page could use the server" in ended.stderr
