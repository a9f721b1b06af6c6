"""Projections of tests: a count of events by type, and one that refuses some events."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, insert, select, update

from runstore.core.codec import RecordedEvent
from runstore.eventlog.queries import EVOLVING
from runstore.projections.projection import Projection


def counts(name: str) -> Table:
    return Table(
        name,
        MetaData(),
        Column("type", String(128), primary_key=True),
        Column("events", BigInteger, nullable=False),
    )


class Totals(Projection):
    """How many events of each type the log has; every event counts, so none may be applied twice."""

    name = "totals"
    tables = (counts("totals"),)

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        (table,) = self.tables
        for type, count in sorted(Counter(event.type for event in events).items()):
            more = {"events": table.c.events + count}
            if not connection.execute(update(table).where(table.c.type == type).values(more)).rowcount:
                connection.execute(insert(table).values(type=type, events=count))


class Picky(Totals):
    """It refuses `custom.bad`."""

    name = "picky"
    tables = (counts("picky"),)

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        super().apply(connection, events)
        if any(event.type == "custom.bad" for event in events):
            raise ValueError("no such events, please")


class InlineTotals(Totals):
    """The same with every append, of the events that change a run's state."""

    name = "inline"
    inline = True
    reads = EVOLVING
    tables = (counts("inline"),)


def totals(connection: Connection, table: Table) -> dict[str, int]:
    return dict(map(tuple, connection.execute(select(table.c.type, table.c.events))))
