"""The trace of a stored run that is longer than a trace."""

from collections.abc import Callable

import pytest

from runstore.core.events import Message
from runstore.core.folds import trace
from runstore.core.times import timestamp
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.store.runs import RunStore
from tests.kit.events import FAILED, start_run


async def test_a_run_that_is_longer_than_a_trace_is_shown_with_its_end(
    open_shared: Callable[..., SqlEventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "MAX_TRACED", 5)
    log = open_shared()
    store = RunStore(log.database, log, MemoryFeed(), AgentCatalog({}))
    run_id = await start_run(log)
    await log.append(
        run_id,
        [Message(agent="demo", message={"role": "user", "content": [{"text": f"{i}"}]}) for i in range(9)],
    )
    open_one = await store.trace(run_id)
    assert (open_one.status, open_one.complete, open_one.ended_at) == ("running", False, None)
    await log.append(run_id, [FAILED])
    closed = await store.trace(run_id)
    assert (closed.status, closed.complete) == ("error", False)
    assert closed.error is not None
    assert closed.error.code == FAILED.code
    assert closed.ended_at == timestamp((await log.read(run_id, after=11))[0].at)
    assert closed.attempts[-1].ended_at is None  # later ones may have followed
