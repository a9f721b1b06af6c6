"""Applies users' inline projections with every append, to the tables that are live."""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from runstore.core.codec import RecordedEvent
from runstore.core.errors import ConfigError, LogUnavailable
from runstore.database.tables import projections
from runstore.projections.projection import SLOTS, Projection

_LIVE = select(projections.c.name, projections.c.slot, projections.c.version).where(
    projections.c.live == 1, projections.c.inline == 1
)


class InlineProjections:
    """The inline projections of a process that are not of the schema, as one.

    Which tables are live is read with each append: they change only while all writers wait.
    """

    def __init__(self, inline: Sequence[Projection]) -> None:
        self._bound = {(each.name, slot): each.on(slot) for each in inline for slot in SLOTS}

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        """See `InlineProjection.apply`.

        Raises:
            LogUnavailable: a projection is inline in the database, and this process cannot apply it.
        """
        for name, slot, version in connection.execute(_LIVE):
            bound = self._bound.get((name, slot))
            if bound is None or bound.version < version:
                raise LogUnavailable(_foreign(name, version, None if bound is None else bound.version))
            if bound.version == version:
                reads = bound.reads
                bound.apply(connection, [e for e in events if reads is None or reads.passes(e.type, e.ends)])


def check_inline(connection: Connection, inline: Sequence[Projection]) -> None:
    """Refuse to open a database with an inline projection that this process cannot apply.

    Raises:
        ConfigError: the projection, and what to do.
    """
    versions = {projection.name: projection.version for projection in inline}
    for name, _, version in connection.execute(_LIVE):
        if versions.get(name, 0) < version:
            raise ConfigError(_foreign(name, version, versions.get(name)))


def _foreign(name: str, version: int, own: int | None) -> str:
    has = f"has version {own}" if own is not None else "does not have it"
    return (
        f"projection {name!r}: the database applies version {version} with every append, and this process "
        f"{has}: install the package that has it, or runstore projections drop {name}"
    )
