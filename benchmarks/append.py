"""Durable appends: through the log, and through the database's driver at the same batch sizes."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

from benchmarks.databases import empty_database, name_of
from benchmarks.drivers import drivers_of
from benchmarks.logs import Log
from benchmarks.options import Options
from benchmarks.report import Report, milliseconds, percentile

BATCHES = (1, 16, 128, 1024)
ROUNDS = 4
RUNS = (1, 10, 50, 100, 500, 1_000, 2_000)  # that stream at once
OURS = "runstore"


def run(options: Options) -> Iterator[Report]:
    """For each database, in turns, so that what else the machine does meets all."""
    for server_url in (None, *options.database_urls):
        name = name_of(server_url)
        with empty_database(server_url) as url, empty_database(server_url) as theirs:
            yield _batches(f"Durable appends ({name})", url, theirs, options.quick)
            yield _running_agents(f"Appends of running agents ({name}; group commit)", url, options.quick)


def _batches(title: str, url: str, theirs: str, quick: bool) -> Report:
    """`theirs`: another database, for the drivers; on one file the log would give them their turns."""
    drivers = drivers_of(theirs)
    report = Report(
        title,
        ("batch", *(f"{name} events/s" for name in drivers), f"{OURS} events/s", "ratio", "ack p50", "p99"),
        "A batch is one append, acknowledged after its commit, before the next is made; in turns. The ratio "
        "is to the faster driver.",
    )
    for batch in BATCHES:
        appends = max(4, min(2_000, 200_000 // batch) // (20 if quick else 1))
        rounds = asyncio.run(in_turns(url, theirs, batch, appends // ROUNDS, ROUNDS))
        took = {name: list(chain.from_iterable(each)) for name, each in rounds.items()}
        rates = {name: batch * len(times) / sum(times) for name, times in took.items()}
        ours = rates.pop(OURS)
        report.add(
            str(batch), *rates.values(), ours, f"{ours / max(rates.values()):.2f}",
            milliseconds(percentile(took[OURS], 50)), milliseconds(percentile(took[OURS], 99)),
        )  # fmt: skip
    return report


async def in_turns(
    url: str, theirs: str, batch: int, appends: int, rounds: int
) -> dict[str, list[list[float]]]:
    """How long each append of each round took, in s, by who made it."""
    took: dict[str, list[list[float]]] = defaultdict(list)
    drivers = {name: connect() for name, connect in drivers_of(theirs).items()}
    async with Log(url) as log:
        run_id = await log.begin()
        for _ in range(rounds):
            for name, driver in drivers.items():
                took[name].append(times := [])
                for _ in range(appends):
                    start = time.perf_counter()
                    driver.append(batch)
                    times.append(time.perf_counter() - start)
            took[OURS].append(times := [])
            for _ in range(appends):
                start = time.perf_counter()
                await log.append(run_id, batch)
                times.append(time.perf_counter() - start)
    for driver in drivers.values():
        driver.close()
    return took


def _running_agents(title: str, url: str, quick: bool) -> Report:
    events = 20_000 if quick else 300_000
    report = Report(
        title,
        ("runs", "events/s", "ack p50", "ack p99"),
        "Streamed tokens of so many runs at once; the acks are of lifecycle events appended meanwhile.",
    )
    for runs in RUNS:
        rate, acks = asyncio.run(_streamed(url, runs, events))
        report.add(str(runs), rate, milliseconds(percentile(acks, 50)), milliseconds(percentile(acks, 99)))
    return report


async def _streamed(url: str, runs: int, events: int) -> tuple[float, list[float]]:
    async with Log(url) as log:
        run_ids = [await log.begin() for _ in range(runs)]
        acks: list[float] = []
        prober = asyncio.create_task(_probe(log, acks))
        elapsed = await log.stream(run_ids, events)
        prober.cancel()
        return events / elapsed, acks


async def calm_acks(url: str, count: int) -> list[float]:
    """How long lifecycle events take, in s, one after the other, while nothing else is appended."""
    async with Log(url) as log:
        acks: list[float] = []
        for _ in range(count):
            await _ack(log, acks)
    return acks


async def flooded_acks(url: str, runs: int, events: int) -> list[float]:
    """The same while runs say so many tokens in all, as fast as they go."""
    return (await _streamed(url, runs, events))[1]


async def _probe(log: Log, acks: list[float]) -> None:
    while True:
        await _ack(log, acks)


async def _ack(log: Log, acks: list[float]) -> None:
    start = time.perf_counter()
    await log.begin()
    acks.append(time.perf_counter() - start)
