"""How every surface follows a run: the answer to a cursor."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from starlette.responses import Response
from starlette.types import Receive

from runstore.core.errors import InvalidCursor, LogUnavailable
from runstore.core.ports import EventFilter
from runstore.http.chat_stream import CHAT_EVENTS, ChatTail, Chunks
from runstore.http.sse import EventStream, Frames, nothing_left
from runstore.http.subscribers import Subscribers
from runstore.http.users import Login
from runstore.http.watched import attended
from runstore.store import RunStore


class Following:
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
        as_chunks: bool = False,
        left: Callable[[], Awaitable[None]] | None = None,
    ) -> Response:
        """The run's stream after a cursor; 204 at the end of a closed run.

        Args:
            as_chunks: as chunks of OpenAI's chat completions.
            left: called when the client goes before the run's end.

        Raises:
            InvalidCursor: it is ahead of the run.
            RunNotFound, RunDeleted, RunPurged, LimitExceeded
        """
        run = None
        try:
            head = await self._store.head(run_id)
            run = (await self._store.get(run_id)).run if as_chunks else None
        except LogUnavailable:
            if as_chunks:
                raise
            # an error would end an EventSource for ever; the stream idles until the log is back
        else:
            check_cursor(after, head.seq, run_id)
            if head.closed and after == head.seq:
                return nothing_left()
        with ExitStack() as places:
            places.enter_context(self._subscribers.of_user(login.user.user_id))
            places.enter_context(self._subscribers.of_run(run_id))
            frames: Frames = self._store.tail(run_id, after=after, only=only)
            if run is not None:
                whole = self._store.tail(run_id, after=0, only=CHAT_EVENTS)
                frames = ChatTail(whole, Chunks(run, after=after))
            return EventStream(frames, login, places.pop_all(), left=left)

    async def until_ended(self, login: Login, run_id: str, wait_s: float, receive: Receive) -> None:
        """Return when the run has ended, or after `wait_s`. Meanwhile its reader counts as one of a stream.

        Raises:
            ClientGone, Unauthorized: see `attended`.
            RunNotFound, RunDeleted, RunPurged, LimitExceeded
        """
        with self._subscribers.of_user(login.user.user_id), self._subscribers.of_run(run_id):
            await attended(self._store.get(run_id, wait_s=wait_s), login, receive)


def check_cursor(after: int, head: int, run_id: str) -> None:
    """Refuse a cursor that is ahead of the run."""
    if after > head:
        raise InvalidCursor(f"the cursor {after} is ahead of run {run_id}, whose last seq is {head}")
