"""CPU that tokens, runs, readers and replays take in each process, measured on a PostgreSQL and a Redis."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from benchmarks.client import follow
from benchmarks.replicas import TOKENS, replicas, start_and_follow
from benchmarks.server import Server

PACED_RUNS, PACED_TOKENS = 100, 150
LOAD_RUNS = 200
ONCE = 400  # runs of one token
REPLAYS = 100
READERS = 4  # of each run, to see what one more costs
COUNTS = (1, 2, 4)  # of replicas, and as many workers
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

    def __truediv__(self, count: float) -> "Cost":
        return Cost(*(us / count for us in astuple(self)))

    def __mul__(self, count: float) -> "Cost":
        return self / (1 / count)


class Costs(Struct, frozen=True):
    """`token`: at 50 tokens/s of a run. `full`: as fast as they go, so in large commits."""

    token: Cost
    full: Cost
    reader: Cost  # one more reader of a token
    run: Cost  # from its start to its end, without its tokens
    replayed: Cost  # one event of a replay

    def named(self) -> dict[str, Cost]:
        return {
            "a token, at 50/s": self.token,
            "a token, as fast as they go": self.full,
            "one more reader of a token": self.reader,
            "a run, without its tokens": self.run,
            "a replayed event": self.replayed,
        }


class Check(Struct, frozen=True):
    """Tokens/s of so many replicas and workers, and the rate that the costs let expect."""

    count: int
    measured: float
    predicted: float


def measure(database_url: str, redis_url: str, *, quick: bool) -> tuple[Costs, list[Check]]:
    """The costs with one process of each kind, and the rates with more of them."""
    paced, tokens, load, once, replays = (
        (4, 25, 4, 20, 5) if quick else (PACED_RUNS, PACED_TOKENS, LOAD_RUNS, ONCE, REPLAYS)
    )
    with replicas(database_url, redis_url, 1, 1, paced=tokens) as servers:
        [api] = servers
        asyncio.run(start_and_follow(servers, "load", 4))  # warm

        def started(agent: str, runs: int) -> Cost:
            return _spent(api, lambda: start_and_follow(servers, agent, runs))

        run = started("once", once) / once
        token = (started("paced", paced) - run * paced) / (paced * tokens)
        full = (started("load", load) - run * load) / (load * TOKENS)
        several = _spent(api, lambda: _follow_by_several(api, paced))
        run_id = api.begin("load")
        seen = asyncio.run(follow(api.port, "GET", f"/runs/{run_id}/stream"))
        replayed = _spent(api, lambda: _replay(api, run_id, replays)) / (replays * seen.events)
    reader = ((several - run * paced) / (paced * tokens) - token) / (READERS - 1)
    costs = Costs(token, full, reader, run, replayed)
    counts = COUNTS[:1] if quick else COUNTS
    return costs, [_check(costs, database_url, redis_url, count, load) for count in counts]


def _check(costs: Costs, database_url: str, redis_url: str, count: int, runs: int) -> Check:
    rates = []
    with replicas(database_url, redis_url, count, count) as servers:
        asyncio.run(start_and_follow(servers, "load", 2 * count))  # warm
        for _ in range(3):
            streams, took = asyncio.run(start_and_follow(servers, "load", runs))
            rates.append(sum(stream.tokens for stream in streams) / took)
    each = costs.full.total + costs.run.total / TOKENS
    return Check(count, median(rates), (os.cpu_count() or 1) * 1e6 / each)


async def _follow_by_several(api: Server, runs: int) -> None:
    paths = [f"/runs/{api.begin('paced')}/stream" for _ in range(runs)]
    await asyncio.gather(*(follow(api.port, "GET", path) for path in paths for _ in range(READERS)))


async def _replay(api: Server, run_id: str, times: int) -> None:
    for _ in range(times):
        await follow(api.port, "GET", f"/runs/{run_id}/stream")


def _spent(api: Server, work: Callable[[], Coroutine[Any, Any, object]]) -> Cost:
    """What the processes used meanwhile."""
    before = _used(api.process.pid)
    asyncio.run(work())
    return _used(api.process.pid) - before


def _used(api: int) -> Cost:
    """What the API process, this process's worker, all of PostgreSQL and all of Redis have used so far."""
    kinds: dict[str, list[float]] = {"worker": [], "api": [], "database": [], "redis": []}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, fields = _stat(entry)
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            us = sum(map(int, fields[11:15])) * TICK_US  # with what its ended children used
            if int(entry.name) == api:
                kinds["api"].append(us)
            elif b"worker" in command and int(fields[1]) == os.getpid():
                kinds["worker"].append(us)
            elif name.startswith("postgres"):
                kinds["database"].append(us)
            elif name.startswith("redis-server"):
                kinds["redis"].append(us)
    return Cost(**{kind: sum(us) for kind, us in kinds.items()})


def _stat(process: Path) -> tuple[str, Sequence[str]]:
    text = (process / "stat").read_text()
    name, _, rest = text.partition("(")[2].rpartition(") ")
    return name, rest.split()
