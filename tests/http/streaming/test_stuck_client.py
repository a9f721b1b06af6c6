"""A client that keeps its connection and reads nothing."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from runstore.app import Runtime, build_app, open_runtime
from runstore.core.events import Completed, Custom, Queued, Started
from runstore.core.ids import new_run_id
from runstore.http.schemas import NDJSON
from runstore.http.server import Server
from runstore.http.streaming import watched
from runstore.settings import ServerSettings, Settings
from tests.kit.polling import until

EVENT = Custom("custom.large", "x" * 500_000)
EVENTS = 40  # 20 MB: more than the buffers of both ends of a connection hold


@pytest.mark.parametrize(
    ("path", "proxy"), [("stream", ""), ("events", ""), ("stream", "X-Forwarded-For: 192.0.2.1\r\n")]
)
async def test_a_client_that_reads_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, proxy: str
) -> None:
    monkeypatch.setattr(watched, "SEND_TIMEOUT_S", 0.3)
    monkeypatch.setattr(watched, "CHECK_S", 0.05)
    settings = Settings(ServerSettings(database_url=f"sqlite:///{tmp_path / 'runstore.db'}"))
    async with open_runtime(settings) as runtime:
        run_id = await closed_run(runtime)
        with (
            structlog.testing.capture_logs() as lines,
            running(runtime) as server,
            connected(server) as client,
        ):
            request = (
                f"GET /runs/{run_id}/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {NDJSON}\r\n{proxy}\r\n"
            )
            client.sendall(request.encode())
            await until(lambda: "client_cut" in [line["event"] for line in lines])
            await until(lambda: not server.server_state.connections)
            assert not [line for line in lines if line["log_level"] == "error"]


async def closed_run(runtime: Runtime) -> str:
    run_id = new_run_id()
    started = Started(worker_id="test", attempt=1, reason="claimed")
    await runtime.event_log.append(run_id, [Queued(agent="demo", user_id="local", input=""), started])
    for _ in range(EVENTS):
        await runtime.event_log.append(run_id, [EVENT])
    await runtime.event_log.append(run_id, [Completed(result={})])
    return run_id


@contextmanager
def running(runtime: Runtime) -> Iterator[Server]:
    """A server in a thread of its own, which leaves the signals alone."""
    app = build_app(runtime, Settings())
    started = threading.Event()
    server = Server(app, closing=runtime.feed.close, started=started.set)
    listener = socket.create_server(("127.0.0.1", 0))
    server.port = listener.getsockname()[1]  # type: ignore[attr-defined]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port)) as client:  # type: ignore[attr-defined]
        yield client
