"""API replicas and workers apart, on one database: throughput by their number, and latency through both."""

import asyncio
import itertools
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.client import Stream, follow
from benchmarks.databases import empty_database, name_of
from benchmarks.options import Options
from benchmarks.report import Report, milliseconds, percentile
from benchmarks.server import BODY, Server, Worker

COUNTS = (1, 2, 4)  # of replicas, and as many workers
ROUNDS = 3
TOKENS = 400
CONFIG = """
[server]
redis_prefix = "{prefix}"

[agents.load]
model = "scripted"
tokens = {tokens}
tokens_per_s = 0

[agents.once]
model = "scripted"
tokens = 1

[agents.paced]
model = "scripted"
tokens = {paced}
tokens_per_s = 50

[agents.slow]
model = "scripted"
tokens = 10000
tokens_per_s = 20
"""


def run(options: Options) -> Iterator[Report]:
    """One replica and one worker, two and two, four and four; all of them at once would share the cores."""
    report = Report(
        "API replicas with as many workers, on one database",
        ("database", "wake-ups", "replicas", "tokens/s", "first token p50", "append to client p50", "p99"),
        "Tokens/s: runs as fast as they go, followed at the replicas in turn. Latencies at 50 tokens/s; "
        "append to client: from the event's own timestamp. All processes and the client share the machine.",
    )
    for server_url in options.database_urls or (None,):
        for redis_url in wake_ups(options):
            for count in COUNTS:
                with replicas(
                    server_url, redis_url, count, count, paced=50 if options.quick else 150
                ) as servers:
                    report.add(
                        name_of(server_url), "Redis" if redis_url else "polling", str(count),
                        *_measure(servers, options.quick),
                    )  # fmt: skip
    yield report


def wake_ups(options: Options) -> tuple[str | None, ...]:
    """Without Redis, and with it if there is one."""
    return (None, options.redis_url) if options.redis_url else (None,)


@contextmanager
def replicas(
    server_url: str | None, redis_url: str | None, replicas: int, workers: int, *, paced: int = 50
) -> Iterator[list[Server]]:
    """Servers that run no agents, and workers, on an empty database; yields the servers."""
    with ExitStack() as stack:
        url = stack.enter_context(empty_database(server_url))
        config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "runstore.toml"
        prefix = f"bench-{secrets.token_hex(6)}"
        config.write_text(CONFIG.format(prefix=prefix, tokens=TOKENS, paced=paced))
        shared = ["--database-url", url]
        if redis_url is not None:
            shared += ["--redis-url", redis_url]
        for _ in range(workers):
            stack.enter_context(Worker(config, *shared))
        yield [stack.enter_context(Server(config, "--no-worker", *shared)) for _ in range(replicas)]


def _measure(servers: list[Server], quick: bool) -> tuple[float, str, str, str]:
    asyncio.run(start_and_follow(servers, "load", 2 * len(servers)))  # warm
    rates = []
    for _ in range(1 if quick else ROUNDS):
        streams, took = asyncio.run(start_and_follow(servers, "load", 10 if quick else 50))
        rates.append(sum(stream.tokens for stream in streams) / took)
    streams, _ = asyncio.run(start_and_follow(servers, "paced", 10, delays=True))
    first = [stream.first_token_at - stream.asked_at for stream in streams]
    delays = list(itertools.chain.from_iterable(stream.delays for stream in streams))
    return (
        median(rates), milliseconds(percentile(first, 50)),
        milliseconds(percentile(delays, 50)), milliseconds(percentile(delays, 99)),
    )  # fmt: skip


async def start_and_follow(
    servers: list[Server], agent: str, runs: int, *, delays: bool = False, at_once: int | None = None
) -> tuple[list[Stream], float]:
    """Start runs, at the servers in turn, and follow each to its end; how long it took in s.

    Args:
        at_once: runs that are under way at a time; None: all of them.
    """
    start = time.perf_counter()
    ports = itertools.cycle(server.port for server in servers)
    room = asyncio.Semaphore(at_once or runs)

    async def one() -> Stream:
        async with room:
            return await follow(next(ports), "POST", f"/agents/{agent}/stream", BODY, delays=delays)

    streams = await asyncio.gather(*(one() for _ in range(runs)))
    return streams, time.perf_counter() - start
