"""Follows runs for every surface: the answer to a cursor."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial

from starlette.responses import Response
from starlette.types import Receive

from runstore.core.errors import InvalidCursor, LogUnavailable, RunDeleted, RunPurged, RunstoreError
from runstore.core.ports import EventFilter
from runstore.core.stream_cursors import NamedRunCursors, OwnRunCursors
from runstore.http.security.users import Login
from runstore.http.streaming.frames import Translation, joined, native
from runstore.http.streaming.sse import EventStream, nothing_left
from runstore.http.streaming.subscribers import Subscribers
from runstore.http.streaming.watched import attended
from runstore.store.runs import RunStore


class RunStreams:
    """Opens streams of runs that their reader may read."""

    def __init__(self, store: RunStore, subscribers: Subscribers) -> None:
        self._store = store
        self._subscribers = subscribers

    async def follow(
        self,
        login: Login,
        run_id: str,
        *,
        after: int,
        only: EventFilter | None = None,
        translation: Translation | None = None,
        left: Callable[[], Awaitable[None]] | None = None,
    ) -> Response:
        """The run's stream after a cursor; 204 at the end of a closed run.

        Args:
            only: the wanted events. Not with a translation, which needs others.
            translation: makes another protocol's stream; None: the native one.
            left: called if the client goes before the run's end.

        Raises:
            InvalidCursor: it is ahead of the run.
            RunNotFound, RunDeleted, RunPurged, LimitExceeded
        """
        run = None
        try:
            deleted = login.user.reads_all
            head = await self._store.head(run_id, deleted=deleted)
            run = (await self._store.get(run_id, deleted=deleted)).run if translation else None
        except LogUnavailable:
            if translation is not None:
                raise
            # An error would end an EventSource permanently; the stream idles until the log is back.
        else:
            check_cursor(after, head.seq, run_id)
            if head.closed and after >= head.seq - head.deleted:
                return nothing_left()
        with ExitStack() as resources:
            resources.enter_context(self._subscribers.of_user(login.user.user_id))
            resources.enter_context(self._subscribers.of_run(run_id))
            if translation is None or run is None:
                frames = native(self._store.tail(run_id, after=after, only=only))
            else:
                tail = self._store.tail(run_id, after=after, only=translation.only)
                earlier = partial(self._store.events, run_id, upto=after, only=translation.earlier)
                frames = translation.frames(tail, run, earlier)
            return EventStream(frames, login, resources.pop_all(), left=left)

    async def follow_several(
        self, login: Login, cursors: NamedRunCursors, *, only: EventFilter | None = None
    ) -> Response:
        """One stream of runs by name; 204 if all have ended and the reader has all their events.

        A deleted or purged run does not fail the others: the stream has an event for it.

        Raises:
            InvalidCursor: a cursor is ahead of its run.
            RunNotFound, LimitExceeded
        """
        lost: dict[str, RunstoreError] = {}
        left = False
        for run_id, after in cursors.open().items():
            try:
                head = await self._store.head(run_id, deleted=login.user.reads_all)
            except LogUnavailable:
                left = True  # see `follow`
            except (RunDeleted, RunPurged) as error:
                lost[run_id] = error
            else:
                check_cursor(after, head.seq, run_id)
                left = left or not head.closed or after < head.seq - head.deleted
        if not left and not lost:
            return nothing_left()
        with ExitStack() as resources:
            resources.enter_context(self._subscribers.of_user(login.user.user_id))
            for run_id in cursors.open():
                resources.enter_context(self._subscribers.of_run(run_id))
            tail = self._store.joined_tails.open(cursors, lost=lost, only=only)
            return EventStream(joined(tail), login, resources.pop_all())

    async def follow_own(
        self, login: Login, cursors: OwnRunCursors | None, *, only: EventFilter | None = None
    ) -> Response:
        """One stream of all of a user's runs, including new ones. It has no end.

        Args:
            cursors: None: from the beginnings of the active runs.

        Raises:
            InvalidCursor: a cursor is ahead of its run, or too many runs were started since.
            RunNotFound, LimitExceeded, LogUnavailable, Busy
        """
        user_id, tails = login.user.user_id, self._store.joined_tails
        if cursors is None:
            cursors = await tails.own_cursors(user_id)
        else:
            await tails.find_starts(user_id, cursors)  # refuses a cursor that is too far behind
        lost: dict[str, RunstoreError] = {}
        for run_id, after in cursors.open().items():
            try:
                check_cursor(after, (await self._store.head(run_id)).seq, run_id)
            except (RunDeleted, RunPurged) as error:
                lost[run_id] = error
        with ExitStack() as resources:
            resources.enter_context(self._subscribers.of_user(user_id))
            new_runs = resources.enter_context(tails.new_runs(user_id, cursors))
            tail = tails.open(cursors, lost=lost, only=only, new_runs=new_runs)
            return EventStream(joined(tail), login, resources.pop_all())

    async def until_ended(self, login: Login, run_id: str, wait_s: float, receive: Receive) -> None:
        """Return when the run has ended, or after `wait_s`. Until then its reader counts as an open stream.

        Raises:
            ClientGone, Unauthorized: see `attended`.
            RunNotFound, RunDeleted, RunPurged, LimitExceeded
        """
        with self._subscribers.of_user(login.user.user_id), self._subscribers.of_run(run_id):
            found = self._store.get(run_id, wait_s=wait_s, deleted=login.user.reads_all)
            await attended(found, login, receive)


def check_cursor(after: int, head: int, run_id: str) -> None:
    """Refuse a cursor that is ahead of the run."""
    if after > head:
        raise InvalidCursor(f"the cursor {after} is ahead of run {run_id}, whose last seq is {head}")
