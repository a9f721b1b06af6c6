"""The live tables of projections, for readers."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Table, case, exc, or_, select

from runstore.database.database import TablesReplaced
from runstore.database.tables import projections
from runstore.projections.projection import Projection, Slot

T = TypeVar("T")

_p = projections.c


def live_slot(connection: Connection, projection: Projection | type[Projection]) -> Slot | None:
    """The slot whose tables are to be read; None if no process has made them of this code's version yet."""
    if projection.in_schema:
        return "a"
    of_this = (_p.name == projection.name, _p.version == projection.version)
    query = select(_p.slot).where(*of_this, _p.live == 1)
    return connection.execute(query).scalar()


def live_tables(connection: Connection, projection: Projection) -> dict[str, Table] | None:
    """The tables to read, by the names that the projection gave them; None if they are not made yet."""
    slot = live_slot(connection, projection)
    if slot is None:
        return None
    names = [table.name for table in type(projection).tables]
    return dict(zip(names, projection.on(slot).tables, strict=True))


def reading_live(connection: Connection, read: Callable[[], T]) -> T:
    """The result of `read`, which reads live tables.

    A rebuild keeps the tables that it has replaced, and the next rebuild empties them. A reader that still
    uses them then fails, or finds too few rows.

    Raises:
        TablesReplaced: other tables became live; `Database` begins the read again.
    """
    before = _generation(connection)
    try:
        found = read()
    except exc.DBAPIError as error:
        if connection.invalidated:
            raise
        connection.rollback()
        if _generation(connection) == before:
            raise
        raise TablesReplaced from error
    if _generation(connection) != before:
        raise TablesReplaced
    return found


def _generation(connection: Connection) -> list[tuple[object, ...]]:
    """A mark of the live tables: the slots in use, and the last beat of a replaced build."""
    replaced = _p.state == "retired"
    query = select(_p.name, _p.slot, _p.live, case((replaced, _p.beat), else_=0))
    in_use = query.where(or_(_p.live == 1, replaced)).order_by(_p.name, _p.slot)
    return list(map(tuple, connection.execute(in_use)))
