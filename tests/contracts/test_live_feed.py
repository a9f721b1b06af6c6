"""The promises of every live feed: the port `LiveFeed`, against each of LIVE_FEEDS."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest

from runstore.core.codec import TailEvent
from runstore.core.ids import new_run_id
from runstore.core.ports import Committed, LiveFeed
from runstore.feed.memory import RING_BYTES, MemoryFeed
from runstore.feed.redis.feed import RedisFeed
from runstore.http.streaming.frames import frame
from tests.kit.events import COMPLETED, QUEUED, note, token
from tests.kit.live import RUN, committed, own_prefix, seqs
from tests.kit.polling import DEADLINE_S
from tests.servers.shared import shared_redis


@contextmanager
def _redis(_request: pytest.FixtureRequest) -> Iterator[LiveFeed]:
    with own_prefix() as prefix, RedisFeed(shared_redis(), prefix=prefix) as feed:
        yield feed


@contextmanager
def _valkey(request: pytest.FixtureRequest) -> Iterator[LiveFeed]:
    server = request.getfixturevalue("valkey")
    with RedisFeed(server.url, prefix=f"of-{new_run_id()}") as feed:
        yield feed


@contextmanager
def _redis_cluster(request: pytest.FixtureRequest) -> Iterator[LiveFeed]:
    cluster = request.getfixturevalue("redis_cluster")
    with RedisFeed(cluster.url, prefix=f"of-{new_run_id()}") as feed:
        yield feed


LIVE_FEEDS: dict[str, Callable[[pytest.FixtureRequest], AbstractContextManager[LiveFeed]]] = {
    "memory": lambda _request: nullcontext(MemoryFeed()),
    "redis": _redis,
    "valkey": _valkey,
    "redis cluster": _redis_cluster,
}


@pytest.fixture(params=LIVE_FEEDS)
def feed(request: pytest.FixtureRequest) -> Iterator[LiveFeed]:
    with LIVE_FEEDS[request.param](request) as feed:
        yield feed


async def blocked(waiting: "asyncio.Future[bool]") -> bool:
    """Whether a reader that was given its turns still waits."""
    for _ in range(5):
        await asyncio.sleep(0)
    return not waiting.done()


# ---- taking ----


def test_events_published_after_registering_are_taken(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.publish([committed(1, QUEUED)])
        feed.publish([committed(2, token(), token())])
        assert seqs(live.take(0)) == [1, 2, 3]


def test_a_reader_that_has_everything_takes_nothing(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        assert live.take(0) == []
        feed.publish([committed(1, QUEUED, token())])
        assert live.take(2) == []


def test_a_reader_ahead_of_the_news_takes_nothing(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.publish([committed(1, QUEUED, token())])
        assert live.take(7) == []


def test_events_committed_before_registering_read_as_a_gap(feed: LiveFeed) -> None:
    feed.publish([committed(1, QUEUED)])
    with feed.subscribe(RUN) as live:
        feed.publish([committed(2, token())])
        assert live.take(0) is None
        assert seqs(live.take(1)) == [2]


def test_a_commit_that_never_reached_the_feed_reads_as_a_gap(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.publish([committed(1, QUEUED)])
        feed.publish([committed(4, token())])
        assert live.take(0) is None
        assert live.take(1) is None
        assert seqs(live.take(3)) == [4]


async def test_an_event_published_during_a_log_read_wakes_its_reader_though_the_feed_was_ahead() -> None:
    feed = MemoryFeed()
    with feed.subscribe(RUN) as live:
        feed.notice({RUN: 99})  # of a log that was restored since
        assert live.take(2) is None
        feed.publish([committed(3, token())])
        live.correct(2)  # the head that was read just before
        assert await live.wait(DEADLINE_S)
        assert live.take(2) is None  # so that the reader looks at the log again, which has event 3


def test_a_commit_that_comes_late_or_again_changes_nothing(feed: LiveFeed) -> None:
    first, second, third = committed(1, QUEUED), committed(2, token()), committed(3, token())
    with feed.subscribe(RUN) as live:
        for commit in (first, third, second, third, first):
            feed.publish([commit])
        assert live.take(0) is None
        assert live.take(1) is None
        assert seqs(live.take(2)) == [3]
        feed.publish([committed(4, token())])
        assert seqs(live.take(2)) == [3, 4]


def test_a_commit_of_which_a_part_is_known_adds_the_rest(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.publish([committed(1, QUEUED, token())])
        feed.publish([committed(2, token(), token(), COMPLETED)])
        assert seqs(live.take(0)) == [1, 2, 3, 4]


def test_a_reader_in_the_middle_of_a_commit_takes_the_rest_of_it(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.publish([committed(1, QUEUED, token(), token(), token())])
        assert seqs(live.take(2)) == [3, 4]


def test_readers_take_the_committed_events(feed: LiveFeed) -> None:
    news = committed(1, QUEUED, token("\n\n"), COMPLETED)
    with feed.subscribe(RUN) as live:
        feed.publish([news])
        assert live.take(0) == [
            TailEvent(RUN, seq, event.type, event.ends, event.at, event.data)
            for seq, event in enumerate(news.events, 1)
        ]


def test_all_readers_of_a_run_take_the_same_events_so_that_one_frame_serves_them(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as one, feed.subscribe(RUN) as other:
        feed.publish([committed(1, QUEUED, token())])
        feed.publish([committed(3, token(), COMPLETED)])
        mine, theirs = one.take(0), other.take(1)
        assert mine is not None
        assert theirs is not None
        assert all(frame(a) is frame(b) for a, b in zip(mine[1:], theirs, strict=True))


def test_nothing_behind_the_ending_is_part_of_the_stream(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.publish([committed(1, QUEUED, COMPLETED, note("a deletion marker, say"), note("and more"))])
        assert seqs(live.take(0)) == [1, 2]
        feed.publish([committed(5, note("and later"))])
        assert seqs(live.take(0)) == [1, 2]


def test_a_reader_takes_only_its_own_runs_events(feed: LiveFeed) -> None:
    other = new_run_id()
    with feed.subscribe(RUN) as live, feed.subscribe(other) as others:
        feed.publish([committed(1, QUEUED), committed(1, QUEUED, token(), run_id=other)])
        assert seqs(live.take(0)) == [1]
        assert seqs(others.take(0)) == [1, 2]


# ---- bounded memory ----


def publish_more_than_is_kept(feed: LiveFeed, run_id: str = RUN) -> int:
    """Returns the last seq."""
    count = 4 * RING_BYTES // 10_000
    for seq in range(1, count + 1):
        feed.publish([committed(seq, note("x" * 10_000), run_id=run_id)])
    return count


def test_a_reader_further_behind_than_the_feed_keeps_meets_a_gap(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        last = publish_more_than_is_kept(feed)
        assert live.take(0) is None
        assert seqs(live.take(last - 2)) == [last - 1, last]


def test_the_feed_keeps_a_bounded_number_of_bytes(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        last = publish_more_than_is_kept(feed)
        kept = [after for after in range(last) if live.take(after) is not None]
        events = live.take(kept[0])
        assert events
        assert sum(map(len, map(frame, events))) <= RING_BYTES


def test_a_commit_larger_than_the_ring_reads_as_a_gap(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.publish([committed(1, note("x" * RING_BYTES))])
        assert live.take(0) is None
        assert live.take(1) == []


def test_nothing_is_kept_for_a_run_without_readers(feed: LiveFeed) -> None:
    publish_more_than_is_kept(feed)
    with feed.subscribe(RUN) as live:
        assert live.take(0) == []


def test_nothing_is_left_when_the_last_reader_leaves() -> None:
    feed = MemoryFeed()
    with feed.subscribe(RUN):
        with feed.subscribe(RUN):
            publish_more_than_is_kept(feed)
        assert feed.followed == 1
    assert feed.followed == 0


def test_a_reader_that_leaves_takes_nothing_from_the_others(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        with feed.subscribe(RUN):
            feed.publish([committed(1, QUEUED)])
        feed.publish([committed(2, token())])
        assert seqs(live.take(0)) == [1, 2]


def settled_futures() -> int:
    gc.collect()
    return sum(type(thing) is asyncio.Future and thing.done() for thing in gc.get_objects())


async def test_waiting_in_vain_leaves_nothing_behind(feed: LiveFeed) -> None:
    before = settled_futures()
    with feed.subscribe(RUN) as live:
        live.take(0)
        for _ in range(200):
            assert not await live.wait(0)
        gone = asyncio.create_task(live.wait(DEADLINE_S))
        assert await blocked(gone)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        del gone
        assert settled_futures() - before < 10


# ---- waiting ----


async def test_news_wakes_a_reader_that_waits(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        live.take(0)
        waiting = asyncio.create_task(live.wait(DEADLINE_S))
        assert await blocked(waiting)
        threading.Thread(target=feed.publish, args=[[committed(1, QUEUED)]]).start()
        assert await waiting
        assert seqs(live.take(0)) == [1]


async def test_news_between_taking_and_waiting_is_not_slept_through(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        assert live.take(0) == []
        feed.publish([committed(1, QUEUED)])
        assert await asyncio.wait_for(live.wait(DEADLINE_S), 1)


async def test_every_reader_of_a_run_is_woken(feed: LiveFeed) -> None:
    def follow() -> list[int] | None:
        async def wait() -> list[int] | None:
            with feed.subscribe(RUN) as live:
                live.take(0)
                ready.release()
                await live.wait(DEADLINE_S)
                return seqs(live.take(0))

        return asyncio.run(wait())

    ready = threading.Semaphore(0)
    readers = [asyncio.create_task(asyncio.to_thread(follow)) for _ in range(4)]  # each on a loop of its own
    for _ in readers:
        assert await asyncio.to_thread(ready.acquire, timeout=DEADLINE_S)
    feed.publish([committed(1, QUEUED)])
    assert await asyncio.gather(*readers) == [[1]] * 4


async def test_an_event_of_another_run_wakes_no_reader(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live, feed.subscribe(new_run_id()):
        live.take(0)
        waiting = asyncio.create_task(live.wait(DEADLINE_S))
        feed.publish([committed(1, QUEUED, run_id=new_run_id())])
        assert await blocked(waiting)
        waiting.cancel()


async def test_waiting_ends_in_time(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        live.take(0)
        assert not await live.wait(0.001)


async def test_closing_wakes_all_readers(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live, feed.subscribe(new_run_id()) as other:
        waiting = []
        for subscription in (live, other):
            subscription.take(0)
            waiting.append(asyncio.create_task(subscription.wait(DEADLINE_S)))
        assert await blocked(waiting[0])
        feed.close()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 1) == [False, False]
        assert feed.closing


async def test_no_reader_waits_at_a_closed_feed(feed: LiveFeed) -> None:
    with feed.subscribe(RUN) as live:
        feed.close()
        live.take(0)
        assert not await asyncio.wait_for(live.wait(DEADLINE_S), 1)
    with feed.subscribe(new_run_id()) as late:
        late.take(0)
        assert not await asyncio.wait_for(late.wait(DEADLINE_S), 1)


def test_closing_twice_is_closing_once(feed: LiveFeed) -> None:
    feed.close()
    feed.close()
    assert feed.closing


# ---- listening ----


def test_a_listener_gets_every_state_change_and_no_streamed_text(
    feed: LiveFeed,
) -> None:
    heard: list[Committed] = []
    feed.listen(heard.append)
    queued = committed(1, QUEUED)
    other = committed(1, QUEUED, run_id=new_run_id())
    feed.publish([queued, committed(2, token()), other])
    assert heard == [queued, other]


def test_a_listener_that_fails_keeps_nothing_from_the_readers(feed: LiveFeed) -> None:
    def fail(commit: Committed) -> None:
        raise RuntimeError("no")

    feed.listen(fail)
    with feed.subscribe(RUN) as live:
        with pytest.raises(RuntimeError):
            feed.publish([committed(1, QUEUED, run_id=new_run_id()), committed(1, QUEUED)])
        assert seqs(live.take(0)) == [1]
