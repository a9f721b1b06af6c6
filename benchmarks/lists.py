"""What lists that find nothing, of one user with many runs, cost another user who reads one."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import insert, make_url

from benchmarks.databases import empty_database, name_of
from benchmarks.options import Options
from benchmarks.report import Report
from runstore.core.events import Queued
from runstore.core.ids import first_run_id, new_run_id
from runstore.core.run import Run
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.database.tables import runs
from runstore.eventlog.queries import read_head
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.projections.runs import RunList, RunQuery, find_run, find_runs
from runstore.threads import asking

LISTS = 16  # at once
ROWS = 2_000  # of one INSERT
READS = 200
UNMATCHED = RunQuery(user_id="ann", status="error", agent="demo")  # which no index answers alone


def run(options: Options) -> Iterator[Report]:
    """A list alone, and reads of another user beside many lists."""
    count = 20_000 if options.quick else 200_000
    report = Report(
        f"Lists that find nothing among {count:,} runs, in ms",
        ("database", "one page", "all pages", "read, alone: p50", "max", f"read beside {LISTS}: p50", "max"),
        "A read is of a run's head and state, by another user, in the same process.",
    )
    for server_url in (None, *options.database_urls):
        with empty_database(server_url) as url:
            _fill(url, count)
            report.add(name_of(server_url), *(f"{1_000 * s:.1f}" for s in asyncio.run(_measure(url))))
    yield report


def _fill(url: str, count: int) -> None:
    dialect = open_dialect(make_url(url), statement_timeout=False)
    with dialect.engine.connect() as connection:
        for start in range(0, count, ROWS):
            dialect.begin_write(connection)
            connection.execute(insert(runs), [_row(number) for number in range(start, start + ROWS)])
            connection.commit()
    dialect.close()


def _row(number: int) -> dict[str, Any]:
    at = 1_700_000_000_000 + number * 1_000
    state = Run(first_run_id(at), user_id="ann", agent_name="demo", status="success", created_at=at)
    return {
        "run_id": state.run_id, "user_id": "ann", "agent_name": "demo", "status": "success", "created_at": at,
        "completed_at": at, "deleted": 0, "purged": 0, "state": msgspec.json.encode(state),
    }  # fmt: skip


async def _measure(url: str) -> list[float]:
    database = Database(open_dialect(make_url(url)))
    log = SqlEventLog(database, MemoryFeed(), [RunList()])
    run_id = new_run_id()
    await log.append(run_id, [Queued(agent="demo", user_id="ben", input="hi")])
    asking.set("ann")
    start = time.perf_counter()
    page = await log.database.query_list(find_runs, UNMATCHED)
    one = time.perf_counter() - start
    while page.next:
        page = await log.database.query_list(find_runs, msgspec.structs.replace(UNMATCHED, before=page.next))
    every = time.perf_counter() - start
    alone = await _read(log, run_id)
    async with _listing(log):
        beside = await _read(log, run_id)
    await log.close()
    await database.close()
    return [one, every, *alone, *beside]


@asynccontextmanager
async def _listing(log: SqlEventLog) -> AsyncIterator[None]:
    async def repeat() -> None:
        asking.set("ann")
        while True:
            await log.database.query_list(find_runs, UNMATCHED)

    lists = [asyncio.create_task(repeat()) for _ in range(LISTS)]
    yield
    for one in lists:
        one.cancel()
    await asyncio.wait(lists)


async def _read(log: SqlEventLog, run_id: str) -> tuple[float, float]:
    """The median and the longest of some reads."""
    asking.set("ben")
    took = []
    for _ in range(READS):
        start = time.perf_counter()
        await log.database.query(read_head, run_id)
        await log.database.query(find_run, run_id)
        took.append(time.perf_counter() - start)
        await asyncio.sleep(0.01)
    return sorted(took)[READS // 2], max(took)
