"""A Redis that is absent, killed, emptied, frozen, full or used by others costs time, and nothing else."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog, LiveFeed
from runstore.eventlog.queries import read_last_seqs
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.head_poll import HeadPoll
from runstore.feed.redis.feed import RedisFeed
from runstore.feed.redis.publisher import MAX_QUEUED_EVENTS
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from tests.kit.events import CANCEL, CANCELLED, COMPLETED, QUEUED, note, started, token
from tests.kit.frames import frame_of
from tests.kit.live import RUN, committed, hears, processes, seqs
from tests.kit.polling import DEADLINE_S, until
from tests.servers.redis import MAKERS, OwnRedis


@pytest.fixture(params=MAKERS)
def server(request: pytest.FixtureRequest) -> Iterator[OwnRedis]:
    with OwnRedis(request.param) as server:
        yield server


def lines(logged: list[dict[str, object]]) -> list[object]:
    return [line["event"] for line in logged]


async def tail(log: EventLog, feed: LiveFeed, run_id: str) -> bytes:
    async with asyncio.timeout(6 * DEADLINE_S):
        return b"".join([body async for body in native(Tail(log, feed, run_id, after=0))])


# ---- lost and back ----


async def test_absent_at_the_start_it_is_found_when_it_comes() -> None:
    server = OwnRedis()
    try:
        with structlog.testing.capture_logs() as logged, processes(2, server.url) as (here, there):
            with here.subscribe(RUN) as live:
                here.publish([committed(1, QUEUED)])
                assert seqs(live.take(0)) == [1]
            await until(lambda: here.dropped == 1)
            assert not here.connected
            server.start()
            await until(lambda: here.connected and there.connected)
            await hears(here, there)
        assert sorted(lines(logged), key=str) == ["redis_back", "redis_back", "redis_lost", "redis_lost"]
    finally:
        server.close()


async def test_after_a_kill_and_a_start_news_come_again_with_two_log_lines(server: OwnRedis) -> None:
    with structlog.testing.capture_logs() as logged, processes(2, server.url) as (here, there):
        heard: list[int] = []
        there.listen(lambda commit: heard.append(commit.first_seq))
        await hears(here, there)
        with there.subscribe(RUN) as live, server.client() as client:
            here.publish([committed(1, QUEUED)])
            await until(lambda: live.take(0) != [])
            client.xadd("runstore:control", {"0": ""}, id="9999999999999-0")  # by a clock that was fast
            await hears(here, there)
            server.kill()
            for seq in range(2, 50):
                here.publish([committed(seq, token())])
                await asyncio.sleep(0.001)
            await until(lambda: here.dropped >= 48)
            await until(lambda: not here.connected and not there.connected)
            server.start()
            await until(lambda: here.connected and there.connected)
            here.publish([committed(50, COMPLETED)])
            await until(lambda: live.take(1) != [])
            assert live.take(1) is None
            await until(lambda: seqs(live.take(49)) == [50])
            await until(lambda: 50 in heard)
        assert here.reconnects >= 1
    assert lines(logged).count("redis_lost") == lines(logged).count("redis_back") == 2


async def test_emptied_it_goes_on_with_what_comes_next(server: OwnRedis) -> None:
    heard: list[int] = []
    with processes(2, server.url) as (here, there), there.subscribe(RUN) as live, server.client() as client:
        there.listen(lambda commit: heard.append(commit.first_seq))
        await hears(here, there)
        for seq in range(1, 10):
            client.flushall()
            await asyncio.sleep(0.002)  # ids of the control stream are Redis' time in milliseconds
            here.publish([committed(seq, CANCEL)])
            await until(lambda: seqs(live.take(seq - 1)) == [seq])  # noqa: B023
            await until(lambda: heard == list(range(1, seq + 1)))  # noqa: B023
        assert here.connected
        assert here.dropped == 0


async def test_a_frozen_redis_blocks_no_run_and_is_back_when_it_thaws(server: OwnRedis) -> None:
    with processes(2, server.url) as (here, there):
        await hears(here, there)
        server.freeze()
        with here.subscribe(RUN) as own:
            for seq in range(1, 2 * MAX_QUEUED_EVENTS, 1_000):
                here.publish([committed(seq, *[token()] * 1_000)])
            assert here.dropped > 0  # the queue is bounded
            here.publish([committed(seq + 1_000, token())])
            assert seqs(own.take(seq + 999)) == [seq + 1_000]
        await until(lambda: not here.connected and not there.connected)
        server.thaw()
        await hears(here, there)
        await until(lambda: here.connected and there.connected)


async def test_frozen_it_does_not_keep_a_process_from_leaving(server: OwnRedis) -> None:
    with processes(2, server.url) as (here, there):
        await hears(here, there)
        server.freeze()
        here.publish([committed(1, QUEUED)])


# ---- full, or used by others ----


async def test_full_it_takes_nothing_and_is_back_when_there_is_room() -> None:
    with (
        OwnRedis(maxmemory_policy="noeviction") as server,
        server.client() as client,
        structlog.testing.capture_logs() as logged,
        processes(2, server.url) as (here, there),
    ):
        await hears(here, there)
        client.config_set("maxmemory", "1")
        for seq in range(1, 100):
            here.publish([committed(seq, token())])
            await asyncio.sleep(0.002)
        assert here.dropped > 1
        assert not here.connected
        with there.subscribe(RUN):  # its reader goes on, and cannot be woken
            await until(lambda: there.streams == 3 and not there.connected)
        client.config_set("maxmemory", "0")
        await hears(here, there)
        await until(lambda: here.connected and there.connected)
    told = [line for line in logged if line["event"] in ("redis_lost", "redis_back")]
    assert "memory" in str(told[0]["error"])
    assert len(told) == 4  # of two processes: `there` could not wake its reader


async def test_a_key_of_another_type_keeps_nothing_from_the_readers_of_others(server: OwnRedis) -> None:
    other = new_run_id()
    with processes(2, server.url) as (here, there), server.client() as client:
        await hears(here, there)
        client.set(f"runstore:run:{RUN}", "mine")
        with there.subscribe(RUN) as live, there.subscribe(other) as others:
            here.publish([committed(1, QUEUED), committed(1, QUEUED, run_id=other)])
            await until(lambda: seqs(others.take(0)) == [1])
            await until(lambda: here.dropped == 1)
            assert live.take(0) == []
            client.delete(f"runstore:run:{other}")
            client.set(f"runstore:run:{other}", "mine too")  # while it is read
            await hears(here, there)
        assert here.connected
        assert there.connected
        assert client.get(f"runstore:run:{RUN}") == "mine"


async def test_a_control_key_of_another_type_keeps_nothing_from_the_readers(server: OwnRedis) -> None:
    with server.client() as client:
        client.set("runstore:control", "mine")
        with processes(2, server.url) as (here, there), there.subscribe(RUN) as live:
            here.publish([committed(1, QUEUED)])
            await until(lambda: seqs(live.take(0)) == [1])
            await until(lambda: here.connected and there.connected)


# ---- all of it at once ----


@pytest.mark.slow
async def test_streams_are_whole_through_every_fault_of_redis_while_they_are_written(
    server: OwnRedis, open_log: Callable[..., SqlEventLog], tmp_path: Path
) -> None:
    with processes(2, server.url) as (here, there), server.client() as client:
        writing, reading = open_log(here), open_log(there)

        async def last_seqs(runs: object) -> dict[str, int]:
            return await reading.database.query(read_last_seqs, runs)

        async def write(run_id: str) -> None:
            for _ in range(40):
                await writing.append(run_id, [note("x"), token("y")])
                await asyncio.sleep(0.02)
            await writing.append(run_id, [CANCEL])
            await writing.append(run_id, [CANCELLED])

        async def harm() -> None:
            client.flushall()
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.start)
            server.freeze()
            await asyncio.sleep(0.3)
            server.thaw()

        runs = [new_run_id() for _ in range(5)]
        for run_id in runs:
            await writing.append(run_id, [QUEUED, started()], expected_seq=0)
        async with HeadPoll(there.local, last_seqs, every_s=0.1):
            streams = [asyncio.create_task(tail(reading, there, run_id)) for run_id in runs for _ in range(2)]
            await until(lambda: there.followed == 5)
            await asyncio.gather(*map(write, runs), harm())
            got = await asyncio.gather(*streams)
        for place, run_id in enumerate(run_id for run_id in runs for _ in range(2)):
            stored = await writing.read(run_id)
            whole = [frame_of(e) for e in stored]
            assert got[place] == b"".join(whole)


def test_a_malformed_url_is_refused_before_anything_is_started() -> None:
    with pytest.raises(Exception, match="redis_url is not of the form"):
        RedisFeed("http://127.0.0.1")
