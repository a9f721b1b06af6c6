"""Two API replicas with two workers, beside one of each, on PostgreSQL and Redis."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.options import Options
from benchmarks.page.figure import Aim, Figure
from benchmarks.replicas import replicas, start_and_follow

RUNS = 50


def figures(options: Options) -> Iterator[Figure]:
    """Nothing without a server and Redis among the options."""
    if options.redis_url is None:
        return
    for server_url in options.database_urls:
        rates: dict[int, list[float]] = defaultdict(list)
        with ExitStack() as stack:
            servers = {
                count: stack.enter_context(replicas(server_url, options.redis_url, count, count))
                for count in (1, 2)
            }
            for each in servers.values():
                asyncio.run(start_and_follow(each, "load", 4))  # warm
            for _ in range(options.rounds):
                for count, each in servers.items():
                    streams, took = asyncio.run(start_and_follow(each, "load", 10 if options.quick else RUNS))
                    rates[count].append(sum(stream.tokens for stream in streams) / took)
        yield Figure(
            "tokens/s, 2 replicas and 2 workers", "1 and 1", "/s", Aim(least=1.0), rates[2], rates[1]
        )
