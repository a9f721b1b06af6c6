"""A program's own run ends with its block, however that is left; on every kind of log."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runstore.core.errors import LogUnavailable, SessionBusy
from runstore.core.events import InputAdded
from runstore.core.new_run import NewRun
from runstore.core.ports import EventLog
from runstore.core.run import fold
from runstore.feed.memory import MemoryFeed
from runstore.runtime import own_run
from runstore.runtime.leases.file_locks import FileLeases
from runstore.runtime.own_run import OwnRun
from tests.kit.events import read_run
from tests.kit.polling import until
from tests.kit.writer import held_writer

Begin = Callable[[], AbstractAsyncContextManager[OwnRun]]


@pytest.fixture
def begin(log: EventLog, tmp_path: Path) -> Begin:
    """Begin a run in one session, which has one run at a time."""
    new = NewRun("importer", None, user_id="alice", session_id="s")
    return partial(own_run.own_run, log, FileLeases(tmp_path / "leases"), new)


async def leave_at_once(begin: Begin) -> str:
    async with begin() as run:
        return run.run_id


async def is_free(begin: Begin) -> bool:
    """Whether the session has no open run."""
    try:
        await leave_at_once(begin)
    except SessionBusy:
        return False
    return True


async def types_before(log: EventLog, run_id: str) -> list[list[str]]:
    """The events of the session's runs before this one, newest first."""
    earlier = await log.session_runs("alice", "s", before=run_id, limit=10)
    return [[event.type for event in await read_run(log, each)] for each in earlier]


async def test_a_run_that_is_cancelled_as_it_begins_is_stopped(
    log: EventLog, feed: MemoryFeed, begin: Begin
) -> None:
    async with held_writer(log, feed):
        beginning = asyncio.create_task(leave_at_once(begin))
        await asyncio.sleep(0)
        beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    following = await leave_at_once(begin)
    ended = ["lifecycle.queued", "lifecycle.started", "lifecycle.cancelled"]
    assert await types_before(log, following) == [ended]


async def test_a_run_that_is_refused_leaves_nothing_behind(log: EventLog, begin: Begin) -> None:
    async with begin() as first:
        with pytest.raises(SessionBusy) as refusal:
            await leave_at_once(begin)
        assert refusal.value.run_id == first.run_id
    assert await types_before(log, await leave_at_once(begin)) == [
        ["lifecycle.queued", "lifecycle.started", "lifecycle.completed"]
    ]


async def test_a_run_names_the_messages_that_people_added_to_it(log: EventLog, begin: Begin) -> None:
    async with begin() as run:
        said = [await log.append(run.run_id, [InputAdded(content="Hurry.", by="alice")]) for _ in range(2)]
    assert fold(run.run_id, await read_run(log, run.run_id)).unheard == tuple(said)


class Outage:
    """A log that stores events, but whose answer is lost; a patient caller waits for the end."""

    def __init__(self, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.over = asyncio.Event()
        self._append = log.append
        monkeypatch.setattr(log, "append", self.append)

    async def append(self, *what: Any, patient: bool = False, **how: Any) -> int:
        if patient:
            await self.over.wait()
        last_seq = await self._append(*what, patient=patient, **how)
        if not self.over.is_set():
            raise LogUnavailable("the answer is lost")
        return last_seq


async def test_a_beginning_whose_answer_is_lost_fails_at_once_and_its_run_when_the_log_is_back(
    log: EventLog, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_run, "END_S", 0)
    outage = Outage(log, monkeypatch)
    with pytest.raises(LogUnavailable, match="the answer is lost"):
        await leave_at_once(begin)
    outage.over.set()
    await until(lambda: is_free(begin))
    following = await leave_at_once(begin)
    failed = ["lifecycle.queued", "lifecycle.started", "lifecycle.failed"]
    assert (await types_before(log, following))[-1] == failed


async def test_a_block_that_is_cancelled_in_an_outage_is_left_and_its_run_stopped_later(
    log: EventLog, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_run, "END_S", 0)
    begun = asyncio.Event()

    async def work() -> None:
        async with begin():
            begun.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()
    outage = Outage(log, monkeypatch)
    working.cancel()
    await until(working.cancelled)
    outage.over.set()
    await until(lambda: is_free(begin))
    following = await leave_at_once(begin)
    assert (await types_before(log, following))[-1][-1] == "lifecycle.cancelled"
