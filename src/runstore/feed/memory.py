"""The live feed of one process: a ring of recent frames for each run that somebody follows."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, takewhile

from runstore.core.codec import EncodedEvent, frame
from runstore.core.events import EventType
from runstore.core.ports import Committed, EventFilter

RING_BYTES = 128 << 10  # recent frames of one run; a reader that is further behind reads the log


class FrameChunk:
    """Consecutive frames of one run, made once and shared by all its readers."""

    __slots__ = ("_body", "_bounds", "_types", "ends", "first", "last")

    def __init__(self, run_id: str, first: int, events: Sequence[EncodedEvent]) -> None:
        run = run_id.encode()
        frames: list[bytes] = []
        self._types: list[EventType] = []
        self.ends = False
        for event in events:
            frames.append(frame(run, first + len(frames), event.type.encode(), event.at, event.data))
            self._types.append(event.type)
            if event.ends:
                self.ends = True
                break  # a deletion marker is no part of the stream
        self._body = b"".join(frames)
        self._bounds = list(accumulate(map(len, frames), initial=0))
        self.first = first
        self.last = first + len(frames) - 1

    @property
    def size(self) -> int:
        return len(self._body)

    def body(self, after: int, only: EventFilter | None) -> bytes:
        """The frames with `seq > after` that pass the filter, as one write."""
        skipped = max(0, after - self.first + 1)
        if only is None:
            return self._body[self._bounds[skipped] :]
        last = len(self._types) - 1
        return b"".join(
            self._body[self._bounds[place] : self._bounds[place + 1]]
            for place in range(skipped, last + 1)
            if only.passes(self._types[place], self.ends and place == last)
        )


class MemorySubscription:
    """One reader's place at a run's ring. `first`: the run had no other reader."""

    def __init__(self, channel: "_Channel", first: bool) -> None:
        self._channel = channel
        self._seen = 0
        self.first = first

    def take(self, after: int) -> list[FrameChunk] | None:
        """See `Subscription.take`."""
        with self._channel.lock:
            self._seen = self._channel.version
            chunks = list(takewhile(lambda chunk: chunk.last > after, reversed(self._channel.ring)))
            gap = chunks[-1].first > after + 1 if chunks else self._channel.last > after
        return None if gap else chunks[::-1]

    def correct(self, last: int) -> None:
        """See `Subscription.correct`. News since the last `take` may be newer than the look at the log."""
        with self._channel.lock:
            if self._channel.version == self._seen:
                self._channel.clear()
                self._channel.last = last

    async def wait(self, timeout_s: float) -> bool:
        """See `Subscription.wait`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        with self._channel.lock:
            if self._channel.closed:
                return False
            if self._channel.version != self._seen:
                return True
            self._channel.waiting[future] = loop
        timer = loop.call_later(timeout_s, _settle, [future], False)
        try:
            return await future
        finally:
            timer.cancel()
            with self._channel.lock:
                self._channel.waiting.pop(future, None)


class _Channel:
    """The readers of one run, and what was committed to it since the first of them came."""

    def __init__(self, closed: bool) -> None:
        self.lock = threading.Lock()
        self.closed = closed
        self.ring: deque[FrameChunk] = deque()
        self.size = 0
        self.last = 0
        self.version = 0
        self.readers = 0
        self.waiting: Waiting = {}

    def push(self, chunk: FrameChunk, *, redacts: bool = False) -> "Waiting":
        """Add a chunk; returns who waited for it. One that comes late, or again, is news, but is not kept.

        Args:
            redacts: what is kept of the run is not what the log says any more.
        """
        with self.lock:
            if redacts:
                self.clear()
            if chunk.last <= self.last:
                return self.stir()
            if chunk.first > self.last + 1:  # another process wrote in between
                self.clear()
            self.ring.append(chunk)
            self.size += chunk.size
            while self.size > RING_BYTES:
                self.size -= self.ring.popleft().size
            self.last = chunk.last
            return self.stir()

    def notice(self, seq: int) -> "Waiting":
        """The log has events up to here; returns who waited for them, if they did not come."""
        with self.lock:
            if seq <= self.last:
                return {}
            self.clear()
            self.last = seq
            return self.stir()

    def clear(self) -> None:
        self.ring.clear()
        self.size = 0

    def stir(self) -> "Waiting":
        self.version += 1
        waiting, self.waiting = self.waiting, {}
        return waiting


Waiting = dict["asyncio.Future[bool]", asyncio.AbstractEventLoop]


class MemoryFeed:
    """The port `LiveFeed` for readers in the writer's own process.

    What other processes commit may be told to it as well: `wake_readers`, `tell_listeners`, `notice`.
    """

    def __init__(self) -> None:
        self.closing = False
        self.changes = 0  # of which runs have readers
        self._lock = threading.Lock()
        self._channels: dict[str, _Channel] = {}
        self._listeners: list[Callable[[Committed], None]] = []

    @property
    def followed(self) -> int:
        """How many runs have readers."""
        return len(self._channels)

    @property
    def subscribers(self) -> int:
        """How many readers there are."""
        with self._lock:
            return sum(channel.readers for channel in self._channels.values())

    def followed_runs(self) -> list[str]:
        """Which runs have readers."""
        with self._lock:
            return list(self._channels)

    def publish(self, commits: Sequence[Committed]) -> None:
        """See `LiveFeed.publish`."""
        self.wake_readers(commits)
        self.tell_listeners(commits)

    def wake_readers(self, commits: Sequence[Committed]) -> None:
        """Give the events to who follows their runs."""
        waiting: Waiting = {}
        for commit in commits:
            channel = self._channels.get(commit.run_id)
            if channel is not None:
                chunk = FrameChunk(commit.run_id, commit.first_seq, commit.events)
                waiting |= channel.push(chunk, redacts=commit.redacts)
        _wake(waiting, True)

    def tell_listeners(self, commits: Sequence[Committed]) -> None:
        """Tell who listens of the commits with `control`."""
        for commit in commits:
            if commit.control:
                for listener in self._listeners:
                    listener(commit)

    def notice(self, heads: Mapping[str, int]) -> None:
        """The log has events up to these seqs of runs: who follows one and is behind reads the log."""
        waiting: Waiting = {}
        for run_id, seq in heads.items():
            channel = self._channels.get(run_id)
            if channel is not None:
                waiting |= channel.notice(seq)
        _wake(waiting, True)

    @contextmanager
    def subscribe(self, run_id: str) -> Iterator[MemorySubscription]:
        """See `LiveFeed.subscribe`."""
        with self._lock:
            channel = self._channels.setdefault(run_id, _Channel(closed=self.closing))
            channel.readers += 1
            first = channel.readers == 1
            self.changes += first
        try:
            yield MemorySubscription(channel, first)
        finally:
            with self._lock:
                channel.readers -= 1
                if not channel.readers:
                    del self._channels[run_id]
                    self.changes += 1

    def listen(self, listener: Callable[[Committed], None]) -> None:
        """See `LiveFeed.listen`."""
        self._listeners.append(listener)

    def close(self) -> None:
        """See `LiveFeed.close`."""
        self.closing = True
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            with channel.lock:
                channel.closed = True
                waiting = channel.stir()
            _wake(waiting, False)


def _wake(waiting: Waiting, news: bool) -> None:
    """Settle the futures, with one call for each event loop."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[bool]]] = {}
    for future, loop in waiting.items():
        futures.setdefault(loop, []).append(future)
    for loop, settled in futures.items():
        with suppress(RuntimeError):  # the loop is closed, and with it its readers
            loop.call_soon_threadsafe(_settle, settled, news)


def _settle(futures: Sequence["asyncio.Future[bool]"], news: bool) -> None:
    for future in futures:
        if not future.done():
            future.set_result(news)
