"""What API keys and metrics cost: the same load on an open server, and with both."""

import asyncio
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.options import Options
from benchmarks.report import Report, milliseconds, percentile
from benchmarks.server import Server, start_and_follow

SCRAPE_S = 1.0
CONFIG = """
[agents.load]
model = "scripted"
tokens = 400
"""


def run(options: Options) -> Iterator[Report]:
    """In turns, so that what else the machine does meets both."""
    rounds, runs = (1, 10) if options.quick else (7, 50)
    report = Report(
        f"API keys and metrics, {runs} runs at once",
        ("server", "tokens/s", "first token p50"),
        "Medians of rounds in turns. Metrics: read once a second.",
    )
    measured: dict[str, list[tuple[float, float]]] = {"open": [], "keys and metrics": []}
    with (
        tempfile.TemporaryDirectory() as plain,
        tempfile.TemporaryDirectory() as guarded,
        _server(plain) as free,
        _server(guarded) as locked,
    ):
        key = locked.make_key()
        with _scraping(locked, key):
            for _ in range(rounds + 1):
                measured["open"].append(_measure(free, runs, ""))
                measured["keys and metrics"].append(_measure(locked, runs, key))
    for name, found in measured.items():
        warm = found[1:]
        report.add(name, median(rate for rate, _ in warm), milliseconds(median(first for _, first in warm)))
    yield report


def _server(folder: str) -> Server:
    config = Path(folder) / "runstore.toml"
    config.write_text(CONFIG)
    return Server(config)


def _measure(server: Server, runs: int, key: str) -> tuple[float, float]:
    """Tokens/s, and the median time to the first token in s."""
    streams, elapsed = asyncio.run(start_and_follow(server, "load", runs, key=key))
    first = [stream.first_token_at - stream.asked_at for stream in streams]
    return sum(stream.tokens for stream in streams) / elapsed, percentile(first, 50)


@contextmanager
def _scraping(server: Server, key: str) -> Iterator[None]:
    done = threading.Event()

    def scrape() -> None:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/metrics", headers={"Authorization": f"Bearer {key}"}
        )
        while not done.wait(SCRAPE_S):
            urllib.request.urlopen(asked).read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
