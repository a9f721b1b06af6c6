"""Group commit: one thread takes all appends queued during the last commit, and commits them as one.

There is no timer and no delay: at low load an append is committed alone and at once, and at high load the
batches grow by themselves.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog
from msgspec import Struct

from runstore.core.backoff import Backoff
from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import InvalidEvent, LogUnavailable, RunstoreError
from runstore.core.events import Custom, Event, Queued
from runstore.core.limits import MAX_EVENTS_PER_APPEND
from runstore.core.ports import Committed, Publisher, Reservation
from runstore.database.columns import UnstorableText
from runstore.eventlog.admission import MARKERS, Append, Waiter, is_text
from runstore.eventlog.pending import PendingAppends, without_cancelled_text
from runstore.threads import in_own_thread

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0  # seconds between two tries while the log is unavailable
CLOSE_TIMEOUT_S = 1.0  # seconds to commit the queue at close; appends left then were never acknowledged

log = structlog.get_logger(__name__)

AppendResult = int | RunstoreError  # the run's last seq, or the reason of the refusal


class CommitResult(Struct, frozen=True):
    """The result of a batch: a result for each append, and the stored events."""

    results: list[AppendResult]
    commits: list[Committed]


class Store(Protocol):
    """The destination of the writer's batches."""

    def commit(self, batch: Sequence[Append]) -> CommitResult:
        """Store every append that its run accepts, in one transaction, durably.

        Raises:
            LogUnavailable: it is unknown whether the batch was stored. A repeated batch is stored once.
            Exception: nothing was stored; some append of the batch cannot be.
        """

    def probe(self) -> CommitResult:
        """Store a change without meaning, to test whether the log accepts writes again.

        Raises:
            LogUnavailable
        """

    def close(self) -> None: ...


class Writer:
    """Owns the thread that writes. It commits first, then notifies the feed, then the waiting callers."""

    def __init__(self, store: Store, feed: Publisher) -> None:
        self._store = store
        self._feed = feed
        self._pending = PendingAppends()
        self._stopping = threading.Event()
        self.unavailable: LogUnavailable | None = None  # why the log accepts no writes now
        self._thread = threading.Thread(target=self._write, name="runstore-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> tuple[int, int]:
        """The events waiting to be committed, and their bytes."""
        return self._pending.load

    async def append(
        self,
        run_id: str,
        events: Sequence[Event | Custom | EncodedEvent],
        *,
        expected_seq: int | None = None,
        attempt: int | None = None,
        patient: bool = False,
        reservation: Reservation | None = None,
        heard: int | None = None,
    ) -> int:
        """See `LogWriter.append`."""
        encoded = _encode_all(events)
        if self.unavailable and not patient:
            raise LogUnavailable(str(self.unavailable))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        text = all(map(is_text, encoded))
        append = Append(
            run_id, encoded, expected_seq, attempt, patient,
            urgent=patient or (not text and any(map(_moves_run, encoded))), text=text,
            size=sum([len(event.data) for event in encoded]), waiter=Waiter(loop, future),
            reservation=reservation, heard=heard,
        )  # fmt: skip
        while not self._pending.put(append):
            await self.room()
            if self.unavailable:
                raise LogUnavailable(str(self.unavailable))
        return await future

    def offer(
        self, run_id: str, event: EncodedEvent, *, attempt: int, refused: Callable[[RunstoreError], None]
    ) -> bool:
        """See `LogWriter.offer`."""
        text = is_text(event)
        if not text and _moves_run(event):
            raise InvalidEvent(f"a {event.type} event is appended, not offered")
        return self._pending.put(
            Append(
                run_id, [event], None, attempt, patient=True, urgent=False, text=text, size=len(event.data),
                refused=refused,
            )
        )  # fmt: skip

    def room(self) -> Awaitable[None]:
        """See `LogWriter.room`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._pending.when_room(lambda: _call(loop, _resolve, [(future, None)]))
        return future

    async def close(self) -> None:
        """Commit the queue and stop, within CLOSE_TIMEOUT_S while the log is unavailable.

        Safe to call twice.
        """
        self._pending.close()
        await in_own_thread(self._thread.join, CLOSE_TIMEOUT_S)
        self._stopping.set()
        await in_own_thread(self._thread.join, CLOSE_TIMEOUT_S)

    def _write(self) -> None:
        try:
            while batch := self._pending.take():
                self._settle(batch)
                del batch  # do not keep its callers while idle
        finally:
            self._store.close()

    def _settle(self, batch: list[Append]) -> None:
        """Commit a batch: wait until the log is available, and omit appends that cannot be stored."""
        backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        while True:
            kept = without_cancelled_text(batch)
            try:
                result = self._store.commit(kept) if kept else self._probe()
            except LogUnavailable as error:
                held = self._hold(batch, error, backoff.next_s())
                if held is None:
                    return
                batch = held
            except Exception as error:
                self._split(batch, error)
                return
            else:
                self.unavailable = None
                _shielded(self._feed.publish, result.commits)
                _acknowledge(kept, result.results)
                return

    def _probe(self) -> CommitResult:
        try:
            return self._store.probe()
        except LogUnavailable:
            raise
        except Exception as error:  # a trial write has no event that could be at fault
            log.error("probe_failed", error=repr(error))
            raise LogUnavailable("the database refused a trial write") from error

    def _hold(self, batch: list[Append], error: LogUnavailable, pause_s: float) -> list[Append] | None:
        """Fail the impatient appends and keep the rest for the next try; None if the writer must stop."""
        if self.unavailable is None:
            log.error("log_unavailable", error=str(error))
        self.unavailable = error
        patient = [append for append in batch if append.patient]
        _fail([append for append in batch if not append.patient] + self._pending.take_impatient(), error)
        if self._stopping.wait(pause_s):
            log.error("events_dropped", reason=str(error), runs=len({append.run_id for append in patient}))
            _fail([append for append in patient if append.waiter], error)
            return None
        return patient

    def _split(self, batch: list[Append], error: Exception) -> None:
        """Settle each run alone, so that one bad run never fails the others."""
        runs: dict[str, list[Append]] = defaultdict(list)
        for append in batch:
            runs[append.run_id].append(append)
        if len(runs) > 1:
            for appends in runs.values():
                self._settle(appends)
        elif len(batch) > 1:
            for append in batch:
                self._settle([append])
        else:
            log.error("append_failed", run_id=batch[0].run_id, error=repr(error))
            reason = str(error) if isinstance(error, UnstorableText) else "the database refused it"
            _acknowledge(batch, [InvalidEvent(f"the event cannot be stored: {reason}")])


def _moves_run(event: EncodedEvent) -> bool:
    return event.control or event.type in MARKERS


def _encode_all(events: Sequence[Event | Custom | EncodedEvent]) -> list[EncodedEvent]:
    if not 0 < len(events) <= MAX_EVENTS_PER_APPEND:
        raise InvalidEvent(f"an append takes 1 to {MAX_EVENTS_PER_APPEND} events, not {len(events)}")
    encoded = [event if isinstance(event, EncodedEvent) else encode(event) for event in events]
    if len(encoded) > 1:
        _check_order(encoded)
    return encoded


def _check_order(encoded: Sequence[EncodedEvent]) -> None:
    types = [event.type for event in encoded]
    if any(event.ends for event in encoded[:-1]):
        raise InvalidEvent("nothing can follow a terminal event in an append")
    if Queued.type in types[1:]:
        raise InvalidEvent(f"{Queued.type} can only be a run's first event")
    if markers := MARKERS.intersection(types):
        raise InvalidEvent(f"{min(markers)} is appended alone")


def _acknowledge(batch: Sequence[Append], results: Sequence[AppendResult]) -> None:
    """Report every append's result, with one call per event loop."""
    answers = defaultdict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[int], AppendResult]]](list)
    for append, result in zip(batch, results, strict=True):
        if append.waiter is not None:
            answers[append.waiter.loop].append((append.waiter.future, result))
        elif append.refused is not None and isinstance(result, RunstoreError):
            _shielded(append.refused, result)
    for loop, pairs in answers.items():
        _call(loop, _resolve, pairs)


def _fail(batch: Sequence[Append], error: LogUnavailable) -> None:
    _acknowledge(batch, [LogUnavailable(str(error)) for _ in batch])


def _shielded(function: Callable[..., None], *arguments: object) -> None:
    """Log an error of a listener or a producer's callback; the writer goes on."""
    try:
        function(*arguments)
    except Exception:
        log.exception("callback_failed")


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    with suppress(RuntimeError):  # the loop is closed, and so are its callers
        loop.call_soon_threadsafe(function, *arguments)


def _resolve(pairs: Sequence[tuple["asyncio.Future[int]", AppendResult]]) -> None:
    for future, result in pairs:
        if future.done():
            continue
        if isinstance(result, RunstoreError):
            future.set_exception(result)
        else:
            future.set_result(result)
