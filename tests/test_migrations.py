"""Databases of older releases become those of this one, and keep what they hold."""

import sqlite3
from pathlib import Path

from runstore import migrations
from runstore.core.events import Queued
from runstore.core.ids import new_run_id
from runstore.core.run import Run
from runstore.eventlog.feed import MemoryFeed
from runstore.projections.runs import RunQuery, find_runs
from tests.database import make_old, migrate, open_sqlite_log


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
    found: list[Run] = await log.query(find_runs, RunQuery(user_id="alice"))
    assert [(run.run_id, run.workspace_id) for run in found] == [(new, "red"), (run_id, None)]
    await log.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT * FROM checkpoints").fetchall() == []
    connection.close()
