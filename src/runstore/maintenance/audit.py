"""Records changes by administrators in the audit log."""

from contextlib import closing
from functools import partial

from runstore.core.codec import encode
from runstore.core.events import Event
from runstore.core.ids import READS_OF_ALL
from runstore.database.database import Database
from runstore.eventlog.admission import Append
from runstore.eventlog.sql_store import SqlStore
from runstore.maintenance.patience import patiently


def record_audit(database: Database, event: Event, stream_id: str = READS_OF_ALL) -> None:
    """Store an `audit.*` event, in the stream of searches if no other is given."""
    with closing(SqlStore(database, [])) as store:
        append = Append(stream_id, [encode(event)])
        [outcome] = patiently(database, partial(store.commit, [append])).outcomes
    if isinstance(outcome, Exception):
        raise outcome
