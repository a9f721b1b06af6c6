"""What projections cost those who append beside them: the time of an append with a runner and without."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

from benchmarks.databases import empty_database, name_of
from benchmarks.logs import TOKEN, Log
from benchmarks.options import Options
from benchmarks.report import Report, milliseconds, percentile
from runstore.core.events import Completed
from runstore.projections.registry import shipped
from runstore.projections.runner import ProjectionRunner

WRITERS = 20
EVERY_S = 0.02  # seconds between two appends of a writer
TOKENS = 50  # of a run; then the writer begins the next one, so that projections have work
ROUNDS = 5
ROUND_S = 20.0  # seconds
WITHOUT, WITH = "without a runner", "with all projections"


def run(options: Options) -> Iterator[Report]:
    """Rounds with a runner and without, in turns, on one database."""
    report = Report(
        f"Appends of {WRITERS} writers, each every {EVERY_S * 1000:.0f} ms, in turns",
        ("database", "", "appends", "p50", "p99", "p99 of each round"),
        "The runner works in the process of the writers, as in a server.",
    )
    for server_url in (None, *options.database_urls):
        with empty_database(server_url) as url:
            took = asyncio.run(
                _measure(url, 1 if options.quick else ROUNDS, 2.0 if options.quick else ROUND_S)
            )
        for name, rounds in took.items():
            times = [seconds for each in rounds for seconds in each]
            each_p99 = ", ".join(f"{1000 * percentile(each, 99):.0f}" for each in rounds)
            report.add(
                name_of(server_url), name, len(times), milliseconds(percentile(times, 50)),
                milliseconds(percentile(times, 99)), f"{each_p99} ms",
            )  # fmt: skip
    yield report


async def _measure(url: str, rounds: int, round_s: float) -> dict[str, list[list[float]]]:
    """Seconds that each append took, by round."""
    took: dict[str, list[list[float]]] = {WITHOUT: [], WITH: []}
    async with Log(url) as log:
        for _ in range(rounds):
            for name, found in took.items():
                async with AsyncExitStack() as stack:
                    runner = None
                    if name == WITH:
                        runner = await stack.enter_async_context(ProjectionRunner(log.database, shipped()))
                    found.append(await _write(log, runner, time.monotonic() + round_s))
    return took


async def _write(log: Log, runner: ProjectionRunner | None, until: float) -> list[float]:
    took: list[float] = []

    async def write_runs() -> None:
        while time.monotonic() < until:
            run_id = await log.begin()
            for _ in range(TOKENS):
                started = time.perf_counter()
                await log.log.append(run_id, [TOKEN], attempt=1)
                took.append(time.perf_counter() - started)
                if runner is not None:
                    runner.wake()
                await asyncio.sleep(max(0.0, EVERY_S - took[-1]))
            await log.log.append(run_id, [Completed(result={"text": "done"})], attempt=1)

    await asyncio.gather(*(write_runs() for _ in range(WRITERS)))
    return took
