"""A slow read delays only reads of its own kind and its own user, and is given up in the end."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from runstore.core.errors import Busy, LogUnavailable
from runstore.database import database
from runstore.database.dialects import LISTERS, PAGERS, sqlite
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.projections.runs import RunQuery, find_runs
from runstore.threads import asking
from tests.kit.events import start_run
from tests.kit.polling import DEADLINE_S

ENDLESS = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")


@pytest.fixture
async def log(open_log: Callable[..., SqlEventLog], feed: MemoryFeed) -> SqlEventLog:
    return open_log(feed)


async def stall(
    log: SqlEventLog, query: Callable[..., Any], user: str, calls: int
) -> tuple[threading.Event, list[asyncio.Task[Any]]]:
    """So many calls of a user that hang until the event is set, as many of them begun as can be."""
    end, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_connection: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        end.wait(DEADLINE_S)

    asking.set(user)
    tasks = [asyncio.create_task(query(hang)) for _ in range(calls)]
    await begun.wait()
    return end, tasks


async def test_lists_of_one_user_delay_no_list_of_others_and_nothing_else(log: SqlEventLog) -> None:
    run_id = await start_run(log)
    end, stuck = await stall(log, log.database.query_list, "ann", 4 * LISTERS)
    asking.set("ben")
    assert len((await log.database.query_list(find_runs, RunQuery())).runs) == 1
    asking.set("ann")
    assert await log.head(run_id) is not None
    assert len(await log.read(run_id)) == 2
    end.set()
    await asyncio.gather(*stuck)


async def test_long_replays_of_one_user_delay_no_page_of_others(log: SqlEventLog) -> None:
    run_id = await start_run(log)
    end, stuck = await stall(log, log.database.query_history, "ann", 4 * PAGERS)
    asking.set("ben")
    assert len(await log.read(run_id)) == 2
    asking.set("ann")
    assert await log.head(run_id) is not None
    end.set()
    await asyncio.gather(*stuck)


async def test_changes_of_one_user_that_wait_for_other_writers_delay_no_other_user(log: SqlEventLog) -> None:
    run_id = await start_run(log)
    end, stuck = await stall(log, log.database.change, "ann", 4)
    asking.set("ben")
    assert await log.head(run_id) is not None
    end.set()
    await asyncio.gather(*stuck)


async def test_a_list_that_waits_too_long_for_its_turn_is_refused(
    open_log: Callable[..., SqlEventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.01)
    log = open_log()
    end, stuck = await stall(log, log.database.query_list, "ann", LISTERS - 1)
    with pytest.raises(Busy):
        await log.database.query_list(find_runs, RunQuery())
    end.set()
    await asyncio.gather(*stuck)


async def test_a_read_that_takes_too_long_is_given_up(
    log: SqlEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "ANSWER_S", 0.05)
    run_id = await start_run(log)
    for query in (log.database.query, log.database.query_history, log.database.query_list):
        with pytest.raises(LogUnavailable, match=r"has not answered within 0\.05 s"):
            await query(lambda connection: connection.execute(ENDLESS).scalar())
    monkeypatch.setattr(sqlite, "ANSWER_S", 10)
    assert await log.head(run_id) is not None


async def test_closing_a_log_waits_for_no_thread_of_others(log: SqlEventLog) -> None:
    end = threading.Event()
    loop = asyncio.get_running_loop()
    stuck = [loop.run_in_executor(None, end.wait, DEADLINE_S) for _ in range(100)]
    await log.close()
    assert not end.is_set()
    end.set()
    await asyncio.gather(*stuck)


@pytest.mark.parametrize("kind", ["query", "query_history", "query_list", "change", "change_exclusively"])
async def test_a_call_that_waits_when_the_log_is_closed_gets_an_error(log: SqlEventLog, kind: str) -> None:
    """As a cancellation it would pass for one of the caller's own."""
    query = getattr(log.database, kind)
    end, stuck = await stall(log, query, "", 100)
    waiting = asyncio.create_task(query(lambda _connection: None))
    await asyncio.sleep(0)
    await log.close()
    with pytest.raises(LogUnavailable, match="the log is closed"):
        await waiting
    end.set()
    outcomes = await asyncio.gather(*stuck, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {LogUnavailable, type(None)}
