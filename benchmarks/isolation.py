"""The three isolation levels side by side: what a run costs, and how fast its tokens come."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.options import Options
from benchmarks.report import Report, milliseconds, percentile
from benchmarks.server import Server, start_and_follow

LEVELS = ("loop", "thread", "process")
CONFIG = """
[agents.once-{level}]
model = "scripted"
isolation = "{level}"

[agents.burst-{level}]
model = "scripted"
tokens = {burst}
isolation = "{level}"

[agents.slow-{level}]
model = "scripted"
tokens = 1000
tokens_per_s = 1
isolation = "{level}"
"""


def run(options: Options) -> Iterator[Report]:
    """Each level on the same server, which serves nothing else meanwhile."""
    burst, starts, held = (2_000, 5, 5) if options.quick else (20_000, 40, 40)
    report = Report(
        "Isolation levels",
        ("level", "first token, one run p50", "p99", "tokens/s, 1 run", "10 runs", "memory a run"),
        "From the request to the first token; memory is private to the run, and of an agent that waits.",
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runstore.toml"
        config.write_text("".join(CONFIG.format(level=level, burst=burst) for level in LEVELS))
        with Server(config) as server:
            for level in LEVELS:
                asyncio.run(start_and_follow(server, f"once-{level}", 3))  # warm
                report.add(
                    level,
                    *_starts(server, level, starts),
                    _rate(server, level, 1),
                    _rate(server, level, 10),
                    f"{_memory_kib(server, level, held) / 1024:.2f} MiB",
                )
    yield report


def _starts(server: Server, level: str, count: int) -> tuple[str, str]:
    streams = [asyncio.run(start_and_follow(server, f"once-{level}", 1))[0][0] for _ in range(count)]
    took = [stream.first_token_at - stream.asked_at for stream in streams]
    return milliseconds(percentile(took, 50)), milliseconds(percentile(took, 99))


def _rate(server: Server, level: str, runs: int) -> float:
    streams, elapsed = asyncio.run(start_and_follow(server, f"burst-{level}", runs))
    return sum(stream.tokens for stream in streams) / elapsed


def _memory_kib(server: Server, level: str, count: int) -> float:
    before = server.private_kib()
    runs = [server.begin(f"slow-{level}") for _ in range(count)]
    for run_id in runs:
        server.until_begun(run_id)
    after = server.private_kib()
    for run_id in runs:
        server.stop(run_id)
    return (after - before) / count
