"""Durable appends per second: through the log, and through bare sqlite3 at the same batch sizes."""

import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Report, milliseconds, percentile
from runstore.app import GIL_SWITCH_S, open_database
from runstore.core.codec import encode
from runstore.core.events import Queued, Started, Token
from runstore.core.ids import new_run_id
from runstore.eventlog.feed import MemoryFeed
from runstore.eventlog.queries import read_evolving
from runstore.eventlog.sql import SqlEventLog
from runstore.projections.runs import RunList

BATCHES = (1, 16, 128, 1024)
TOKEN = Token(text="hello ", agent="demo")


def run(quick: bool) -> Iterator[Report]:
    """Both in one process each, on the same disk, one after the other."""
    sys.setswitchinterval(GIL_SWITCH_S)
    report = Report(
        "Durable appends (SQLite, WAL, synchronous=FULL)",
        ("batch", "raw sqlite3 events/s", "runstore events/s", "ratio"),
        "A batch is one append, acknowledged after its commit, before the next is made.",
    )
    for batch in BATCHES:
        appends = max(4, min(2_000, 200_000 // batch) // (20 if quick else 1))
        raw = _raw(batch, appends)
        ours = asyncio.run(_batches(batch, appends))
        report.add(str(batch), raw, ours, f"{ours / raw:.2f}")
    yield report
    events = 20_000 if quick else 300_000
    report = Report(
        "Appends of running agents (no waiting, group commit)", ("runs", "events/s", "ack p50", "ack p99"),
        "Streamed tokens of so many runs at once; the acks are of lifecycle events appended meanwhile.",
    )  # fmt: skip
    for runs in (1, 50, 500):
        rate, acks = asyncio.run(_streamed(runs, events))
        report.add(str(runs), rate, milliseconds(percentile(acks, 50)), milliseconds(percentile(acks, 99)))
    yield report


def _raw(batch: int, appends: int) -> float:
    """The same table, the same rows, the same durability, by hand."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("RUNSTORE_BENCH_DIR")) as folder:
        open_database(f"sqlite:///{folder}/raw.db").engine.dispose()
        connection = sqlite3.connect(f"{folder}/raw.db", isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        run_id, data = os.urandom(16), encode(TOKEN).data
        columns = "run_id, seq, type, v, ends, at, append_id, data"
        statement = f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        start = time.perf_counter()
        for number in range(appends):
            rows = [
                (run_id, number * batch + i + 1, "llm.token", 1, 0, 1_700_000_000_000, b"12345678", data)
                for i in range(batch)
            ]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, rows)
            connection.execute("COMMIT")
        elapsed = time.perf_counter() - start
        connection.close()
    return appends * batch / elapsed


async def _batches(batch: int, appends: int) -> float:
    async with _Log() as log:
        run_id = await log.begin()
        # An append holds at most 1,000 events: the largest batch is two of them, committed together.
        parts = [batch] if batch <= 1_000 else [batch // 2, batch - batch // 2]
        start = time.perf_counter()
        for _ in range(appends):
            await asyncio.gather(*(log.log.append(run_id, [TOKEN] * part, attempt=1) for part in parts))
        return appends * batch / (time.perf_counter() - start)


async def _streamed(runs: int, events: int) -> tuple[float, list[float]]:
    async with _Log() as log:
        run_ids = [await log.begin() for _ in range(runs)]
        acks: list[float] = []
        start = time.perf_counter()
        producers = [asyncio.create_task(_produce(log.log, run_id, events // runs)) for run_id in run_ids]
        prober = asyncio.create_task(_probe(log, acks))
        await asyncio.gather(*producers)
        for run_id in run_ids:  # the last commit of each
            await log.log.append(run_id, [TOKEN], attempt=1)
        elapsed = time.perf_counter() - start
        prober.cancel()
        return events / elapsed, acks


async def _produce(log: SqlEventLog, run_id: str, events: int) -> None:
    for number in range(events):
        while not log.offer(run_id, encode(TOKEN), attempt=1, refused=print):
            await log.room(run_id)
        if number % 32 == 0:
            await asyncio.sleep(0)


async def _probe(log: "_Log", acks: list[float]) -> None:
    while True:
        start = time.perf_counter()
        await log.begin()
        acks.append(time.perf_counter() - start)


class _Log:
    """A log of its own, with the run list, as a server has it."""

    async def __aenter__(self) -> "_Log":
        self._folder = tempfile.TemporaryDirectory(dir=os.environ.get("RUNSTORE_BENCH_DIR"))
        dialect = open_database(f"sqlite:///{Path(self._folder.name) / 'bench.db'}")
        self.log = SqlEventLog(dialect, MemoryFeed(), [RunList(read_evolving)])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.log.close()
        self._folder.cleanup()

    async def begin(self) -> str:
        run_id = new_run_id()
        queued = Queued(agent="demo", user_id="bench", input="")
        started = Started(worker_id="bench", attempt=1, reason="claimed")
        await self.log.append(run_id, [queued, started], expected_seq=0)
        return run_id
