"""One query finds the heads of all followed runs, for lost wake-ups."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import structlog

from runstore.core.errors import LogUnavailable
from runstore.core.events import Deleted
from runstore.core.ids import new_run_id
from runstore.database.keys import AT_ONCE
from runstore.eventlog.queries import read_last_seqs
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.head_poll import HeadPoll
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from tests.kit.database import open_log_at
from tests.kit.events import COMPLETED, close_run, note, start_run
from tests.kit.live import RUN, committed, seqs
from tests.kit.polling import DEADLINE_S, until
from tests.servers.databases import DATABASES, empty_database

EVERY_S = 0.01


class Heads:
    """Stands for the log: `asked` is what it was asked."""

    def __init__(self, answer: Mapping[str, int] | Exception) -> None:
        self.answer = answer
        self.asked: list[Sequence[str]] = []

    async def last_seqs(self, run_ids: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(run_ids)
        if isinstance(self.answer, Exception):
            raise type(self.answer)
        return self.answer


# ---- the poll ----


async def test_readers_that_are_behind_are_woken_and_find_a_gap(feed: MemoryFeed) -> None:
    async with HeadPoll(feed, Heads({RUN: 3}).last_seqs, every_s=EVERY_S):
        with feed.subscribe(RUN) as live:
            live.take(0)
            assert await live.wait(DEADLINE_S)
            assert live.take(2) is None


async def test_readers_that_have_everything_are_left_alone(feed: MemoryFeed) -> None:
    heads = Heads({RUN: 2})
    async with HeadPoll(feed, heads.last_seqs, every_s=EVERY_S):
        with feed.subscribe(RUN) as live:
            feed.publish([committed(1, note(), note())])
            assert seqs(live.take(0)) == [1, 2]
            waiting = asyncio.create_task(live.wait(DEADLINE_S))
            await until(lambda: len(heads.asked) >= 2)
            assert not waiting.done()
            assert seqs(live.take(0)) == [1, 2]
            waiting.cancel()


async def test_events_that_the_poll_found_first_come_late_and_change_nothing(feed: MemoryFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.publish([committed(1, note())])
        feed.notice({RUN: 3, new_run_id(): 1})
        feed.publish([committed(2, note(), note())])
        assert live.take(1) is None
        feed.publish([committed(4, note())])
        assert seqs(live.take(3)) == [4]
        assert live.take(0) is None


async def test_there_is_no_query_while_no_run_is_followed(feed: MemoryFeed) -> None:
    heads = Heads({})
    async with HeadPoll(feed, heads.last_seqs, every_s=0.001):
        await asyncio.sleep(0.02)
        assert heads.asked == []
        with feed.subscribe(RUN), feed.subscribe(RUN):
            await until(lambda: heads.asked[:1] == [[RUN]])


@pytest.mark.parametrize("error", [LogUnavailable(), RuntimeError("no")])
async def test_a_poll_that_fails_is_followed_by_another(feed: MemoryFeed, error: Exception) -> None:
    heads = Heads(error)
    with structlog.testing.capture_logs() as lines, feed.subscribe(RUN) as live:
        async with HeadPoll(feed, heads.last_seqs, every_s=0.001):
            await until(lambda: len(heads.asked) > 1)
            heads.answer = {RUN: 1}
            await until(lambda: live.take(0) is None)
    assert all(line["event"] == "poll_failed" for line in lines)
    assert bool(lines) == (not isinstance(error, LogUnavailable))


async def test_a_stream_gets_events_of_another_process_without_a_wake_up(
    open_log: Callable[..., SqlEventLog], feed: MemoryFeed
) -> None:
    here, there = open_log(feed), open_log()
    run_id = await start_run(here)
    async with HeadPoll(feed, partial(here.database.query, read_last_seqs), every_s=EVERY_S):
        stream = native(Tail(here, feed, run_id, after=2, idle_s=100 * DEADLINE_S))
        reading = asyncio.create_task(anext(aiter(stream)))
        await until(lambda: feed.followed == 1)
        await there.append(run_id, [COMPLETED])
        assert b"id: 3\n" in await asyncio.wait_for(reading, DEADLINE_S)


# ---- the query ----


@pytest.mark.parametrize("kind", DATABASES)
async def test_each_runs_last_seq_is_found_and_no_others(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        log = open_log_at(url, MemoryFeed())
        try:
            active, ended, deleted = await start_run(log), await close_run(log), await close_run(log)
            await start_run(log)
            await log.append(active, [note()] * 5)
            await log.append(deleted, [Deleted(by="local")])
            asked = [active, ended, *(new_run_id() for _ in range(AT_ONCE)), deleted]
            assert await log.database.query(read_last_seqs, asked) == {active: 7, ended: 3, deleted: 4}
            assert await log.database.query(read_last_seqs, []) == {}
        finally:
            await log.close()
