"""Converts `events` of a live PostgreSQL database into a table with a partition for each month.

Servers and workers go on. Each step begins from what the catalogue shows, so that a conversion that was
killed can be run again:

1. Bound: a constraint, not yet valid, that no run id is beyond a bound. Readers and writers wait for an
   instant.
2. Validate: PostgreSQL reads the table once. Nothing waits.
3. Swap: in one transaction, the table becomes the first partition, up to the bound, of a new table `events`.
   Thanks to the constraint it is not read again. Readers and writers wait for some milliseconds.

A lock that is not free within LOCK_S is given up and tried again, so that nothing waits behind it for longer.
An append beyond the bound is not refused: it removes the bound, see `PostgresDialect.insert_events`.
"""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, text

from runstore.core.errors import ConfigError, LogUnavailable
from runstore.core.ids import first_run_id
from runstore.core.times import timestamp
from runstore.database.columns import pack_run_id
from runstore.database.dialects.servers import cause_of
from runstore.database.opening import Database
from runstore.database.partitions import (
    BOUND,
    FIRST,
    LIKE,
    OTHER,
    REFUSE_TRUNCATE,
    add_partitions,
    create_apart,
    is_partitioned,
    literal,
    lock_weakly,
    month_after,
    time_of,
)
from runstore.database.views import VIEWS, replace_events_view

MARGIN_MS = 7 * 24 * 3_600_000  # the least time between now and the bound, for clocks and for the validation
FARTHEST_MS = 400 * 24 * 3_600_000  # a bound that is further ahead would leave nothing to partition
PAUSE_S = 1.0  # seconds between two tries of a lock, in which readers and writers catch up
TRIES = 60  # of a lock that others hold
LAST_TRIES = 5  # of a command that is about to end
ROUNDS = 3  # conversions begun again, because a run id beyond the bound appeared

# SQLSTATE, when a run id is beyond the bound: check violation, or its append has canceled us, or was faster
BEYOND = frozenset({"23514", "57014", "42704"})

NEW = "events_new"

T = TypeVar("T")
Say = Callable[[str], None]

# What hangs on a table, and would stay on the first partition alone.
_IN_THE_WAY = f"""
    SELECT 'view ' || r.ev_class::regclass FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = 'events'::regclass
        AND r.ev_class::regclass::text NOT IN ('{"', '".join(VIEWS)}')
    UNION SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE indrelid = 'events'::regclass
        AND indexrelid::regclass::text NOT IN ('pk_events', 'uq_events_run_id_seq')
    UNION SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = 'events'::regclass AND NOT tgisinternal
        AND tgname NOT IN ('events_refuse_change', 'events_refuse_truncate')
    UNION SELECT 'foreign key ' || conname FROM pg_constraint WHERE confrelid = 'events'::regclass
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
_FORGET = f"ALTER TABLE events DROP CONSTRAINT IF EXISTS {BOUND}"
_LAST_RUN = "SELECT run_id FROM events ORDER BY run_id DESC LIMIT 1"
_GRANTS = f"""
    SELECT 'GRANT ' || privilege_type || ' ON {NEW} TO '
        || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
        || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = 'events'::regclass AND grantee <> relowner
"""
_OWNER = """
    SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class
    WHERE oid = 'events'::regclass AND pg_get_userbyid(relowner) <> current_user
"""
_CREATE = (
    f"CREATE TABLE {NEW} ({LIKE}) PARTITION BY RANGE (run_id)",
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
        ConfigError: the database is no PostgreSQL, or something stands in the way.
        LogUnavailable: others held locks for too long; run it again.
    """
    if database.dialect.name != "postgresql":
        raise ConfigError(
            f"database {database.dialect.place}: only PostgreSQL partitions `events`", setting="database_url"
        )
    try:
        for _ in range(ROUNDS):
            try:
                if not database.read(is_partitioned):
                    _convert(database, now, say)
                return add_months(database, now)
            except _Again:
                say("a run id beyond the bound has appeared; begun again")
    except BaseException:
        with suppress(Exception):  # the next append beyond the bound forgets it
            in_a_gap(database, _forget_bound, tries=LAST_TRIES)
        raise
    raise LogUnavailable(
        f"database {database.dialect.place}: run ids beyond the bound appear; check the clocks"
    )


def add_months(database: Database, now: int) -> list[str]:
    """Add the partitions of the coming months to a log that is partitioned; return their names."""
    if not database.read(is_partitioned):
        return []
    return in_a_gap(database, partial(add_partitions, now=now))


def in_a_gap(database: Database, work: Callable[[Connection], T], *, tries: int = TRIES) -> T:
    """Do work in a transaction whose locks readers and writers wait for, as soon as they are free."""
    for _ in range(tries - 1):
        try:
            return _in_a_transaction(database, work)
        except Exception as error:
            if not database.dialect.is_conflict(error):
                raise
        time.sleep(PAUSE_S)
    return _in_a_transaction(database, work)


def _in_a_transaction(database: Database, work: Callable[[Connection], T]) -> T:
    with database.changing() as connection:
        return work(connection)


def _convert(database: Database, now: int, say: Say) -> None:
    _refuse_what_is_in_the_way(database)
    upto = database.read(_read_bound)
    if upto is None or time_of(upto) < now + MARGIN_MS:
        upto = in_a_gap(database, partial(_add_bound, now=now))
    say(f"validating that all runs were created before {timestamp(time_of(upto))}")
    _validate(database)
    say("swapping the tables")
    in_a_gap(database, _swap)
    with database.connect() as connection:
        connection.exec_driver_sql("ANALYZE events")


def _refuse_what_is_in_the_way(database: Database) -> None:
    if found := database.read(lambda connection: connection.exec_driver_sql(_IN_THE_WAY).scalars().all()):
        raise ConfigError(
            f"database {database.dialect.place}: these belong to the table `events` and would be left on its "
            f"first partition; remove them, and create them again afterwards: {', '.join(found)}",
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
    lock_weakly(connection, "events")
    connection.exec_driver_sql(_FORGET)
    check = f"ADD CONSTRAINT {BOUND} CHECK (run_id < {literal(upto)}) NOT VALID"
    connection.exec_driver_sql(f"ALTER TABLE events {check}")
    return upto


def _validate(database: Database) -> None:
    try:
        with database.changing() as connection:
            lock_weakly(connection, "events")
            connection.exec_driver_sql(f"ALTER TABLE events VALIDATE CONSTRAINT {BOUND}")
    except Exception as error:
        if getattr(cause_of(error), "sqlstate", None) in BEYOND:
            in_a_gap(database, _forget_bound)
            raise _Again from error
        raise


def _forget_bound(connection: Connection) -> None:
    if connection.exec_driver_sql(_BOUND).first() is not None:
        connection.exec_driver_sql(_FORGET)


def _swap(connection: Connection) -> None:
    """Make all that is new before the locks, and change the rest in one round trip."""
    lock_weakly(connection, "events")
    bound, upto = connection.exec_driver_sql(_BOUND).first(), _read_bound(connection)
    if bound is None or not bound[0] or upto is None:
        raise _Again
    sequence = connection.exec_driver_sql("SELECT pg_get_serial_sequence('events', 'position')").scalar_one()
    create_apart(connection, OTHER)
    grants = connection.exec_driver_sql(_GRANTS).scalars().all()
    for statement in (*_CREATE, f"ALTER TABLE {NEW} ATTACH PARTITION {OTHER} DEFAULT", *grants):
        connection.execute(text(statement.replace(":", "\\:")))
    if owner := connection.exec_driver_sql(_OWNER).scalar():
        for table in (NEW, OTHER):
            connection.exec_driver_sql(f"ALTER TABLE {table} OWNER TO {owner}")
    connection.exec_driver_sql("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    swap = [step.format(upto=literal(upto), sequence=sequence) for step in _SWAP]
    swap.append(replace_events_view(connection.dialect.name))
    connection.execute(text("; ".join(swap).replace(":", "\\:")))
