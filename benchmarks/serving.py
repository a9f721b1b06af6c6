"""A real server, real strands agents, real HTTP: tokens, latencies, replay, many subscribers."""

import asyncio
import itertools
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.client import Stream, follow
from benchmarks.options import Options
from benchmarks.report import Report, milliseconds, percentile
from benchmarks.server import Server, start_and_follow

CONFIG = """
[agents.burst]
model = "scripted"
tokens = {burst}
tokens_per_s = 0

[agents.load]
model = "scripted"
tokens = 400
tokens_per_s = 0

[agents.paced]
model = "scripted"
tokens = {paced}
tokens_per_s = 50

[agents.long]
model = "scripted"
tokens = {long}
tokens_per_s = 0
"""


def run(options: Options) -> Iterator[Report]:
    """All against one server, one after the other; the client shares the machine."""
    sizes = (
        {"burst": 2_000, "paced": 25, "long": 10_000}
        if options.quick
        else {"burst": 20_000, "paced": 150, "long": 100_000}
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runstore.toml"
        config.write_text(CONFIG.format(**sizes))
        yield _starts(config)
        with Server(config) as server:
            asyncio.run(start_and_follow(server, "load", 10))  # warm
            yield _bursts(server)
            yield _paced(server, options.quick)
            yield _replay(server, sizes["long"])
            yield _many_subscribers(server, 100 if options.quick else 1_000)


def _starts(config: Path) -> Report:
    report = Report("Server start, until it listens", ("start", "ms"))
    for kind in ("empty database", "existing database", "existing database"):
        start = time.perf_counter()
        with Server(config):
            report.add(kind, (time.perf_counter() - start) * 1000)
    return report


def _bursts(server: Server) -> Report:
    report = Report(
        "Tokens delivered over HTTP, agents as fast as they go",
        ("runs", "tokens each", "tokens/s", "first token p50", "p99"),
        "From the first request to the last terminal event, every run followed by its own subscriber.",
    )
    for runs, agent in ((1, "burst"), (10, "load"), (50, "load"), (500, "load")):
        streams, elapsed = asyncio.run(start_and_follow(server, agent, runs))
        first = [s.first_token_at - s.asked_at for s in streams]
        total = sum(s.tokens for s in streams)
        report.add(
            str(runs), total / runs, total / elapsed,
            milliseconds(percentile(first, 50)), milliseconds(percentile(first, 99)),
        )  # fmt: skip
    return report


def _paced(server: Server, quick: bool) -> Report:
    report = Report(
        "Latency, agents at 50 tokens/s",
        ("runs", "tokens/s", "first token p50", "p99", "append to client p50", "p99"),
        "Append to client: from the event's own timestamp (a millisecond's resolution) to its arrival.",
    )
    for runs in (1, 10, 50) if quick else (1, 10, 50, 500):
        streams, elapsed = asyncio.run(start_and_follow(server, "paced", runs, delays=True))
        first = [s.first_token_at - s.asked_at for s in streams]
        delays = list(itertools.chain.from_iterable(s.delays for s in streams))
        report.add(
            str(runs), sum(s.tokens for s in streams) / elapsed,
            milliseconds(percentile(first, 50)), milliseconds(percentile(first, 99)),
            milliseconds(percentile(delays, 50)), milliseconds(percentile(delays, 99)),
        )  # fmt: skip
    return report


def _replay(server: Server, tokens: int) -> Report:
    report = Report(f"Replay of one closed run with {tokens:,} tokens", ("subscribers", "events/s in all"))
    run_id = asyncio.run(start_and_follow(server, "long", 1))[0] and _newest(server)
    for subscribers in (1, 4):
        rates = []
        for _ in range(3):
            start = time.perf_counter()
            streams = asyncio.run(_follow(server, run_id, subscribers))
            rates.append(sum(s.events for s in streams) / (time.perf_counter() - start))
        report.add(str(subscribers), statistics.median(rates))
    return report


def _many_subscribers(server: Server, subscribers: int) -> Report:
    report = Report(
        "Many subscribers on one run at 50 tokens/s",
        ("subscribers", "tokens/s in all", "append to client p50", "p99"),
    )
    run_id = server.begin("paced")
    start = time.perf_counter()
    streams = asyncio.run(_follow(server, run_id, subscribers, delays=True))
    elapsed = time.perf_counter() - start
    live = list(itertools.chain.from_iterable(s.delays[1:] for s in streams))  # the first is the replay
    report.add(
        str(subscribers), sum(s.tokens for s in streams) / elapsed,
        milliseconds(percentile(live, 50)), milliseconds(percentile(live, 99)),
    )  # fmt: skip
    return report


async def _follow(server: Server, run_id: str, subscribers: int, *, delays: bool = False) -> list[Stream]:
    path = f"/runs/{run_id}/stream"
    return await asyncio.gather(
        *(follow(server.port, "GET", path, delays=delays) for _ in range(subscribers))
    )


def _newest(server: Server) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/runs?limit=1") as answer:
        run_id: str = json.load(answer)["data"][0]["run_id"]
    return run_id
