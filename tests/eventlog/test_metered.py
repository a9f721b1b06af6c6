"""The log's metrics while it works, in one process with a real SQLite file."""

from collections.abc import Callable
from typing import Any

import pytest

from runstore.core.codec import encode
from runstore.core.errors import RunClosed, WrongExpectedSeq
from runstore.eventlog.metered import Histogram, LogCounts, MeteredStore
from runstore.eventlog.sql import SqlEventLog
from runstore.eventlog.writer import CommitResult
from runstore.feed.memory import MemoryFeed
from tests.kit.events import CANCEL, CANCELLED, COMPLETED, FAILED, note, start_run, started, token
from tests.kit.polling import until
from tests.kit.writer import held_writer

OpenLog = Callable[..., SqlEventLog]


def total(histogram: Histogram) -> float:
    return histogram.buckets()[-1][1]


def test_a_histogram_counts_a_value_up_to_and_at_its_bound() -> None:
    histogram = Histogram((1, 2.5))
    for value in (0.5, 1, 2, 2.5, 3):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2.0), ("2.5", 4.0), ("+Inf", 5.0)]
    assert histogram.sum == 9


async def test_runs_are_counted_by_how_they_begin_and_end(open_log: OpenLog) -> None:
    log = open_log()
    for ending in (COMPLETED, COMPLETED, FAILED, CANCELLED):
        await log.append(await start_run(log), [ending])
    await log.append(run_id := await start_run(log), [started(2, reason="adopted")])
    await log.append(run_id, [started(3, reason="handed_over")])
    assert log.counts.queued == 5
    assert dict(log.counts.attempts) == {"claimed": 5, "adopted": 1, "handed_over": 1}
    assert dict(log.counts.ended) == {"success": 2, "error": 1, "stopped": 1}


async def test_a_commit_is_counted_once_with_its_events_and_its_time(open_log: OpenLog) -> None:
    log = open_log()
    run_id = await start_run(log)
    await log.append(run_id, [note(), note(), note()])
    assert log.counts.events == 5
    assert log.counts.appends == {"stored": 2, "refused": 0}
    assert (total(log.counts.commit_events), log.counts.commit_events.sum) == (2, 5)
    assert total(log.counts.commit_seconds) == 2
    assert log.counts.commit_seconds.sum > 0


async def test_the_time_from_a_cancel_to_the_ending_is_that_of_the_events(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    run_id = await start_run(log)
    now = iter([1_000, 1_250])
    monkeypatch.setattr("runstore.core.codec.now_ms", lambda: next(now))
    await log.append(run_id, [CANCEL])
    await log.append(run_id, [CANCELLED])
    assert log.counts.cancels == 1
    assert (total(log.counts.cancel_seconds), log.counts.cancel_seconds.sum) == (1, 0.25)


async def test_a_run_that_ends_without_a_cancel_is_no_cancel(open_log: OpenLog) -> None:
    log = open_log()
    await log.append(await start_run(log), [COMPLETED])
    assert total(log.counts.cancel_seconds) == 0


async def test_events_of_an_agent_after_its_runs_end_are_counted_as_late(open_log: OpenLog) -> None:
    log = open_log()
    run_id = await start_run(log)
    await log.append(run_id, [COMPLETED])
    refusals: list[Exception] = []
    assert log.offer(run_id, encode(token()), attempt=1, refused=refusals.append)
    await until(lambda: bool(refusals))
    assert log.counts.late_events == {"run_closed": 1}


async def test_events_of_an_older_attempt_are_counted_as_late(open_log: OpenLog) -> None:
    log = open_log()
    run_id = await start_run(log)
    await log.append(run_id, [started(2)])
    refusals: list[Exception] = []
    assert log.offer(run_id, encode(token()), attempt=1, refused=refusals.append)
    await until(lambda: bool(refusals))
    assert log.counts.late_events == {"lease_lost": 1}


async def test_a_client_that_is_refused_is_not_late(open_log: OpenLog) -> None:
    log = open_log()
    run_id = await start_run(log)
    with pytest.raises(WrongExpectedSeq):
        await log.append(run_id, [note()], expected_seq=1)
    await log.append(run_id, [COMPLETED])
    with pytest.raises(RunClosed):
        await log.append(run_id, [note()])
    assert log.counts.appends == {"stored": 2, "refused": 2}
    assert not log.counts.late_events


async def test_every_commit_notes_how_long_its_readers_waited(open_log: OpenLog) -> None:
    log = open_log(MemoryFeed())
    await start_run(log)
    assert total(log.counts.publish_lag) == 1


async def test_the_queue_of_the_writer_is_counted_in_events_and_bytes(open_log: OpenLog) -> None:
    feed = MemoryFeed()
    log = open_log(feed)
    run_id = await start_run(log)
    event = encode(token())
    async with held_writer(log, feed):
        for _ in range(3):
            assert log.offer(run_id, event, attempt=1, refused=print)
        assert log.waiting == (3, 3 * len(event.data))
    await log.append(run_id, [note()])
    assert log.waiting == (0, 0)


class StoreThatAnswers:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def commit(self, batch: Any) -> CommitResult:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer  # type: ignore[no-any-return]

    def probe(self) -> None: ...

    def close(self) -> None: ...


def test_a_commit_that_fails_is_counted_and_fails() -> None:
    counts = LogCounts()
    with pytest.raises(OSError, match="disk"):
        MeteredStore(StoreThatAnswers(OSError("disk")), counts).commit([])
    assert counts.commit_failures == 1


def test_a_commit_that_cannot_be_counted_is_stored_all_the_same() -> None:
    result = CommitResult([1], [])
    assert MeteredStore(StoreThatAnswers(result), LogCounts()).commit([]) is result


async def test_cancels_of_runs_that_end_elsewhere_do_not_pile_up(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstore.eventlog.metered.MAX_CANCELS_SEEN", 2)
    log = open_log()
    runs = [await start_run(log) for _ in range(3)]
    for run_id in runs:
        await log.append(run_id, [CANCEL])
    for run_id in runs:
        await log.append(run_id, [CANCELLED])
    assert (log.counts.cancels, total(log.counts.cancel_seconds)) == (3, 2)
