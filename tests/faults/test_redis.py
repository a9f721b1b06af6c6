"""Redis or Valkey forgets, goes, stands still and is full, under load: it costs time and nothing else.

Of a cluster one node does, and of a pair with Sentinel its primary at the time.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import NamedTuple

import pytest

from tests.kit.checks import check_all, check_said
from tests.kit.cluster import Cluster, cluster
from tests.kit.load import Load
from tests.servers.databases import empty_database
from tests.servers.redis import MAKERS, Maker, OwnRedis
from tests.servers.redis_cluster import OwnRedisCluster
from tests.servers.redis_sentinel import SentinelRedis
from tests.soak import SOAK

OUTAGE_S = 10.0 if SOAK > 1 else 1.0
RUNS = 5  # that are begun before each fault; one more during it
FRAMES = 100  # of all runs, that are seen before the next one
CONFIG = """
[server]
heartbeat_s = 0.5

[agents.talker]
model = "scripted"
tokens = 120
tokens_per_s = 40
"""


class Site(NamedTuple):
    victim: Callable[[], OwnRedis]  # for the next fault
    cluster: Cluster


@contextmanager
def one_server(maker: Maker) -> Iterator[tuple[str, Callable[[], OwnRedis]]]:
    with OwnRedis(maker) as redis:
        yield redis.url, lambda: redis


@contextmanager
def nodes(maker: Maker) -> Iterator[tuple[str, Callable[[], OwnRedis]]]:
    with OwnRedisCluster(maker) as redis:
        turns = itertools.cycle(redis.nodes)
        yield redis.url, lambda: next(turns)


@contextmanager
def pair(maker: Maker) -> Iterator[tuple[str, Callable[[], OwnRedis]]]:
    with SentinelRedis(maker) as redis:
        yield redis.url, redis.current


TOPOLOGIES = {"one server": one_server, "cluster": nodes, "sentinel": pair}


@pytest.fixture(scope="module", params=product(MAKERS, TOPOLOGIES), ids=" ".join)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("redis")
    with ExitStack() as stack:
        maker, topology = request.param
        redis_url, victim = stack.enter_context(TOPOLOGIES[topology](maker))
        url = stack.enter_context(empty_database("postgresql", folder))
        yield Site(victim, stack.enter_context(cluster(folder, url, redis_url, config=CONFIG)))


async def flushed(redis: OwnRedis) -> None:
    with redis.client() as client:
        for _ in range(5):
            client.flushall()
            await asyncio.sleep(OUTAGE_S / 5)


async def stopped(redis: OwnRedis) -> None:
    await asyncio.to_thread(redis.stop)
    await asyncio.sleep(OUTAGE_S)
    await asyncio.to_thread(redis.start)


async def killed(redis: OwnRedis) -> None:
    await asyncio.to_thread(redis.kill)
    await asyncio.sleep(OUTAGE_S)
    await asyncio.to_thread(redis.start)


async def frozen(redis: OwnRedis) -> None:
    redis.freeze()
    await asyncio.sleep(OUTAGE_S)
    redis.thaw()


async def full(redis: OwnRedis) -> None:
    """Every write is refused, as with `maxmemory-policy noeviction`."""
    with redis.client() as client:
        client.config_set("maxmemory", 1)
        await asyncio.sleep(OUTAGE_S)
        client.config_set("maxmemory", 0)


async def evicting(redis: OwnRedis) -> None:
    """All written keys are evicted soon."""
    with redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", client.info("memory")["used_memory"])
        await asyncio.sleep(OUTAGE_S)
        client.config_set("maxmemory", 0)


FAULTS: tuple[Callable[[OwnRedis], Awaitable[None]], ...] = (flushed, stopped, killed, frozen, full, evicting)


@pytest.mark.slow
async def test_every_stream_is_whole_through_every_fault_of_redis(site: Site) -> None:
    async with Load(lambda: site.cluster.urls) as load:
        for fault in FAULTS * SOAK:
            load.begin(RUNS, "talker", notes=True)
            await load.until_seen(load.frames + FRAMES)
            trouble = asyncio.ensure_future(fault(site.victim()))
            load.begin(1, "talker", notes=True)
            await trouble
        await load.finish()
        await check_all(load, site.cluster)
        check_said(load, begun={"claimed"})
        with site.victim().client() as client:
            assert client.info("commandstats").get("cmdstat_xadd"), "or no process has used it in the end"
