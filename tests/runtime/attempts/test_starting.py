"""How an attempt begins while others add to its run, or the database goes."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from runstore.core.codec import encode
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog, Head
from runstore.eventlog import writer
from runstore.feed.memory import MemoryFeed
from runstore.runtime.attempts.starting import START_TRIES, Attempts, Fresh, ToStop
from tests.contracts.memory_log import MemoryEventLog
from tests.kit.database import OwnLog, make_database, open_database, run_list
from tests.kit.events import CANCEL, QUEUED, note, read_run, start_run

BUSY = START_TRIES - 1  # notes that come just after a read of the head


class BusyLog:
    """A log with a producer that always appends before a writer that has read the run's head."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._left = BUSY

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def head(self, run_id: str) -> Head | None:
        head = await self._log.head(run_id)
        if self._left:
            self._left -= 1
            await self._log.append(run_id, [note()])
        return head


@pytest.fixture
def log() -> EventLog:
    return MemoryEventLog(MemoryFeed())


async def test_a_queued_run_that_others_keep_adding_to_is_claimed(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED], expected_seq=0)
    busy: Any = BusyLog(log)
    assert await Attempts(busy, "worker-1").claim(run_id)
    assert [e.type for e in await read_run(log, run_id)][-1] == "lifecycle.started"


class UnreadLog:
    """A log without readers."""

    def __init__(self, log: EventLog) -> None:
        self.append = log.append


async def test_a_run_that_was_just_queued_is_claimed_without_a_look_at_the_log(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED], expected_seq=0)
    unread: Any = UnreadLog(log)
    attempt = await Attempts(unread, "worker-1").claim(run_id, Fresh(1, encode(QUEUED)))
    assert attempt is not None
    assert (attempt.number, attempt.queued) == (1, QUEUED)
    assert (await log.head(run_id)) == Head(2, attempt=1, status="running")


async def test_what_others_have_added_to_a_run_since_it_was_queued_is_read(log: EventLog) -> None:
    run_id = new_run_id()
    fresh = Fresh(1, encode(QUEUED))
    await log.append(run_id, [QUEUED], expected_seq=0)
    await log.append(run_id, [note()])
    assert await Attempts(log, "worker-1").claim(run_id, fresh)
    assert await Attempts(log, "worker-2").claim(run_id, fresh) is None


async def test_a_run_that_was_stopped_since_it_was_queued_does_not_start(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED], expected_seq=0)
    await log.append(run_id, [CANCEL])
    with pytest.raises(ToStop):
        await Attempts(log, "worker-1").claim(run_id, Fresh(1, encode(QUEUED)))


async def test_a_lost_workers_run_that_others_keep_adding_to_is_adopted(log: EventLog) -> None:
    run_id = await start_run(log)
    (run,) = await log.open_runs()
    busy: Any = BusyLog(log)
    attempt = await Attempts(busy, "worker-2").adopt(run)
    assert attempt is not None
    assert attempt.number == 2
    assert (await log.head(run_id)) == Head(BUSY + 3, attempt=2, status="running")


async def test_a_start_whose_answer_is_lost_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given up, the run would be ours by the log, and adopted as if we had died."""
    monkeypatch.setattr(writer, "FIRST_RETRY_S", 0.01)
    dialect = open_database(make_database(tmp_path / "runstore.db"))
    log = OwnLog(dialect, MemoryFeed(), [run_list()])
    run_id = new_run_id()
    await log.append(run_id, [QUEUED], expected_seq=0)

    @event.listens_for(dialect.engine, "commit", once=True)
    def commit_and_fail(connection: Connection) -> None:
        connection.connection.commit()
        raise sqlite3.OperationalError("disk I/O error")

    attempt = await Attempts(log, "worker-1").claim(run_id)
    assert attempt is not None
    assert attempt.number == 1
    await log.close()
