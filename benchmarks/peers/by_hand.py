"""runstore beside what people write today: FastAPI, and a Redis Stream for each run."""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.client import Stream, follow
from benchmarks.options import Options
from benchmarks.peers.process import free_port, process
from benchmarks.report import Report, milliseconds, percentile
from benchmarks.server import BODY, Server

TOKENS = 400
CONFIG = """
[agents.load]
model = "scripted"
tokens = {tokens}
"""
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def run(options: Options) -> Iterator[Report]:
    """In turns, so that what else the machine does meets all."""
    if shutil.which("redis-server") is None:
        yield Report("By hand: skipped, since there is no redis-server on PATH", ("",))
        return
    rounds, sizes = (1, (1, 10)) if options.quick else (5, (1, 10, 50))
    report = Report(
        f"Beside FastAPI and Redis Streams by hand, {TOKENS} tokens a run as fast as they go",
        ("server", *(f"{runs} runs, tokens/s" for runs in sizes), "first token p50, of the most"),
        "The same strands agent. Medians of rounds in turns. runstore and Redis with fsync lose nothing that "
        "was seen.",
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runstore.toml"
        config.write_text(CONFIG.format(tokens=TOKENS))
        with (
            Server(config) as server,
            _redis(Path(folder, "fast")) as fast,
            _redis(Path(folder, "durable"), *DURABLE) as durable,
            _by_hand(fast) as plain,
            _by_hand(durable) as synced,
        ):
            places = {
                "runstore": (server.port, "/agents/load/stream"),
                "by hand, Redis with fsync": (synced, "/chat"),
                "by hand, Redis as it comes": (plain, "/chat"),
            }
            for port, path in places.values():
                _measure(port, path, 3)  # warm
            found: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in places}
            for _ in range(rounds):
                for name, (port, path) in places.items():
                    found[name].append([_measure(port, path, runs) for runs in sizes])
    for name, measured in found.items():
        rates = [median(one[size][0] for one in measured) for size in range(len(sizes))]
        report.add(name, *rates, milliseconds(median(one[-1][1] for one in measured)))
    yield report


def _measure(port: int, path: str, runs: int) -> tuple[float, float]:
    """Tokens/s, and the median time to the first token in s."""

    async def measure() -> list[Stream]:
        return await asyncio.gather(*(follow(port, "POST", path, BODY) for _ in range(runs)))

    start = time.perf_counter()
    streams = asyncio.run(measure())
    elapsed = time.perf_counter() - start
    assert all(stream.tokens == TOKENS for stream in streams), "tokens are missing"
    first = [stream.first_token_at - stream.asked_at for stream in streams]
    return runs * TOKENS / elapsed, percentile(first, 50)


@contextmanager
def _redis(folder: Path, *options: str) -> Iterator[int]:
    folder.mkdir()
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with process([*command, *options], port, os.environ):
        yield port


@contextmanager
def _by_hand(redis_port: int) -> Iterator[int]:
    port = free_port()
    app = "benchmarks.peers.by_hand_app:app"
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "error"]
    settings = {"BENCH_REDIS_PORT": str(redis_port), "BENCH_TOKENS": str(TOKENS)}
    with process(command, port, {**os.environ, **settings}):
        yield port
