"""Several Redis servers of a test's own, as one cluster."""

import time
from contextlib import ExitStack
from typing import Any, Self

from tests.servers.ports import Port
from tests.servers.redis import Maker, OwnRedis

SLOTS = 16_384
PRIMARIES = 3
LOST_MS = 1_000  # without an answer, after which a node counts as lost
READY_S = 60.0


class ClusterNode(OwnRedis):
    """It belongs to no cluster yet. Over a restart it keeps what it knows of its cluster, and no data."""

    def __init__(self, maker: Maker) -> None:
        self.bus = Port()
        try:
            super().__init__(
                maker, cluster_enabled="yes", cluster_port=str(self.bus.number),
                cluster_node_timeout=str(LOST_MS), cluster_require_full_coverage="no",
                cluster_replica_validity_factor="0", repl_diskless_sync_delay="0",
            )  # fmt: skip
        except BaseException:
            self.bus.release()
            raise

    @property
    def id(self) -> str:
        return str(self.cluster("MYID"))

    def cluster(self, *words: Any) -> Any:
        """The answer to the command CLUSTER."""
        with self.client() as client:
            return client.execute_command("CLUSTER", *words)

    def meet(self, other: "ClusterNode") -> None:
        self.cluster("MEET", "127.0.0.1", other.port, other.bus.number)

    def close(self) -> None:
        super().close()
        self.bus.release()


class OwnRedisCluster:
    """Three primaries on loopback, each with a third of the slots."""

    def __init__(self, maker: Maker = "redis") -> None:
        self._maker = maker
        self._stack = ExitStack()
        self.nodes: list[ClusterNode] = []

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    def __enter__(self) -> Self:
        try:
            for number in range(PRIMARIES):
                first, last = (SLOTS * place // PRIMARIES for place in (number, number + 1))
                self.add().cluster("ADDSLOTSRANGE", first, last - 1)
            self.wait()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def add(self) -> ClusterNode:
        """A further node, without slots."""
        node = ClusterNode(self._maker)
        self._stack.enter_context(node)
        if self.nodes:
            self.nodes[0].meet(node)
        self.nodes.append(node)
        return node

    def wait(self) -> None:
        """Return when every node finds the cluster whole."""
        known = f"cluster_known_nodes:{len(self.nodes)}\r"
        deadline = time.monotonic() + READY_S
        for node in self.nodes:
            while not all(fact in node.cluster("INFO") for fact in ("cluster_state:ok", known)):
                assert time.monotonic() < deadline, node.cluster("NODES")
                time.sleep(0.02)

    def primary_of(self, key: str) -> ClusterNode:
        """The node that has a key, as all nodes know that run."""
        first = next(node for node in self.nodes if node.answers)
        slot = first.cluster("KEYSLOT", key)
        (port,) = (place[2][1] for place in first.cluster("SLOTS") if place[0] <= slot <= place[1])
        return next(node for node in self.nodes if node.port == port)
