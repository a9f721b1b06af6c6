"""The live feed of several processes: each tells the others by Redis what it has committed.

Redis is a hint and a cache. Without it, or after it has lost everything, readers find in the log what they
were not told; see `HeadPoll`.
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

STOP_S = 1.0  # for what has queued to be published when the process stops; as long again for the reader


class RedisFeed:
    """The port `LiveFeed` over this process's own feed, which keeps the rings and wakes the readers.

    Entered, it has two threads. `close` ends the readers' streams only: what is committed afterwards still
    goes to other processes, until the feed is stopped.

    Args:
        prefix: of all keys; one for each database, for listeners hear of all its runs.
        local: the feed of this process.

    Raises:
        ConfigError: the URL is malformed. A Redis that cannot be reached is none: it costs time only.
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
        """Whether Redis does what it is asked."""
        return self._health.connected

    @property
    def reconnects(self) -> int:
        """How often it was lost and came back, to the publisher or the reader."""
        return self._health.reconnects

    @property
    def published(self) -> int:
        """Runs' parts of commits that others were told of."""
        return self._publisher.published

    @property
    def refused(self) -> int:
        """Those for which another process had published a later event; nothing is wrong."""
        return self._publisher.refused

    @property
    def dropped(self) -> int:
        """Those that others find in the log only: Redis was lost, full or too slow."""
        return self._publisher.dropped

    @property
    def streams(self) -> int:
        """How many streams are read."""
        return self._reader.streams

    @property
    def followed(self) -> int:
        """How many runs have readers."""
        return self.local.followed

    @property
    def subscribers(self) -> int:
        """How many readers there are."""
        return self.local.subscribers

    @property
    def closing(self) -> bool:
        """See `LiveFeed.closing`."""
        return self.local.closing

    def start(self) -> None:
        """Begin to publish and to read."""
        self._publisher.start()
        self._reader.start()

    def stop(self) -> None:
        """Publish what has queued, and end the threads; waits. Safe before the start, and twice."""
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
        finally:  # also when a listener failed
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
