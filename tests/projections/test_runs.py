"""Queries of the run list: filters, order, pages."""

from collections.abc import Callable

import msgspec
import pytest

from runstore.core.events import Deleted
from runstore.core.ids import new_run_id
from runstore.core.ports import Committed
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.projections.runs import RunQuery, find_run, find_runs
from tests.kit.events import CANCELLED, COMPLETED, FAILED, QUEUED, close_run, start_run, started


@pytest.fixture
async def log(open_log: Callable[..., SqlEventLog], feed: MemoryFeed) -> SqlEventLog:
    return open_log(feed)


async def listed(log: SqlEventLog, **query: object) -> list[str]:
    found = await log.database.query(find_runs, RunQuery(**query))  # type: ignore[arg-type]
    return [run.run_id for run in found.runs]


async def test_runs_are_listed_newest_first(log: SqlEventLog) -> None:
    runs = [await start_run(log) for _ in range(5)]
    assert await listed(log) == runs[::-1]


async def test_pages_of_the_list_give_every_run_once(log: SqlEventLog) -> None:
    runs = [await start_run(log) for _ in range(7)]
    found: list[str] = []
    while page := await listed(log, limit=3, before=found[-1] if found else None):
        found += page
    assert found == runs[::-1]


async def test_runs_are_found_by_status(log: SqlEventLog) -> None:
    queued = new_run_id()
    await log.append(queued, [QUEUED])
    runs = {"queued": queued, "running": await start_run(log)}
    for status, ending in (("success", COMPLETED), ("error", FAILED), ("stopped", CANCELLED)):
        runs[status] = await start_run(log)
        await log.append(runs[status], [ending])
    for status, run_id in runs.items():
        assert await listed(log, status=status) == [run_id]


@pytest.mark.parametrize("field", ["agent", "user_id", "session_id"])
async def test_runs_are_found_by_whose_they_are(log: SqlEventLog, field: str) -> None:
    wanted = new_run_id()
    await start_run(log)
    await log.append(wanted, [msgspec.structs.replace(QUEUED, **{field: "wanted"}), started()])
    assert await listed(log, **{field: "wanted"}) == [wanted]
    assert await listed(log, **{field: "WANTED"}) == []


async def test_runs_are_found_by_when_they_were_queued_both_ends_included(
    log: SqlEventLog, feed: MemoryFeed
) -> None:
    commits: list[Committed] = []
    feed.listen(commits.append)
    run_id = await start_run(log)
    at = commits[0].events[0].at
    assert await listed(log, since=at, until=at) == [run_id]
    assert await listed(log, since=at + 1) == []
    assert await listed(log, until=at - 1) == []


async def test_filters_all_have_to_match(log: SqlEventLog) -> None:
    await start_run(log)
    closed = await close_run(log)
    assert await listed(log, status="success", agent="demo", user_id="local") == [closed]
    assert await listed(log, status="success", agent="another") == []


async def test_a_deleted_run_leaves_the_list_and_can_still_be_found(log: SqlEventLog) -> None:
    run_id = await close_run(log)
    await log.append(run_id, [Deleted(by="local")])
    assert await listed(log) == []
    run = await log.database.query(find_run, run_id)
    assert run is not None
    assert run.deleted


async def test_a_run_that_does_not_exist_is_not_found(log: SqlEventLog) -> None:
    assert await log.database.query(find_run, new_run_id()) is None
