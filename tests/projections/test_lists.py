"""Lists of runs stay small and quick, for any content and number of runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, event, insert, select

from runstore.core.events import Completed, Queued, Usage
from runstore.core.ids import first_run_id, new_run_id
from runstore.core.run import LISTED_BYTES, Run, fold
from runstore.database.dialects import Dialect
from runstore.database.tables import runs
from runstore.eventlog.queries import read_ends
from runstore.eventlog.sql import SqlEventLog
from runstore.projections import runs as run_list_module
from runstore.projections.runs import RunQuery, RunsFound, find_runs
from tests.kit.events import CANCEL, CANCELLED, started
from tests.kit.rebuilding import verify_runs
from tests.kit.rows_read import rows_read

LARGE = {"text": "x" * LISTED_BYTES}
ANALYZE = {
    "sqlite": "ANALYZE runs", "postgresql": "VACUUM ANALYZE runs",
    "mysql": "ANALYZE TABLE runs", "mariadb": "ANALYZE TABLE runs",
}  # fmt: skip
MANY = 3_000  # runs of one user
SCANNED = 50  # that a page may look at in these tests
MOST_READ = 10 * SCANNED  # rows: to look at them, to see where that ended, and to read the found ones


async def begin(log: SqlEventLog, **queued: Any) -> str:
    run_id = new_run_id()
    await log.append(run_id, [Queued(**{"agent": "demo", "user_id": "ann", "input": "hi", **queued})])
    return run_id


async def all_pages(log: SqlEventLog, **query: Any) -> list[RunsFound]:
    pages: list[RunsFound] = []
    before: str | None = None
    while True:
        pages.append(await log.database.query(find_runs, RunQuery(**query, before=before)))
        before = pages[-1].next
        if before is None:
            return pages


# ---- small ----


async def test_large_fields_of_a_run_are_left_out_of_lists_and_named(log: SqlEventLog) -> None:
    run_id = await begin(log, metadata=LARGE, session_id="s")
    await log.append(run_id, [started(), Usage(agent="demo", input_tokens=1, output_tokens=2)])
    await log.append(run_id, [Completed(result=LARGE, usage={"total_tokens": 3})])
    small = await begin(log, metadata={"a": 1})
    [newest, run] = (await log.database.query(find_runs, RunQuery())).runs
    assert (run.metadata, run.result, run.truncated) == ({}, None, ("metadata", "result"))
    assert (run.session_id, run.status, run.usage) == ("s", "success", {"total_tokens": 3})
    assert (newest.run_id, newest.metadata, newest.truncated) == (small, {"a": 1}, msgspec.UNSET)


async def test_a_change_of_state_writes_no_more_for_a_run_with_much_metadata(
    log: SqlEventLog, dialect: Dialect
) -> None:
    run_id = await begin(log, metadata={"text": "x" * 900_000})
    sizes = []
    for change in (started(), Usage(agent="demo", input_tokens=1, output_tokens=1), CANCEL, CANCELLED):
        await log.append(run_id, [change])
        with dialect.engine.connect() as connection:
            sizes.append(len(connection.execute(select(runs.c.state)).scalar_one()))
    assert max(sizes) < 1_000


async def test_fields_that_were_left_out_are_in_the_first_event_and_the_ending(log: SqlEventLog) -> None:
    run_id = await begin(log, metadata=LARGE)
    await log.append(run_id, [started()])
    assert [e.seq for e in await log.database.query(read_ends, run_id)] == [1]
    await log.append(run_id, [Completed(result=LARGE)])
    ends = await log.database.query(read_ends, run_id)
    assert [e.seq for e in ends] == [1, 3]
    found = fold(run_id, ends)
    assert (found.metadata, found.result) == (LARGE, LARGE)


async def test_a_list_of_large_runs_is_rebuilt_equal(log: SqlEventLog, dialect: Dialect) -> None:
    for number in range(4):
        run_id = await begin(log, metadata=LARGE if number % 2 else {})
        await log.append(run_id, [started()])
        await log.append(run_id, [Completed(result={} if number < 2 else LARGE)])
    assert verify_runs(dialect).equal


async def test_a_page_ends_at_bytes_and_the_next_one_goes_on(
    log: SqlEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list_module, "MAX_LIST_BYTES", 5_000)
    monkeypatch.setattr(run_list_module, "LISTED_AT_ONCE", 2)
    written = [await begin(log, metadata={"text": "x" * 1_800}) for _ in range(7)]
    pages = await all_pages(log)
    assert [len(page.runs) for page in pages] == [3, 3, 1]
    assert [run.run_id for page in pages for run in page.runs] == written[::-1]


# ---- quick ----

FILTERS: list[dict[str, Any]] = [
    {},
    {"user_id": "nobody"},
    {"status": "running"},
    {"agent": "nobody"},
    {"session_id": "nothing"},
    {"workspace_id": "nothing"},
    {"purged": True},
    {"until": 1},
    {"since": 10**14},
    {"user_id": "ann", "status": "running"},
    {"user_id": "ann", "agent": "nobody"},
    {"user_id": "ann", "session_id": "nothing"},
    {"user_id": "ann", "purged": True},
    {"user_id": "ann", "until": 1},
    {"user_id": "ann", "since": 10**14},
    {"user_id": "ann", "agent_prefix": "team:"},
    {"user_id": "ann", "status": "running", "agent": "demo"},
    {"user_id": "ann", "status": "running", "session_id": "s"},
    {"user_id": "ann", "agent": "nobody", "session_id": "s"},
    {"user_id": "ann", "status": "running", "agent": "demo", "session_id": "s"},
    {"workspace_id": "red", "status": "running"},
    {"workspace_id": "red", "agent": "nobody", "session_id": "s"},
    {"status": "success", "agent": "nobody"},
    {"session_id": "s", "agent": "demo", "status": "running"},
]


@contextmanager
def crowded(dialect: Dialect, rows: list[dict[str, Any]]) -> Iterator[Connection]:
    """A list of many runs, with the statistics that a database has of it."""
    with dialect.engine.connect() as connection:
        dialect.begin_write(connection)
        connection.execute(insert(runs), rows)
        connection.commit()
        connection.exec_driver_sql(ANALYZE[connection.dialect.name]).close()  # as autovacuum does
        connection.commit()
        yield connection


def row_of(number: int) -> dict[str, Any]:
    at = 1_700_000_000_000 + number * 1_000
    run = Run(
        first_run_id(at), user_id="ann", agent_name="demo", session_id="s", workspace_id="red",
        status="success", created_at=at,
    )  # fmt: skip
    return {
        "run_id": run.run_id, "user_id": "ann", "agent_name": "demo", "session_id": "s", "status": "success",
        "created_at": at, "completed_at": at, "deleted": 0, "purged": 0, "workspace_id": "red",
        "state": msgspec.json.encode(run),
    }  # fmt: skip


def test_a_page_reads_few_rows_with_any_filter(dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_list_module, "MAX_SCANNED", SCANNED)
    read = {}
    with crowded(dialect, [row_of(number) for number in range(MANY)]) as connection:
        for filters in FILTERS:
            with rows_read(connection) as rows:
                page = find_runs(connection, RunQuery(**filters, limit=10))
            assert len(page.runs) == (0 if filters else 10)
            read[" ".join(filters)] = sum(rows)
    assert {filters: rows for filters, rows in read.items() if rows > MOST_READ} == {}


@pytest.mark.parametrize("scanned", [1, 2, 3, 7, 100])
async def test_pages_that_end_at_the_scan_limit_give_every_match_once(
    log: SqlEventLog, monkeypatch: pytest.MonkeyPatch, scanned: int
) -> None:
    monkeypatch.setattr(run_list_module, "MAX_SCANNED", scanned)
    written = []
    for number in range(12):
        run_id = await begin(log, agent="demo" if number % 3 else "other", session_id="s")
        written += [run_id] * (number % 3 > 0)
    pages = await all_pages(log, user_id="ann", session_id="s", agent="demo", limit=2)
    assert [run.run_id for page in pages for run in page.runs] == written[::-1]
    cursors = [page.next for page in pages[:-1]]
    assert all(one > other for one, other in pairwise(cursors))  # type: ignore[operator]


def test_runs_that_begin_while_a_page_is_read_bring_none_of_it_twice(
    dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list_module, "MAX_SCANNED", 4)
    query = RunQuery(user_id="ann", status="success", agent="demo", limit=10)
    rows = [row_of(number) for number in range(14)]
    statements: list[str] = []
    with dialect.engine.connect() as reading, dialect.engine.connect() as writing:

        def begin_more(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            statements.append(statement)
            if rows and len(statements) == 3:  # of the ids, of the runs; now where that ended
                write()

        def write() -> None:
            dialect.begin_write(writing)
            some = [rows.pop(0) for _ in range(7)]
            writing.execute(insert(runs), some)
            writing.commit()

        write()
        event.listen(reading, "before_cursor_execute", begin_more)
        found = find_runs(reading, query)
        ids = [run.run_id for run in found.runs]
        while found.next is not None:
            reading.rollback()
            found = find_runs(reading, msgspec.structs.replace(query, before=found.next))
            ids += [run.run_id for run in found.runs]
    assert len(ids) == len(set(ids)) == 7
    assert rows == []


async def test_purged_and_deleted_runs_are_not_in_the_way_of_others(
    log: SqlEventLog, dialect: Dialect
) -> None:
    run_id = await begin(log)
    gone = [row_of(number) | {("purged", "deleted")[number % 2]: 1} for number in range(MANY)]
    with crowded(dialect, gone) as connection, rows_read(connection) as read:
        page = find_runs(connection, RunQuery(user_id="ann"))
    assert [run.run_id for run in page.runs] == [run_id]
    assert page.next is None
    assert sum(read) < SCANNED
