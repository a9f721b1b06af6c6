"""nginx with the files of deploy/nginx, in front of two real servers on one database."""

import itertools
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import httpx
import pytest

from runstore.core.limits import Limits
from runstore.http.http1.protocol import KEEP_ALIVE_S
from runstore.http.native.runs import MAX_WAIT_S
from runstore.settings import ServerSettings
from tests.deploy.files import DEPLOY, compose, seconds
from tests.deploy.nginx import COMPRESSING, Nginx, nginx, verdict
from tests.kit.frames import HEARTBEAT, Frame, joined, read_frames, seqs
from tests.kit.metrics import sample
from tests.kit.proxy import Line, line_to
from tests.kit.server import ServerProcess, until

PUBLIC = "runs.example.com"
HEARTBEAT_S = 0.5  # too slow to push what nginx might keep out of its buffers in the time of a test
CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.talker]
model = "scripted"
tokens = 100000
tokens_per_s = 50
"""
SITE = (DEPLOY / "nginx/site.conf").read_text(encoding="utf-8")
START = "/agents/silent/start"
LENGTH = 64 << 20  # of an answer that no buffer holds


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    """Two servers on one file."""
    folder = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        servers = []
        for _ in range(2):
            server = ServerProcess(folder, CONFIG, heartbeat_s=HEARTBEAT_S, allowed_host=PUBLIC)
            stack.callback(server.close)
            servers.append(server.start())
            server.options["port"] = server.port  # also when it is started again
        yield servers


@pytest.fixture(scope="module")
def proxy(replicas: list[ServerProcess]) -> Iterator[Nginx]:
    with nginx([server.port for server in replicas]) as running:
        yield running


def begin(http: httpx.Client, agent: str = "silent") -> str:
    answer = http.post(f"/agents/{agent}/start", json={"input": "hi"})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


def note(http: httpx.Client, run_id: str, text: str) -> None:
    event = {"type": "custom.note", "data": text}
    answer = http.post(f"/runs/{run_id}/events", json=event)
    assert answer.status_code == 201, answer.text


def read_head(connection: socket.socket) -> tuple[str, httpx.Headers]:
    """The request line and the headers of a request, as a replica gets them."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65_536)
        assert part, "the connection ended within the head"
        head += part
    first, *lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return first, httpx.Headers([tuple(line.split(": ", 1)) for line in lines])


@contextmanager
def stream(http: httpx.Client, run_id: str, after: int = 0) -> Iterator[httpx.Response]:
    headers = {"Last-Event-ID": str(after)} if after else {}
    with http.stream("GET", f"/runs/{run_id}/stream", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield answer


def frames_of(http: httpx.Client, run_id: str) -> list[Frame]:
    """All of a closed run's."""
    with stream(http, run_id) as answer:
        return list(read_frames(answer.iter_raw()))


def end(http: httpx.Client, run_id: str) -> dict[str, Any]:
    """Stop a run; its record, once it has ended."""
    assert http.post(f"/runs/{run_id}/stop").is_success
    record = partial(http.get, f"/runs/{run_id}")
    until(lambda: record().json()["completed_at"], "the run has ended")
    found: dict[str, Any] = record().json()
    return found


def runs(http: httpx.Client) -> int:
    return len(http.get("/runs", params={"limit": 1000}).json()["data"])


# ---- streams ----


def test_each_event_arrives_while_the_next_one_is_not_yet_said(replicas: list[ServerProcess]) -> None:
    one = replicas[0]
    run_id = one.begin_silent()
    with nginx([one.port]) as proxy, stream(proxy.http, run_id) as answer:
        frames = read_frames(answer.iter_raw())
        for number in range(4):
            one.note(run_id, f"note {number}")
            arrived = next(frame for frame in frames if frame.type == "custom.note")
            assert arrived.data == f"note {number}"
    end(one.http, run_id)


def test_a_token_arrives_while_the_run_speaks(proxy: Nginx) -> None:
    run_id = begin(proxy.http, "talker")
    with stream(proxy.http, run_id) as answer:
        assert "llm.token" in (frame.type for frame in read_frames(answer.iter_raw()))
        assert proxy.http.get(f"/runs/{run_id}").json()["status"] == "running"
    end(proxy.http, run_id)


def test_heartbeats_pass(proxy: Nginx) -> None:
    run_id = begin(proxy.http)
    with stream(proxy.http, run_id) as answer:
        received = b""
        for part in answer.iter_raw():
            received += part
            if received.endswith(HEARTBEAT * 3):
                break
    end(proxy.http, run_id)


def test_streams_are_not_compressed_where_everything_else_is(replicas: list[ServerProcess]) -> None:
    run_id = begin(replicas[0].http)
    end(replicas[0].http, run_id)
    with nginx([replicas[0].port], COMPRESSING) as compressing:
        compressing.http.headers["Accept-Encoding"] = "gzip"
        for path in ("stream", "events"):
            answer = compressing.http.get(f"/runs/{run_id}/{path}")
            assert "content-encoding" not in answer.headers
            assert "etag" not in answer.headers or not answer.headers["etag"].startswith("W/")
        assert joined(read_frames([compressing.http.get(f"/runs/{run_id}/stream").content]))


def test_unread_data_waits_at_the_replica_and_not_in_nginx() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as replica,
        nginx([replica.getsockname()[1]]) as proxy,
        ThreadPoolExecutor() as pool,
    ):
        with socket.create_connection(("127.0.0.1", proxy.port)) as stuck:
            stuck.sendall(b"GET /runs/1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            sending = pool.submit(answer_at_length, *replica.accept())
            taken = pool.submit(lambda: answer_at_length(*replica.accept()))
            assert len(proxy.http.get("/runs/2/events").content) == LENGTH
            taken.result()
            assert not sending.done(), "nginx has taken it all, as fast as if a client had read it"
        sending.result()


def answer_at_length(connection: socket.socket, _address: Any) -> None:
    """A replica's answer that is larger than all buffers; nginx may exit before its end."""
    with connection, suppress(OSError):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LENGTH)
        connection.sendall(bytes(LENGTH))


def test_the_end_of_a_closed_run_is_204_of_the_streams_type(proxy: Nginx) -> None:
    run_id = begin(proxy.http)
    last = end(proxy.http, run_id)["last_seq"]
    answer = proxy.http.get(f"/runs/{run_id}/stream", headers={"Last-Event-ID": str(last)})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


def test_a_stream_whose_replica_is_killed_goes_on_at_the_other_byte_for_byte(
    replicas: list[ServerProcess], proxy: Nginx
) -> None:
    run_id = begin(proxy.http)
    before: list[Frame] = []
    with stream(proxy.http, run_id) as answer:
        frames = read_frames(answer.iter_raw())
        note(proxy.http, run_id, "before")
        while not before or before[-1].type != "custom.note":
            before.append(next(frames))
        [serving] = [one for one in replicas if sample(one.http, "runstore_subscribers") > 0]
        [other] = [one for one in replicas if one is not serving]
        serving.kill()
        with pytest.raises(httpx.TransportError):
            before += frames
    try:
        with stream(proxy.http, run_id, before[-1].seq) as answer:
            note(proxy.http, run_id, "after")
            assert proxy.http.post(f"/runs/{run_id}/stop").status_code == 202
            after = list(read_frames(answer.iter_raw()))
        assert seqs([*before, *after]) == list(range(1, after[-1].seq + 1))
        assert after[-1].ends
        replayed = joined(frames_of(other.http, run_id))
        assert joined([*before, *after]) == replayed == joined(frames_of(proxy.http, run_id))
    finally:
        serving.start()


# ---- other requests ----


def test_a_stop_through_the_proxy_ends_a_run_of_any_replica(
    replicas: list[ServerProcess], proxy: Nginx
) -> None:
    for server in replicas:
        run_id = begin(server.http)
        assert end(proxy.http, run_id)["status"] == "stopped"


def test_a_body_at_the_servers_limit_passes_and_a_larger_one_is_413(proxy: Nginx) -> None:
    most = Limits().body_bytes
    head = {"Content-Type": "application/json"}
    body = b'{"input": "hi"}'.ljust(most)
    answer = proxy.http.post(START, content=body, headers=head)
    assert answer.status_code == 202, answer.text
    proxy.http.post(f"/runs/{answer.json()['run_id']}/stop")
    for content in (body + b" ", itertools.chain([body], [b" "])):  # the second one without a length
        answer = proxy.http.post(START, content=content, headers=head)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"


def test_a_host_that_the_server_does_not_know_is_refused_and_an_allowed_one_is_not(proxy: Nginx) -> None:
    assert proxy.http.get("/agents", headers={"Host": PUBLIC}).status_code == 200
    answer = proxy.http.get("/agents", headers={"Host": "rebound.example.com"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_host")


def test_a_replica_gets_the_clients_address_and_keeps_its_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as replica, nginx([replica.getsockname()[1]]) as proxy:
        told = {
            "Host": f"{PUBLIC}:8080", "Last-Event-ID": "7", "Authorization": "Bearer rsk_1",
            "Idempotency-Key": "k", "X-Forwarded-For": "203.0.113.9", "Connection": "close",
        }  # fmt: skip
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
            client.sendall(f"GET /runs/1/stream?after=3 HTTP/1.1\r\n{lines}\r\n".encode())
            connection, _ = replica.accept()
            with connection:
                first, headers = read_head(connection)
    assert first == "GET /runs/1/stream?after=3 HTTP/1.1"
    assert headers["host"] == PUBLIC
    assert "connection" not in headers
    assert headers["x-forwarded-for"] == "127.0.0.1", "what a client says of itself is not believed"
    assert headers["x-forwarded-proto"] == "http"
    for name in ("Last-Event-ID", "Authorization", "Idempotency-Key"):
        assert headers[name] == told[name]


def test_a_ticket_is_not_logged(proxy: Nginx) -> None:
    run_id = begin(proxy.http)
    end(proxy.http, run_id)
    url = proxy.http.post(f"/runs/{run_id}/ticket").json()["url"]
    assert proxy.http.get(url).status_code == 200
    until(lambda: f"GET /runs/{run_id}/stream" in proxy.access_log, "the request is logged")
    assert "ticket=" in url
    assert "ticket=" not in proxy.access_log


# ---- replicas that go away ----


def port_of(line: Line) -> int:
    return int(line.url.rpartition(":")[2])


def test_a_start_whose_replica_dies_is_not_repeated(replicas: list[ServerProcess]) -> None:
    one, other = replicas
    before = runs(one.http)
    with (
        line_to(one.port, [0]) as line,
        line_to(other.port, [0]) as spare,
        nginx([port_of(line), port_of(spare)]) as proxy,
    ):
        answer = proxy.http.post(START, json={"input": "hi"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "bad_gateway")
        assert line.connections + spare.connections == 1
        until(lambda: runs(one.http) == before + 1, "the replica has taken the request")


def test_a_repeated_start_with_its_idempotency_key_gets_the_same_run(
    replicas: list[ServerProcess],
) -> None:
    one = replicas[0]
    before = runs(one.http)
    with line_to(one.port, [0]) as line, nginx([port_of(line)]) as proxy:
        start = partial(proxy.http.post, START, json={"input": "hi"}, headers={"Idempotency-Key": "once"})
        assert start().status_code == 502
        assert start().is_success
    assert runs(one.http) == before + 1


def test_a_read_whose_replica_dies_is_answered_by_the_other(replicas: list[ServerProcess]) -> None:
    one, other = replicas
    with line_to(one.port, [0]) as line, nginx([port_of(line), other.port]) as proxy:
        assert [proxy.http.get("/agents").status_code for _ in range(2)] == [200, 200]
        assert line.connections == 1


@pytest.fixture(scope="module")
def nobody() -> Iterator[Nginx]:
    """nginx before two replicas that are not there."""
    with ExitStack() as stack:
        ports = []
        for _ in range(2):
            held = stack.enter_context(socket.socket())
            held.bind(("127.0.0.1", 0))  # refuses, since it does not listen
            ports.append(held.getsockname()[1])
        yield stack.enter_context(nginx(ports))


@pytest.mark.parametrize("path", [START, "/v1/chat/completions", "/api/executor/v1/runs/start"])
def test_without_a_replica_every_surface_answers_in_its_form(nobody: Nginx, path: str) -> None:
    answer = nobody.http.post(path, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (502, "1")
    assert answer.json()["success"] is False
    assert set(answer.json()["error"]) == {"code", "message", "type", "param"}


def test_without_a_replica_a_stream_is_empty_and_not_refused(nobody: Nginx) -> None:
    """A browser's EventSource comes back after the one, and never after the other."""
    answer = nobody.http.get("/runs/1/stream")
    assert (answer.status_code, answer.content) == (200, HEARTBEAT)
    assert answer.headers["content-type"] == "text/event-stream"


# ---- the numbers ----


def setting(name: str, text: str = SITE) -> str:
    found = re.search(rf"^\s*{name} (\S+);", text, re.M)
    assert found, name
    return found[1]


def test_the_times_and_sizes_fit_those_of_the_server() -> None:
    assert setting("client_max_body_size") == f"{Limits().body_bytes >> 20}m"
    assert seconds(setting("keepalive_timeout")) < KEEP_ALIVE_S
    reads = [seconds(text) for text in re.findall(r"proxy_read_timeout (\S+);", SITE)]
    assert len(reads) == 2
    assert reads[0] > MAX_WAIT_S
    assert reads[1] > 2 * ServerSettings().heartbeat_s


def test_nginx_takes_the_addresses_of_compose() -> None:
    listen, servers = (
        (DEPLOY / f"nginx/{name}.conf").read_text(encoding="utf-8") for name in ("listen", "replicas")
    )
    code, said = verdict(listen, servers)
    assert code == 0, said


def test_the_health_check_of_compose_recognises_a_ready_replica(replicas: list[ServerProcess]) -> None:
    [check] = {tuple(compose()["services"][name]["healthcheck"]["test"]) for name in ("serve-1", "serve-2")}
    assert check[:3] == ("CMD", "python", "-c")

    def healthy(port: int) -> bool:
        code = check[3].replace(":8082/", f":{port}/")
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert [healthy(port) for port in (replicas[0].port, silent.getsockname()[1])] == [True, False]
