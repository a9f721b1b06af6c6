"""One real server for all of a worker's HTTP tests. Each test makes the runs that it looks at."""

from collections.abc import Iterator

import httpx
import pytest

from tests.kit.logs import assert_no_traceback
from tests.kit.server import SILENT_AGENT, ServerProcess, serving

CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.quick]
model = "scripted"

[agents.run-code]
code = true
cpu_limit_s = 1

[agents.talker]
model = "scripted"
tokens = 100000
tokens_per_s = 200
"""
HEARTBEAT_S = 0.2  # so that every client meets heartbeats


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("server"), CONFIG, SILENT_AGENT, heartbeat_s=HEARTBEAT_S) as server:
        yield server


@pytest.fixture
def server(running_server: ServerProcess) -> Iterator[ServerProcess]:
    """The server, which must have nothing to complain of: no input of a client is an error of ours."""
    before = len(running_server.log)
    yield running_server
    said = running_server.log[before:]
    assert_no_traceback(said)
    assert "level=error" not in said


@pytest.fixture
def http(server: ServerProcess) -> httpx.Client:
    return server.http


@pytest.fixture
def silent_run(server: ServerProcess) -> str:
    """A run at SILENT_HEAD, which says nothing by itself."""
    return server.begin_silent()


@pytest.fixture
def closed_run(server: ServerProcess) -> str:
    """A run that has said "one two three"."""
    run_id = server.begin("quick", "one two three")
    server.ended(run_id)
    return run_id


@pytest.fixture
def deleted_run(server: ServerProcess, closed_run: str) -> str:
    assert server.http.delete(f"/runs/{closed_run}").status_code == 204
    return closed_run
