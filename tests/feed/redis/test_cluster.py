"""Processes that share a Redis Cluster: runs are spread over its nodes, which fail and change places."""

from collections.abc import Iterator

import pytest
import structlog

from runstore.core.ids import new_run_id
from runstore.feed.redis.check import check_redis
from runstore.feed.redis.feed import RedisFeed
from runstore.feed.redis.topology import ClusterNodes, read_topology
from runstore.feed.redis.wire import Keys
from tests.kit.events import COMPLETED, QUEUED, token
from tests.kit.live import committed, processes, seqs
from tests.kit.polling import until
from tests.servers.redis import MAKERS
from tests.servers.redis_cluster import ClusterNode, OwnRedisCluster


@pytest.fixture(params=MAKERS)
def cluster(request: pytest.FixtureRequest) -> Iterator[OwnRedisCluster]:
    with OwnRedisCluster(request.param) as cluster:
        yield cluster


def keys_of(node: ClusterNode) -> list[str]:
    with node.client() as client:
        return list(client.scan_iter("runstore:*:run:*", count=10_000))


def runs_of(node: ClusterNode) -> set[str]:
    return {key.rpartition(":")[2] for key in keys_of(node)}


async def run_at(node: ClusterNode, here: RedisFeed) -> str:
    """A run whose events go over this node."""
    while True:
        run_id = new_run_id()
        published = here.published
        here.publish([committed(1, QUEUED, run_id=run_id)])
        await until(lambda: here.published > published)  # noqa: B023
        if run_id in runs_of(node):
            return run_id


async def test_runs_are_spread_over_all_nodes_and_each_ones_news_come(redis_cluster: OwnRedisCluster) -> None:
    runs = [new_run_id() for _ in range(300)]
    check_redis(redis_cluster.url)
    with processes(2, redis_cluster.url) as (here, there):
        heard: list[str] = []
        # A listener may miss entries that were published before its process began to read.
        there.listen(lambda commit: heard.append(commit.run_id) if commit.first_seq > 1 else None)
        subscribed = {run_id: there.subscribe(run_id) for run_id in runs}
        lives = {run_id: one.__enter__() for run_id, one in subscribed.items()}
        here.publish([committed(1, QUEUED, run_id=run_id) for run_id in runs])
        for live in lives.values():
            await until(lambda: seqs(live.take(0)) == [1])  # noqa: B023
        here.publish([committed(2, token(), COMPLETED, run_id=run_id) for run_id in runs])
        for live in lives.values():
            await until(lambda: seqs(live.take(1)) == [2, 3])  # noqa: B023
        await until(lambda: len(heard) >= len(runs))
        assert sorted(heard) == sorted(runs)
        for one in subscribed.values():
            one.__exit__(None, None, None)
        assert (here.dropped, here.refused) == (0, 0)
    shares = [len(runs_of(node) & set(runs)) for node in redis_cluster.nodes]
    assert sum(shares) == len(runs)
    assert min(shares) > len(runs) / 6


def test_all_keys_of_a_lane_share_a_slot_and_the_lanes_are_spread_evenly(
    redis_cluster: OwnRedisCluster,
) -> None:
    topology = read_topology(redis_cluster.url)
    assert isinstance(topology, ClusterNodes)
    nodes = []
    for lane in range(topology.lanes):
        keys = Keys(topology.prefix("some", lane), "process")
        names = [key.decode() for key in (keys.control, keys.wake, keys.run(new_run_id()))]
        assert len({redis_cluster.nodes[0].cluster("KEYSLOT", name) for name in names}) == 1
        nodes.append(redis_cluster.primary_of(names[0]).port)
    assert sorted(map(nodes.count, nodes)) == [2] * topology.lanes


async def test_news_of_other_nodes_come_while_one_is_down_and_of_all_when_it_is_back(
    cluster: OwnRedisCluster,
) -> None:
    down, up, _ = cluster.nodes
    with processes(2, cluster.url) as (here, there):
        lost, going_on = await run_at(down, here), await run_at(up, here)
        with there.subscribe(lost) as lost_live, there.subscribe(going_on) as live:
            here.publish([committed(2, token(), run_id=run_id) for run_id in (lost, going_on)])
            await until(lambda: 2 in (seqs(lost_live.take(1)) or []) and 2 in (seqs(live.take(1)) or []))
            down.kill()
            await until(lambda: not here.connected and not there.connected)
            with structlog.testing.capture_logs() as logged:
                check_redis(cluster.url)
            assert [line["event"] for line in logged] == ["redis_absent"]
            for seq in range(3, 30):
                here.publish([committed(seq, token(), run_id=run_id) for run_id in (lost, going_on)])
                await until(lambda: seqs(live.take(seq - 1)) == [seq])  # noqa: B023
            assert seqs(lost_live.take(1)) == [2]
            down.start()
            await until(lambda: here.connected and there.connected)
            here.publish([committed(30, COMPLETED, run_id=run_id) for run_id in (lost, going_on)])
            await until(lambda: seqs(live.take(29)) == [30])
            await until(lambda: lost_live.take(2) != [])
            assert lost_live.take(2) is None  # so that its reader looks at the log
            assert seqs(lost_live.take(29)) == [30]


async def test_a_replica_that_takes_a_primarys_place_carries_its_runs(cluster: OwnRedisCluster) -> None:
    primary, replica = cluster.nodes[2], cluster.add()
    cluster.wait()
    replica.cluster("REPLICATE", primary.id)
    with replica.client() as client:
        await until(lambda: client.info("replication").get("master_link_status") == "up")
    with processes(2, cluster.url) as (here, there):
        run_id = await run_at(primary, here)
        primary.kill()
        with there.subscribe(run_id) as live:
            seq = 1

            def arrives() -> bool:
                nonlocal seq
                seq += 1
                here.publish([committed(seq, token(), run_id=run_id)])
                return live.take(0) != []

            await until(arrives)
        await until(lambda: here.connected and there.connected)
        assert run_id in runs_of(replica)


async def test_a_slot_that_moves_to_another_node_costs_no_event(cluster: OwnRedisCluster) -> None:
    old, new, third = cluster.nodes
    with processes(2, cluster.url) as (here, there):
        run_id = await run_at(old, here)
        with there.subscribe(run_id) as live:
            here.publish([committed(2, token(), run_id=run_id)])
            await until(lambda: 2 in (seqs(live.take(1)) or []))
            (key,) = (key for key in keys_of(old) if key.endswith(run_id))
            slot = old.cluster("KEYSLOT", key)
            new.cluster("SETSLOT", slot, "IMPORTING", old.id)
            old.cluster("SETSLOT", slot, "MIGRATING", new.id)
            with old.client() as client:
                keys = old.cluster("GETKEYSINSLOT", slot, 1_000)
                client.execute_command("MIGRATE", "127.0.0.1", new.port, "", 0, 5_000, "KEYS", *keys)
            for node in (new, old, third):
                node.cluster("SETSLOT", slot, "NODE", new.id)
            here.publish([committed(3, COMPLETED, run_id=run_id)])
            await until(lambda: live.take(2) != [])
            assert seqs(live.take(2)) == [3]
            assert here.dropped == 0
        assert run_id in runs_of(new)
