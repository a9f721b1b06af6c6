"""A discrete simulation of many processes: where tokens queue on their way, and for how long.

    worker ── commit ──> database ──> worker ── message ──> Redis ──> API process ──> reader

Each worker commits the tokens that have gathered since its last commit, as the writer does. The cores of a
database serve commits in turn, and a flush of its log acknowledges all commits before it. A worker, a Redis
and an API process have a core each. One database with its part of the other processes is simulated: the parts
share nothing.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from random import Random

from msgspec import Struct

from benchmarks.report import percentile
from benchmarks.scaling.costs import Cost, Costs

RATE = 50  # tokens/s of a run
LASTS_S = 20.0  # of a run
BUSY = 0.7  # share of its core that a process is planned to use
CORES = 64  # of a database server
LOG_BYTES = 300  # that a token takes in the log of a database, with its index
LOG_MB_PER_S = 1_000  # that a database's disk takes
FLUSH_S = 0.002  # of a database's log: a network disk of a cloud


class Fleet(Struct, frozen=True):
    """The processes for so many runs at once."""

    runs: int
    workers: int
    apis: int
    databases: int
    database_cores: int  # of each
    redis_shards: int

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
    """The fewest processes that are busy for `BUSY` of the time, and the databases that carry the log."""
    per_s = _load(costs, runs) * 1e-6  # cores
    log_mb = runs * RATE * LOG_BYTES / 1e6
    databases = max(math.ceil(per_s.database / BUSY / CORES), math.ceil(log_mb / LOG_MB_PER_S), 1)

    def whole(cores: float) -> int:  # at least one beside each database
        return max(math.ceil(cores / BUSY / databases), 1) * databases

    return Fleet(
        runs, whole(per_s.worker), whole(per_s.api), databases,
        whole(per_s.database) // databases, whole(per_s.redis),
    )  # fmt: skip


def _load(costs: Costs, runs: int) -> Cost:
    """CPU in µs that the runs take in each second."""
    return costs.token * (runs * RATE) + costs.run * (runs / LASTS_S)


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
    redis = [_Station("Redis", 1) for _ in range(max(fleet.redis_shards // fleet.databases, 1))]
    share = fleet.tokens_per_s / fleet.databases / len(workers)  # tokens/s of a worker
    # What runs take besides their tokens, spread over these.
    token = costs.token + costs.run / (RATE * LASTS_S)
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
            told = random.choice(redis).serve(now, count * token.redis * 1e-6)
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
