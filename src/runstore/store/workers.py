"""The workers of a database, for display."""

from msgspec import Struct
from sqlalchemy import Connection, func, select

from runstore.core.times import timestamp
from runstore.database.tables import open_runs, workers


class WorkerRecord(Struct, frozen=True):
    """A process that runs agents. Times: RFC 3339, UTC, by the worker's own clock.

    `capacity`: the number of runs that it takes at once; `runs`: its runs according to the log.
    `heartbeat_at`: None if it holds a lock instead.
    """

    worker_id: str
    host: str
    pid: int
    capacity: int
    runs: int
    started_at: str
    heartbeat_at: str | None


def read_workers(connection: Connection) -> list[WorkerRecord]:
    """Every worker that has not left, oldest first."""
    row = workers.c
    count = select(func.count()).select_from(open_runs).where(open_runs.c.worker_id == row.worker_id)
    query = select(row.worker_id, row.host, row.pid, row.capacity, count.scalar_subquery(), row.started_at)
    found = connection.execute(query.add_columns(row.beat_at).order_by(row.started_at, row.pid))
    return [
        WorkerRecord(id, host, pid, capacity, runs, timestamp(at), None if beat is None else timestamp(beat))
        for id, host, pid, capacity, runs, at, beat in found
    ]
