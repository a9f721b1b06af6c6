"""Servers of their own for tests that kill, stop, starve or watch them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.kit.server import SILENT_AGENT, ServerProcess
from tests.kit.slow import TWO_DATABASES
from tests.servers.databases import empty_database

CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.talker]
model = "scripted"
tokens = 100000
tokens_per_s = 200
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """`serve(config, agents, **options)` starts a server in `tmp_path`; it is killed in the end."""
    with ExitStack() as stack:

        def start(config: str = CONFIG, agents: str = SILENT_AGENT, **options: Any) -> ServerProcess:
            server = ServerProcess(tmp_path, config, agents, **options)
            stack.callback(server.close)
            return server.start()

        yield start


@pytest.fixture(params=TWO_DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of one kind after the other."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def worker(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> Iterator[ServerProcess]:
    """A server on the database, with the CONFIG and the AGENTS of the test's file."""
    config, agents = request.module.CONFIG, request.module.AGENTS
    with closing(ServerProcess(tmp_path, config, agents, database_url=url)) as server:
        yield server.start()


@pytest.fixture
def front(
    request: pytest.FixtureRequest, tmp_path: Path, url: str, worker: ServerProcess
) -> Iterator[ServerProcess]:
    """A second server on the database, which runs no agents."""
    config, agents = request.module.CONFIG, request.module.AGENTS
    with closing(ServerProcess(tmp_path, config, agents, database_url=url, no_worker=True)) as server:
        yield server.start()
