"""A subscriber is a cursor: caught up, live, slow, cut and resumed, it gets every frame once and the same."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from runstore.core.codec import RecordedEvent
from runstore.core.errors import LogUnavailable
from runstore.core.events import Deleted
from runstore.core.ids import new_run_id
from runstore.core.ports import EventFilter, EventLog, Head, LiveFeed
from runstore.eventlog.sql import SqlEventLog
from runstore.feed import tail
from runstore.feed.memory import RING_BYTES, MemoryFeed
from runstore.feed.tail import Tail, wait_until_ended
from runstore.http.streaming.frames import native
from tests.kit.events import (
    CANCEL,
    CANCELLED,
    COMPLETED,
    close_run,
    note,
    offer_all,
    start_run,
    started,
    token,
)
from tests.kit.frames import Frame, frame_of, read_frames
from tests.kit.polling import DEADLINE_S, until

TOKENS = EventFilter(types=frozenset({"llm.token"}))


async def read(
    log: EventLog, feed: LiveFeed, run_id: str, *, after: int = 0, only: EventFilter | None = None
) -> bytes:
    """Everything that a subscriber gets until its stream ends."""
    async with asyncio.timeout(DEADLINE_S):
        return b"".join([body async for body in native(Tail(log, feed, run_id, after=after, only=only))])


def split(body: bytes) -> list[Frame]:
    return list(read_frames([body]))


def seqs(body: bytes) -> list[int]:
    return [one.seq for one in split(body)]


async def frames_of(stream: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    async for body in stream:
        for one in split(body):
            yield one


async def cut_after(log: EventLog, feed: LiveFeed, run_id: str, *, after: int, last: int) -> bytes:
    """The bytes that a subscriber got if its connection broke right behind the frame `last`."""
    stream = native(Tail(log, feed, run_id, after=after))
    got = b""
    async for one in frames_of(stream):
        got += one.raw
        if one.seq >= last:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    return got


async def write_a_story(log: EventLog, run_id: str) -> None:
    """A run as a real one: streamed text in bursts, awaited events, a cancel, an ending."""
    for turn in range(8):
        await offer_all(log, run_id, *(token(f"{turn}.{i} \n\n") for i in range(4)), note(f"{turn}"))
        await asyncio.sleep(0)
        if turn % 2:
            await log.append(run_id, [note("awaited"), note("in pairs")])
    await log.append(run_id, [started(attempt=2)])
    await log.append(run_id, [CANCEL])
    await offer_all(log, run_id, token("last words"), attempt=2)
    await log.append(run_id, [CANCELLED])


# ---- the seam between history and news (G3, G10) ----


async def test_cut_and_resumed_at_every_seq_while_the_run_is_written_a_stream_is_the_same_bytes(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = await start_run(log)

    async def cut_at(seq: int) -> bytes:
        before = await cut_after(log, feed, run_id, after=0, last=seq)
        return before + await read(log, feed, run_id, after=seq)

    readers = [asyncio.create_task(cut_at(seq)) for seq in range(1, 55)]
    await write_a_story(log, run_id)
    joined = await asyncio.gather(*readers)
    uncut = await read(log, feed, run_id)
    assert seqs(uncut) == list(range(1, 55))
    assert all(stream == uncut for stream in joined)


class Unread:
    """A log that is never read."""

    async def head(self, run_id: str) -> Head | None:
        raise AssertionError("its head is read")

    async def read(self, run_id: str, **_: object) -> list[RecordedEvent]:
        raise AssertionError("its events are read")


async def test_a_stream_from_before_its_run_reads_no_log_and_is_the_same_bytes(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = new_run_id()
    with Tail(cast(EventLog, Unread()), feed, run_id, after=0).before_its_run() as tail:
        await start_run(log, run_id)
        await write_a_story(log, run_id)
        async with asyncio.timeout(DEADLINE_S):
            live = b"".join([body async for body in native(tail)])
    assert live == await read(log, feed, run_id)
    assert feed.followed == 0


async def test_a_stream_from_before_its_run_reads_what_the_feed_has_lost(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = new_run_id()
    with Tail(log, feed, run_id, after=0).before_its_run() as tail:
        await start_run(log, run_id)
        await log.append(run_id, [note("x" * RING_BYTES)])
        await write_a_story(log, run_id)
        async with asyncio.timeout(DEADLINE_S):
            live = b"".join([body async for body in native(tail)])
    assert live == await read(log, feed, run_id)


async def test_cut_after_every_single_frame_a_stream_is_the_same_bytes(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = await start_run(log)
    writing = asyncio.create_task(write_a_story(log, run_id))
    joined, cursor = b"", 0
    while one := await cut_after(log, feed, run_id, after=cursor, last=cursor + 1):
        joined, cursor = joined + one, cursor + 1
    await writing
    assert joined == await read(log, feed, run_id)


async def test_from_every_cursor_a_stream_gives_everything_after_it_once(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = await start_run(log)
    await write_a_story(log, run_id)
    uncut = split(await read(log, feed, run_id))
    for after in range(len(uncut) + 1):
        assert split(await read(log, feed, run_id, after=after)) == uncut[after:]


async def test_a_live_stream_is_made_of_the_same_bytes_as_a_replay(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    live = asyncio.create_task(read(log, feed, run_id))
    await until(lambda: feed.followed == 1)
    await write_a_story(log, run_id)
    stored = await log.read(run_id)
    assert await live == b"".join(frame_of(e) for e in stored)
    assert await read(log, feed, run_id) == await live


async def test_streams_of_runs_that_are_written_at_once_do_not_mix(log: EventLog, feed: MemoryFeed) -> None:
    runs = [await start_run(log) for _ in range(5)]
    streams = [asyncio.create_task(read(log, feed, run_id)) for run_id in runs]
    await asyncio.gather(*(write_a_story(log, run_id) for run_id in runs))
    for run_id, stream in zip(runs, await asyncio.gather(*streams), strict=True):
        assert re.findall(rb'"run_id":"([^"]+)"', stream) == [run_id.encode()] * 54


async def test_a_slow_stream_has_what_another_process_wrote_between_two_of_our_commits(
    open_log: Callable[..., SqlEventLog], feed: MemoryFeed
) -> None:
    here, there = open_log(feed), open_log()
    run_id = await start_run(here)
    stream = native(Tail(here, feed, run_id, after=0))
    assert seqs(await anext(aiter(stream))) == [1, 2]
    await here.append(run_id, [note("here")])
    await there.append(run_id, [CANCEL])
    await here.append(run_id, [CANCELLED])
    async with asyncio.timeout(DEADLINE_S):
        assert seqs(b"".join([body async for body in stream])) == [3, 4, 5]


# ---- catching up, then live ----


async def test_a_stream_is_live_after_its_history(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    frames = frames_of(native(Tail(log, feed, run_id, after=0)))
    assert [(await anext(frames)).seq for _ in range(2)] == [1, 2]
    await log.append(run_id, [note()])
    assert (await anext(frames)).seq == 3


async def test_a_stream_ends_after_the_terminal_event(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    stream = Tail(log, feed, run_id, after=2)
    reading = asyncio.create_task(anext(native(stream)))
    await log.append(run_id, [COMPLETED])
    assert seqs(await reading) == [3]
    assert stream.ended
    assert seqs(await read(log, feed, run_id)) == [1, 2, 3]


async def test_a_stream_of_a_closed_run_has_nothing_after_its_last_event(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = await close_run(log)
    assert await read(log, feed, run_id, after=3) == b""


@pytest.mark.parametrize("after", [0, 2, 3, 4])
async def test_a_deletion_marker_is_not_in_the_stream(log: EventLog, feed: MemoryFeed, after: int) -> None:
    run_id = await close_run(log)
    await log.append(run_id, [Deleted(by="local")])
    assert seqs(await read(log, feed, run_id, after=after)) == [1, 2, 3][after:]


async def test_a_slow_stream_ends_though_its_run_was_deleted(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    stream = native(Tail(log, feed, run_id, after=0))
    assert seqs(await anext(aiter(stream))) == [1, 2]
    await log.append(run_id, [COMPLETED])
    await log.append(run_id, [Deleted(by="local")])
    async with asyncio.timeout(DEADLINE_S):
        assert seqs(b"".join([body async for body in stream])) == [3]


async def test_a_run_that_does_not_exist_has_an_empty_stream(log: EventLog, feed: MemoryFeed) -> None:
    assert await read(log, feed, new_run_id()) == b""


async def test_a_closing_feed_ends_its_streams(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    live = asyncio.create_task(read(log, feed, run_id))
    await until(lambda: feed.followed == 1)
    feed.close()
    assert set(seqs(await live)) <= {1, 2}
    assert feed.followed == 0


async def test_a_subscriber_that_goes_leaves_nothing_behind(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    reading = asyncio.create_task(read(log, feed, run_id))
    await until(lambda: feed.followed == 1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert feed.followed == 0


# ---- slow readers (G11) ----


async def test_a_slow_reader_loses_nothing_and_is_kept_no_queue(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    stream = native(Tail(log, feed, run_id, after=0))
    got = await anext(aiter(stream))
    for _ in range(30):
        await log.append(run_id, [note("x" * 50_000)])  # far more than the feed keeps
    await log.append(run_id, [COMPLETED])
    with feed.subscribe(run_id) as beside:
        kept = beside.take(30)
        assert kept is not None
        assert sum(len(event.data) for event in kept) <= RING_BYTES
        assert beside.take(2) is None
    async with asyncio.timeout(DEADLINE_S):
        got += b"".join([body async for body in stream])
    assert seqs(got) == list(range(1, 34))


async def test_the_bytes_for_a_reader_at_once_are_bounded(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    for _ in range(40):
        await log.append(run_id, [note("x" * 200_000)])
    await log.append(run_id, [COMPLETED])
    bodies = [body async for body in native(Tail(log, feed, run_id, after=0))]
    assert max(map(len, bodies)) < 2 << 20
    assert seqs(b"".join(bodies)) == list(range(1, 44))


async def test_a_long_history_is_read_in_pages(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    for _ in range(3):
        await log.append(run_id, [note()] * 1_000)
    await log.append(run_id, [COMPLETED])
    bodies = [body async for body in native(Tail(log, feed, run_id, after=0))]
    assert len(bodies) == 4
    assert seqs(b"".join(bodies)) == list(range(1, 3_004))


# ---- filters ----


@pytest.mark.parametrize("live", [False, True], ids=["replayed", "live"])
async def test_a_filtered_stream_is_the_whole_one_without_the_filtered_events(
    log: EventLog, feed: MemoryFeed, live: bool
) -> None:
    run_id = await start_run(log)
    if live:
        filtered = asyncio.create_task(read(log, feed, run_id, only=TOKENS))
        await until(lambda: feed.followed == 1)
        await write_a_story(log, run_id)
    else:
        await write_a_story(log, run_id)
        filtered = asyncio.create_task(read(log, feed, run_id, only=TOKENS))
    whole = split(await read(log, feed, run_id))
    wanted = [one for one in whole if one.type == "llm.token" or one == whole[-1]]
    assert split(await filtered) == wanted


async def test_a_filtered_stream_resumes_at_any_of_its_frames(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    await write_a_story(log, run_id)
    whole = split(await read(log, feed, run_id, only=TOKENS))
    for place, one in enumerate(whole):
        rest = await read(log, feed, run_id, after=one.seq, only=TOKENS)
        assert split(rest) == whole[place + 1 :]


async def test_a_filtered_stream_goes_live_though_nothing_of_its_history_passed(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [note()] * 1_000)
    await log.append(run_id, [note()] * 1_000)
    stream = asyncio.create_task(read(log, feed, run_id, only=TOKENS))
    await until(lambda: feed.followed == 1)
    await log.append(run_id, [note(), token()])
    await log.append(run_id, [COMPLETED])
    assert seqs(await stream) == [2004, 2005]


# ---- when nothing comes ----


async def test_an_idle_stream_gives_a_sign_of_life(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    stream = native(Tail(log, feed, run_id, after=2, idle_s=0.001))
    assert [await anext(aiter(stream)) for _ in range(3)] == [b"", b"", b""]
    await log.append(run_id, [COMPLETED])
    assert seqs(b"".join([body async for body in stream])) == [3]


class Interrupted:
    """A log that cannot be read while `broken`; everything else is the real one's."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.broken = False
        self.failures = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def head(self, run_id: str) -> Head | None:
        self._check()
        return await self._log.head(run_id)

    async def read(self, *arguments: object, **options: object) -> object:
        self._check()
        return await self._log.read(*arguments, **options)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.broken:
            self.failures += 1
            raise LogUnavailable


@pytest.mark.parametrize("cut", [0, 2])
async def test_a_stream_idles_while_the_log_cannot_be_read_and_then_goes_on(
    log: EventLog, feed: MemoryFeed, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    monkeypatch.setattr(tail, "UNAVAILABLE_RETRY_S", 0.001)
    run_id = await start_run(log)
    interrupted = Interrupted(log)
    interrupted.broken = cut == 0
    stream = native(Tail(interrupted, feed, run_id, after=0))  # type: ignore[arg-type]
    got = b"" if interrupted.broken else await anext(aiter(stream))
    interrupted.broken = True
    for _ in range(5):
        await log.append(run_id, [note("x" * RING_BYTES)])  # more than the feed keeps: the log has to be read
    while interrupted.failures < 3:
        assert await anext(aiter(stream)) == b""
    interrupted.broken = False
    await log.append(run_id, [COMPLETED])
    async with asyncio.timeout(DEADLINE_S):
        got += b"".join([body async for body in stream])
    assert seqs(got) == list(range(1, 9))


async def test_a_stream_whose_cursor_turns_out_to_be_ahead_ends_without_a_word(
    log: EventLog, feed: MemoryFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "UNAVAILABLE_RETRY_S", 0.001)
    run_id = await start_run(log)
    interrupted = Interrupted(log)
    interrupted.broken = True
    stream = native(Tail(interrupted, feed, run_id, after=3))  # type: ignore[arg-type]
    assert await anext(aiter(stream)) == b""
    interrupted.broken = False
    async with asyncio.timeout(DEADLINE_S):
        assert b"".join([body async for body in stream]) == b""


async def test_an_idle_stream_finds_what_another_process_wrote(
    open_log: Callable[..., SqlEventLog], feed: MemoryFeed
) -> None:
    here, there = open_log(feed), open_log()
    run_id = await start_run(here)
    stream = native(Tail(here, feed, run_id, after=2, idle_s=0.001))
    assert await anext(aiter(stream)) == b""
    await there.append(run_id, [COMPLETED])
    async with asyncio.timeout(DEADLINE_S):
        assert seqs(b"".join([body async for body in stream])) == [3]


# ---- waiting for the end ----


async def test_a_stream_does_not_ask_on_and_on_for_what_the_log_has_not(
    log: EventLog, feed: MemoryFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a database was restored and Redis was not emptied."""
    run_id = await start_run(log)
    looks, head = 0, log.head

    async def counted(run_id: str) -> Head | None:
        nonlocal looks
        looks += 1
        assert looks <= 1 + 1 + 5, "one for the history, one for the news, one for each sign of life"
        return await head(run_id)

    monkeypatch.setattr(log, "head", counted)
    stream = native(Tail(log, feed, run_id, after=0, idle_s=0.01))
    assert seqs(await anext(stream)) == [1, 2]
    feed.notice({run_id: 99})
    assert [await anext(stream) for _ in range(4)] == [b""] * 4
    await log.append(run_id, [COMPLETED])
    async with asyncio.timeout(DEADLINE_S):
        assert seqs(b"".join([body async for body in stream])) == [3]


async def test_waiting_for_the_end_ends_with_the_run(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    waiting = asyncio.create_task(wait_until_ended(log, feed, run_id, timeout_s=DEADLINE_S))
    await until(lambda: feed.followed == 1)
    await log.append(run_id, [note()])
    assert not waiting.done()
    await log.append(run_id, [COMPLETED])
    await asyncio.wait_for(waiting, 1)


async def test_waiting_for_the_end_gives_up_in_time(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await start_run(log)
    await wait_until_ended(log, feed, run_id, timeout_s=0.01)
    assert feed.followed == 0


async def test_no_request_waits_for_a_run_that_has_ended_or_never_existed(
    log: EventLog, feed: MemoryFeed
) -> None:
    for run_id in (await close_run(log), new_run_id()):
        await asyncio.wait_for(wait_until_ended(log, feed, run_id, timeout_s=DEADLINE_S), 1)
