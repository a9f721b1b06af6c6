"""runstore beside what people write today: FastAPI, and a Redis Stream for each run."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.client import Stream, follow
from benchmarks.options import Options
from benchmarks.page.figure import Aim, Figure, page
from benchmarks.peers.process import application, free_port, process
from benchmarks.report import Report, percentile
from benchmarks.server import BODY, Server

TOKENS = 400
OURS = "runstore"
CONFIG = """
[agents.load]
model = "scripted"
tokens = {tokens}
"""
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
FIGURES = (("tokens/s", "/s", Aim(least=1.0)), ("first token, p50", "ms", Aim(most=60, of="value")))

Measured = tuple[float, float]  # tokens/s, milliseconds to the first token, p50


def run(options: Options) -> Iterator[Report]:
    """In turns, so that what else the machine does meets all."""
    if shutil.which("redis-server") is None:
        yield Report("By hand: skipped, since there is no redis-server on PATH", ("",))
        return
    sizes = (1, 10) if options.quick else (1, 10, 50)
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
                OURS: (server.port, "/agents/load/stream"),
                "Redis with fsync": (synced, "/chat"),
                "Redis as it comes": (plain, "/chat"),
            }
            for port, path in places.values():
                _measure(port, path, 3)  # warm
            found: dict[str, list[list[Measured]]] = {name: [] for name in places}
            for _ in range(options.rounds):
                for name, (port, path) in places.items():
                    found[name].append([_measure(port, path, runs) for runs in sizes])
    ours = found.pop(OURS)
    yield page(
        "FastAPI and a Redis Stream for each run, by hand; runstore and Redis with fsync lose nothing",
        [
            Figure(
                f"{what}, {runs} run{'s' * (runs > 1)} of {TOKENS} tokens at once", name, unit, aim,
                [each[size][place] for each in ours], [each[size][place] for each in theirs],
            )
            for name, theirs in found.items()
            for size, runs in enumerate(sizes)
            for place, (what, unit, aim) in enumerate(FIGURES)
        ],
    )  # fmt: skip


def _measure(port: int, path: str, runs: int) -> Measured:
    async def measure() -> list[Stream]:
        return await asyncio.gather(*(follow(port, "POST", path, BODY) for _ in range(runs)))

    start = time.perf_counter()
    streams = asyncio.run(measure())
    elapsed = time.perf_counter() - start
    assert all(stream.tokens == TOKENS for stream in streams), "tokens are missing"
    first = percentile([stream.first_token_at - stream.asked_at for stream in streams], 50)
    return runs * TOKENS / elapsed, first * 1000


@contextmanager
def _redis(folder: Path, *options: str) -> Iterator[int]:
    folder.mkdir()
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with process([*command, *options], port, os.environ):
        yield port


@contextmanager
def _by_hand(redis_port: int) -> Iterator[int]:
    settings = {"BENCH_REDIS_PORT": str(redis_port), "BENCH_TOKENS": str(TOKENS)}
    with application("benchmarks.peers.by_hand_app:app", **settings) as peer:
        yield peer.port
