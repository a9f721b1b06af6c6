"""Follows several runs as one stream: runs by name, or all runs of a user."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from runstore.core.errors import RunstoreError
from runstore.core.ports import EventFilter, LiveFeed
from runstore.core.stream_cursors import OwnRunCursors, StreamCursors
from runstore.database.database import Database
from runstore.feed.joined_tail import JoinedTail, NewRuns
from runstore.feed.tail import Tail
from runstore.store.starts import Starts, read_own_cursors, read_starts


class JoinedTails:
    """Opens streams of several runs of one database.

    Args:
        open_tail: `RunStore.tail`.
    """

    def __init__(
        self, database: Database, feed: LiveFeed, open_tail: Callable[..., Tail], *, heartbeat_s: float
    ) -> None:
        self._database = database
        self._feed = feed
        self._open_tail = open_tail
        self._heartbeat_s = heartbeat_s
        self._starts = Starts(feed)

    def open(
        self,
        cursors: StreamCursors,
        *,
        lost: dict[str, RunstoreError],
        only: EventFilter | None = None,
        new_runs: NewRuns | None = None,
    ) -> JoinedTail:
        """Follow several runs as one stream. The arguments are those of `JoinedTail`."""

        def open_tail(run_id: str, after: int) -> Tail:
            return self._open_tail(run_id, after=after, only=only)

        return JoinedTail(
            self._feed, cursors, open_tail, lost=lost, new_runs=new_runs, idle_s=self._heartbeat_s
        )

    async def own_cursors(self, user_id: str) -> OwnRunCursors:
        """Cursors at the beginnings of a user's active runs; runs that start from now on are new."""
        return await self._database.query_list(read_own_cursors, user_id)

    @contextmanager
    def new_runs(self, user_id: str, cursors: OwnRunCursors) -> Iterator[NewRuns]:
        """A user's new runs, for a stream of all of them."""
        with self._starts.watch(user_id) as started:
            yield NewRuns(started, partial(self.find_starts, user_id, cursors))

    async def find_starts(self, user_id: str, cursors: OwnRunCursors) -> None:
        """Add a user's new runs in the order in which they were queued, up to the limit of followed runs.

        Raises:
            InvalidCursor: too many runs were started since to search them for new ones.
            LogUnavailable, Busy
        """
        if cursors.free:
            where = (cursors.position, cursors.seconds, cursors.free)
            for position, run_id in await self._database.query_list(read_starts, user_id, *where):
                cursors.add(run_id, position)
