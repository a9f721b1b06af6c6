"""The port of projections: tables that are a fold of the log, and nothing else."""

import copy
import re
from collections.abc import Sequence
from typing import ClassVar, Literal, Self, get_args

from sqlalchemy import Connection, Constraint, Index, MetaData, Table, quoted_name

from runstore.core.codec import RecordedEvent
from runstore.core.errors import ConfigError
from runstore.core.ports import EventFilter

NAME = re.compile(
    r"[a-z][a-z0-9_]{0,39}"
)  # name of a projection or a table: PostgreSQL cuts names at 63 bytes
MAX_TABLES = 16  # tables of one projection

Slot = Literal["a", "b"]
SLOTS: tuple[Slot, ...] = get_args(Slot)


class Projection:
    """Tables that are filled from the log, event by event, and can be dropped and rebuilt at any time.

    A subclass sets the class variables and implements `apply`. Each projection has two slots, which are two
    sets of its tables: readers use the live one, while a rebuild fills the other one. So `apply` must reach
    the tables through `self.tables`, which are those of one slot.

    name: unique; lower-case letters, digits and `_`.
    version: from 1. A higher one makes the tables obsolete: they are filled again beside the old ones.
    inline: apply events in the append's own transaction, so that the tables never lag the log. An error then
        refuses the append. Only events that change a run's state arrive, and their `position` is 0. Code of
        a higher version leaves the tables of the older one as they are, until its own are filled.
    reads: the events that `apply` gets; None: all of them. Terminal events always arrive.
    in_schema: whether migrations make the tables, as for `runs`. Slot `a` is then always live.
    fingerprint: stands for what the tables depend on besides the log, such as a price table; at most 64
        characters. If it changes, the tables should be rebuilt.
    tables: the tables, named like the projection or with its name and `_` as a prefix.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    inline: ClassVar[bool] = False
    reads: ClassVar[EventFilter | None] = None
    in_schema: ClassVar[bool] = False
    fingerprint: str = ""
    tables: Sequence[Table] = ()

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        """Fold in the next events, in order of position.

        It must depend only on the tables and the events: not on the time, other tables, or the size of the
        batch. It must not commit. A transaction that failed is repeated.

        An event of a redacted answer may come as its tombstone, `llm.redacted`. A purged run may come in part
        or not at all; its `run.purged` follows, which summarises it.
        """
        raise NotImplementedError

    def on(self, slot: Slot) -> Self:
        """The same projection on the tables of a slot."""
        bound = copy.copy(self)
        metadata = MetaData()
        bound.tables = [_on(table, slot, metadata) for table in type(self).tables]
        return bound

    def create(self, connection: Connection) -> None:
        """Create the tables of this slot, empty. Repeatable: MySQL commits at every change of the schema."""
        for table in self.tables:
            table.create(connection, checkfirst=True)

    def drop(self, connection: Connection) -> None:
        """Drop those tables of this slot that exist."""
        for table in reversed(self.tables):
            table.drop(connection, checkfirst=True)

    def publish(self, connection: Connection, slot: Slot | None) -> None:
        """Let programs that read by SQL find the live tables, as by a view. Repeatable; MySQL commits.

        It is called when other tables are live, before the replaced ones are dropped, and at the start of a
        process that keeps the projection up to date.

        Args:
            slot: of the live tables; None: there are no live tables.
        """


def check_projection(projection: Projection) -> None:
    """Refuse a projection that is declared wrongly.

    Raises:
        ConfigError: the message names the error and a valid value.
    """
    kind = f"{type(projection).__module__}.{type(projection).__qualname__}"
    name = getattr(projection, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"projection {kind}: `name` must match {NAME.pattern}, not {name!r}")
    version = projection.version
    if type(version) is not int or not 1 <= version < 1 << 31:
        raise ConfigError(f"projection {name!r}: `version` must be a whole number from 1, not {version!r}")
    if not 1 <= len(projection.tables) <= MAX_TABLES:
        raise ConfigError(f"projection {name!r}: it must have 1 to {MAX_TABLES} `tables`")
    for table in projection.tables:
        if not NAME.fullmatch(table.name) or not f"{table.name}_".startswith(f"{name}_"):
            rule = f"{name!r}, or {name + '_'!r} and more letters"
            raise ConfigError(f"projection {name!r}: the table {table.name!r} must be called {rule}")
        if not table.primary_key.columns:
            raise ConfigError(f"projection {name!r}: the table {table.name!r} needs a primary key")
        if table.foreign_keys:
            raise ConfigError(f"projection {name!r}: the table {table.name!r} must not have foreign keys")


def _on(table: Table, slot: Slot, metadata: MetaData) -> Table:
    """A copy of a table under the slot's name; other names are unique in a database, too."""
    bound = table.to_metadata(metadata, name=f"{table.name}_{slot}")
    named: list[Index | Constraint] = [*bound.indexes, *bound.constraints]
    for each in named:
        if isinstance(each.name, str):  # otherwise it is named after the table
            each.name = quoted_name(f"{each.name}_{slot}", quote=None)
    return bound
