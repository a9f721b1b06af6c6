"""Partitions of `events` by the month of the run id. Only PostgreSQL has them.

A range of run ids is a range of times. `events_first` holds all runs from before the partitioning,
`events_YYYY_MM` the runs created in a month (UTC). `events_other`, the default partition, takes every other
id: each event has a partition, even if a process with a wrong clock made its run id.

A unique index of a partitioned table contains the partition's key. So `position` is the primary key of each
partition, and unique among them by the sequence that alone assigns it; `check_positions` guards the sequence.
"""

import re
from datetime import UTC, datetime

import structlog
from msgspec import Struct
from sqlalchemy import Connection, text

from runstore.core.errors import ConfigError
from runstore.core.ids import first_run_id
from runstore.database.columns import pack_run_id

FIRST, OTHER = "events_first", "events_other"
BOUND = "events_within_bound"  # the constraint of a conversion that is under way
VALIDATE = f"ALTER TABLE events VALIDATE CONSTRAINT {BOUND}"
AHEAD = 3  # months after this one that have a partition
OTHER_BYTES = 64 << 20  # a larger default partition would be scanned for too long while writers wait
WAIT_S = 60  # seconds to wait for a lock that blocks no reader or writer; autovacuum may hold it
LOCK_S = 0.1  # seconds to wait for a lock that blocks readers and writers: half of their own timeout

log = structlog.get_logger(__name__)

_PARTITIONS = """
    SELECT p.oid, p.relname, pg_get_expr(p.relpartbound, p.oid)
    FROM pg_inherits JOIN pg_class p ON p.oid = inhrelid
    WHERE inhparent = to_regclass('events') AND p.relpartbound IS NOT NULL
    ORDER BY p.relname
"""
_LOWER, _UPPER = (re.compile(rf"{side} \('\\x([0-9a-f]{{32}})'\)") for side in ("FROM", "TO"))
_TAKEN = f"SELECT EXISTS (SELECT FROM {OTHER} WHERE {{}})"
INCLUDING = "INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION"
KEYS = "PRIMARY KEY (position), UNIQUE (run_id, seq)"
REFUSE_TRUNCATE = (
    "CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON {} "
    "FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change()"
)
# The rights of `events`, and then its owner, for another table.
_RIGHTS = """
    SELECT 'GRANT ' || privilege_type || ' ON {name} TO '
        || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
        || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = 'events'::regclass AND grantee <> relowner
    UNION ALL SELECT 'ALTER TABLE {name} OWNER TO ' || quote_ident(pg_get_userbyid(relowner)) FROM pg_class
    WHERE oid = 'events'::regclass AND pg_get_userbyid(relowner) <> current_user
"""
# NULL: this role may not see the sequence.
_POSITIONS = """
    SELECT CASE WHEN has_sequence_privilege(sequence, 'USAGE, SELECT')
        THEN coalesce(pg_sequence_last_value(sequence), 0) END,
        sequence, (SELECT coalesce(max(position), 0) FROM events)
    FROM (SELECT pg_get_serial_sequence('events', 'position')::regclass AS sequence) owned
"""


class Partition(Struct, frozen=True):
    """A partition of `events`. `lower` and `upper`: packed run ids; None: it has no such bound."""

    oid: int
    name: str
    bound: str  # the clause of PostgreSQL
    lower: bytes | None
    upper: bytes | None

    @property
    def where(self) -> str:
        """The condition on the run ids of a partition with an upper bound."""
        lower = f"run_id >= {literal(self.lower)} AND " if self.lower is not None else ""
        return f"{lower}run_id < {literal(self.upper or b'')}"


def is_partitioned(connection: Connection) -> bool:
    if connection.dialect.name != "postgresql":
        return False
    found = "SELECT count(*) FROM pg_partitioned_table WHERE partrelid = to_regclass('events')"
    return bool(connection.exec_driver_sql(found).scalar())


def read_partitions(connection: Connection) -> list[Partition]:
    """The partitions of `events`; empty if it is not partitioned."""
    if not is_partitioned(connection):
        return []
    return [
        Partition(oid, name, bound, _bound(_LOWER, bound), _bound(_UPPER, bound))
        for oid, name, bound in connection.exec_driver_sql(_PARTITIONS).all()
        if bound is not None  # or another process has just dropped it
    ]


def check_positions(connection: Connection) -> None:
    """Refuse a partitioned log whose next position may be taken: no index would notice.

    A role that may not see the sequence opens the log unchecked.

    Raises:
        ConfigError: a restore or a statement has set the sequence back; the message has the remedy.
    """
    if not is_partitioned(connection):
        return
    assigned, sequence, last = connection.exec_driver_sql(_POSITIONS).one()
    if assigned is not None and assigned < last:
        raise ConfigError(
            f"the sequence of positions is at {assigned:,}, and the log at {last:,}: "
            f"SELECT setval('{sequence}', {last}); then start again",
            setting="database_url",
        )


def add_partitions(connection: Connection, now: int) -> list[str]:
    """In this transaction, create the partitions of the coming months; return their names.

    A month gets no partition if the default partition holds runs of it: these stay there. No month gets one
    once the default partition is too large to be read.

    Args:
        now: UTC, milliseconds since 1970.

    Raises:
        IntegrityError: a run of a new month was stored at the same time; the next call leaves its month out.
    """
    lock_schema(connection, "events")
    partitions = read_partitions(connection)
    if is_other_too_large(connection):
        log.warning("partitions_not_added", reason=f"{OTHER} is too large", bytes_allowed=OTHER_BYTES)
        return []
    upper = max(partition.upper for partition in partitions if partition.upper is not None)
    months = [_month(*month) for month in months_between(time_of(upper), month_after(now, AHEAD + 1))]
    new = [month for month in months if not connection.exec_driver_sql(_TAKEN.format(month.where)).scalar()]
    for month in new:
        create_detached(connection, month.name)
    if new:
        attach = [f"ALTER TABLE events ATTACH PARTITION {month.name} {month.bound}" for month in new]
        connection.exec_driver_sql("; ".join(attach))  # in one round trip, as readers wait
    return [month.name for month in new]


def _month(start: int, end: int) -> Partition:
    lower, upper = (pack_run_id(first_run_id(at)) for at in (start, end))
    name = f"events_{datetime.fromtimestamp(start / 1000, UTC):%Y_%m}"
    return Partition(0, name, f"FOR VALUES FROM ({literal(lower)}) TO ({literal(upper)})", lower, upper)


def is_other_too_large(connection: Connection) -> bool:
    """Whether the default partition is too large: attaching another partition reads it."""
    size: int = connection.exec_driver_sql(f"SELECT pg_relation_size('{OTHER}')").scalar_one()
    return size > OTHER_BYTES


def create_detached(connection: Connection, name: str, *, replaced: str | None = None) -> None:
    """Create a table that becomes a partition later, with the indexes, trigger and rights that ATTACH does
    not copy.

    Args:
        replaced: the partition whose place it will take. The table gets the indexes of that partition:
            attaching would build missing ones while readers and writers wait.
    """
    indexes = "INCLUDING INDEXES" if replaced else f", {KEYS}"
    columns = f"LIKE {replaced or 'events'} {INCLUDING} {indexes}"
    connection.exec_driver_sql(f"CREATE TABLE {name} ({columns})")
    connection.exec_driver_sql(REFUSE_TRUNCATE.format(name))
    copy_rights(connection, name)


def copy_rights(connection: Connection, name: str) -> None:
    """Give a new table the grants and the owner of `events`."""
    for statement in connection.exec_driver_sql(_RIGHTS.format(name=name)).scalars().all():
        execute(connection, statement)


def execute(connection: Connection, statements: str) -> None:
    """Execute statements in which names of users or queries of views may contain `:` or `%`."""
    connection.execute(text(statements.replace(":", "\\:")))


def lock_schema(connection: Connection, *tables: str) -> None:
    """Exclude other changes of these tables' schema, and autovacuum, until the end of the transaction.

    Readers and writers go on. The wait for this lock is long enough to stop an autovacuum; the wait for each
    later lock of the transaction is LOCK_S.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
    only = ", ".join(f"ONLY {table}" for table in tables)
    connection.exec_driver_sql(f"LOCK TABLE {only} IN SHARE UPDATE EXCLUSIVE MODE")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_S}s'")


def literal(run_id: bytes) -> str:
    return f"'\\x{run_id.hex()}'"


def time_of(run_id: bytes) -> int:
    """The time in a packed run id, in milliseconds since 1970."""
    return int.from_bytes(run_id[:6], "big")


def month_after(at: int, months: int) -> int:
    """The beginning of a month: 0 is the one of `at`, 1 the next. Milliseconds since 1970."""
    day = datetime.fromtimestamp(at / 1000, UTC)
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp() * 1000)


def months_between(start: int, end: int) -> list[tuple[int, int]]:
    """The months from one beginning to another, each with its own beginning and end."""
    months: list[tuple[int, int]] = []
    while start < end:
        months.append((start, month_after(start, 1)))
        start = month_after(start, 1)
    return months


def _bound(side: re.Pattern[str], clause: str) -> bytes | None:
    found = side.search(clause)
    return bytes.fromhex(found[1]) if found else None
