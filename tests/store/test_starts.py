"""A stream of all of a user's runs finds the new ones among many, by few rows, or says that it cannot."""

from collections.abc import Callable

import pytest
from sqlalchemy import make_url

from runstore.core.errors import InvalidCursor
from runstore.core.events import Queued
from runstore.core.ids import new_run_id
from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS
from runstore.database.dialects import open_dialect
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.store import starts
from tests.kit.events import COMPLETED, started
from tests.projections.test_lists import MANY, crowded, row_of, rows_read

MOST = 20  # runs that one look may look at in these tests


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "MAX_SCANNED", MOST)


@pytest.fixture
async def log(open_shared: Callable[..., SqlEventLog], feed: MemoryFeed) -> SqlEventLog:
    return open_shared(feed)


async def begin(log: SqlEventLog, count: int, *, ended: bool = True) -> list[str]:
    run_ids = [new_run_id() for _ in range(count)]
    for run_id in run_ids:
        await log.append(run_id, [Queued(agent="demo", user_id="ann", input="hi")])
        if ended:
            await log.append(run_id, [started(), COMPLETED])
    return run_ids


async def test_new_runs_come_in_order_and_no_more_than_there_is_room_for(log: SqlEventLog) -> None:
    run_ids = await begin(log, MOST)
    found = await log.database.query_list(starts.read_starts, "ann", 0, 0, 3)
    assert [run_id for _, run_id in found] == run_ids[:3]
    rest = await log.database.query_list(starts.read_starts, "ann", found[-1][0], 0, MOST)
    assert [run_id for _, run_id in rest] == run_ids[3:]


async def test_a_cursor_that_is_too_far_behind_is_refused(log: SqlEventLog) -> None:
    await begin(log, MOST + 1)
    with pytest.raises(InvalidCursor, match="too far behind"):
        await log.database.query_list(starts.read_starts, "ann", 0, 0, 3)


def test_a_look_reads_few_rows_however_many_runs_there_are(database_url: str) -> None:
    dialect = open_dialect(make_url(database_url), statement_timeout=False)
    many = [row_of(number) for number in range(MANY)]
    with crowded(dialect, many) as connection, rows_read(connection) as rows:
        with pytest.raises(InvalidCursor):
            starts.read_starts(connection, "ann", 0, 0, 3)
        starts.read_own_cursors(connection, "ann")
    dialect.close()
    assert sum(rows) < 10 * MOST


async def test_ended_runs_before_too_many_open_ones_do_not_come_again(log: SqlEventLog) -> None:
    await begin(log, 3)
    unended = await begin(log, MAX_FOLLOWED_RUNS + 1, ended=False)
    cursors = await log.database.query_list(starts.read_own_cursors, "ann")
    assert list(cursors.open()) == unended[:-1]
    first = (await log.read(unended[-1]))[0].position
    assert cursors.position < first
