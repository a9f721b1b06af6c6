"""Databases of older releases become those of this one, and keep what they hold."""

import sqlite3
from pathlib import Path

import msgspec

from runstore import migrations
from runstore.core.events import Completed, Deleted, Queued
from runstore.core.ids import new_run_id
from runstore.core.run import Run, fold
from runstore.feed.memory import MemoryFeed
from runstore.projections.comparison import TableDifference
from runstore.projections.runs import RunQuery, find_runs
from tests.kit.database import make_old, migrate, open_database, open_sqlite_log
from tests.kit.events import started
from tests.kit.rebuilding import verify_runs


async def test_a_database_of_schema_0001_keeps_its_runs(tmp_path: Path) -> None:
    path = tmp_path / "runstore.db"
    make_old(path, "0001")
    run_id = new_run_id()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO runs VALUES (?, 'alice', 'a', NULL, 'success', 1, 2, 0, ?)",
            (run_id, b'{"run_id": "%b", "user_id": "alice", "status": "success"}' % run_id.encode()),
        )
        connection.execute("CREATE TABLE runs_shadow (run_id)")  # of a rebuild that was interrupted
        connection.execute("INSERT INTO checkpoints VALUES ('runs_shadow', 7)")
    connection.close()
    assert migrate(path) == "0001"
    assert migrate(path) == migrations.HEAD
    log = open_sqlite_log(path, MemoryFeed())
    new = new_run_id()
    await log.append(
        new, [Queued(agent="a", user_id="alice", workspace_id="red", input="hi")], expected_seq=0
    )
    found: list[Run] = (await log.database.query(find_runs, RunQuery(user_id="alice"))).runs
    assert [(run.run_id, run.workspace_id) for run in found] == [(new, "red"), (run_id, None)]
    await log.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT * FROM projections").fetchall() == []
    connection.close()


async def test_migrating_schema_0005_removes_the_large_fields_that_a_rebuild_leaves_out(
    tmp_path: Path, database: Path
) -> None:
    log = open_sqlite_log(database, MemoryFeed())
    large = {"text": "x" * 10_000}
    for metadata, result in (({}, {}), (large, {"text": "ü" * 2_000}), ({"a": [1.50, None]}, large)):
        queued = Queued(agent="a", user_id="alice", input="hi", metadata=metadata)
        run_id = new_run_id()
        await log.append(run_id, [queued, started(), Completed(result=result)])
        await log.append(run_id, [Deleted(by="alice")])
    events = await log.read_all()
    await log.close()
    old = tmp_path / "old.db"
    make_old(old, "0005")
    with sqlite3.connect(old) as connection:
        connection.execute("ATTACH ? AS new", (str(database),))
        connection.execute("INSERT INTO events SELECT * FROM new.events")
        for run_id in {event.run_id for event in events}:
            run = fold(run_id, [event for event in events if event.run_id == run_id])
            connection.execute(
                "INSERT INTO runs VALUES (?, 'alice', 'a', NULL, 'success', ?, ?, 1, ?, NULL, 0)",
                (run_id, run.created_at, run.completed_at, msgspec.json.encode(run)),
            )
    connection.close()
    assert migrate(old) == "0005"
    dialect = open_database(old)
    difference = verify_runs(dialect)
    dialect.close()
    assert difference == TableDifference(missing=0, wrong=0, extra=0, rows=3)
