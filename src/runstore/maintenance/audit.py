"""Records changes by administrators in the audit log."""

from collections.abc import Callable
from contextlib import closing
from functools import partial

from sqlalchemy import Connection

from runstore.core.codec import encode
from runstore.core.events import Event
from runstore.core.ids import READS_OF_ALL
from runstore.database.database import Database
from runstore.eventlog.admission import Append
from runstore.eventlog.sql_store import SqlStore
from runstore.maintenance.patience import retry_while_transient


def record_audit(
    database: Database,
    *events: Event,
    stream_id: str = READS_OF_ALL,
    change: Callable[[Connection], None] | None = None,
) -> None:
    """Store `audit.*` events, in the stream of searches if no other is given.

    Args:
        change: of other tables, in the same transaction: neither is stored without the other.
    """
    with closing(SqlStore(database, [], beside=change)) as store:
        append = Append(stream_id, [encode(event) for event in events])
        [result] = retry_while_transient(database, partial(store.commit, [append])).results
    if isinstance(result, Exception):
        raise result
