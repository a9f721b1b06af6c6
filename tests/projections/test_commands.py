"""Projections are paused, resumed, and led past an event that they refuse."""

from contextlib import closing

import pytest
from sqlalchemy import make_url

from runstore.core.errors import ConfigError
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.eventlog.sql import SqlEventLog
from runstore.maintenance.projections import Projections
from runstore.projections.builds import pause, resume, skip
from tests.kit.events import note
from tests.projections.examples import Picky, Totals
from tests.projections.running import BAD, counted, found, live, run_once, write
from tests.servers.databases import end_other_connections


async def test_a_skipped_event_is_left_out_alone(log: SqlEventLog, opened: Database) -> None:
    run_id = await write(log)
    await log.append(run_id, [note(), BAD, note()])
    run_once(opened, Picky())
    with opened.changing() as connection:
        (skipped,) = skip(connection, "picky")
    assert skipped.seq == 14
    run_once(opened, Picky())
    assert found(opened, Picky()) | {"custom.bad": 1} == await counted(log)
    assert live(opened, "picky").skipped == 1


async def test_a_resumed_projection_goes_on_at_the_event(log: SqlEventLog, opened: Database) -> None:
    class Corrected(Picky):
        apply = Totals.apply

    run_id = await write(log)
    await log.append(run_id, [BAD, note()])
    run_once(opened, Picky())
    with opened.changing() as connection:
        resume(connection, "picky")
    run_once(opened, Corrected())
    assert found(opened, Picky()) == await counted(log)


async def test_a_paused_projection_waits(log: SqlEventLog, opened: Database) -> None:
    await write(log)
    run_once(opened, Totals())
    with opened.changing() as connection:
        pause(connection, "totals")
    before = found(opened, Totals())
    await write(log)
    run_once(opened, Totals())
    assert found(opened, Totals()) == before
    with opened.changing() as connection:
        with pytest.raises(ConfigError, match="pause needs a projection that is running, and it is paused"):
            pause(connection, "totals")
        resume(connection, "totals")
    run_once(opened, Totals())
    assert found(opened, Totals()) == await counted(log)


@pytest.mark.parametrize("database_url", ["postgresql", "mysql"], indirect=True)
async def test_the_status_is_read_although_the_server_has_ended_its_idle_sessions(
    log: SqlEventLog, opened: Database, database_url: str
) -> None:
    await write(log)
    run_once(opened, Totals())
    projections = Projections(opened, [Totals()])
    before = projections.status()
    with closing(open_dialect(make_url(database_url))) as other:
        end_other_connections(other)
    assert projections.status() == before
