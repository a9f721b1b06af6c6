"""CPU that tokens, runs, readers and replays take in each process, measured on a PostgreSQL and a Redis."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis
from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import create_engine

from benchmarks.client import follow
from benchmarks.replicas import TOKENS, replicas, start_and_follow
from benchmarks.server import Server, descendants

PACED_RUNS, PACED_TOKENS = 100, 150
LOAD_RUNS, AT_ONCE = 200, 50
ONCE = 400  # runs of one token
REPLAYS = 100
READERS = 4  # of each run, to see what one more costs
ROUNDS = 3  # of runs as fast as they go
COUNTS = (1, 2, 4)  # of replicas, and as many workers
CORES = os.cpu_count() or 1
TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")


class Cost(Struct, frozen=True):
    """CPU in µs."""

    worker: float
    api: float
    database: float
    redis: float

    @property
    def total(self) -> float:
        return sum(astuple(self))

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(*(max(a - b, 0) for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, count: float) -> "Cost":
        return Cost(*(us * count for us in astuple(self)))

    def __truediv__(self, count: float) -> "Cost":
        return self * (1 / count)


class Costs(Struct, frozen=True):
    """`token`: at 50 tokens/s of a run. `full`: as fast as they go, so in large commits."""

    token: Cost
    full: Cost
    thinner: Cost  # what each further worker adds to a token as fast as they go: commits hold fewer
    reader: Cost  # one more reader of a token
    run: Cost  # from its start to its end, without its tokens
    rival: Cost  # what each further worker adds to a run: all of them look at a queued run
    replayed: Cost  # one event of a replay
    client_us: float  # CPU of the load generator for a token
    worker_per_s: float  # tokens/s of one worker as fast as it goes, which waits for its commits

    def named(self) -> dict[str, Cost]:
        return {
            "a token, at 50/s": self.token,
            "a token, as fast as they go": self.full,
            "the same, for each further worker": self.thinner,
            "one more reader of a token": self.reader,
            "a run, without its tokens": self.run,
            "a run, for each further worker": self.rival,
            "a replayed event": self.replayed,
        }


class Check(Struct, frozen=True):
    """Tokens/s of so many replicas and workers, and the rate that the costs let expect.

    `limit`: what keeps it from being more. `busy`: cores that these processes and the load generator used.
    `others`: cores that all other programs used.
    """

    count: int
    measured: float
    predicted: float
    limit: str
    busy: float
    others: float


def expected(costs: Costs, count: int, cores: int) -> tuple[float, str]:
    """Tokens/s of so many replicas and workers on a machine, as fast as they go, and what limits them.

    A worker has one commit under way at a time, and waits for it. Several workers wait side by side, until
    the cores are busy.
    """
    further = count - 1
    token = costs.full + costs.thinner * further + (costs.run + costs.rival * further) / TOKENS
    by_cores = cores * 1e6 / (token.total + costs.client_us)
    by_workers = count * costs.worker_per_s
    return (by_workers, "workers wait") if by_workers < by_cores else (by_cores, "cores")


class _Spent(Struct, frozen=True):
    """CPU in µs of our processes, of this load generator and of all programs; seconds by the clock."""

    ours: Cost
    client: float
    all: float
    took_s: float


def measure(database_url: str, redis_url: str, *, quick: bool) -> tuple[Costs, list[Check]]:
    """The costs with one process of each kind, and the rates with more of them.

    Both servers must run on this machine, for the benchmark alone.
    """
    paced, tokens, load, once, replays, counts = (
        (4, 25, 4, 20, 5, COUNTS[:2])
        if quick
        else (PACED_RUNS, PACED_TOKENS, LOAD_RUNS, ONCE, REPLAYS, COUNTS)
    )
    shared = {"database": [_postmaster(database_url)], "redis": [_redis_pid(redis_url)]}

    def start(servers: list[Server], agent: str, runs: int) -> _Spent:
        at_once = runs if agent == "paced" else AT_ONCE
        work = partial(start_and_follow, servers, agent, runs, at_once=at_once)
        return _spent(_with(shared, servers), work)

    def loaded(servers: list[Server]) -> _Spent:
        start(servers, "load", 4 * len(servers))  # warm
        return _sum([start(servers, "load", load) for _ in range(ROUNDS)])

    said = ROUNDS * load * TOKENS

    with replicas(database_url, redis_url, 1, 1, paced=tokens) as servers:
        [api] = servers
        one = loaded(servers)
        run = start(servers, "once", once).ours / once
        token = (start(servers, "paced", paced).ours - run * paced) / (paced * tokens)
        full = one.ours / said - run / TOKENS
        several = _spent(_with(shared, servers), lambda: _follow_by_several(api, paced)).ours
        run_id = api.begin("load")
        seen = asyncio.run(follow(api.port, "GET", f"/runs/{run_id}/stream"))
        replayed = _spent(_with(shared, servers), lambda: _replay(api, run_id, replays)).ours
    reader = ((several - run * paced) / (paced * tokens) - token) / (READERS - 1)
    with replicas(database_url, redis_url, counts[-1], counts[-1]) as servers:
        most, further = loaded(servers), counts[-1] - 1
        rival = (start(servers, "once", once).ours / once - run) / further
    thinner = (most.ours / said - full - run / TOKENS) / further - rival / TOKENS
    costs = Costs(
        token, full, thinner, reader, run, rival, replayed / (replays * seen.events),
        client_us=one.client / said, worker_per_s=said / one.took_s,
    )  # fmt: skip
    checks = []
    for count in counts:
        with replicas(database_url, redis_url, count, count) as servers:
            spent = loaded(servers)
        measured, used = said / spent.took_s, spent.ours.total + spent.client
        busy, others = (us / spent.took_s * 1e-6 for us in (used, spent.all - used))
        checks.append(Check(count, measured, *expected(costs, count, CORES), busy, others))
    return costs, checks


async def _follow_by_several(api: Server, runs: int) -> None:
    paths = [f"/runs/{api.begin('paced')}/stream" for _ in range(runs)]
    await asyncio.gather(*(follow(api.port, "GET", path) for path in paths for _ in range(READERS)))


async def _replay(api: Server, run_id: str, times: int) -> None:
    for _ in range(times):
        await follow(api.port, "GET", f"/runs/{run_id}/stream")


def _with(shared: Mapping[str, list[int]], servers: Sequence[Server]) -> dict[str, list[int]]:
    """The processes of each kind: the workers are the other processes that this one has started."""
    apis = [server.process.pid for server in servers]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"worker": [pid for pid in map(int, children) if pid not in apis], "api": apis, **shared}


def _spent(kinds: Mapping[str, list[int]], work: Callable[[], Coroutine[Any, Any, object]]) -> _Spent:
    before = _used(kinds), time.process_time(), _used_by_all()
    start = time.perf_counter()
    asyncio.run(work())
    took_s = time.perf_counter() - start
    client, of_all = time.process_time() - before[1], _used_by_all() - before[2]
    return _Spent(_used(kinds) - before[0], client * 1e6, of_all, took_s)


def _sum(spent: Sequence[_Spent]) -> _Spent:
    ours = sum((each.ours for each in spent[1:]), spent[0].ours)
    client, of_all, took_s = map(
        sum, zip(*((each.client, each.all, each.took_s) for each in spent), strict=True)
    )
    return _Spent(ours, client, of_all, took_s)


def _used(kinds: Mapping[str, list[int]]) -> Cost:
    """What the processes of each kind have used so far, with all that they have started."""
    return Cost(**{kind: sum(map(_used_by, pids)) for kind, pids in kinds.items()})


def _used_by(pid: int) -> float:
    ticks = sum(map(int, _stat(pid)[11:15]))  # with what its ended children used
    for child in descendants(pid):
        try:
            ticks += sum(map(int, _stat(child)[11:13]))
        except OSError:  # it has just ended
            continue
    return ticks * TICK_US


def _used_by_all() -> float:
    user, nice, system, _idle, _iowait, *interrupts = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, *interrupts))) * TICK_US


def _postmaster(url: str) -> int:
    engine = create_engine(url)
    with engine.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        parent = int(_stat(pid)[1])
    engine.dispose()
    return parent


def _redis_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def _stat(pid: int) -> Sequence[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
