"""Several runs as one stream: each is complete, in order and from its own cursor, independently of the
others.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from runstore.client.sse import Frame, FrameParser
from runstore.core.errors import LogUnavailable, RunPurged
from runstore.core.events import Custom
from runstore.core.ports import EventLog, Head, LiveFeed
from runstore.core.stream_cursors import NamedRunCursors, StreamCursors
from runstore.feed import joined_tail
from runstore.feed.joined_tail import GONE, JoinedTail
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import joined
from tests.kit.events import COMPLETED, start_run
from tests.kit.polling import until


def open_joined(log: EventLog, feed: LiveFeed, cursors: StreamCursors) -> JoinedTail:
    def open_tail(run_id: str, after: int) -> Tail:
        return Tail(log, feed, run_id, after=after, idle_s=60)

    return JoinedTail(feed, cursors, open_tail, lost={}, idle_s=60)


async def events_of(stream: AsyncIterator[bytes]) -> list[dict[str, Any]]:
    return [json.loads(frame.data) async for body in stream for frame in FrameParser().feed(body)]


async def closed_run(log: EventLog, notes: int) -> str:
    run_id = await start_run(log)
    await log.append(run_id, [Custom("custom.note", f"{number}") for number in range(notes)])
    await log.append(run_id, [COMPLETED])
    return run_id


def seqs(events: list[dict[str, Any]], run_id: str) -> list[int]:
    return [event["seq"] for event in events if event["run_id"] == run_id]


async def test_cut_after_any_frame_a_reader_goes_on_in_each_run_where_it_was(
    log: EventLog, feed: LiveFeed
) -> None:
    runs = [await closed_run(log, notes) for notes in (1, 4, 2)]
    whole = await events_of(joined(open_joined(log, feed, NamedRunCursors(dict.fromkeys(runs, 0)))))
    frames: list[Frame] = []
    async for body in joined(open_joined(log, feed, NamedRunCursors(dict.fromkeys(runs, 0)))):
        frames += FrameParser().feed(body)
    for cut, frame in enumerate(frames, 1):
        cursors = NamedRunCursors(dict.fromkeys(runs, 0))
        cursors.resume(frame.id)
        events = whole[:cut] + await events_of(joined(open_joined(log, feed, cursors)))
        for run_id, notes in zip(runs, (1, 4, 2), strict=True):
            assert seqs(events, run_id) == list(range(1, notes + 4))


async def test_a_reader_that_leaves_amid_a_read_follows_no_run(log: EventLog) -> None:
    run_id, feed = await start_run(log), MemoryFeed()

    class Stalled:
        async def head(self, run_id: str) -> Head | None:
            await asyncio.Event().wait()
            raise AssertionError

    stream = open_joined(Stalled(), feed, NamedRunCursors({run_id: 0})).events()  # type: ignore[arg-type]
    reading = asyncio.ensure_future(anext(stream))
    await until(lambda: feed.followed == 1)
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    assert feed.followed == 0


class Stub:
    """A log with scripted answers for one run, and the answers of another log for all other runs."""

    def __init__(self, log: EventLog, run_id: str, *answers: Exception | Any) -> None:
        self._log = log
        self._run_id = run_id
        self._answers = list(answers)
        self.reads = 0

    async def head(self, run_id: str) -> Head | None:
        return await self._log.head(run_id)

    async def read(self, run_id: str, **where: Any) -> Any:
        self.reads += 1
        if run_id == self._run_id and self._answers and (answer := self._answers.pop(0)) is not None:
            raise answer
        return await self._log.read(run_id, **where)


async def test_a_run_that_is_purged_while_it_is_read_is_reported_and_the_others_go_on(
    log: EventLog, feed: LiveFeed
) -> None:
    gone, there = [await closed_run(log, 2) for _ in range(2)]
    cursors = NamedRunCursors({gone: 1, there: 0})
    stub: Any = Stub(log, gone, RunPurged(gone))
    events = await events_of(joined(open_joined(stub, feed, cursors)))
    assert [(e["type"], e["seq"], e["data"]["code"]) for e in events if e["run_id"] == gone] == [
        (GONE, 0, "run_purged")
    ]
    assert seqs(events, there) == [1, 2, 3, 4, 5]
    assert cursors.open() == {there: 5}


async def test_an_outage_of_the_log_only_takes_time(
    log: EventLog, feed: LiveFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_tail, "UNAVAILABLE_RETRY_S", 0)
    runs = [await closed_run(log, 2) for _ in range(2)]
    stub: Any = Stub(log, runs[0], *[LogUnavailable("away")] * 3)
    bodies = [body async for body in joined(open_joined(stub, feed, NamedRunCursors(dict.fromkeys(runs, 0))))]
    assert bodies.count(b"") == 3
    events = [json.loads(frame.data) for frame in FrameParser().feed(b"".join(bodies))]
    assert [seqs(events, run_id) for run_id in runs] == [[1, 2, 3, 4, 5]] * 2


async def test_no_run_is_read_before_the_frames_of_the_one_before_are_taken(
    log: EventLog, feed: LiveFeed
) -> None:
    runs = [await closed_run(log, 2) for _ in range(5)]
    stub: Any = Stub(log, "")
    frames = joined(open_joined(stub, feed, NamedRunCursors(dict.fromkeys(runs, 0))))
    await anext(frames)
    assert stub.reads == 1
    await frames.aclose()  # type: ignore[attr-defined]
