"""The starts of a user's runs: notices of new ones, and where the runs begin in the log."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, select

from runstore.core.errors import InvalidCursor
from runstore.core.events import Queued
from runstore.core.ids import CLOCKS_MS, RANDOM_BITS, first_run_id
from runstore.core.ports import Committed, LiveFeed
from runstore.core.run import owner_of
from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS, OwnRunCursors
from runstore.database.tables import open_runs, runs, select_listed
from runstore.eventlog.queries import first_position, read_first_positions
from runstore.projections.runs import MAX_SCANNED


class Starts:
    """Notifies when a user has started a run. This is a hint; readers must also poll."""

    def __init__(self, feed: LiveFeed) -> None:
        self._lock = threading.Lock()
        self._watches: dict[str, dict[asyncio.Event, asyncio.AbstractEventLoop]] = {}
        feed.listen(self._notify)

    @contextmanager
    def watch(self, user_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at each start of this user's."""
        started = asyncio.Event()
        with self._lock:
            self._watches.setdefault(user_id, {})[started] = asyncio.get_running_loop()
        try:
            yield started
        finally:
            with self._lock:
                del self._watches[user_id][started]
                if not self._watches[user_id]:
                    del self._watches[user_id]

    def _notify(self, commit: Committed) -> None:
        if not self._watches:
            return
        for event in commit.events:
            if event.type == Queued.type:
                with self._lock:
                    watches = dict(self._watches.get(owner_of(event).user_id, {}))
                for started, loop in watches.items():
                    with suppress(RuntimeError):  # the loop is closed, and so are its readers
                        loop.call_soon_threadsafe(started.set)


def read_own_cursors(connection: Connection, user_id: str) -> OwnRunCursors:
    """See `JoinedTails.own_cursors`."""
    # Read first: a run queued later is new, even if it is also among the open ones.
    cursors = _read_newest(connection, user_id)
    position = first_position(open_runs.c.run_id)
    unended = select(position, open_runs.c.run_id).where(open_runs.c.user_id == user_id)
    found = connection.execute(unended.order_by(position).limit(MAX_FOLLOWED_RUNS + 1)).all()
    if len(found) > MAX_FOLLOWED_RUNS:  # the others follow when these have ended
        # Until these are added: the position is the beginning of the last of them.
        cursors = OwnRunCursors(0, 0)
    for begins, run_id in found[:MAX_FOLLOWED_RUNS]:
        cursors.add(run_id, begins)
    return cursors


def _read_newest(connection: Connection, user_id: str) -> OwnRunCursors:
    """The beginnings of a user's newest runs. A run missing here would count as new."""
    newest = connection.execute(_own_runs(user_id).order_by(runs.c.run_id.desc()).limit(1)).scalar()
    if newest is None:
        return OwnRunCursors(0, int(time.time()))
    seconds = (UUID(newest).int >> RANDOM_BITS) // 1_000
    made = _made_since(user_id, seconds).order_by(runs.c.run_id.desc()).limit(MAX_SCANNED)
    begin = read_first_positions(connection, connection.execute(made).scalars().all())
    return OwnRunCursors(max(begin.values(), default=0), seconds)


def read_starts(
    connection: Connection, user_id: str, after: int, seconds: int, limit: int
) -> list[tuple[int, str]]:
    """A user's runs that begin in the log after a position: their positions and ids, in order.

    Run ids sort in another order than positions, so no run created since may be skipped.

    Args:
        seconds: when the newest known run was created. Runs created CLOCKS_MS earlier are not examined.

    Raises:
        InvalidCursor: more than MAX_SCANNED runs would have to be examined.
    """
    made = _made_since(user_id, seconds).order_by(runs.c.run_id).limit(MAX_SCANNED + 1)
    run_ids = connection.execute(made).scalars().all()
    if len(run_ids) > MAX_SCANNED:
        message = (
            f"the cursor is too far behind: more than {MAX_SCANNED:,} runs were started since "
            f"{CLOCKS_MS // 60_000} minutes before its newest run; list them with GET /runs, and "
            "follow again without it"
        )
        raise InvalidCursor(message)
    begin = read_first_positions(connection, run_ids)
    return sorted((position, run_id) for run_id, position in begin.items() if position > after)[:limit]


def _made_since(user_id: str, seconds: int) -> Select[Any]:
    return _own_runs(user_id).where(runs.c.run_id >= first_run_id(seconds * 1_000 - CLOCKS_MS))


def _own_runs(user_id: str) -> Select[Any]:
    own = runs.c.user_id == user_id, runs.c.purged == 0, runs.c.deleted == 0
    return select_listed(("user_id",)).where(*own)
