"""The live feed of one process: a ring of recent events for each run that has readers."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from runstore.core.codec import TailEvent
from runstore.core.ports import Committed

RING_BYTES = 128 << 10  # bytes of recent events of one run; a reader further behind reads the log
ENVELOPE_BYTES = 200  # bytes that an event takes besides its data, approximately


class MemorySubscription:
    """One reader's position in a run's ring. `first`: the run had no other reader."""

    def __init__(self, channel: "_Channel", first: bool) -> None:
        self._channel = channel
        self._seen = 0
        self.first = first

    @property
    def generation(self) -> int:
        """See `Subscription.generation`."""
        return self._channel.generation

    def take(self, after: int) -> list[TailEvent] | None:
        """See `Subscription.take`."""
        with self._channel.lock:
            self._seen = self._channel.version
            missing = self._channel.last - after
            if missing > len(self._channel.ring):
                return None
            return self._channel.ring[-missing:] if missing > 0 else []

    def correct(self, last: int) -> None:
        """See `Subscription.correct`. Events since the last `take` may be newer than the read of the log."""
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
    """The readers of one run, and the events that were committed since the first of them came.

    The ring's events are consecutive, and `last` is the seq of its last one.
    """

    def __init__(self, closed: bool) -> None:
        self.lock = threading.Lock()
        self.closed = closed
        self.ring: list[TailEvent] = []
        self.size = 0
        self.last = 0
        self.version = 0
        self.generation = 0
        self.readers = 0
        self.waiting: Waiting = {}

    def push(self, events: Sequence[TailEvent], *, redacts: bool = False) -> "Waiting":
        """Add consecutive events; return the waiting readers. Late and repeated events only wake readers.

        Args:
            redacts: the kept events may differ from the log and are dropped.
        """
        with self.lock:
            if redacts:
                self.clear()
                self.generation += 1
            if events[-1].seq <= self.last or (self.ring and self.ring[-1].ends):
                return self.stir()
            if events[0].seq > self.last + 1:  # another process wrote in between
                self.clear()
                self.generation += 1
                self.last = events[0].seq - 1
            new = events[self.last + 1 - events[0].seq :]
            self.ring.extend(new)
            self.size += len(new) * ENVELOPE_BYTES + sum([len(event.data) for event in new])
            excess = 0
            while self.size > RING_BYTES:
                self.size -= ENVELOPE_BYTES + len(self.ring[excess].data)
                excess += 1
            del self.ring[:excess]
            self.last = events[-1].seq
            return self.stir()

    def notice(self, seq: int) -> "Waiting":
        """The log has events up to here; return the readers that waited for them, if the ring lacks them."""
        with self.lock:
            if seq <= self.last:
                return {}
            self.clear()
            self.generation += 1
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

    Other processes' commits come in by `wake_readers`, `tell_listeners` and `notice`.
    """

    def __init__(self) -> None:
        self.closing = False
        self.changes = 0  # number of changes to the set of followed runs
        self._lock = threading.Lock()
        self._channels: dict[str, _Channel] = {}
        self._listeners: list[Callable[[Committed], None]] = []

    @property
    def followed(self) -> int:
        """The number of runs that have readers."""
        return len(self._channels)

    @property
    def subscribers(self) -> int:
        """The number of readers."""
        with self._lock:
            return sum(channel.readers for channel in self._channels.values())

    def followed_runs(self) -> list[str]:
        """The runs that have readers."""
        with self._lock:
            return list(self._channels)

    def publish(self, commits: Sequence[Committed]) -> None:
        """See `LiveFeed.publish`."""
        self.wake_readers(commits)
        self.tell_listeners(commits)

    def wake_readers(self, commits: Sequence[Committed]) -> None:
        """Pass the events to the readers of their runs."""
        waiting: Waiting = {}
        for commit in commits:
            channel = self._channels.get(commit.run_id)
            if channel is not None:
                waiting |= channel.push(_tail_events(commit), redacts=commit.redacts)
        _wake(waiting, True)

    def tell_listeners(self, commits: Sequence[Committed]) -> None:
        """Pass the commits with `control` to the listeners."""
        for commit in commits:
            if commit.control:
                for listener in self._listeners:
                    listener(commit)

    def notice(self, heads: Mapping[str, int]) -> None:
        """Note the heads of runs in the log; readers behind them read the log."""
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


def _tail_events(commit: Committed) -> list[TailEvent]:
    events = [
        TailEvent(commit.run_id, seq, event.type, event.ends, event.at, event.data, event.version)
        for seq, event in enumerate(commit.events, commit.first_seq)
    ]
    endings = [count for count, event in enumerate(events, 1) if event.ends]
    return events[: endings[0]] if endings else events  # a deletion marker is not part of the stream


def _wake(waiting: Waiting, news: bool) -> None:
    """Settle the futures, with one call per event loop."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[bool]]] = {}
    for future, loop in waiting.items():
        futures.setdefault(loop, []).append(future)
    for loop, settled in futures.items():
        with suppress(RuntimeError):  # the loop is closed, and so are its readers
            loop.call_soon_threadsafe(_settle, settled, news)


def _settle(futures: Sequence["asyncio.Future[bool]"], news: bool) -> None:
    for future in futures:
        if not future.done():
            future.set_result(news)
