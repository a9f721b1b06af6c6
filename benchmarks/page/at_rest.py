"""A server that nobody uses: its memory, and how long it takes to listen."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.options import Options
from benchmarks.page.figure import Aim, Figure
from benchmarks.peers.process import application
from benchmarks.server import Server, proportional_kib

CONFIG = """
[agents.once]
model = "scripted"
tokens = 1
"""
STARLETTE = "benchmarks.peers.starlette_app:app"
AGAINST = "a bare Starlette application"


def figures(options: Options) -> Iterator[Figure]:
    memory: tuple[list[float], list[float]] = [], []
    starts: tuple[list[float], list[float]] = [], []
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runstore.toml"
        config.write_text(CONFIG)
        with Server(config):
            pass  # makes the database
        for _ in range(options.rounds):
            start = time.perf_counter()
            with Server(config) as server:
                starts[0].append((time.perf_counter() - start) * 1000)
                server.until_ready()
                memory[0].append(proportional_kib(server.process.pid) / 1024)
            start = time.perf_counter()
            with application(STARLETTE) as peer:
                starts[1].append((time.perf_counter() - start) * 1000)
                memory[1].append(proportional_kib(peer.pid) / 1024)
    yield Figure("memory of the API process", AGAINST, "MiB", Aim(most=70, of="value"), *memory)
    yield Figure("start, until it listens", AGAINST, "ms", Aim(most=500, of="value"), *starts)
