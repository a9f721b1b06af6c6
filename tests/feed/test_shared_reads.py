"""Readers of a run share the reads of its history, and none of them gets what it would not get alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from runstore.core.codec import RecordedEvent
from runstore.core.errors import LogUnavailable
from runstore.core.events import Discarded, Token
from runstore.core.ports import EventLog, Head
from runstore.feed.memory import MemoryFeed
from runstore.feed.shared_reads import Page, SharedReads
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from tests.kit.events import COMPLETED, note, start_run
from tests.kit.polling import DEADLINE_S, until

READERS = 20
SECRET = "hunter2"


class Counted:
    """A log whose reads are counted, can fail, and can be held up."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.heads = self.pages = 0
        self.broken = False
        self.held: asyncio.Event | None = None

    async def head(self, run_id: str) -> Head | None:
        self.heads += 1
        found = await self._log.head(run_id)
        await self._hold()
        return found

    async def read(self, run_id: str, **options: Any) -> list[RecordedEvent]:
        self.pages += 1
        await self._hold()
        return await self._log.read(run_id, **options)

    async def _hold(self) -> None:
        if self.broken:
            raise LogUnavailable
        if self.held is not None:
            await self.held.wait()


@pytest.fixture
def counted(log: EventLog) -> Counted:
    return Counted(log)


class Readers:
    """Readers of one run that share their reads."""

    def __init__(self, counted: Counted, feed: MemoryFeed, run_id: str) -> None:
        self._log, self._feed, self._run_id = counted, feed, run_id
        self._reads = SharedReads(counted)

    def stream(self, *, after: int = 0) -> AsyncIterator[bytes]:
        return native(Tail(self._log, self._feed, self._run_id, after=after, reads=self._reads))

    async def read(self, *, after: int = 0) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return b"".join([body async for body in self.stream(after=after)])

    async def crowd(self, count: int = READERS, *, after: int = 0) -> Sequence[bytes]:
        return await asyncio.gather(*(self.read(after=after) for _ in range(count)))


async def closed_run(log: EventLog, notes: int = 2_500) -> str:
    """A run whose history takes three pages."""
    run_id = await start_run(log)
    for first in range(0, notes, 500):
        await log.append(run_id, [note(str(number)) for number in range(first, first + 500)])
    await log.append(run_id, [COMPLETED])
    return run_id


async def test_readers_that_come_at_once_cost_the_log_as_much_as_two(
    log: EventLog, counted: Counted, feed: MemoryFeed
) -> None:
    run_id = await closed_run(log)
    streams = await Readers(counted, feed, run_id).crowd()
    alone = await Readers(Counted(log), feed, run_id).read()
    assert [*streams] == [alone] * READERS
    assert counted.heads <= 2
    assert counted.pages == 3


async def test_a_reader_of_the_head_does_not_join_a_read_that_began_before_it(
    log: EventLog, counted: Counted, feed: MemoryFeed
) -> None:
    run_id = await start_run(log)
    reads = SharedReads(counted)
    counted.held = asyncio.Event()
    before = asyncio.create_task(reads.head(run_id))
    async with asyncio.timeout(DEADLINE_S):
        await until(lambda: counted.heads == 1)
        seq = await log.append(run_id, [note()])
        after = [asyncio.create_task(reads.head(run_id)) for _ in range(READERS)]
        await asyncio.sleep(0)
        counted.held.set()
        heads = await asyncio.gather(*after)
    assert {head.seq for head in heads if head} == {seq}
    assert (await before) is not None
    assert counted.heads == 2


async def test_a_reader_that_leaves_takes_no_read_away_from_the_others(
    log: EventLog, counted: Counted, feed: MemoryFeed
) -> None:
    run_id = await closed_run(log, 500)
    readers = Readers(counted, feed, run_id)
    counted.held = asyncio.Event()
    leaving, staying = (asyncio.create_task(readers.read()) for _ in range(2))
    await until(lambda: counted.heads == 1)
    leaving.cancel()
    await asyncio.wait([leaving])
    counted.held.set()
    assert (await staying).endswith(b"\n\n")
    assert leaving.cancelled()


async def test_a_failed_read_is_repeated(log: EventLog, counted: Counted, feed: MemoryFeed) -> None:
    run_id = await closed_run(log, 500)
    reads = SharedReads(counted)
    page = Page(run_id, after=0, upto=500, only=None, generation=0)
    counted.broken = True
    for read in (lambda: reads.head(run_id), lambda: reads.page(page)):
        with pytest.raises(LogUnavailable):
            await read()
    counted.broken = False
    head = await reads.head(run_id)
    assert head is not None
    assert head.closed
    assert len(await reads.page(page)) == 500


async def test_no_reader_gets_a_page_from_before_a_redaction(
    log: EventLog, counted: Counted, feed: MemoryFeed
) -> None:
    """Neither one that comes afterwards, nor one in the middle of the history."""
    run_id = await start_run(log)
    for _ in range(3):
        await log.append(run_id, [note() for _ in range(500)])
    await log.append(run_id, [Token(agent="demo", text=SECRET)])
    readers = Readers(counted, feed, run_id)
    seen, middle = readers.stream(), readers.stream()
    first = await anext(middle)
    whole = b"".join([await anext(seen), await anext(seen)])
    assert SECRET.encode() in whole
    withdrawn = Discarded(agent="demo", reason="redacted", length=len(SECRET))
    await log.append(run_id, [withdrawn])
    await log.append(run_id, [COMPLETED])
    rest = b"".join([body async for body in middle])
    assert SECRET.encode() not in first + rest
    assert SECRET.encode() not in await readers.read()
    await seen.aclose()  # type: ignore[attr-defined]


async def test_memory_does_not_grow_with_the_history_that_was_read(
    log: EventLog, counted: Counted, feed: MemoryFeed
) -> None:
    """Pages are kept for a moment only, and few of them: a second reader has to read most of them again."""
    run_id = await closed_run(log, 20_000)
    readers = Readers(counted, feed, run_id)
    await readers.read()
    once = counted.pages
    await readers.read()
    assert counted.pages > once
