"""The tables of one projection, on each kind of database."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Table, make_url, select

from runstore.core.codec import RecordedEvent
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.eventlog.sql import SqlEventLog
from runstore.projections.projection import Projection, Slot
from tests.kit.slow import mostly_slow
from tests.servers.databases import DATABASES, bare_database

T = TypeVar("T")


class Tables:
    """The tables of projections in one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def fill(
        self, projection: Projection, batches: Sequence[Sequence[RecordedEvent]], slot: Slot = "a"
    ) -> Projection:
        """Make the tables of a slot, and apply the events that the projection reads."""
        bound = projection.on(slot)
        with self.database.connect() as connection:
            for table in bound.tables:
                table.drop(connection, checkfirst=True)
                table.create(connection)
            connection.commit()
            for batch in batches:
                self.apply(bound, batch, connection)
            connection.commit()
        return bound

    def append(self, bound: Projection, batch: Sequence[RecordedEvent]) -> None:
        """Apply more events."""
        with self.database.connect() as connection:
            self.apply(bound, batch, connection)
            connection.commit()

    def apply(self, bound: Projection, batch: Sequence[RecordedEvent], connection: Connection) -> None:
        reads = bound.reads
        wanted = [each for each in batch if reads is None or reads.passes(each.type, each.ends)]
        if wanted:
            bound.apply(connection, wanted)

    def read(self, bound: Projection) -> dict[str, list[Any]]:
        """All rows of all tables, without the slot's name."""
        return {
            table.name.removesuffix("_a").removesuffix("_b"): sorted(
                (tuple(row) for row in self.ask(partial(_all, table=table))), key=repr
            )
            for table in bound.tables
        }

    def rows(self, bound: Projection, place: int) -> list[Any]:
        return self.ask(partial(_all, table=bound.tables[place]))

    def ask(self, question: Callable[[Connection], T]) -> T:
        return self.database.read(question)


def _all(connection: Connection, table: Table) -> list[Any]:
    return list(connection.execute(select(table)).all())


@pytest.fixture(params=mostly_slow(DATABASES, "sqlite", "postgresql"))
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    with (
        bare_database(request.param, tmp_path) as url,
        closing(open_dialect(make_url(url), statement_timeout=False)) as dialect,
    ):
        yield Tables(Database(dialect))


@pytest.fixture
async def log(open_shared: Callable[..., SqlEventLog]) -> SqlEventLog:
    return open_shared()
