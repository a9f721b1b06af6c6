"""A discrete simulation of many processes: where tokens queue on their way, and for how long.

    worker ── commit ──> database ──> worker ── message ──> Redis ──> API process ──> reader

Each worker commits the tokens that have gathered since its last commit, as the writer does. The cores of a
database serve commits in turn, and a flush of its log acknowledges all commits before it. A worker, an API
process and a node of Redis, which has whole lanes, have a core each. One database with its part of the other
processes is simulated: the parts share nothing.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from random import Random

from msgspec import Struct

from benchmarks.report import percentile
from benchmarks.scaling.costs import Costs
from runstore.feed.redis.topology import CLUSTER_LANES

RATE = 50  # tokens/s of a run
LASTS_S = 20.0  # of a run
BUSY = 0.7  # share of its core that a process is planned to use
RIVALS = 0.5  # of that, which a worker may spend at most on queued runs that other workers take
CORES = 64  # of a database server
LOG_BYTES = 300  # that a token takes in the log of a database, with its index
LOG_MB_PER_S = 1_000  # that a database's disk takes
FLUSH_S = 0.002  # of a database's log: a network disk of a cloud


class Fleet(Struct, frozen=True):
    """The processes for so many runs at once, spread over databases that share nothing."""

    runs: int
    workers: int
    apis: int
    databases: int
    database_cores: int  # of each
    redis_nodes: int  # of the Redis of each

    @property
    def tokens_per_s(self) -> float:
        return self.runs * RATE

    @property
    def log_mb_per_s(self) -> float:
        """Of each database."""
        return self.tokens_per_s * LOG_BYTES / 1e6 / self.databases


class Outcome(Struct, frozen=True):
    """`busiest`: a resource, and the share of its time that it worked."""

    p50_ms: float
    p99_ms: float
    busiest: tuple[str, float]


def fleet_for(costs: Costs, runs: int) -> Fleet:
    """The fewest databases that keep up, with the fewest processes that are busy for `BUSY` of the time."""
    least = max(math.ceil(runs * RATE * LOG_BYTES / 1e6 / LOG_MB_PER_S), 1)
    fleets = (_fleet(costs, runs, databases) for databases in itertools.count(least))
    return next(fleet for fleet in fleets if fleet is not None)


def _fleet(costs: Costs, runs: int, databases: int) -> Fleet | None:
    """The processes for so many databases; None if a database, its Redis or its workers cannot keep up."""
    starts = runs / databases / LASTS_S  # each s
    per_s = (costs.token * (runs / databases * RATE) + costs.run * starts) * 1e-6  # cores
    rival = costs.rival * (starts * 1e-6)  # cores for each further worker
    if rival.worker > BUSY * RIVALS:
        return None
    workers = max(math.ceil((per_s.worker - rival.worker) / (BUSY - rival.worker)), 1)
    per_s += rival * (workers - 1)
    cores = math.ceil(per_s.database / BUSY)
    of_lane = per_s.redis / CLUSTER_LANES
    nodes = [
        node for node in range(1, CLUSTER_LANES + 1) if of_lane * math.ceil(CLUSTER_LANES / node) <= BUSY
    ]
    if cores > CORES or not nodes:
        return None
    apis = max(math.ceil(per_s.api / BUSY), 1)
    return Fleet(runs, workers * databases, apis * databases, databases, max(cores, 1), nodes[0])


class _Station:
    """A queue with some cores: a job waits for the first that is free."""

    def __init__(self, name: str, cores: int) -> None:
        self.name = name
        self._free = [0.0] * cores
        self.worked_s = 0.0

    def serve(self, now: float, takes_s: float) -> float:
        """When a job that comes now is done."""
        done = max(now, heapq.heappop(self._free)) + takes_s
        heapq.heappush(self._free, done)
        self.worked_s += takes_s
        return done

    def share(self, seconds: float) -> float:
        return self.worked_s / len(self._free) / seconds


def simulate(costs: Costs, fleet: Fleet, seconds: float, *, seed: int = 1) -> Outcome:
    """Let one database, and its part of the other processes, work for so long."""
    random = Random(seed)
    database = _Station("database", fleet.database_cores)
    workers = [_Station("worker", 1) for _ in range(fleet.workers // fleet.databases)]
    apis = [_Station("API process", 1) for _ in range(fleet.apis // fleet.databases)]
    redis = [_Station("Redis", 1) for _ in range(fleet.redis_nodes)]
    share = fleet.tokens_per_s / fleet.databases / len(workers)  # tokens/s of a worker
    # What runs take besides their tokens, spread over these.
    token = costs.token + (costs.run + costs.rival * (len(workers) - 1)) / (RATE * LASTS_S)
    delays: list[float] = []
    order = itertools.count()
    due: list[tuple[float, int, Callable[[float], None]]] = []

    def at(when: float, then: Callable[[float], None]) -> None:
        heapq.heappush(due, (when, next(order), then))

    def begin(place: int, last_taken: float) -> Callable[[float], None]:
        def take(now: float) -> None:
            count = max(round(share * (now - last_taken)), 1)
            spoken = workers[place].serve(now, count * token.worker * 1e-6)  # while the commit is made
            stored = database.serve(now, count * token.database * 1e-6)
            flushed = math.ceil(stored / FLUSH_S + 1e-9) * FLUSH_S
            at(max(flushed, spoken), publish(count, last_taken, now))
            at(flushed, begin(place, now))

        return take

    def publish(count: int, since: float, taken: float) -> Callable[[float], None]:
        def send(now: float) -> None:
            node = redis[random.randrange(CLUSTER_LANES) % len(redis)]
            told = node.serve(now, count * token.redis * 1e-6)
            at(told, deliver(count, since, taken))

        return send

    def deliver(count: int, since: float, taken: float) -> Callable[[float], None]:
        def write(now: float) -> None:
            parts = min(count, len(apis))  # the readers of a worker's runs are spread over all of them
            each_s = count / parts * token.api * 1e-6
            done = max(api.serve(now, each_s) for api in random.sample(apis, parts))
            delays.append(done - since)  # of the first token of the commit
            delays.append(done - taken)  # and of the last

        return write

    for place in range(len(workers)):
        start = random.random() * FLUSH_S
        at(start, begin(place, start - FLUSH_S))
    while due and due[0][0] < seconds:
        when, _, then = heapq.heappop(due)
        then(when)
    shares: dict[str, float] = {}
    for station in (database, *workers, *apis, *redis):
        shares[station.name] = max(shares.get(station.name, 0), station.share(seconds))
    busiest = max(shares.items(), key=lambda item: item[1])
    return Outcome(percentile(delays, 50) * 1_000, percentile(delays, 99) * 1_000, busiest)
