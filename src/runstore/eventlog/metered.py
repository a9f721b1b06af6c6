"""Measures the log: decorators around the store and the feed count once per commit.

Only the writer's thread counts, so there are no locks; readers see slightly old numbers.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import structlog

from runstore.core.codec import EncodedEvent
from runstore.core.errors import LeaseLost, RunClosed, RunstoreError
from runstore.core.events import ENDINGS, CancelRequested, Queued, Started
from runstore.core.ports import Committed, Publisher
from runstore.eventlog.admission import Append
from runstore.eventlog.writer import AppendResult, CommitResult, Store

COMMIT_EVENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CANCEL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0, 30.0)
MAX_CANCELS_SEEN = 10_000  # cancels whose ending is awaited; the oldest may have ended in another process

log = structlog.get_logger(__name__)


class Histogram:
    """A histogram: the number of values up to each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Each upper bound with the number of values up to it; `+Inf` last."""
        found, total = [], 0
        for bound, count in zip([*map(str, map(float, self._bounds)), "+Inf"], self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class LogCounts:
    """Counts of this process's log since it was opened."""

    def __init__(self) -> None:
        self.appends = Counter[str]()  # outcome (stored, refused) → number
        self.events = 0
        # Events of agents that no longer own their run, by the refusal's code.
        self.late_events = Counter[str]()
        self.commit_failures = 0
        self.commit_events = Histogram(COMMIT_EVENTS)
        self.commit_seconds = Histogram(SECONDS)
        self.publish_lag = Histogram(SECONDS)
        self.queued = 0
        self.attempts = Counter[str]()  # reason → number
        self.ended = Counter[str]()  # status → number
        self.cancels = 0
        self.cancel_seconds = Histogram(CANCEL_SECONDS)
        self._cancelled_at: dict[str, int] = {}

    def committed(self, batch: Sequence[Append], result: CommitResult, seconds: float) -> None:
        events = sum([len(commit.events) for commit in result.commits])
        if events:
            self.events += events
            self.commit_events.observe(events)
            self.commit_seconds.observe(seconds)
        refused = self._refused(batch, result.results)
        self.appends["refused"] += refused
        self.appends["stored"] += len(batch) - refused
        for commit in result.commits:
            if commit.control:
                for event in commit.events:
                    if count := _CONTROL.get(event.type):
                        count(self, commit.run_id, event)

    def published(self, commits: Sequence[Committed]) -> None:
        if commits:
            oldest = min([commit.events[0].at for commit in commits])
            self.publish_lag.observe(max(0.0, time.time() - oldest / 1000))

    def _refused(self, batch: Sequence[Append], results: Sequence[AppendResult]) -> int:
        refused = 0
        for append, result in zip(batch, results, strict=True):
            if isinstance(result, RunstoreError):
                refused += 1
                if append.attempt is not None and isinstance(result, RunClosed | LeaseLost):
                    self.late_events[result.code] += len(append.events)
        return refused

    def _count_queued(self, run_id: str, event: EncodedEvent) -> None:
        self.queued += 1

    def _count_started(self, run_id: str, event: EncodedEvent) -> None:
        self.attempts[msgspec.json.decode(event.data, type=Started).reason] += 1

    def _count_cancel(self, run_id: str, event: EncodedEvent) -> None:
        self.cancels += 1
        self._cancelled_at[run_id] = event.at
        if len(self._cancelled_at) > MAX_CANCELS_SEEN:
            del self._cancelled_at[next(iter(self._cancelled_at))]

    def _count_ended(self, run_id: str, event: EncodedEvent) -> None:
        self.ended[ENDINGS[event.type].status] += 1
        at = self._cancelled_at.pop(run_id, None)
        if at is not None:
            self.cancel_seconds.observe(max(0, event.at - at) / 1000)


_CONTROL: dict[str, Callable[[LogCounts, str, EncodedEvent], None]] = {
    Queued.type: LogCounts._count_queued,
    Started.type: LogCounts._count_started,
    CancelRequested.type: LogCounts._count_cancel,
    **dict.fromkeys(ENDINGS, LogCounts._count_ended),
}


class MeteredStore:
    """A store whose commits are counted."""

    def __init__(self, store: Store, counts: LogCounts) -> None:
        self._store = store
        self._counts = counts
        self.close = store.close
        self.probe = store.probe

    def commit(self, batch: Sequence[Append]) -> CommitResult:
        """See `Store.commit`."""
        begun = time.perf_counter()
        try:
            result = self._store.commit(batch)
        except Exception:
            self._counts.commit_failures += 1
            raise
        try:
            self._counts.committed(batch, result, time.perf_counter() - begun)
        except Exception:  # the batch is stored; a failure here would store it again
            log.exception("callback_failed")
        return result


class MeteredFeed:
    """A feed that measures the age of a commit's oldest event when its readers are woken."""

    def __init__(self, feed: Publisher, counts: LogCounts) -> None:
        self._feed = feed
        self._counts = counts

    def publish(self, commits: Sequence[Committed]) -> None:
        """See `Publisher.publish`."""
        self._feed.publish(commits)
        self._counts.published(commits)
