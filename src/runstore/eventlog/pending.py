"""Appends waiting for the writer: bounded, fair between runs, and in order within each run.

Each run has a lane. Streamed text joins the last append of its lane, so that a token costs one list entry.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from runstore.core.errors import LogUnavailable
from runstore.core.events import CancelRequested
from runstore.eventlog.admission import Append

MAX_RUN_EVENTS = 4_096  # streamed events that one run may have waiting
MAX_RUN_BYTES = 4 << 20  # bytes of their data; at least one event of the largest size
MAX_EVENTS = 65_536  # streamed events that all runs of the process may have waiting
MAX_BYTES = 64 << 20  # bytes of their data, all of which is in memory
MAX_JOINED = 256  # events joined into one append, the unit of taking turns
# Events of one transaction: about 4 ms of SQLite, which an urgent append may have to wait for.
MAX_BATCH_EVENTS = 1_024
MAX_URGENT_EVENTS = 256  # events of a transaction with an urgent append, so that it is committed soon
MAX_BATCH_BYTES = 8 << 20  # bytes of data of one transaction, for which all its appends wait


class _Load:
    """The waiting events and bytes."""

    __slots__ = ("events", "size")

    def __init__(self) -> None:
        self.events = 0
        self.size = 0

    def add(self, append: Append, sign: int = 1) -> None:
        self.events += sign * len(append.events)
        self.size += sign * append.size


class _Lane(_Load):
    """One run's waiting appends."""

    __slots__ = ("appends", "urgent")

    def __init__(self) -> None:
        super().__init__()
        self.appends: deque[Append] = deque()
        self.urgent = 0

    @property
    def stored(self) -> int:
        """The number of its events to store."""
        return sum(len(append.events) for append in without_cancelled_text(self.appends))

    def push(self, append: Append) -> None:
        last = self.appends[-1] if self.appends else None
        self.add(append)
        self.urgent += append.urgent
        if last is not None and _joins(append, last):
            last.events += append.events
            last.size += append.size
        else:
            self.appends.append(append)

    def pop(self) -> Append:
        append = self.appends.popleft()
        self.add(append, -1)
        self.urgent -= append.urgent
        return append


class _Batch(_Load):
    """The contents of one transaction. A full one starts no other lane; discarded text does not count."""

    __slots__ = ("appends", "limit")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.appends: list[Append] = []
        self.limit = limit  # events

    @property
    def full(self) -> bool:
        return self.events >= self.limit or self.size >= MAX_BATCH_BYTES

    def push(self, *appends: Append) -> None:
        self.appends += appends
        for append in without_cancelled_text(appends):
            self.add(append)


class PendingAppends:
    """A queue with many producers and one consumer, the writer.

    Urgent appends (lifecycle, cancel, an agent's write-ahead) are always accepted: the number of runs bounds
    them. All others are refused while their run, or the process, has too much waiting.
    """

    def __init__(self) -> None:
        self._news = threading.Condition(threading.Lock())
        self._idle = False
        self._closed = False
        self._lanes: dict[str, _Lane] = {}
        self._load = _Load()
        self._wakes: list[Callable[[], None]] = []

    @property
    def load(self) -> tuple[int, int]:
        """The waiting events, and their bytes of data."""
        return self._load.events, self._load.size

    def put(self, append: Append) -> bool:
        """Queue an append; False if it is not urgent and there is no room for it.

        Raises:
            LogUnavailable: the log is closed.
        """
        with self._news:
            if self._closed:
                raise LogUnavailable("the log is closed")
            lane = self._lanes.get(append.run_id) or _Lane()
            if not append.urgent and self._full(lane):
                return False
            self._lanes[append.run_id] = lane
            lane.push(append)
            self._load.add(append)
            if self._idle:
                self._news.notify()
            return True

    def when_room(self, wake: Callable[[], None]) -> None:
        """Call `wake`, once, when the writer has made room. It must not block."""
        with self._news:
            if self._lanes:
                self._wakes.append(wake)
                return
        wake()

    def take(self) -> list[Append]:
        """Wait for appends and take a batch: urgent lanes first, then one turn for each.

        Empty once closed.
        """
        with self._news:
            while not self._lanes and not self._closed:
                self._idle = True
                self._news.wait()
                self._idle = False
            batch = self._take_turns()
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()
        return batch

    def take_impatient(self) -> list[Append]:
        """Take every append that must fail rather than wait for the log to recover."""
        taken: list[Append] = []
        with self._news:
            for run_id, lane in list(self._lanes.items()):
                impatient = [a for a in lane.appends if not a.patient]
                if impatient:
                    taken += impatient
                    self._rearrange(run_id, [a for a in lane.appends if a.patient])
            wakes, self._wakes = self._wakes, []
        for wake in wakes:  # the queue may be empty now, so the writer would not call them
            wake()
        return taken

    def close(self) -> None:
        """Accept no more appends; `take` still returns the waiting ones."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _full(self, lane: _Lane) -> bool:
        load = self._load
        return (
            lane.events >= MAX_RUN_EVENTS
            or lane.size >= MAX_RUN_BYTES
            or load.events >= MAX_EVENTS
            or load.size >= MAX_BYTES
        )

    def _take_turns(self) -> list[Append]:
        urgent = {run_id: lane for run_id, lane in self._lanes.items() if lane.urgent}
        batch = _Batch(MAX_URGENT_EVENTS if urgent else MAX_BATCH_EVENTS)
        # The fewest stored first, so that none waits behind a flood.
        for run_id in sorted(urgent, key=lambda run_id: urgent[run_id].stored):
            if batch.full:
                break
            batch.push(*self._pop_urgent(run_id, urgent[run_id]))
        while self._lanes:  # at least once, so that urgent ones do not starve the first of the line
            run_id, lane = next(iter(self._lanes.items()))
            batch.push(self._pop(run_id, lane))
            if lane.appends:
                self._lanes[run_id] = self._lanes.pop(run_id)  # to the end of the line
            if batch.full:
                break
        return batch.appends

    def _pop_urgent(self, run_id: str, lane: _Lane) -> list[Append]:
        popped = []
        while lane.urgent:
            popped.append(self._pop(run_id, lane))
        return popped

    def _pop(self, run_id: str, lane: _Lane) -> Append:
        append = lane.pop()
        self._load.add(append, -1)
        if not lane.appends:
            del self._lanes[run_id]
        return append

    def _rearrange(self, run_id: str, appends: list[Append]) -> None:
        lane = _Lane()
        for append in self._lanes.pop(run_id).appends:
            self._load.add(append, -1)
        for append in appends:
            lane.push(append)
            self._load.add(append)
        if appends:
            self._lanes[run_id] = lane


def without_cancelled_text(batch: Sequence[Append]) -> Sequence[Append]:
    """The batch without text that a cancel overtook, as a run that must stop need not store it first.

    It is omitted only at this point: if the cancel is not stored, the text still is.
    """
    if not any(append.events[0].type == CancelRequested.type for append in batch):
        return batch
    kept: list[Append] = []
    cancelled: set[str] = set()
    for append in reversed(batch):
        if append.events[0].type == CancelRequested.type:
            cancelled.add(append.run_id)
        elif append.run_id in cancelled and _is_text(append):
            continue
        kept.append(append)
    return kept[::-1]


def _joins(append: Append, last: Append) -> bool:
    return (
        _is_text(append)
        and _is_text(last)
        and last.attempt == append.attempt
        and len(last.events) < MAX_JOINED
    )


def _is_text(append: Append) -> bool:
    return append.text and not append.urgent and append.waiter is None
