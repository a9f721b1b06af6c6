"""Agents in the serving process, and in processes that they share, in turns: speed, starts and memory."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from msgspec import Struct

from benchmarks.options import Options
from benchmarks.report import Report, milliseconds, percentile
from benchmarks.server import Server, proportional_kib, start_and_follow

COUNTS = (0, 1, 2)
RUNS = 50
CONFIG = """
[agents.load]
model = "scripted"
tokens = {tokens}

[agents.once]
model = "scripted"
tokens = 1
"""


class Round(Struct):
    """What one server did. Times in seconds, memory in MiB."""

    listens: float
    ready: float
    at_rest: float
    tokens: float  # a second, RUNS at once
    cpu_api: float  # a token then, of the process that serves
    cpu_all: float  # and of all processes
    crowd: float  # first token of RUNS starts at once, p50
    alone: float  # first token of one start, p50
    runs: float  # of one token, a second


def run(options: Options) -> Iterator[Report]:
    """Each server is alone, one after the other; the client shares the machine."""
    rounds, tokens = (1, 100) if options.quick else (5, 400)
    report = Report(
        f"Agent processes: {RUNS} runs of {tokens} tokens, as fast as they go, over HTTP",
        ("agent processes", "tokens/s", "spread", "CPU µs a token, API", "all",
         "first token, 50 at once p50", "one start p50", "one-token runs/s",
         "API process at rest", "listens after", "ready after"),
        "Medians of rounds in turns. CPU: of the process that serves, and of all of the server. At rest: the "
        "proportional memory (PSS) of the process that serves.",
    )  # fmt: skip
    found: dict[int, list[Round]] = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for count in COUNTS:
                place = Path(folder) / f"{turn}-{count}"
                place.mkdir()
                found[count].append(_measure(place, count, tokens, quick=options.quick))
    for count, each in found.items():
        rates = sorted(one.tokens for one in each)
        report.add(
            str(count), median(rates), f"{rates[0]:,.0f} to {rates[-1]:,.0f}",
            f"{median(one.cpu_api for one in each) * 1e6:.1f}",
            f"{median(one.cpu_all for one in each) * 1e6:.1f}",
            milliseconds(median(one.crowd for one in each)), milliseconds(median(one.alone for one in each)),
            median(one.runs for one in each), f"{median(one.at_rest for one in each):.0f} MiB",
            milliseconds(median(one.listens for one in each)),
            milliseconds(median(one.ready for one in each)),
        )  # fmt: skip
    yield report


def _measure(folder: Path, count: int, tokens: int, *, quick: bool) -> Round:
    config = folder / "runstore.toml"
    config.write_text(CONFIG.format(tokens=tokens))
    with Server(config, "--no-worker"):
        pass  # it makes the database, which takes time and memory
    started = time.perf_counter()
    with Server(config, "--agent-processes", str(count)) as server:
        listens = time.perf_counter() - started
        asyncio.run(start_and_follow(server, "once", 1))  # a run is served: strands is imported
        ready = time.perf_counter() - started
        server.until_ready()
        at_rest = proportional_kib(server.process.pid) / 1024
        asyncio.run(start_and_follow(server, "load", 10))  # warm
        api, everything = server.cpu_s()
        streams, took = asyncio.run(start_and_follow(server, "load", RUNS))
        said = sum(stream.tokens for stream in streams)
        api_after, everything_after = server.cpu_s()
        crowd, _ = asyncio.run(start_and_follow(server, "once", RUNS))
        alone = [asyncio.run(start_and_follow(server, "once", 1))[0][0] for _ in range(5 if quick else 30)]
        once = 100 if quick else 400
        _, many_s = asyncio.run(start_and_follow(server, "once", once))
        return Round(
            listens,
            ready,
            at_rest,
            said / took,
            (api_after - api) / said,
            (everything_after - everything) / said,
            percentile([stream.first_token_at - stream.asked_at for stream in crowd], 50),
            percentile([stream.first_token_at - stream.asked_at for stream in alone], 50),
            once / many_s,
        )
