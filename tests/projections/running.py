"""Runs projections over a log, and reads what they have made of it."""

from collections import Counter

from sqlalchemy import Connection

from runstore.core.codec import RecordedEvent
from runstore.core.events import Custom
from runstore.database.database import Database
from runstore.eventlog.sql import SqlEventLog
from runstore.projections.builds import Build, read_builds
from runstore.projections.live import live_tables
from runstore.projections.projection import Projection
from runstore.projections.runner import ProjectionRunner
from tests.kit.events import close_run, note, start_run
from tests.projections.examples import Totals, totals

BAD = Custom("custom.bad", {})


class Newer(Totals):
    version = 2


def run_once(database: Database, *projections: Projection) -> None:
    """Apply all that is in the log, as `runstore projections run --once` does."""
    ProjectionRunner(database, projections).run(once=True)


def builds(database: Database, name: str) -> list[Build]:
    return database.read(lambda connection: read_builds(connection, name))


def live(database: Database, name: str) -> Build:
    return next(build for build in builds(database, name) if build.live)


def found(database: Database, projection: Projection) -> dict[str, int]:
    def find(connection: Connection) -> dict[str, int]:
        tables = live_tables(connection, projection)
        return totals(connection, tables[projection.name]) if tables else {}

    return database.read(find)


async def counted(log: SqlEventLog) -> dict[str, int]:
    """The same by a plain fold."""
    events: list[RecordedEvent] = []
    while page := await log.read_all(after=events[-1].position if events else 0):
        events += page
    return dict(Counter(event.type for event in events))


async def write(log: SqlEventLog, runs: int = 5) -> str:
    for _ in range(runs):
        await close_run(log)
    run_id = await start_run(log)
    await log.append(run_id, [note(f"{i}") for i in range(10)])
    return run_id
