"""The processes that agents run in, as the server sees them."""

import asyncio
import os
import signal
import socket
from typing import cast

import pytest

from runstore.runtime.process import processes
from runstore.runtime.process.processes import Child, Processes
from tests.kit.process_tree import descendants


@pytest.mark.slow
async def test_a_fork_server_that_has_just_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes._ForkServer, "alive", True)  # it is not yet seen to be dead
    started = Processes()
    try:
        others = descendants(os.getpid())
        started.prepare()
        [server] = {*descendants(os.getpid())}.difference(others)
        os.kill(server, signal.SIGKILL)
        started.release(await started.fork())
    finally:
        started.close()


class Closable:
    def close(self) -> None:
        pass


async def test_a_closed_process_has_no_exit_code() -> None:
    control, keeper = socket.socketpair()
    control.setblocking(False)
    child = Child(control, asyncio.StreamReader(), cast(asyncio.StreamWriter, Closable()))
    child.close()
    assert await child.end() is None
    keeper.close()
