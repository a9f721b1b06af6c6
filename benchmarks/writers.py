"""Several processes that append to one database: what they store in all, as if each were a worker."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.databases import empty_database, name_of
from benchmarks.logs import Log
from benchmarks.options import Options
from benchmarks.report import Report

PROCESSES = (1, 2, 4)
RUNS = 20  # of each process
ROUNDS = 3


def run(options: Options) -> Iterator[Report]:
    """One process, two and four, in turns; the same number of events in all."""
    report = Report(
        "Durable events/s of several processes on one database",
        ("database", *(f"{count} at work" for count in PROCESSES), "4 to 1"),
        f"Tokens of {RUNS} runs in each process, which share the machine with the server; medians of rounds "
        "in turns.",
    )
    events = 20_000 if options.quick else 240_000
    for server_url in (None, *options.database_urls):
        with empty_database(server_url) as url:
            found: dict[int, list[float]] = {count: [] for count in PROCESSES}
            for _ in range(1 if options.quick else ROUNDS):
                for count in PROCESSES:
                    found[count].append(events / _append(url, count, events))
        rates = [median(found[count]) for count in PROCESSES]
        report.add(name_of(server_url), *rates, f"{rates[-1] / rates[0]:.2f}")
    yield report


def _append(url: str, processes: int, events: int) -> float:
    """Seconds from the first process's start to the last one's end, imports aside."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    times = context.Queue()
    started = [
        context.Process(target=_produce, args=(url, events // processes, ready, times))
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    spans = [times.get() for _ in started]
    for process in started:
        process.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _produce(url: str, events: int, ready: Any, times: Any) -> None:
    times.put(asyncio.run(_stream(url, events, ready)))


async def _stream(url: str, events: int, ready: Any) -> tuple[float, float]:
    async with Log(url) as log:
        run_ids = [await log.begin() for _ in range(RUNS)]
        await asyncio.to_thread(ready.wait)
        start = time.time()
        await log.stream(run_ids, events)
        return start, time.time()
