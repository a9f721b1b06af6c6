"""A command on a projection and its record in the audit log are stored together, or neither is."""

import pytest
from sqlalchemy import select

from runstore.core.codec import decode
from runstore.core.errors import ConfigError
from runstore.core.events import AuditProjection, Custom
from runstore.database.database import Database
from runstore.database.tables import events
from runstore.eventlog.sql import SqlEventLog
from runstore.maintenance.projections import Projections
from tests.kit.events import start_run
from tests.projections.examples import Picky


@pytest.fixture
def projections(opened: Database) -> Projections:
    return Projections(opened, [Picky()])


def status(projections: Projections) -> tuple[str, int]:
    (picky,) = projections.status()
    return picky.state, picky.skipped


def recorded(opened: Database) -> list[tuple[str, str | None, int | None]]:
    e = events.c
    query = select(e.type, e.v, e.data).where(e.type == AuditProjection.type).order_by(e.position)
    with opened.connect() as connection:
        found = [decode(*row) for row in connection.execute(query)]
    return [(each.command, each.run_id, each.seq) for each in found if isinstance(each, AuditProjection)]


class Crashed(Exception):
    """As if the process ended before the event was stored."""


@pytest.mark.parametrize(
    ("command", "state"), [("pause", "running"), ("resume", "failed"), ("skip", "failed")]
)
async def test_a_command_is_stored_with_its_record(
    log: SqlEventLog,
    opened: Database,
    projections: Projections,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    state: str,
) -> None:
    run_id = await start_run(log)
    if state == "failed":
        await log.append(run_id, [Custom("custom.bad", {})])
    projections.run()
    assert status(projections) == (state, 0)
    (bad,) = [e.seq for e in await log.read(run_id) if e.type == "custom.bad"] or [None]

    def crash(*_: object) -> None:
        raise Crashed

    with monkeypatch.context() as broken:
        broken.setattr(opened.dialect, "insert_events", crash)
        with pytest.raises(Crashed):
            getattr(projections, command)("picky")
    assert (status(projections), recorded(opened)) == ((state, 0), [])
    getattr(projections, command)("picky")
    after = {"pause": ("paused", 0), "resume": ("running", 0), "skip": ("running", 1)}
    assert status(projections) == after[command]
    assert recorded(opened) == [(command, *((run_id, bad) if command == "skip" else (None, None)))]


@pytest.mark.parametrize("command", ["resume", "skip"])
async def test_a_refused_command_is_not_recorded(
    log: SqlEventLog, opened: Database, projections: Projections, command: str
) -> None:
    await start_run(log)
    projections.run()
    with pytest.raises(ConfigError, match=command):
        getattr(projections, command)("picky")
    assert (status(projections), recorded(opened)) == (("running", 0), [])
