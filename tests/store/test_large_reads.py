"""Answers from many events: off the server's loop, and bounded in how many are made at once."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from runstore.core.errors import Busy
from runstore.core.events import Request
from runstore.core.model_requests import ModelRequest
from runstore.core.new_run import NewRun
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.store import large_reads
from runstore.store.forks import ForkOptions
from runstore.store.runs import Forked, RunStore
from runstore.threads import asking
from tests.kit.events import start_run
from tests.kit.polling import DEADLINE_S, until


async def test_large_answers_leave_the_loop_free_and_have_a_place_for_each_user(
    open_shared: Callable[..., SqlEventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_reads, "WAIT_S", 0.1)
    log = open_shared()
    store = RunStore(log.database, log, MemoryFeed(), AgentCatalog({}))
    run_id = await start_run(log)
    await log.append(run_id, [Request(agent="demo")])
    threads: list[str] = []
    go = threading.Event()

    def answer(request: ModelRequest) -> int:
        threads.append(threading.current_thread().name)
        assert go.wait(DEADLINE_S), "the loop is not free"
        return request.n

    async def read(user: str) -> int:
        asking.set(user)
        return await store.request(run_id, 1, reads_session=False, answer=answer)

    async def fork(user: str) -> Forked:
        asking.set(user)
        new = NewRun(agent="", input=None, user_id=user)
        return await store.fork(run_id, ForkOptions(input="And now?"), new, reads_session=False)

    async def refused(call: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(Busy):
            await asyncio.create_task(call)

    try:
        first = asyncio.create_task(read("ann"))
        await until(lambda: len(threads) == 1)
        await refused(read("ann"))
        await refused(fork("ann"))
        second = asyncio.create_task(read("ben"))
        await until(lambda: len(threads) == 2)
        await refused(fork("cleo"))
    finally:
        go.set()
    assert [await first, await second] == [1, 1]
    assert {name.rpartition("-")[0] for name in threads} == {"runstore-reads"}
    assert (await asyncio.create_task(fork("cleo"))).at == 1
