"""The live feed of several processes: each publishes its commits to the others through Redis.

Redis is a hint and a cache. Polling (`HeadPoll`) covers lost messages and an unavailable Redis, because the
log has every event.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self
from zlib import crc32

from runstore.core.ports import Committed
from runstore.feed.memory import MemoryFeed, MemorySubscription
from runstore.feed.redis.connection import RedisConnection
from runstore.feed.redis.health import RedisHealth
from runstore.feed.redis.publisher import RedisPublisher
from runstore.feed.redis.reader import BLOCK_S, RedisReader
from runstore.feed.redis.topology import ANSWER_S, read_topology
from runstore.feed.redis.wire import Keys, Wire

STOP_S = 1.0  # seconds at stop for queued commits to be published, and again for the readers to end


class _Lane(NamedTuple):
    """A part of the runs, with the threads that publish and read their commits."""

    publisher: RedisPublisher
    reader: RedisReader


class RedisFeed:
    """The port `LiveFeed` over this process's own feed, which keeps the rings and wakes the readers.

    Entering it starts two threads for each lane, of which only a cluster has several. `close` ends only the
    readers' streams: later commits still reach other processes until the feed is stopped.

    Args:
        prefix: of all keys. Each database needs its own, because listeners receive events of all its runs.
        local: the feed of this process.

    Raises:
        ConfigError: the URL is malformed. An unreachable Redis is no error; events then arrive late.
    """

    def __init__(self, url: str, *, prefix: str = "runstore", local: MemoryFeed | None = None) -> None:
        self.local = local or MemoryFeed()
        self._health = RedisHealth()
        topology = read_topology(url)
        process = secrets.token_hex(4)
        wire = Wire(process)

        def lane(number: int) -> _Lane:
            keys = Keys(topology.prefix(prefix, number), process)
            publishing = RedisConnection(topology, number)
            blocking = RedisConnection(topology, number, answer_s=BLOCK_S + ANSWER_S)
            return _Lane(
                RedisPublisher(publishing, keys, wire, self._health, f"publisher {number}"),
                RedisReader(
                    blocking, keys, wire, self._health, self.local,
                    lambda: self._followed(number), f"reader {number}",
                ),
            )  # fmt: skip

        self._lanes = [lane(number) for number in range(topology.lanes)]

    # Counts since the start, for metrics.

    @property
    def connected(self) -> bool:
        """Whether Redis answers and accepts commands."""
        return self._health.connected

    @property
    def reconnects(self) -> int:
        """How often the publisher or the reader lost Redis and got it back."""
        return self._health.reconnects

    @property
    def published(self) -> int:
        """Parts of commits, each of one run, that reached other processes."""
        return sum(lane.publisher.published for lane in self._lanes)

    @property
    def refused(self) -> int:
        """Parts that Redis refused because another process had published a later event; this is normal."""
        return sum(lane.publisher.refused for lane in self._lanes)

    @property
    def dropped(self) -> int:
        """Parts that other processes find only in the log, because Redis was lost, full or too slow."""
        return sum(lane.publisher.dropped for lane in self._lanes)

    @property
    def streams(self) -> int:
        """Streams that the readers read."""
        return sum(lane.reader.streams for lane in self._lanes)

    @property
    def followed(self) -> int:
        """Runs that have readers."""
        return self.local.followed

    @property
    def subscribers(self) -> int:
        """Readers of this process."""
        return self.local.subscribers

    @property
    def closing(self) -> bool:
        """See `LiveFeed.closing`."""
        return self.local.closing

    def start(self) -> None:
        """Start publishing and reading."""
        for lane in self._lanes:
            lane.publisher.start()
            lane.reader.start()

    def stop(self) -> None:
        """Publish the queued commits and end the threads; waits. Safe before start and twice."""
        for lane in self._lanes:
            lane.reader.stop(0)
            lane.publisher.wake_reader()
        _stop_all([lane.publisher for lane in self._lanes])
        _stop_all([lane.reader for lane in self._lanes])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def publish(self, commits: Sequence[Committed]) -> None:
        """See `LiveFeed.publish`."""
        try:
            self.local.publish(commits)
        finally:  # publish even if a listener failed
            for number, lane in enumerate(self._lanes):
                if some := self._of(number, commits):
                    lane.publisher.publish(some)

    @contextmanager
    def subscribe(self, run_id: str) -> Iterator[MemorySubscription]:
        """See `LiveFeed.subscribe`."""
        with self.local.subscribe(run_id) as subscription:
            if subscription.first:
                self._lanes[self._lane_of(run_id)].publisher.wake_reader()
            yield subscription

    def listen(self, listener: Callable[[Committed], None]) -> None:
        """See `LiveFeed.listen`."""
        self.local.listen(listener)

    def close(self) -> None:
        """See `LiveFeed.close`."""
        self.local.close()

    def _lane_of(self, run_id: str) -> int:
        """Every process must compute the same lane of a run."""
        return crc32(run_id.encode()) % len(self._lanes)

    def _of(self, lane: int, commits: Sequence[Committed]) -> Sequence[Committed]:
        if len(self._lanes) == 1:
            return commits
        return [commit for commit in commits if self._lane_of(commit.run_id) == lane]

    def _followed(self, lane: int) -> list[str]:
        runs = self.local.followed_runs()
        return runs if len(self._lanes) == 1 else [run for run in runs if self._lane_of(run) == lane]


def _stop_all(threads: Sequence[RedisPublisher | RedisReader]) -> None:
    """Stop them in STOP_S together."""
    end = time.monotonic() + STOP_S
    for thread in threads:
        thread.stop(max(0.0, end - time.monotonic()))
