"""New versions and rebuilds fill other tables beside the live ones, which then replace these."""

from collections.abc import Mapping

import pytest
from sqlalchemy import Connection, Table, inspect

from runstore.core.errors import ConfigError, LogUnavailable
from runstore.database.database import READ_TRIES, Database
from runstore.eventlog.sql import SqlEventLog
from runstore.maintenance.projections import Projections
from runstore.maintenance.rebuild import rebuild, verify
from runstore.projections import runner
from tests.projections.examples import Totals, totals
from tests.projections.running import Newer, builds, counted, found, live, run_once, write


def interrupt(reached: int, goal: int) -> None:
    raise KeyboardInterrupt


async def test_a_new_version_is_built_beside_the_old_one(log: SqlEventLog, opened: Database) -> None:
    await write(log)
    run_once(opened, Totals())
    old = live(opened, "totals")
    run_once(opened, Newer())
    new = live(opened, "totals")
    assert (new.version, new.slot) == (2, "b")
    assert [build.state for build in builds(opened, "totals")] == ["retired", "running"]
    assert old.position == new.position
    assert found(opened, Newer()) == await counted(log)
    assert found(opened, Totals()) == {}, "code of another version reads no tables of this one"
    run_once(opened, Totals())  # the older code leaves it alone
    assert live(opened, "totals") == new
    with pytest.raises(ConfigError, match="the database has version 2, this code version 1"):
        rebuild(opened, Totals())


async def test_older_code_keeps_its_tables_up_to_date_until_the_newer_ones_are_filled(
    log: SqlEventLog, opened: Database
) -> None:
    await write(log)
    run_once(opened, Totals())
    with pytest.raises(KeyboardInterrupt):
        rebuild(opened, Newer(), interrupt)
    assert [(build.version, build.live) for build in builds(opened, "totals")] == [(1, True), (2, False)]
    await write(log)
    run_once(opened, Totals())
    assert found(opened, Totals()) == await counted(log)
    run_once(opened, Newer())
    assert found(opened, Newer()) == await counted(log)


async def test_replaced_tables_are_dropped_as_no_purge_reaches_them(
    log: SqlEventLog, opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(log)
    run_once(opened, Totals())
    rebuild(opened, Totals())
    run_once(opened, Totals())
    assert [build.state for build in builds(opened, "totals")] == ["retired", "running"]
    monkeypatch.setattr(runner, "RETIRED_S", 0.0)
    run_once(opened, Totals())
    assert [(build.slot, build.live) for build in builds(opened, "totals")] == [("b", True)]
    with opened.connect() as connection:
        assert [name for name in inspect(connection).get_table_names() if "totals" in name] == ["totals_b"]
    assert rebuild(opened, Totals()).equal
    assert found(opened, Totals()) == await counted(log)


async def test_a_rebuild_repairs_what_it_reports(log: SqlEventLog, opened: Database) -> None:
    await write(log)
    run_once(opened, Totals())
    with opened.changing() as connection:
        connection.exec_driver_sql("UPDATE totals_a SET events = 0 WHERE type = 'custom.note'")
        connection.exec_driver_sql("DELETE FROM totals_a WHERE type = 'lifecycle.queued'")
    report = verify(opened, Totals())
    assert report.tables is not None
    difference = report.tables["totals"]
    assert (difference.missing, difference.wrong, difference.extra, difference.rows) == (1, 1, 0, 4)
    assert {(key.how, key.key["type"]) for key in difference.keys} == {
        ("missing", "lifecycle.queued"), ("wrong", "custom.note"),
    }  # fmt: skip
    assert found(opened, Totals())["custom.note"] == 0
    assert rebuild(opened, Totals()).tables == report.tables
    assert found(opened, Totals()) == await counted(log)
    await write(log)
    run_once(opened, Totals())
    assert found(opened, Totals()) == await counted(log)


async def test_an_interrupted_rebuild_is_finished_by_a_runner(log: SqlEventLog, opened: Database) -> None:
    await write(log)
    run_once(opened, Totals())

    with pytest.raises(KeyboardInterrupt):
        rebuild(opened, Totals(), interrupt)
    assert [build.live for build in builds(opened, "totals")] == [True, False]
    run_once(opened, Totals())
    assert [build.live for build in builds(opened, "totals")] == [False, True]
    assert found(opened, Totals()) == await counted(log)


async def test_a_reader_whose_tables_are_replaced_and_emptied_reads_the_new_ones(
    log: SqlEventLog, opened: Database
) -> None:
    await write(log)
    run_once(opened, Totals())
    projections = Projections(opened, [Totals()])
    read_of: list[str] = []

    def read(connection: Connection, tables: Mapping[str, Table]) -> dict[str, int]:
        read_of.append(tables["totals"].name)
        if len(read_of) == 1:
            projections.rebuild("totals")
            with pytest.raises(KeyboardInterrupt):
                projections.rebuild("totals", interrupt)
        return totals(connection, tables["totals"])

    assert projections.read("totals", read) == await counted(log)
    assert read_of == ["totals_a", "totals_b"]

    def read_and_replace(_connection: Connection, tables: Mapping[str, Table]) -> None:
        read_of.append(tables["totals"].name)
        projections.rebuild("totals")

    del read_of[:]
    with pytest.raises(LogUnavailable, match="the tables were replaced while they were read"):
        projections.read("totals", read_and_replace)
    assert len(read_of) in (READ_TRIES, READ_TRIES + 1)  # a session that a server ended is read again, too
