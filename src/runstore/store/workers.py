"""The workers of a database, for display."""

from msgspec import Struct
from sqlalchemy import Connection, func, select

from runstore.core.times import timestamp
from runstore.database.tables import open_runs, workers


class Worker(Struct, frozen=True):
    """A process that runs agents. Times: UTC, milliseconds since 1970, by the worker's own clock.

    `capacity`: the number of runs that it takes at once; `runs`: its runs according to the log. `beat_at`:
    its last heartbeat; None if it holds a lock instead.
    """

    worker_id: str
    host: str
    pid: int
    capacity: int
    runs: int
    started_at: int
    beat_at: int | None


class WorkerRecord(Struct, frozen=True):
    """A worker for display. Times: RFC 3339, UTC."""

    worker_id: str
    host: str
    pid: int
    capacity: int
    runs: int
    started_at: str
    heartbeat_at: str | None


def read_workers(connection: Connection) -> list[Worker]:
    """Every worker that has not left, oldest first."""
    count = (
        select(func.count())
        .select_from(open_runs)
        .where(open_runs.c.worker_id == workers.c.worker_id)
        .scalar_subquery()
    )
    row = workers.c
    columns = [count.label("runs") if name == "runs" else row[name] for name in Worker.__struct_fields__]
    return [
        Worker(*found) for found in connection.execute(select(*columns).order_by(row.started_at, row.pid))
    ]


def record(worker: Worker) -> WorkerRecord:
    return WorkerRecord(
        worker.worker_id,
        worker.host,
        worker.pid,
        worker.capacity,
        worker.runs,
        timestamp(worker.started_at),
        None if worker.beat_at is None else timestamp(worker.beat_at),
    )
