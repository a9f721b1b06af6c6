"""The live feed of several processes: each publishes its commits to the others through Redis.

Redis is a hint and a cache. Polling (`HeadPoll`) covers lost messages and an unavailable Redis, because the
log has every event.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from runstore.core.ports import Committed
from runstore.feed.memory import MemoryFeed, MemorySubscription
from runstore.feed.redis.connection import ANSWER_S, RedisConnection
from runstore.feed.redis.health import RedisHealth
from runstore.feed.redis.publisher import RedisPublisher
from runstore.feed.redis.reader import BLOCK_S, RedisReader
from runstore.feed.redis.wire import Keys, Wire

STOP_S = 1.0  # seconds at stop for queued commits to be published, and again for the reader to end


class RedisFeed:
    """The port `LiveFeed` over this process's own feed, which keeps the rings and wakes the readers.

    Entering it starts two threads. `close` ends only the readers' streams: later commits still reach other
    processes until the feed is stopped.

    Args:
        prefix: of all keys. Each database needs its own, because listeners receive events of all its runs.
        local: the feed of this process.

    Raises:
        ConfigError: the URL is malformed. An unreachable Redis is no error; events then arrive late.
    """

    def __init__(self, url: str, *, prefix: str = "runstore", local: MemoryFeed | None = None) -> None:
        self.local = local or MemoryFeed()
        process = secrets.token_hex(4)
        keys, wire = Keys(prefix, process), Wire(process)
        self._health = RedisHealth()
        self._publisher = RedisPublisher(RedisConnection(url), keys, wire, self._health)
        blocking = RedisConnection(url, answer_s=BLOCK_S + ANSWER_S)
        self._reader = RedisReader(blocking, keys, wire, self._health, self.local)

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
        return self._publisher.published

    @property
    def refused(self) -> int:
        """Parts that Redis refused because another process had published a later event; this is normal."""
        return self._publisher.refused

    @property
    def dropped(self) -> int:
        """Parts that other processes find only in the log, because Redis was lost, full or too slow."""
        return self._publisher.dropped

    @property
    def streams(self) -> int:
        """Streams that the reader reads."""
        return self._reader.streams

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
        self._publisher.start()
        self._reader.start()

    def stop(self) -> None:
        """Publish the queued commits and end the threads; waits. Safe before start and twice."""
        self._reader.stop(0)
        self._publisher.wake_reader()
        self._publisher.stop(STOP_S)
        self._reader.stop(STOP_S)

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
            self._publisher.publish(commits)

    @contextmanager
    def subscribe(self, run_id: str) -> Iterator[MemorySubscription]:
        """See `LiveFeed.subscribe`."""
        with self.local.subscribe(run_id) as subscription:
            if subscription.first:
                self._publisher.wake_reader()
            yield subscription

    def listen(self, listener: Callable[[Committed], None]) -> None:
        """See `LiveFeed.listen`."""
        self.local.listen(listener)

    def close(self) -> None:
        """See `LiveFeed.close`."""
        self.local.close()
