"""runstore beside a LangGraph development server: tokens, and first tokens of runs that start at once."""

import asyncio
import json
import os
import shutil
import subprocess
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
from benchmarks.report import Report, milliseconds, percentile, spread
from benchmarks.server import BODY, Server

TOKENS = 400
RUNS = 50
HERE = Path(__file__).parent / "langgraph"
VENV = Path("build") / "peers" / "langgraph"  # in the checkout
CONFIG = f'[agents.load]\nmodel = "scripted"\ntokens = {TOKENS}\n'
ASKED = {
    "assistant_id": "load",
    "input": {"messages": [{"role": "user", "content": json.loads(BODY)["input"]}]},
    "stream_mode": ["messages-tuple"],
}
WORD = b'"content":"word "'  # once in each event with a token

Measured = tuple[float, float]  # tokens/s, seconds to the first token


def run(options: Options) -> Iterator[Report]:
    """In turns, so that the machine's other work meets both."""
    rounds, sizes = (1, (1, 10)) if options.quick else (5, (1, RUNS))
    report = Report(
        f"Beside a LangGraph development server, {TOKENS} tokens a run as fast as they go",
        ("server", *(f"tokens/s, {runs} at once" for runs in sizes), "first token p50, of the most"),
        "Each with its own agent that streams words. Medians of rounds in turns, and the lowest and the "
        "highest. LangGraph's server keeps its runs in memory; runstore commits each token.",
    )
    found: dict[str, list[list[Measured]]] = {"runstore": [], "LangGraph": []}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runstore.toml"
        config.write_text(CONFIG)
        with Server(config) as ours, _langgraph() as theirs:
            for warm in (True, *([False] * rounds)):
                for name, measured in found.items():
                    places = [_measure(name, ours.port, theirs, 3 if warm else runs) for runs in sizes]
                    if not warm:
                        measured.append(places)
    for name, measured in found.items():
        rates = [[each[size][0] for each in measured] for size in range(len(sizes))]
        first = [each[-1][1] for each in measured]
        report.add(name, *(spread(rate) for rate in rates), milliseconds(median(first)))
    yield report


def _measure(name: str, ours: int, theirs: int, runs: int) -> Measured:
    def stream() -> "asyncio.Future[Stream]":
        if name == "runstore":
            return asyncio.ensure_future(follow(ours, "POST", "/agents/load/stream", BODY))
        body = json.dumps(ASKED).encode()
        return asyncio.ensure_future(follow(theirs, "POST", "/runs/stream", body, token=WORD, closes=True))

    async def measure() -> list[Stream]:
        return await asyncio.gather(*(stream() for _ in range(runs)))

    start = time.perf_counter()
    streams = asyncio.run(measure())
    elapsed = time.perf_counter() - start
    assert all(stream.tokens == TOKENS for stream in streams), "tokens are missing"
    return runs * TOKENS / elapsed, percentile([s.first_token_at - s.asked_at for s in streams], 50)


@contextmanager
def _langgraph() -> Iterator[int]:
    """The port of a server, which is installed first into an environment of its own."""
    if not (VENV / "bin" / "langgraph").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        install = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", "-r", "requirements.txt"]
        subprocess.run([str(Path(install[0]).absolute()), *install[1:]], check=True, cwd=HERE)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(HERE, Path(folder) / "app")  # the server writes beside its configuration
        command = [
            str((VENV / "bin" / "langgraph").absolute()), "dev", "--no-browser", "--no-reload",
            "--port", str(port), "--n-jobs-per-worker", str(RUNS),
        ]  # fmt: skip
        settings = {**os.environ, "BENCH_TOKENS": str(TOKENS), "LANGSMITH_TRACING": "false"}
        with process(command, port, settings, folder=copy):
            yield port
