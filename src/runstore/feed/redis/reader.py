"""Receives other processes' commits: one thread reads the streams of all runs that are followed here."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError, ResponseError

from runstore.core.ports import Committed
from runstore.feed.memory import MemoryFeed
from runstore.feed.redis.connection import RedisConnection, wrong_type
from runstore.feed.redis.health import RedisHealth, retries
from runstore.feed.redis.stream_ids import BEGINNING, StreamIds
from runstore.feed.redis.wire import Entry, Keys, Wire

BLOCK_S = 1.0  # seconds that Redis waits for entries; then the reader checks which runs are followed
READ_ENTRIES = 32  # entries of each stream per read
FIND_RUNS = 250  # streams per request for their last entries
BARRED_S = 30.0  # seconds to skip a key of a wrong type, as it would fail the XREAD of all the others

log = structlog.get_logger(__name__)


class RedisReader:
    """Owns the thread that reads from Redis, and passes commits on to the process's own feed.

    It reads a newly followed run from its last entry on. Earlier events are in the log, and a subscriber that
    has not read them yet notices a gap; the reader delivers all later ones. So no event is missed between a
    subscriber's read of the log and the first read of the stream.

    Args:
        followed_runs: the runs to read, of those that are followed in `feed`.
        name: unique in `health`.
    """

    def __init__(
        self,
        connection: RedisConnection,
        keys: Keys,
        wire: Wire,
        health: RedisHealth,
        feed: MemoryFeed,
        followed_runs: Callable[[], Iterable[str]],
        name: str,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._wire = wire
        self._health = health
        self._feed = feed
        self._followed_runs = followed_runs
        self._name = name
        self._stopping = threading.Event()
        self._ids = StreamIds((b"COUNT", b"%d" % READ_ENTRIES, b"BLOCK", b"%d" % int(BLOCK_S * 1000)))
        self._barred: dict[bytes, float] = {}  # keys of a wrong type → when to try them again
        self._changes = -1  # the feed's count of changes at the last check of the followed runs
        self._thread = threading.Thread(target=self._run, name=f"runstore-redis-{name}", daemon=True)

    @property
    def streams(self) -> int:
        """Streams that are read: the followed runs', the control stream, and this process's wake-ups."""
        return len(self._ids)

    def start(self) -> None:
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """End the thread; wake it first to end it at once. Safe before start and twice."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)

    def _run(self) -> None:
        backoff = retries()
        while not self._stopping.is_set():
            try:
                self._follow()
                self._read()
                self._health.well(self._name)
                backoff.reset()
            except RedisError as error:
                self._lose(error)
                self._stopping.wait(backoff.next_s())
            except Exception:
                log.exception("redis_reader_failed")
                self._lose("see above")
                self._stopping.wait(backoff.next_s())
        self._connection.close()

    def _lose(self, error: object) -> None:
        self._connection.close()
        for key in (self._keys.control, self._keys.wake):
            self._ids.discard(key)  # an emptied Redis with a slow clock assigns lower ids again
        self._changes = -1
        self._health.lost(self._name, error)

    # Which streams to read, and from where.

    def _follow(self) -> None:
        now = time.monotonic()
        if over := [key for key, until in self._barred.items() if until <= now]:
            for key in over:
                del self._barred[key]
        elif self._feed.changes == self._changes:
            return
        changes = self._feed.changes
        wanted = {self._keys.wake, self._keys.control, *map(self._keys.run, self._followed_runs())}
        for key in set(self._ids.keys) - wanted:
            self._ids.discard(key)
        new = wanted.difference(self._ids.keys, self._barred)
        if self._keys.wake in new:
            # Read from the start: a spurious wake-up is harmless, a lost one is not.
            self._ids.set(self._keys.wake, BEGINNING)
            new.remove(self._keys.wake)
        self._find_last_ids(list(new))
        self._changes = changes

    def _find_last_ids(self, keys: Sequence[bytes]) -> None:
        for start in range(0, len(keys), FIND_RUNS):
            some = keys[start : start + FIND_RUNS]
            answers = self._connection.run([("XREVRANGE", key, "+", "-", "COUNT", 1) for key in some])
            for key, found in zip(some, answers, strict=True):
                if isinstance(found, ResponseError):
                    if not wrong_type(found):
                        raise found
                    self._bar(key, found)
                else:
                    self._ids.set(key, found[0][0] if found else BEGINNING)
                    if key != self._keys.control:
                        self._deliver(key, found)

    def _bar(self, key: bytes, error: object) -> None:
        self._ids.discard(key)
        self._barred[key] = time.monotonic() + BARRED_S
        log.warning("redis_key_unusable", key=key.decode(), error=str(error))

    # Reading entries.

    def _read(self) -> None:
        if not self._ids:
            self._stopping.wait(BLOCK_S)
            return
        answer = self._connection.run_packed(self._ids.command())
        if isinstance(answer, ResponseError):
            self._bar_wrong_ones(answer)
            return
        for key, entries in answer or ():
            self._ids.set(key, entries[-1][0])
            self._deliver(key, entries)

    def _bar_wrong_ones(self, error: ResponseError) -> None:
        """Skip the keys that are not streams and made the read fail."""
        keys = list(self._ids.keys)
        types = self._connection.run([("TYPE", key) for key in keys])
        wrong = [
            key for key, type in zip(keys, types, strict=True)
            if isinstance(type, bytes) and type not in (b"stream", b"none")
        ]  # fmt: skip
        if not wrong:
            raise error
        for key in wrong:
            self._bar(key, error)

    def _deliver(self, key: bytes, entries: Sequence[Any]) -> None:
        if key == self._keys.control:
            self._tell([commit for entry in entries for commit in self._wire.read_control(entry)])
        elif key != self._keys.wake:
            self._show(self._keys.run_id(key), entries)

    def _tell(self, commits: Sequence[Committed]) -> None:
        for commit in commits:
            try:
                self._feed.tell_listeners([commit])
            except Exception:  # a listener's error must not stop the reader
                log.exception("callback_failed")

    def _show(self, run_id: str, entries: Sequence[Entry]) -> None:
        for entry in entries:
            news = self._wire.read_run(run_id, entry)
            if isinstance(news, Committed):
                self._feed.wake_readers([news])
            elif news is not None:
                self._feed.notice({run_id: news})
