"""Durable appends beside the database's driver, and lifecycle acks beside a flood of tokens."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

from benchmarks.append import BATCHES, OURS, calm_acks, flooded_acks, in_turns
from benchmarks.databases import empty_database
from benchmarks.options import Options
from benchmarks.page.figure import Aim, Figure
from benchmarks.report import percentile

AIMS = dict(zip(BATCHES, (0.6, 0.7, 0.85, 0.95), strict=True))
FLOOD = 500  # runs
ACKS = 500


def figures(options: Options) -> Iterator[Figure]:
    with empty_database(None) as url, empty_database(None) as theirs:
        for batch in BATCHES:
            appends = max(4, min(500, 50_000 // batch) // (50 if options.quick else 1))
            took = asyncio.run(in_turns(url, theirs, batch, appends, options.rounds))
            rates = {
                name: [batch * len(each) / sum(each) for each in rounds] for name, rounds in took.items()
            }
            yield Figure(
                f"appends of {batch}", "sqlite3, same durability", "events/s", Aim(least=AIMS[batch]),
                rates[OURS], rates["sqlite3"],
            )  # fmt: skip
        events = 5_000 if options.quick else 200_000
        calm, flooded = [], []
        for _ in range(options.rounds):
            calm.append(_p99_ms(calm_acks(url, ACKS)))
            flooded.append(_p99_ms(flooded_acks(url, FLOOD, events)))
        yield Figure(
            f"ack of a lifecycle event, p99, beside {FLOOD} agents as fast as they go", "without them", "ms",
            Aim(most=40, of="value"), flooded, calm,
        )  # fmt: skip


def _p99_ms(acks: Coroutine[Any, Any, list[float]]) -> float:
    return percentile(asyncio.run(acks), 99) * 1000
