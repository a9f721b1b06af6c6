"""Publishes this process's commits to others from its own thread, so that the log's writer never waits."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import structlog
from msgspec import Struct
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from runstore.core.ports import Committed
from runstore.feed.redis.connection import RedisConnection, wrong_type
from runstore.feed.redis.health import LAST_RETRY_S, RedisHealth, retries
from runstore.feed.redis.wire import (
    MAX_CONTROL_ENTRIES,
    MAX_CONTROL_EVENTS,
    MAX_RUN_ENTRIES,
    Command,
    Keys,
    Part,
    Wire,
    control_events,
    join,
)

# Events waiting for Redis; the oldest are dropped, as readers find them in the log.
MAX_QUEUED_EVENTS = 65_536
MAX_QUEUED_BYTES = 16 << 20  # bytes of data of the events waiting for Redis
MAX_SENT_BYTES = 2 << 20  # bytes of one pipeline, approximately
ACTIVE_EXPIRY_S = 600  # seconds that Redis keeps the stream of a silent run
EXPIRY_REFRESH_S = 60.0  # seconds between two renewals of an active run's expiry
MAX_EXPIRIES = 10_000  # runs whose last renewal is remembered
ENDED_EXPIRY_S = 60  # seconds that Redis keeps the stream of an ended run
CONTROL_EXPIRY_S = 3_600  # seconds that Redis keeps the control stream after its last entry
WAKE_EXPIRY_S = 60  # seconds that Redis keeps the key that wakes a process's reader, after its last use

# Redis' message when a later event was published first; readers then use the log.
REFUSED = "equal or smaller"

log = structlog.get_logger(__name__)


class _Queued(Struct, frozen=True):
    commits: Sequence[Committed]
    events: int
    size: int


class RedisPublisher:
    """Owns the thread that writes to Redis. Each pipeline takes all commits queued during the last one.

    `published`, `refused` and `dropped` count parts of commits, each of one run. `name`: unique in
    `health`.
    """

    def __init__(
        self, connection: RedisConnection, keys: Keys, wire: Wire, health: RedisHealth, name: str
    ) -> None:
        self.published = 0
        self.refused = 0
        self.dropped = 0
        self._connection = connection
        self._keys = keys
        self._wire = wire
        self._health = health
        self._name = name
        self._changed = threading.Condition()
        self._queue: deque[_Queued] = deque()
        self._events = 0
        self._bytes = 0
        self._wake = False
        self._stopping = threading.Event()
        self._expiries: dict[str, float] = {}  # run id → when to renew the expiry of its key
        self._thread = threading.Thread(target=self._run, name=f"runstore-redis-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Publish the queued commits if Redis takes them in time. Safe before start and twice."""
        with self._changed:
            self._stopping.set()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(within_s)

    def publish(self, commits: Sequence[Committed]) -> None:
        """Queue commits; never waits."""
        events = sum([len(commit.events) for commit in commits])
        size = sum([len(event.data) for commit in commits for event in commit.events])
        with self._changed:
            self._queue.append(_Queued(commits, events, size))
            self._events += events
            self._bytes += size
            while self._events > MAX_QUEUED_EVENTS or self._bytes > MAX_QUEUED_BYTES:
                self.dropped += len(self._pop().commits)
            self._changed.notify()

    def wake_reader(self) -> None:
        """Make this process's reader check which runs are followed; never waits."""
        with self._changed:
            self._wake = True
            self._changed.notify()

    def _run(self) -> None:
        backoff = retries()
        while True:
            commits, wake = self._take()
            if not commits and not wake and self._stopping.is_set():
                break
            if self._send(commits, wake or not commits):  # without commits, this tests whether Redis is back
                backoff.reset()
            elif self._stopping.is_set():
                break
            else:
                self._stopping.wait(backoff.next_s())
        self._connection.close()

    def _send(self, commits: Sequence[Committed], wake: bool) -> bool:
        """Publish, and return whether Redis worked."""
        try:
            trouble = self._try(commits, wake)
        except Exception as error:
            if not isinstance(error, RedisError):
                log.exception("redis_publisher_failed")
            with self._changed:
                self.dropped += len(commits)
            self._expiries.clear()  # it is unknown which keys still exist
            trouble = error
        if trouble is None:
            self._health.well(self._name)
            return True
        self._health.lost(self._name, trouble)
        if not isinstance(trouble, OutOfMemoryError):
            self._connection.close()  # a failover may have moved the name to another server
        return False

    def _take(self) -> tuple[list[Committed], bool]:
        with self._changed:
            self._changed.wait_for(
                lambda: self._queue or self._wake or self._stopping.is_set(),
                LAST_RETRY_S if self._health.failed(self._name) else None,
            )
            commits: list[Committed] = []
            size = 0
            while self._queue and size < MAX_SENT_BYTES:
                queued = self._pop()
                commits += queued.commits
                size += queued.size
            wake, self._wake = self._wake, False
            return commits, wake

    def _pop(self) -> _Queued:
        queued = self._queue.popleft()
        self._events -= queued.events
        self._bytes -= queued.size
        return queued

    def _try(self, commits: Sequence[Committed], wake: bool) -> Exception | None:
        """Publish, and return the first error that shows a failing Redis."""
        commands: list[tuple[Command, Part | None]] = []
        now = time.monotonic()
        for part in join(commits):
            commands += self._run_commands(part, now)
        commands += [(command, None) for command in self._control_commands(commits)]
        if wake:
            commands += [
                (("XADD", self._keys.wake, "MAXLEN", 1, "*", "w", "1"), None),
                (("EXPIRE", self._keys.wake, WAKE_EXPIRY_S), None),
            ]
        answers = self._ask([command for command, _ in commands])
        errors = [self._settle(part, answer) for (_, part), answer in zip(commands, answers, strict=True)]
        return next(filter(None, errors), None)

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return self._connection.run(commands)
        except RedisError:
            if self._health.failed(self._name):
                raise
        return self._connection.run(commands)  # retry once: the server may have closed an idle connection

    def _run_commands(self, part: Part, now: float) -> list[tuple[Command, Part | None]]:
        key = self._keys.run(part.run_id)
        last_id, value = f"{part.last_seq}-0", self._wire.run_entry(part)
        add: Command = ("XADD", key, "MAXLEN", "~", MAX_RUN_ENTRIES, last_id, self._wire.tag, value)
        if part.redacts:  # delete first: Redis may refuse the hint, as a later event came first
            self._expiries.pop(part.run_id, None)
            return [(("EXPIRE", key, 0), None), (add, part), (("EXPIRE", key, ACTIVE_EXPIRY_S), None)]
        if part.ends:
            self._expiries.pop(part.run_id, None)
            return [(add, part), (("EXPIRE", key, ENDED_EXPIRY_S), None)]
        if now < self._expiries.get(part.run_id, 0.0):
            return [(add, part)]
        if len(self._expiries) >= MAX_EXPIRIES:
            self._expiries.clear()  # most of these runs may have ended in other processes
        self._expiries[part.run_id] = now + EXPIRY_REFRESH_S
        return [(add, part), (("EXPIRE", key, ACTIVE_EXPIRY_S), None)]

    def _control_commands(self, commits: Sequence[Committed]) -> list[Command]:
        key, events = self._keys.control, control_events(commits)
        commands: list[Command] = []
        for start in range(0, len(events), MAX_CONTROL_EVENTS):
            value = self._wire.control_entry(events[start : start + MAX_CONTROL_EVENTS])
            commands.append(("XADD", key, "MAXLEN", "~", MAX_CONTROL_ENTRIES, "*", self._wire.tag, value))
        if commands:
            commands.append(("EXPIRE", key, CONTROL_EXPIRY_S))
        return commands

    def _settle(self, part: Part | None, answer: Any) -> ResponseError | None:
        """Count the outcome of a part; return the error if it shows a failing Redis."""
        error = answer if isinstance(answer, ResponseError) else None
        if part is None:
            return None if error and wrong_type(error) else error
        if error is None:
            self.published += 1
            return None
        if REFUSED in str(error):
            self.refused += 1
            return None
        with self._changed:
            self.dropped += 1
        self._expiries.pop(part.run_id, None)
        return None if wrong_type(error) else error
