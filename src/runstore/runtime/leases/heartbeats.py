"""Leases by heartbeats in the table `workers`, for workers on several machines.

A worker increments the beat of its own row. Another process takes it for dead after it has seen the same
beat for the whole lease, by its own clock and while it could itself read and write. No two clocks are ever
compared; after an outage of the database, when every beat is old, every worker gets a whole lease again.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

import structlog
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from runstore.core.errors import LogUnavailable
from runstore.core.times import now_ms
from runstore.database.database import Database
from runstore.database.tables import workers
from runstore.runtime.leases.leases import Leases

log = structlog.get_logger(__name__)

BEATS_PER_LEASE = 5  # beats in a lease: a worker may lose a few of them and keep it
BEATS_POLL_S = 1.0  # seconds between two polls of the beats; a longer gap means that the poll was held up
RELEASE_S = 2.0  # seconds for a leaving process to delete its row; a busy database takes time
HOST_CHARS = 255


class _Silence(Struct, frozen=True):
    """How long a worker has been seen without a new beat."""

    beat: int
    seconds: float = 0

    def longer(self, by_s: float) -> "_Silence":
        return _Silence(self.beat, self.seconds + by_s)


class HeartbeatLeases:
    """The port `Leases` over the beats of the workers' rows.

    Args:
        lease_s: seconds without a beat after which a worker loses its runs.
        capacity: how many runs this worker takes at once; shown in the list of workers.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.worker_id = uuid4().hex
        self._database = database
        self._lease_s = lease_s
        self._beat_s = lease_s / BEATS_PER_LEASE
        self._row = _new_row(self.worker_id, capacity)
        self._clock = clock
        self._beating: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._beaten_at = -lease_s  # when this worker's beat was last stored
        self._looked_at = -lease_s  # when the other workers' beats were last read
        self._seen: dict[str, _Silence] = {}  # worker id → its silence since its last beat
        self._silent: set[str] = set()  # workers that were silent for a whole lease

    @property
    def held(self) -> bool:
        """See `Leases.held`."""
        return self._clock() - self._beaten_at < self._lease_s

    async def hold(self) -> None:
        """See `Leases.hold`."""
        if self._beating is None:
            self._leaving.clear()
            await self.beat()
            self._beating = asyncio.create_task(self._beat_on())

    async def beat(self) -> None:
        """Store one more heartbeat of this worker."""
        asked_at = self._clock()
        await self._database.change(_beat, self._row)
        self._beaten_at = asked_at

    async def dead(self, worker_ids: set[str]) -> dict[str, bool]:
        """See `Leases.dead`."""
        beats = await self._database.query(_read_beats)
        watched_s = self._watched_s()
        if watched_s is None:
            self._seen = {}
        self._seen = {
            worker_id: self._seen[worker_id].longer(watched_s or 0)
            if worker_id in self._seen and self._seen[worker_id].beat == beat
            else _Silence(beat)
            for worker_id, beat in beats.items()
            if worker_id != self.worker_id
        }
        self._silent = {id for id, silence in self._seen.items() if silence.seconds >= self._lease_s}
        left = worker_ids - beats.keys() - {self.worker_id}
        return dict.fromkeys(left, False) | dict.fromkeys(self._silent & worker_ids, True)

    async def forget(self, still_named: set[str]) -> None:
        """See `Leases.forget`."""
        if gone := {id: self._seen[id].beat for id in self._silent - still_named}:
            await self._database.change(_remove_silent, gone)

    async def release(self) -> None:
        """See `Leases.release`."""
        beating, self._beating = self._beating, None
        if beating is not None:
            self._leaving.set()
            await _leave(self._database, self.worker_id, RELEASE_S, after=beating)
            beating.cancel()

    def _watched_s(self) -> float | None:
        """The seconds watched since the last poll; None if an outage may have kept beats from us.

        A process that polls more slowly than workers beat credits at most one beat per poll.
        """
        now = self._clock()
        passed_s, self._looked_at = now - self._looked_at, now
        late = self._beating is not None and now - self._beaten_at > max(2 * self._beat_s, BEATS_POLL_S)
        if late or passed_s > max(self._beat_s, BEATS_POLL_S):
            return None
        return min(passed_s, self._beat_s)

    async def _beat_on(self) -> None:
        while not await self._left_within(self._beat_s):
            try:
                await self.beat()
            except LogUnavailable:
                pass  # the writer logs it
            except Exception:  # without its beats the worker would lose all its runs
                log.exception("heartbeat_failed")

    async def _left_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)
        return self._leaving.is_set()


class ListedLeases:
    """Leases that need no beats, whose workers are listed in the table like others."""

    def __init__(self, leases: Leases, database: Database, *, capacity: int) -> None:
        self.worker_id = leases.worker_id
        self.dead = leases.dead
        self._leases = leases
        self._database = database
        self._row = _new_row(self.worker_id, capacity)
        self._listed = False

    @property
    def held(self) -> bool:
        """See `Leases.held`."""
        return self._leases.held

    async def hold(self) -> None:
        """See `Leases.hold`."""
        await self._leases.hold()
        with suppress(LogUnavailable):  # others write; nothing depends on the list, and a sweep tries again
            await self._list_itself()

    async def forget(self, still_named: set[str]) -> None:
        """See `Leases.forget`."""
        await self._list_itself()
        known = await self._database.query(_read_beats)
        if gone := (await self.dead(set(known))).keys() - still_named:
            await self._database.change(_remove, gone)
        await self._leases.forget(still_named)

    async def release(self) -> None:
        """See `Leases.release`."""
        await self._leases.release()
        if self._listed:
            self._listed = False
            await _leave(self._database, self.worker_id, RELEASE_S / 4)  # its lock is free already

    async def _list_itself(self) -> None:
        if not self._listed:
            await self._database.change(_list, self._row)
            self._listed = True


def _new_row(worker_id: str, capacity: int) -> dict[str, Any]:
    host, now = socket.gethostname()[:HOST_CHARS], now_ms()
    return {"worker_id": worker_id, "host": host, "pid": os.getpid(), "capacity": capacity, "started_at": now}


def _beat(connection: Connection, row: Mapping[str, Any]) -> None:
    """Increment this worker's beat; insert its row again if another process removed it."""
    this = workers.c.worker_id == row["worker_id"]
    counted = connection.execute(
        update(workers).where(this).values(beat=workers.c.beat + 1, beat_at=now_ms())
    )
    if not counted.rowcount:
        connection.execute(insert(workers).values(**row, beat=1, beat_at=now_ms()))


def _list(connection: Connection, row: Mapping[str, Any]) -> None:
    """Insert the row; delete it first, as an earlier insert may have been stored without an answer."""
    connection.execute(delete(workers).where(workers.c.worker_id == row["worker_id"]))
    connection.execute(insert(workers).values(**row, beat=0))


def _read_beats(connection: Connection) -> dict[str, int]:
    rows = connection.execute(select(workers.c.worker_id, workers.c.beat)).all()
    return dict(map(tuple, rows))


def _remove(connection: Connection, worker_ids: Collection[str]) -> None:
    connection.execute(delete(workers).where(workers.c.worker_id.in_(sorted(worker_ids))))


def _remove_silent(connection: Connection, beats: Mapping[str, int]) -> None:
    """Remove the workers that have not beaten since; one may have woken up."""
    same = (workers.c.worker_id == bindparam("worker"), workers.c.beat == bindparam("seen"))
    rows = [{"worker": worker_id, "seen": beat} for worker_id, beat in sorted(beats.items())]
    connection.execute(delete(workers).where(*same), rows)


async def _leave(
    database: Database, worker_id: str, within_s: float, *, after: "asyncio.Task[None] | None" = None
) -> None:
    """Delete the worker's row, which marks a hand-over.

    If this fails, the lease runs out and the runs are adopted.

    Args:
        after: its beats; one that is under way would make the row again.
    """
    try:
        async with asyncio.timeout(within_s):
            if after is not None:
                await asyncio.wait([after])
            await database.change(_remove, [worker_id])
    except (LogUnavailable, TimeoutError):
        pass
    except Exception:  # an unknown error must not hold up the end of the process either
        log.exception("leave_failed")
