"""The runs of a session are found in their order without reading all of them."""

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import update

from runstore.core.events import Queued
from runstore.core.ids import new_run_id
from runstore.database.dialects import Dialect
from runstore.database.tables import session_runs
from runstore.eventlog.queries import read_session_runs
from runstore.eventlog.sql import SqlEventLog
from tests.kit.purging import FOREVER, OLD, old_run_id
from tests.kit.rows_read import rows_read

ANALYZE = {"mysql": "ANALYZE TABLE", "mariadb": "ANALYZE TABLE"}
SHORT, LONG = 30, 600  # runs
WANTED = 10  # of them
MOST_READ = 8 * WANTED  # rows, or on SQLite dozens of steps


@pytest.fixture
async def log(open_shared: Callable[..., SqlEventLog]) -> SqlEventLog:
    return open_shared()


async def queue(log: SqlEventLog, session: str, run_id: str | None = None) -> str:
    run_id = run_id or new_run_id()
    queued = Queued(agent="a", user_id="ann", input="hi", session_id=session, multitask_strategy="parallel")
    await log.append(run_id, [queued])
    return run_id


@pytest.mark.parametrize("place", ["newest", "oldest"])
async def test_a_long_session_is_read_like_a_short_one(
    log: SqlEventLog, dialect: Dialect, place: str
) -> None:
    read = {}
    for session, count in (("short", SHORT), ("long", LONG)):
        runs = list(await asyncio.gather(*(queue(log, session) for _ in range(count))))
        before = runs[-1] if place == "newest" else runs[WANTED]
        with dialect.engine.connect() as connection:
            analyze = ANALYZE.get(connection.dialect.name, "ANALYZE")
            for table in ("session_runs", "events"):
                connection.exec_driver_sql(f"{analyze} {table}").close()
            connection.commit()
            with rows_read(connection) as rows:
                found = read_session_runs(connection, "ann", session, before, WANTED)
        end = runs.index(before)
        assert found == runs[end - WANTED : end][::-1]
        read[session] = sum(rows)
    assert read["short"] < MOST_READ
    assert read["long"] < MOST_READ


async def test_runs_that_another_release_queued_keep_their_place(log: SqlEventLog, dialect: Dialect) -> None:
    """It writes no position, in an upgrade in which both run."""
    clocks = (None, FOREVER, None, OLD, None)
    runs = [await queue(log, "s", None if at is None else old_run_id(at)) for at in clocks]
    with dialect.engine.connect() as connection:
        dialect.begin_write(connection)
        theirs = session_runs.c.run_id.in_([runs[0], runs[1], runs[3]])
        connection.execute(update(session_runs).where(theirs).values(position=None))
        connection.commit()
        for count in range(len(runs)):
            before = read_session_runs(connection, "ann", "s", runs[count], 10)
            assert before == runs[:count][::-1]
        assert read_session_runs(connection, "ann", "s", runs[-1], 2) == runs[2:4][::-1]
