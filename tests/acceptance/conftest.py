"""Servers of their own for tests that kill, stop, starve or watch them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.server import SILENT_AGENT, ServerProcess

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
