"""Removes the events of purged runs by dropping the partition in which most events are theirs.

The other events of the partition go into a copy, which takes its place: each run's `run.purged`, streams of
the audit log, which are never purged, and runs that are not due. Readers see the same as if the rows had been
removed. One transaction does it, so a purge that is killed has changed nothing:

1. Copy the other events, as of a position that is final. Nothing waits.
2. Swap the two, unless an event was appended to the partition since. Readers and writers wait for some
   milliseconds.

Each change of a row that remains comes with an append to its run, also a redaction.
"""

import time
from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from runstore.database.database import Database
from runstore.database.dialects.servers import cause_of, first_line
from runstore.database.partitions import (
    OTHER,
    Partition,
    create_detached,
    is_other_too_large,
    lock_schema,
    read_partitions,
)
from runstore.maintenance.partitioning import LOCKED_S, PAUSE_S
from runstore.maintenance.patience import retry_while_transient

COPY = "events_copy"

log = structlog.get_logger(__name__)

_ROWS = "{name} e LEFT JOIN purging p ON p.run_id = e.run_id"
_COUNTS = f"""
    SELECT count(*), count(p.run_id), (SELECT count(*) FROM purging WHERE {{where}}) FROM {_ROWS}
"""
_LAST = "SELECT coalesce(max(position), 0) FROM {name}"
# The last event of a run that is marked is its `run.purged`.
_COPY = f"""
    INSERT INTO {COPY} SELECT e.* FROM {_ROWS} WHERE p.run_id IS NULL OR (e.type = 'run.purged' AND NOT EXISTS
        (SELECT FROM {{name}} later WHERE later.run_id = e.run_id AND later.seq > e.seq))
"""
_MOVED = "SELECT '{name}'::regclass <> {oid} OR EXISTS (SELECT FROM {name} WHERE position > {mark})"
_SWAP = f"""
    ALTER TABLE events DETACH PARTITION {{name}};
    ALTER TABLE events ATTACH PARTITION {COPY} {{bound}};
    ALTER TABLE {COPY} DROP CONSTRAINT within;
    DROP TABLE {{name}};
    ALTER TABLE {COPY} RENAME TO {{name}};
    ALTER TABLE {{name}} RENAME CONSTRAINT {COPY}_pkey TO {{name}}_pkey;
    ALTER TABLE {{name}} RENAME CONSTRAINT {COPY}_run_id_seq_key TO {{name}}_run_id_seq_key
"""


def drop_partitions(database: Database, warn: Callable[[Connection], object]) -> int:
    """Remove the events of marked runs that are most of a partition; return their number.

    Rows of other marked runs stay. Two concurrent purges may count the same event twice.

    Args:
        warn: in a transaction that excludes other writers, makes them forget the heads that they know.
    """
    partitions = retry_while_transient(database, lambda: database.read(read_partitions))
    return sum(_drop(database, warn, partition) for partition in partitions if partition.upper is not None)


def _drop(database: Database, warn: Callable[[Connection], object], partition: Partition) -> int:
    removed, kept = retry_while_transient(
        database, lambda: database.read(partial(_count, partition=partition))
    )
    if removed <= kept:  # a copy of these would cost more than the removal
        return 0
    mark = retry_while_transient(database, lambda: _last_position(database, warn, partition))
    try:
        with database.changing() as connection:
            _copy(connection, partition)
            swapped = _swap(database, connection, partition, mark)
            if not swapped:
                connection.rollback()
    except DBAPIError as error:
        swapped = False
        if not database.dialect.is_conflict(error):
            reason = first_line(cause_of(error))
            log.warning("partition_not_dropped", partition=partition.name, reason=reason)
            return 0
    if not swapped:
        log.info("partition_not_dropped", partition=partition.name, reason="it is in use")
    return removed if swapped else 0


def _count(connection: Connection, partition: Partition) -> tuple[int, int]:
    """The events to remove and the others, uncounted if the partition has no marked run, or is not dropped.

    Detaching a partition to which a foreign key may refer would look for such rows while writers wait.
    """
    marked = (
        f"SELECT EXISTS (SELECT FROM purging WHERE {partition.where})"
        " AND NOT EXISTS (SELECT FROM pg_constraint WHERE confrelid = 'events'::regclass)"
    )
    if not connection.exec_driver_sql(marked).scalar():
        return 0, 0
    counts = _COUNTS.format(name=partition.name, where=partition.where)
    rows, rows_of_marked, runs = connection.exec_driver_sql(counts).one()
    removed = rows_of_marked - runs
    return removed, rows - removed


def _last_position(database: Database, warn: Callable[[Connection], object], partition: Partition) -> int:
    """The partition's last position, which is final as no append is in flight."""
    with database.writing(exclusive=True) as connection:
        warn(connection)
        return int(connection.exec_driver_sql(_LAST.format(name=partition.name)).scalar_one())


def _copy(connection: Connection, partition: Partition) -> None:
    create_detached(connection, COPY, replaced=partition.name)
    # With this constraint, PostgreSQL does not read the table again when it is attached.
    connection.exec_driver_sql(f"ALTER TABLE {COPY} ADD CONSTRAINT within CHECK ({partition.where})")
    connection.exec_driver_sql(_COPY.format(name=partition.name))


def _swap(database: Database, connection: Connection, partition: Partition, mark: int) -> bool:
    """Put the copy in the partition's place; False if the partition has changed since the copy.

    Raises an error that `is_conflict` if others use the partition for longer than LOCKED_S.
    """
    deadline = time.monotonic() + LOCKED_S
    while True:
        connection.exec_driver_sql("SAVEPOINT before_locks")
        try:
            return _swap_now(connection, partition, mark)
        except Exception as error:
            if not database.dialect.is_conflict(error) or time.monotonic() > deadline:
                raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT before_locks")
        time.sleep(PAUSE_S)


def _swap_now(connection: Connection, partition: Partition, mark: int) -> bool:
    lock_schema(connection, "events", partition.name, OTHER)
    connection.exec_driver_sql(
        f"LOCK TABLE ONLY events, ONLY {partition.name}, {OTHER} IN ACCESS EXCLUSIVE MODE"
    )
    moved = _MOVED.format(name=partition.name, oid=partition.oid, mark=mark)
    if is_other_too_large(connection) or connection.exec_driver_sql(moved).scalar():
        return False
    connection.exec_driver_sql(_SWAP.format(name=partition.name, bound=partition.bound))
    return True
