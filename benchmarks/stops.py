"""From `stop` at one replica to the terminal event at another, of a run that is on a worker."""

import asyncio
import time
from collections.abc import Iterator

from benchmarks.client import Stream, follow
from benchmarks.databases import name_of
from benchmarks.options import Options
from benchmarks.replicas import replicas, wake_ups
from benchmarks.report import Report, milliseconds, percentile
from benchmarks.server import Server

AT_ONCE = 10  # runs that are going on while one after the other is stopped


def run(options: Options) -> Iterator[Report]:
    report = Report(
        "From stop to the terminal event, across processes",
        ("database", "wake-ups", "stops", "p50", "p99", "most"),
        "Stopped at one replica, run by a worker, followed at another replica; a cooperative agent at 20 "
        "tokens/s. From before the request is sent to when the event is read.",
    )
    for server_url in options.database_urls or (None,):
        for redis_url in wake_ups(options):
            took: list[float] = []
            with replicas(server_url, redis_url, 2, 1) as servers:
                for _ in range(1 if options.quick else 20):
                    took += asyncio.run(_stops(*servers))
            report.add(
                name_of(server_url), "Redis" if redis_url else "polling", str(len(took)),
                milliseconds(percentile(took, 50)), milliseconds(percentile(took, 99)),
                milliseconds(max(took)),
            )  # fmt: skip
    yield report


async def _stops(here: Server, there: Server) -> list[float]:
    run_ids = [here.begin("slow") for _ in range(AT_ONCE)]
    for run_id in run_ids:
        await asyncio.to_thread(here.until_begun, run_id)
    streams = [asyncio.create_task(follow(there.port, "GET", f"/runs/{r}/stream")) for r in run_ids]
    await asyncio.sleep(0.1)  # they catch up
    took = []
    for run_id, stream in zip(run_ids, streams, strict=True):
        asked_at = time.time()
        stopping = asyncio.create_task(asyncio.to_thread(here.stop, run_id))
        seen: Stream = await stream
        took.append(seen.ended_at - asked_at)
        await stopping
    return took
