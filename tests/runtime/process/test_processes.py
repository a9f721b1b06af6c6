"""The processes that agents run in, as the server sees them."""

import os
import signal

import pytest

from runstore.runtime.process import processes
from runstore.runtime.process.processes import Processes


@pytest.mark.slow
async def test_a_fork_server_that_has_just_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes._ForkServer, "alive", True)  # it is not yet seen to be dead
    started = Processes()
    try:
        started.prepare()
        assert started._server is not None
        os.kill(started._server._process.pid, signal.SIGKILL)
        started.release(await started.fork())
    finally:
        started.close()
