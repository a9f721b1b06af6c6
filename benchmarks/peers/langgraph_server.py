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

from benchmarks.client import Stream, follow
from benchmarks.options import Options
from benchmarks.page.figure import Aim, Figure, page
from benchmarks.peers.process import free_port, process
from benchmarks.report import Report, percentile
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
FASTER, SOONER = 20, Aim(most=60, of="value")
WORD = b'"content":"word "'  # once in each event with a token

Measured = tuple[float, float]  # tokens/s, milliseconds to the first token, p50
OURS, THEIRS = "runstore", "LangGraph"


def run(options: Options) -> Iterator[Report]:
    """In turns, so that the machine's other work meets both."""
    sizes = (1, 10) if options.quick else (1, RUNS)
    found: dict[str, list[list[Measured]]] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runstore.toml"
        config.write_text(CONFIG)
        with Server(config) as ours, _langgraph() as theirs:
            for name in found:
                _measure(name, ours.port, theirs, 3)  # warm
            for _ in range(options.rounds):
                for name, rounds in found.items():
                    rounds.append([_measure(name, ours.port, theirs, runs) for runs in sizes])
    title = "A LangGraph development server, which keeps its runs in memory; runstore commits each token"
    yield page(title, list(_figures(sizes, found)))


def _figures(sizes: tuple[int, ...], found: dict[str, list[list[Measured]]]) -> Iterator[Figure]:
    for size, runs in enumerate(sizes):
        (our_rates, our_firsts), (their_rates, their_firsts) = (
            zip(*(each[size] for each in rounds), strict=True) for rounds in found.values()
        )
        at_once = f"{runs} run{'s' * (runs > 1)} of {TOKENS} tokens at once"
        yield Figure(f"tokens/s, {at_once}", THEIRS, "/s", Aim(least=FASTER), our_rates, their_rates)
        yield Figure(f"first token, {at_once}, p50", THEIRS, "ms", SOONER, our_firsts, their_firsts)


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
    return runs * TOKENS / elapsed, percentile([s.first_token_at - s.asked_at for s in streams], 50) * 1000


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
