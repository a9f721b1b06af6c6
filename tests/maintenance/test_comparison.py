"""A comparison of large rows is bounded in bytes, on each kind of database."""

import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, insert
from sqlalchemy.dialects.mysql import LONGTEXT

from runstore.core.codec import RecordedEvent
from runstore.database.database import Database
from runstore.eventlog.sql import SqlEventLog
from runstore.maintenance.rebuild import rebuild, verify
from runstore.projections import advance, filling
from runstore.projections.projection import Projection
from runstore.projections.runner import ProjectionRunner
from tests.kit.events import note, start_run

ROWS = 24
MIB = 1 << 20


class Wide(Projection):
    """A row of 1 MiB for each event, whose sort of text PostgreSQL compresses well."""

    name = "wide"
    tables = (
        Table(
            "wide",
            MetaData(),
            Column("position", BigInteger, primary_key=True, autoincrement=False),
            Column("words", Text().with_variant(LONGTEXT(), "mysql", "mariadb"), nullable=False),
        ),
    )

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        (table,) = self.tables
        for event in events:
            connection.execute(insert(table).values(position=event.position, words="x" * MIB))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("FIRST_EVENTS", "MOST_EVENTS", "LAST_EVENTS"):
        monkeypatch.setattr(advance, bound, 2)
    monkeypatch.setattr(filling, "LAST_EVENTS", 2)


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
async def test_large_rows_are_compared_a_few_at_a_time(
    open_shared: Callable[..., SqlEventLog], opened: Database
) -> None:
    log = open_shared()
    run_id = await start_run(log)
    for _ in range(ROWS - 2):
        await log.append(run_id, [note()])
    ProjectionRunner(opened, [Wide()]).run(once=True)
    reports = []
    assert peak_of(lambda: reports.append(verify(opened, Wide()))) < ROWS * MIB
    with opened.changing() as connection:
        connection.exec_driver_sql("UPDATE wide_a SET words = 'other' WHERE position = 3")
        connection.exec_driver_sql("DELETE FROM wide_a WHERE position = 20")
    assert peak_of(lambda: reports.append(verify(opened, Wide()))) < ROWS * MIB
    reports.append(rebuild(opened, Wide()))
    reports.append(verify(opened, Wide()))
    found = [report.tables["wide"] for report in reports if report.tables is not None]
    assert [(each.missing, each.wrong, each.extra, each.rows) for each in found] == [
        (0, 0, 0, ROWS), (1, 1, 0, ROWS), (1, 1, 0, ROWS), (0, 0, 0, ROWS),
    ]  # fmt: skip
