"""Several processes that append to one database: what they store in all, as if each were a worker."""

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from statistics import median

import structlog

from benchmarks.databases import empty_database, name_of
from benchmarks.logs import Log
from benchmarks.options import Options
from benchmarks.report import Report
from benchmarks.server import START_TIMEOUT_S

PROCESSES = (1, 2, 4)
RUNS = 20  # of each process
ROUNDS = 3

_barrier: Barrier  # of a process of ours, where all of them meet before they begin


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
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_meet_at, initargs=(barrier,)) as pool:
        spans = list(pool.map(_produce, [url] * processes, [events // processes] * processes))
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _meet_at(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _produce(url: str, events: int) -> tuple[float, float]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return asyncio.run(_stream(url, events))


async def _stream(url: str, events: int) -> tuple[float, float]:
    async with Log(url) as log:
        run_ids = [await log.begin() for _ in range(RUNS)]
        await asyncio.to_thread(_barrier.wait, START_TIMEOUT_S)
        start = time.time()
        await log.stream(run_ids, events)
        return start, time.time()
