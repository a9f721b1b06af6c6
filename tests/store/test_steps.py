"""Reading a run as steps: in turns, and for the user who asks."""

import asyncio
from typing import Any

import pytest

from runstore.core.codec import RecordedEvent
from runstore.core.errors import Busy
from runstore.store.steps import ReadPage, StepReader, read_steps
from runstore.threads import Threads, asking


def fold(read: ReadPage) -> int:
    return read_steps(read, "run", after=0, at=9, limit=10).upto


async def test_a_request_reads_nothing_before_its_turn() -> None:
    reads, began, goes_on = 0, asyncio.Event(), asyncio.Event()

    async def page(run_id: str, **wanted: Any) -> list[RecordedEvent]:
        nonlocal reads
        reads += 1
        began.set()
        await goes_on.wait()
        return []

    reader = StepReader(page, Threads("test", 1, wait_s=0.2))
    first = asyncio.create_task(reader.call(fold))
    await began.wait()
    with pytest.raises(Busy):
        await reader.call(fold)
    assert reads == 1
    goes_on.set()
    assert await first == 9


async def test_the_log_is_read_for_the_user_who_asks() -> None:
    asked = []

    async def page(run_id: str, **wanted: Any) -> list[RecordedEvent]:
        asked.append(asking.get())
        return []

    asking.set("alice")
    await StepReader(page, Threads("test", 1)).call(fold)
    assert set(asked) == {"alice"}
