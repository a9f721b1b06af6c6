"""Processes that find their Redis by Sentinel: a failover costs a moment."""

import pytest
import structlog

from runstore.core.ids import new_run_id
from runstore.feed.redis.check import check_redis
from tests.kit.events import COMPLETED, QUEUED, token
from tests.kit.live import committed, hears, processes, seqs
from tests.kit.polling import until
from tests.servers.redis import MAKERS, Maker, OwnRedis
from tests.servers.redis_sentinel import OwnSentinel, SentinelRedis


@pytest.mark.parametrize("maker", MAKERS)
async def test_after_a_failover_news_come_over_the_new_primary(maker: Maker) -> None:
    run_id = new_run_id()
    with (
        SentinelRedis(maker) as servers,
        structlog.testing.capture_logs() as logged,
        processes(2, servers.url) as (here, there),
        there.subscribe(run_id) as live,
    ):
        check_redis(servers.url)
        here.publish([committed(1, QUEUED, run_id=run_id)])
        await until(lambda: seqs(live.take(0)) == [1])
        servers.primary.kill()
        await hears(here, there)
        await until(lambda: here.connected and there.connected)
        here.publish([committed(2, token(), COMPLETED, run_id=run_id)])
        await until(lambda: seqs(live.take(1)) == [2, 3])
        with servers.replica.client() as client:
            assert client.info("replication")["role"] == "master"
            assert client.exists(f"runstore:run:{run_id}")
    told = [line["event"] for line in logged]
    assert told.count("redis_lost") == told.count("redis_back") == 2


async def test_a_process_starts_while_the_primary_is_frozen_or_gone() -> None:
    with OwnRedis() as primary, OwnSentinel(primary.port) as sentinel:
        check_redis(sentinel.url)
        primary.freeze()
        with structlog.testing.capture_logs() as logged:
            check_redis(sentinel.url)  # Sentinel may still name it
            await until(lambda: "s_down" in sentinel.master()["flags"])
            check_redis(sentinel.url)
            primary.kill()
            check_redis(sentinel.url)
    assert [line["event"] for line in logged] == ["redis_absent"] * 3
    assert "Sentinel knows no working primary of runs: " in logged[1]["error"]
