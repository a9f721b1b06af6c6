"""A server that nobody uses: its memory, and how long it takes to listen."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.options import Options
from benchmarks.page.figure import Aim, Figure
from benchmarks.peers.process import application
from benchmarks.server import Server, proportional_kib, until_at_rest

CONFIG = """
[agents.once]
model = "scripted"
tokens = 1
"""
STARLETTE = "benchmarks.peers.starlette_app:app"
AGAINST = "a bare Starlette application"


PROCESSES = "--agent-processes", "1"


def figures(options: Options) -> Iterator[Figure]:
    """The server that drives agents has imported strands; with an agent process it imports none of it."""
    memory: dict[str, list[float]] = {"alone": [], "beside": [], "peer": []}
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
                memory["alone"].append(_at_rest_mib(server))
            with Server(config, *PROCESSES) as server:
                memory["beside"].append(_at_rest_mib(server))
            start = time.perf_counter()
            with application(STARLETTE) as peer:
                starts[1].append((time.perf_counter() - start) * 1000)
                memory["peer"].append(proportional_kib(peer.pid) / 1024)
    aim = Aim(most=70, of="value")
    yield Figure("memory of a server", AGAINST, "MiB", aim, memory["alone"], memory["peer"])
    yield Figure(
        "memory of the API process, with an agent process",
        AGAINST,
        "MiB",
        aim,
        memory["beside"],
        memory["peer"],
    )
    yield Figure("start, until it listens", AGAINST, "ms", Aim(most=500, of="value"), *starts)


def _at_rest_mib(server: Server) -> float:
    server.until_ready()
    until_at_rest(server.process.pid)
    return proportional_kib(server.process.pid) / 1024
