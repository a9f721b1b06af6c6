"""Readers and listeners of one process get the events that another one publishes to Redis."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
import redis

import runstore.feed.redis.feed as redis_feed
import runstore.feed.redis.reader as redis_reader
from runstore.core.events import Deleted
from runstore.core.ids import new_run_id
from runstore.core.ports import Committed, LiveFeed, Subscription
from runstore.feed.redis.feed import RedisFeed
from runstore.feed.redis.publisher import ACTIVE_EXPIRY_S, ENDED_EXPIRY_S
from runstore.feed.redis.wire import MAX_ENTRY_BYTES, MAX_RUN_ENTRIES
from tests.kit.events import CANCEL, COMPLETED, QUEUED, note, started, token
from tests.kit.live import RUN, committed, hears, own_prefix, processes, seqs
from tests.kit.polling import DEADLINE_S, until
from tests.servers.shared import shared_redis


@pytest.fixture
def prefix() -> Iterator[str]:
    with own_prefix() as prefix:
        yield prefix


@pytest.fixture
def client() -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(shared_redis(), decode_responses=True) as client:
        yield client


@pytest.fixture(autouse=True)
def _unwoken_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is not woken looks too late for any of these tests which runs are followed."""
    monkeypatch.setattr(redis_reader, "BLOCK_S", 10 * DEADLINE_S)
    monkeypatch.setattr(redis_feed, "BLOCK_S", 10 * DEADLINE_S)


@pytest.fixture
def two(prefix: str) -> Iterator[list[RedisFeed]]:
    with processes(2, shared_redis(), prefix) as feeds:
        yield feeds


async def news(live: Subscription, after: int) -> list[int] | None:
    """The seqs that come after a cursor; None when a gap does."""
    await until(lambda: live.take(after) != [])
    return seqs(live.take(after))


async def follow(live: Subscription, stored: list[Committed], after: int = 0) -> AsyncIterator[int]:
    """The seqs that a reader gets who reads `stored` when it meets a gap, until it has them all."""
    while True:
        events = live.take(after)
        if events is None:
            head = stored[-1].first_seq + len(stored[-1].events) - 1
            for seq in range(after + 1, head + 1):
                yield seq
            after = head
        elif events:
            for after in seqs(events) or []:
                yield after
        else:
            assert await live.wait(DEADLINE_S)


# ---- readers ----


async def test_a_reader_takes_what_another_process_publishes_byte_for_byte_as_it_is_replayed(
    two: list[RedisFeed],
) -> None:
    here, there = two
    commit = committed(1, QUEUED, token("\n\n ü"), note('{"a": "\\u0000"}'), token("\u2028"), COMPLETED)
    with there.subscribe(RUN) as live:
        here.publish([commit])
        assert await news(live, 0) == [1, 2, 3, 4, 5]
        assert [(event.type, event.ends, event.at, event.data) for event in live.take(0) or []] == [
            (event.type, event.ends, event.at, event.data) for event in commit.events
        ]


async def test_news_of_another_process_wakes_a_reader_that_waits(two: list[RedisFeed]) -> None:
    here, there = two
    with there.subscribe(RUN) as live:
        live.take(0)
        waiting = asyncio.create_task(live.wait(DEADLINE_S))
        here.publish([committed(1, QUEUED)])
        assert await waiting
        assert seqs(live.take(0)) == [1]


async def test_a_reader_that_comes_late_finds_a_gap_and_the_last_commit(two: list[RedisFeed]) -> None:
    here, there = two
    for seq in range(1, 6):
        here.publish([committed(seq, token())])
        await hears(here, there)  # by now it is in Redis
    with there.subscribe(RUN) as live:
        assert await news(live, 0) is None
        assert await news(live, 4) == [5]
        assert live.take(5) == []


async def test_an_ending_before_the_first_look_at_the_stream_is_not_missed(two: list[RedisFeed]) -> None:
    here, there = two
    here.publish([committed(1, QUEUED, started())])
    with there.subscribe(RUN) as live:
        here.publish([committed(3, COMPLETED)])  # while the reader looks at the log
        assert await news(live, 2) == [3]


async def test_a_commit_of_another_process_in_between_reads_as_a_gap(two: list[RedisFeed]) -> None:
    here, there = two
    with there.subscribe(RUN) as live:
        there.publish([committed(1, QUEUED)])
        there.publish([committed(3, token())])  # seq 2 has not been published yet
        assert live.take(1) is None
        assert seqs(live.take(2)) == [3]
        here.publish([committed(4, token())])
        assert await news(live, 3) == [4]


async def test_each_reader_gets_every_event_once_and_in_order_from_all_writers(two: list[RedisFeed]) -> None:
    runs = [new_run_id() for _ in range(3)]
    stored: dict[str, list[Committed]] = {run_id: [] for run_id in runs}
    count = 400

    async def read(feed: LiveFeed, run_id: str) -> list[int]:
        with feed.subscribe(run_id) as live:
            got: list[int] = []
            async for seq in follow(live, stored[run_id]):
                got.append(seq)
                if seq >= count:
                    break
            return got

    readers = [asyncio.create_task(read(feed, run_id)) for feed in two for run_id in runs for _ in range(2)]
    for seq in range(1, count + 1):
        for run_id in runs:
            stored[run_id].append(committed(seq, token(f"{seq}"), run_id=run_id))
            random.choice(two).publish([stored[run_id][-1]])
        if seq % 20 == 0:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(DEADLINE_S):
        for got in await asyncio.gather(*readers):
            assert got == list(range(1, count + 1))


async def test_of_a_run_that_one_process_writes_the_others_readers_take_every_event_from_the_feed(
    two: list[RedisFeed],
) -> None:
    """A feed that only ever reports a gap would have every reader read everything from the log."""
    here, there = two
    count, got = 200, [0]
    with there.subscribe(RUN) as live:
        here.publish([committed(1, QUEUED)])
        assert await news(live, 0) == [1]
        for seq in range(2, count + 1):
            here.publish([committed(seq, token(f"{seq}"))])
        while got[-1] < count:
            events = live.take(got[-1] or 1)
            assert events is not None, f"a gap after {got[-1]}"
            got += seqs(events) or []
            if not events:
                assert await live.wait(DEADLINE_S)
    assert got[1:] == list(range(2, count + 1))


async def test_a_commit_that_is_overtaken_in_redis_is_refused_there_and_reads_as_a_gap(prefix: str) -> None:
    with processes(3, shared_redis(), prefix) as (slow, fast, there), there.subscribe(RUN) as live:
        fast.publish([committed(3, token())])
        assert await news(live, 2) == [3]
        slow.publish([committed(1, QUEUED, token())])
        await until(lambda: slow.refused == 1)
        assert live.take(0) is None
        assert slow.connected
        assert slow.dropped == 0


async def test_a_large_commit_is_a_hint_to_read_the_log(
    two: list[RedisFeed], prefix: str, client: "redis.Redis"
) -> None:
    here, there = two
    with there.subscribe(RUN) as live:
        here.publish([committed(1, QUEUED, note("x" * MAX_ENTRY_BYTES))])
        assert await news(live, 0) is None
        assert live.take(2) == []
        here.publish([committed(3, token())])
        assert await news(live, 2) == [3]
    assert client.memory_usage(f"{prefix}:run:{RUN}") < MAX_ENTRY_BYTES


async def test_a_redaction_empties_what_redis_and_other_processes_have_of_the_run(
    two: list[RedisFeed], prefix: str, client: "redis.Redis"
) -> None:
    here, there = two
    with there.subscribe(RUN) as live:
        here.publish([committed(1, QUEUED), committed(2, token("secret"))])
        assert await news(live, 0) == [1, 2]
        here.publish([msgspec.structs.replace(committed(3, note()), redacts=True)])
        await until(lambda: live.take(0) is None)
        here.publish([committed(4, token())])
        assert await news(live, 3) == [4]
    assert client.xlen(f"{prefix}:run:{RUN}") == 2  # the hint, and what came after it
    assert 0 < client.ttl(f"{prefix}:run:{RUN}") <= ACTIVE_EXPIRY_S


async def test_a_deletion_marker_is_not_in_another_processes_stream(two: list[RedisFeed]) -> None:
    here, there = two
    with there.subscribe(RUN) as live:
        here.publish([committed(1, QUEUED)])
        assert await news(live, 0) == [1]
        here.publish([committed(2, COMPLETED), committed(3, Deleted(by="local"))])
        assert await news(live, 1) == [2]
        await hears(here, there)  # so the marker has come, too
        assert seqs(live.take(1)) == [2]


async def test_one_reader_reads_thousands_of_runs(two: list[RedisFeed]) -> None:
    here, there = two
    runs = [new_run_id() for _ in range(2_000)]
    subscribed = [there.subscribe(run_id) for run_id in runs]
    lives = [one.__enter__() for one in subscribed]
    here.publish([committed(1, QUEUED, run_id=run_id) for run_id in runs])
    for live in lives:
        assert await news(live, 0) == [1]
    chosen = random.sample(range(2_000), 50)
    for place in chosen:
        here.publish([committed(2, token(), run_id=runs[place])])
    for place in chosen:
        assert await news(lives[place], 1) == [2]
    for one in subscribed:
        one.__exit__(None, None, None)
    await hears(here, there)  # which has the reader look
    assert there.streams == 3


async def test_the_stream_of_a_run_without_readers_is_not_read(two: list[RedisFeed]) -> None:
    here, there = two
    with there.subscribe(RUN), there.subscribe(RUN):
        await hears(here, there)
        assert there.streams == 4  # of this run, of the one that it was heard by, and two of its own
    await hears(here, there)
    assert there.streams == 3


async def test_a_run_that_is_followed_again_has_its_news(two: list[RedisFeed]) -> None:
    here, there = two
    for seq in range(1, 20):
        with there.subscribe(RUN) as live:
            here.publish([committed(seq, token())])
            assert await news(live, seq - 1) == [seq]


async def test_a_process_takes_nothing_of_another_installation(two: list[RedisFeed]) -> None:
    here, there = two
    with (
        own_prefix() as other,
        processes(1, shared_redis(), other) as (stranger,),
        there.subscribe(RUN) as live,
    ):
        stranger.publish([committed(1, QUEUED)])
        await until(lambda: stranger.published == 1)
        await hears(here, there)
        assert live.take(0) == []


@pytest.mark.parametrize("tag", [b"2abcd", b"1abcd"], ids=["of a form to come", "broken"])
async def test_an_entry_that_cannot_be_read_is_a_hint(
    two: list[RedisFeed], prefix: str, client: "redis.Redis", tag: bytes
) -> None:
    _, there = two
    with there.subscribe(RUN) as live:
        client.xadd(f"{prefix}:run:{RUN}", {tag: b"\xc1"}, id="4-0")
        client.xadd(f"{prefix}:control", {tag: b"\xc1"})
        assert await news(live, 3) is None
        assert there.connected


# ---- listeners ----


async def test_listeners_of_another_process_get_state_changes(two: list[RedisFeed]) -> None:
    here, there = two
    heard: list[Committed] = []
    there.listen(heard.append)
    await hears(here, there)
    here.publish([committed(1, QUEUED, token(), CANCEL), committed(4, token())])
    here.publish([committed(5, COMPLETED)])
    await until(lambda: len(heard) == 3)
    assert [(one.run_id, one.first_seq, one.control, one.events[0].type) for one in heard] == [
        (RUN, 1, True, "lifecycle.queued"),
        (RUN, 3, True, "cancel.requested"),
        (RUN, 5, True, "lifecycle.completed"),
    ]
    assert [one.events[0].ends for one in heard] == [False, False, True]
    assert [one.events[0].data for one in heard] == [b'{"user_id":"local"}', b"", b""]
    assert all(one.remote for one in heard)


async def test_a_listener_gets_its_own_processes_commits_once(two: list[RedisFeed]) -> None:
    here, there = two
    await hears(there, here)
    heard: list[Committed] = []
    here.listen(heard.append)
    commit = committed(1, QUEUED)
    here.publish([commit])
    there.publish([committed(2, COMPLETED)])
    await until(lambda: len(heard) == 2)
    assert heard[0] is commit
    assert heard[1].first_seq == 2


async def test_a_listener_that_fails_keeps_nothing_from_other_processes(two: list[RedisFeed]) -> None:
    here, there = two
    heard: list[Committed] = []

    def fail(commit: Committed) -> None:
        raise RuntimeError("no")

    here.listen(fail)
    there.listen(fail)
    there.listen(heard.append)
    with there.subscribe(RUN) as live:
        for seq in (1, 2):
            with pytest.raises(RuntimeError):
                here.publish([committed(seq, CANCEL)])
            assert await news(live, seq - 1) == [seq]
    assert there.connected


# ---- what stays in Redis ----


async def test_every_key_expires_and_an_ended_runs_soon(
    two: list[RedisFeed], prefix: str, client: "redis.Redis"
) -> None:
    here, there = two
    active, ended = new_run_id(), new_run_id()
    with there.subscribe(active) as live:
        here.publish([committed(1, QUEUED, run_id=active), committed(1, QUEUED, run_id=ended)])
        here.publish([committed(2, COMPLETED, run_id=ended)])
        await hears(here, there)
        assert await news(live, 0) == [1]
    lives = {key: client.ttl(key) for key in client.scan_iter(f"{prefix}:*", count=10_000)}
    assert f"{prefix}:control" in lives
    assert all(seconds > 0 for seconds in lives.values())
    assert 0 < lives[f"{prefix}:run:{ended}"] <= ENDED_EXPIRY_S
    assert ENDED_EXPIRY_S < lives[f"{prefix}:run:{active}"] <= ACTIVE_EXPIRY_S


async def test_redis_keeps_a_few_entries_of_a_run(
    two: list[RedisFeed], prefix: str, client: "redis.Redis"
) -> None:
    here, there = two
    with there.subscribe(RUN) as live:
        for seq in range(1, 301):
            here.publish([committed(seq, note("x" * 1_000))])
            await until(lambda: here.published == seq)  # noqa: B023
        assert await news(live, 299) == [300]
    assert client.xlen(f"{prefix}:run:{RUN}") <= 2 * MAX_RUN_ENTRIES
    assert client.memory_usage(f"{prefix}:run:{RUN}") < 2 * MAX_RUN_ENTRIES * MAX_ENTRY_BYTES


# ---- lifetime ----


async def test_a_feed_that_is_closed_for_its_readers_still_publishes_to_other_processes(
    two: list[RedisFeed],
) -> None:
    here, there = two
    here.close()
    with there.subscribe(RUN) as live:
        here.publish([committed(1, QUEUED, COMPLETED)])
        assert await news(live, 0) == [1, 2]


async def test_queued_commits_are_published_before_a_feed_stops(two: list[RedisFeed], prefix: str) -> None:
    _, there = two
    leaving = RedisFeed(shared_redis(), prefix=prefix)
    with there.subscribe(RUN) as live:
        leaving.start()
        for _ in range(14):  # several pipelines
            leaving.publish([committed(1, note("x" * 1_000_000), run_id=new_run_id())])
        leaving.publish([committed(1, QUEUED, COMPLETED)])
        leaving.stop()
        assert await news(live, 0) == [1, 2]


def test_a_feed_may_be_stopped_before_it_starts_and_twice(prefix: str) -> None:
    feed = RedisFeed(shared_redis(), prefix=prefix)
    feed.stop()
    with RedisFeed(shared_redis(), prefix=prefix) as other:
        other.close()
        other.stop()
