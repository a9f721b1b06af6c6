"""Converts `events` of a live PostgreSQL database into a table with a partition for each month.

Servers and workers go on. Each step begins from what the catalogue shows, so that a conversion that was
killed can be run again:

1. Bound: a constraint, not yet valid, that no run id is beyond a bound. Readers and writers wait for an
   instant.
2. Validate: PostgreSQL reads the table once. Nothing waits.
3. Swap: in one transaction, the table becomes the first partition, up to the bound, of a new table `events`.
   Thanks to the constraint it is not read again. Readers and writers wait for some milliseconds.

If a lock is not free within LOCK_S, the transaction is rolled back and tried again: readers and writers wait
behind it for no longer. An event beyond the bound is not refused: it drops the bound, see
`PostgresDialect.give_way`.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from runstore.core.errors import ConfigError, LogUnavailable
from runstore.core.ids import first_run_id
from runstore.core.times import timestamp
from runstore.database.columns import pack_run_id
from runstore.database.database import Database
from runstore.database.dialects.servers import cause_of, first_line
from runstore.database.partitions import (
    BOUND,
    FIRST,
    INCLUDING,
    OTHER,
    REFUSE_TRUNCATE,
    VALIDATE,
    add_partitions,
    copy_rights,
    create_detached,
    execute,
    is_partitioned,
    literal,
    lock_schema,
    month_after,
    time_of,
)
from runstore.database.views import VIEWS, replace_events_view

MARGIN_MS = 7 * 24 * 3_600_000  # the least time between now and the bound, for clocks and for the validation
FARTHEST_MS = 400 * 24 * 3_600_000  # a bound that is further ahead would leave nothing to partition
PAUSE_S = 1.0  # seconds between two tries of a lock, in which readers and writers catch up
LOCKED_S = 60.0  # seconds after which a lock is not tried again; the last try may take WAIT_S more
LAST_S = 5.0  # the same for a command that is about to end
ROUNDS = 3  # conversions begun again, because a run id beyond the bound appeared

# SQLSTATE of a validation that an event beyond the bound ended. Check violation: the event is in the table.
# Query canceled: its append canceled the validation. Undefined object: its append has dropped the bound.
BEYOND = frozenset({"23514", "57014", "42704"})

NEW = "events_new"

log = structlog.get_logger(__name__)

T = TypeVar("T")
Say = Callable[[str], None]

# Objects that belong to the table, and would be left on its first partition.
_IN_THE_WAY = f"""
    SELECT 'view ' || r.ev_class::regclass FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = 'events'::regclass
        AND r.ev_class::regclass::text NOT IN ('{"', '".join(VIEWS)}')
    UNION SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE indrelid = 'events'::regclass
        AND indexrelid::regclass::text NOT IN ('pk_events', 'uq_events_run_id_seq')
    UNION SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = 'events'::regclass AND NOT tgisinternal
        AND tgname NOT IN ('events_refuse_change', 'events_refuse_truncate')
    UNION SELECT 'foreign key ' || conname FROM pg_constraint WHERE confrelid = 'events'::regclass
    UNION SELECT 'constraint ' || conname FROM pg_constraint
        WHERE conrelid = 'events'::regclass AND contype IN ('c', 'f') AND conname <> '{BOUND}'
    UNION SELECT 'publication ' || pubname FROM pg_publication_tables
        WHERE tablename = 'events' AND schemaname = current_schema()
    UNION SELECT 'rights on column ' || attname FROM pg_attribute
        WHERE attrelid = 'events'::regclass AND attacl IS NOT NULL
    UNION SELECT 'row security' FROM pg_class WHERE oid = 'events'::regclass AND relrowsecurity
    ORDER BY 1
"""
_BOUND = f"""
    SELECT convalidated, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = to_regclass('events') AND conname = '{BOUND}'
"""
_DROP_BOUND = f"ALTER TABLE events DROP CONSTRAINT IF EXISTS {BOUND}"
_LAST_RUN = "SELECT run_id FROM events ORDER BY run_id DESC LIMIT 1"
ANALYZE = "ANALYZE events"
_CREATE = (
    f"CREATE TABLE {NEW} (LIKE events {INCLUDING}) PARTITION BY RANGE (run_id)",
    f"ALTER TABLE {NEW} ADD CONSTRAINT uq_{NEW}_run_id_seq UNIQUE (run_id, seq)",
    f"CREATE TRIGGER events_refuse_change BEFORE UPDATE OR DELETE ON {NEW} "
    "FOR EACH ROW EXECUTE FUNCTION events_refuse_change()",
    REFUSE_TRUNCATE.format(NEW),
)
_SWAP = (
    "DROP TRIGGER events_refuse_change ON events",  # the partition gets it from its parent
    f"ALTER TABLE {NEW} ATTACH PARTITION events FOR VALUES FROM (MINVALUE) TO ({{upto}})",
    f"ALTER TABLE events DROP CONSTRAINT {BOUND}",
    f"ALTER TABLE events RENAME CONSTRAINT pk_events TO pk_{FIRST}",
    f"ALTER TABLE events RENAME CONSTRAINT uq_events_run_id_seq TO uq_{FIRST}_run_id_seq",
    f"ALTER TABLE events RENAME TO {FIRST}",
    f"ALTER TABLE {NEW} RENAME CONSTRAINT uq_{NEW}_run_id_seq TO uq_events_run_id_seq",
    f"ALTER TABLE {NEW} RENAME TO events",
    "ALTER SEQUENCE {sequence} OWNED BY events.position",
)


class _Again(Exception):
    """The bound is gone: a run id beyond it has appeared."""


def partition_events(database: Database, now: int, say: Say) -> Sequence[str]:
    """Partition `events`, or add the coming months to a partitioned one; return the names of these.

    Args:
        now: UTC, milliseconds since 1970.
        say: called with each step.

    Raises:
        ConfigError: the database is not PostgreSQL, or an object of the table prevents the conversion.
        LogUnavailable: others held locks for too long; run it again.
    """
    if database.dialect.name != "postgresql":
        raise ConfigError(
            f"database {database.dialect.location}: only PostgreSQL partitions `events`",
            setting="database_url",
        )
    for _ in range(ROUNDS):
        try:
            if not database.read(is_partitioned):
                _convert(database, now, say)
            return add_months(database, now)
        except _Again:
            say("a run id beyond the bound has appeared; begun again")
    raise LogUnavailable(
        f"database {database.dialect.location}: run ids beyond the bound appear; check the clocks"
    )


def add_months(database: Database, now: int) -> list[str]:
    """Add the partitions of the coming months to a log that is partitioned; return their names."""
    if not database.read(is_partitioned):
        return []
    return retry_while_locked(database, partial(add_partitions, now=now))


def try_to_add_months(database: Database, now: int) -> None:
    """The same for a command that does not depend on them: an error that may pass is a warning."""
    try:
        add_months(database, now)
    except Exception as error:
        if not database.may_pass(error):
            raise
        log.warning("partitions_not_added", reason=first_line(cause_of(error)))


def retry_while_locked(
    database: Database, work: Callable[[Connection], T], *, patience_s: float | None = None
) -> T:
    """Do work in a transaction; while others hold its locks, roll it back and try again, for LOCKED_S."""
    deadline = time.monotonic() + (LOCKED_S if patience_s is None else patience_s)
    while True:
        try:
            with database.changing() as connection:
                return work(connection)
        except Exception as error:
            passes = database.dialect.is_conflict(error) or isinstance(error, IntegrityError)
            if not passes or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_S)


def _convert(database: Database, now: int, say: Say) -> None:
    _refuse_what_is_in_the_way(database)
    upto = database.read(_read_bound)
    if upto is not None and time_of(upto) >= now + MARGIN_MS:
        _validate_and_swap(database, upto, say)
    else:
        upto = retry_while_locked(database, partial(_add_bound, now=now))
        with _bound_dropped_on_error(database):
            _validate_and_swap(database, upto, say)
    try:
        with database.connect() as connection:
            connection.exec_driver_sql(ANALYZE)
    except DBAPIError as error:
        log.warning("partitions_not_analyzed", reason=first_line(cause_of(error)))


@contextmanager
def _bound_dropped_on_error(database: Database) -> Iterator[None]:
    """Drop the bound that this conversion has set. One that it found may belong to another conversion."""
    try:
        yield
    except _Again:
        raise
    except BaseException:
        with suppress(Exception):  # the next event beyond the bound drops it
            retry_while_locked(database, _drop_bound, patience_s=LAST_S)
        raise


def _validate_and_swap(database: Database, upto: bytes, say: Say) -> None:
    say(f"validating that all runs were created before {timestamp(time_of(upto))}")
    _validate(database)
    say("swapping the tables")
    retry_while_locked(database, _swap)


def _refuse_what_is_in_the_way(database: Database) -> None:
    if found := database.read(lambda connection: connection.exec_driver_sql(_IN_THE_WAY).scalars().all()):
        raise ConfigError(
            f"database {database.dialect.location}: these belong to the table `events` and would be left on "
            f"its first partition; remove them, and create them again afterwards: {', '.join(found)}",
            setting="database_url",
        )


def _read_bound(connection: Connection) -> bytes | None:
    """The bound of a conversion that is under way, or was killed."""
    found = connection.exec_driver_sql(_BOUND).first()
    bound = found and re.search(r"\\x([0-9a-f]{32})", found[1])
    return bytes.fromhex(bound[1]) if bound else None


def _add_bound(connection: Connection, now: int) -> bytes:
    last = connection.exec_driver_sql(_LAST_RUN).scalar() or b""
    if time_of(last) > now + FARTHEST_MS:
        raise ConfigError(
            f"the log holds a run that was created at {timestamp(time_of(last))}, by the clock of its "
            "process: such a log cannot be partitioned",
            setting="database_url",
        )
    upto = pack_run_id(first_run_id(month_after(max(now + MARGIN_MS, time_of(last)), 1)))
    lock_schema(connection, "events")
    connection.exec_driver_sql(_DROP_BOUND)
    check = f"ADD CONSTRAINT {BOUND} CHECK (run_id < {literal(upto)}) NOT VALID"
    connection.exec_driver_sql(f"ALTER TABLE events {check}")
    return upto


def _validate(database: Database) -> None:
    try:
        with database.changing() as connection:
            lock_schema(connection, "events")
            connection.exec_driver_sql(VALIDATE)
    except Exception as error:
        if getattr(cause_of(error), "sqlstate", None) in BEYOND:
            retry_while_locked(database, _drop_bound)
            raise _Again from error
        raise


def _drop_bound(connection: Connection) -> None:
    if connection.exec_driver_sql(_BOUND).first() is not None:
        connection.exec_driver_sql(_DROP_BOUND)


def _swap(connection: Connection) -> None:
    """Create the new tables before the locks, and change the existing one in one round trip."""
    lock_schema(connection, "events")
    bound, upto = connection.exec_driver_sql(_BOUND).first(), _read_bound(connection)
    if bound is None or not bound[0] or upto is None:
        raise _Again
    sequence = connection.exec_driver_sql("SELECT pg_get_serial_sequence('events', 'position')").scalar_one()
    create_detached(connection, OTHER)
    for statement in (*_CREATE, f"ALTER TABLE {NEW} ATTACH PARTITION {OTHER} DEFAULT"):
        connection.exec_driver_sql(statement)
    copy_rights(connection, NEW)
    connection.exec_driver_sql("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    swap = [step.format(upto=literal(upto), sequence=sequence) for step in _SWAP]
    swap.append(replace_events_view(connection))
    execute(connection, "; ".join(swap))
