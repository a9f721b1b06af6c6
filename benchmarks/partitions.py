"""What partitions of a PostgreSQL log cost and save: purges, appends and reads, beside a log without."""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain

from sqlalchemy import Connection

from benchmarks.databases import empty_database, name_of
from benchmarks.logs import Log
from benchmarks.options import Options
from benchmarks.projections import BEGIN, EVENTS_OF_A_RUN, write_log
from benchmarks.report import Report, milliseconds, percentile
from runstore.database.database import Database
from runstore.database.opening import opened_database
from runstore.database.partitions import month_after
from runstore.eventlog.queries import last_position, read_all, read_head, read_run
from runstore.maintenance.partitioning import add_months, partition_events
from runstore.maintenance.purge import Purge, PurgeCount, ended_before
from runstore.projections.runs import RunList

MONTHS = 24
BATCHES = (1, 16, 128)
ASKS = 200  # reads of each kind, of which the median counts
PAGE = 100  # events
LATER = BEGIN + 10 * 366 * 86_400_000


def run(options: Options) -> Iterator[Report]:
    """For each PostgreSQL, two databases with the same log: with and without partitions."""
    for server_url in options.database_urls:
        if name_of(server_url) != "PostgreSQL":
            continue
        with empty_database(server_url) as plain, empty_database(server_url) as partitioned:
            yield _purges(plain, partitioned, 50 if options.quick else 1_000)
        with empty_database(server_url) as plain, empty_database(server_url) as partitioned:
            yield from _appends_and_reads(plain, partitioned, options)


def _purges(plain: str, partitioned: str, runs: int) -> Report:
    report = Report(
        f"Purge of {runs:,} runs of {EVENTS_OF_A_RUN} events",
        ("", "took", "of it removal", "log before", "log after"),
        "Removal is the time after the last run was marked. The sizes are of tables and indexes.",
    )
    for name, url in (("rows deleted", plain), ("partition dropped", partitioned)):
        with opened_database(url) as database:
            if url == partitioned:
                partition_events(database, BEGIN - 40 * 86_400_000, lambda step: None)
            write_log(database, runs)
            before = database.read(_size)
            took, removal = _purge(database)
            after = database.read(_size)
            report.add(name, f"{took:.1f} s", f"{removal:.1f} s", *map(_mib, (before, after)))
    return report


def _purge(database: Database) -> tuple[float, float]:
    """Mark all runs, then remove them: the seconds of both, and of the second."""
    start = marked = time.perf_counter()

    def progress(done: PurgeCount) -> None:
        nonlocal marked
        if not done.events:
            marked = time.perf_counter()

    with closing(Purge(database, [RunList()], progress)) as purge:
        page = list(chain.from_iterable(ended_before(LATER)(database.read)))
        purge.run(lambda read: iter([page]), by="benchmark")
    end = time.perf_counter()
    return end - start, end - marked


def _appends_and_reads(plain: str, partitioned: str, options: Options) -> Iterator[Report]:
    begin, runs = month_after(BEGIN, 0), 240 if options.quick else 2_400
    for url in (plain, partitioned):
        with opened_database(url) as database:
            if url == partitioned:
                partition_events(database, begin - 40 * 86_400_000, lambda step: None)
                add_months(database, month_after(begin, MONTHS - 4))
            write_log(database, runs, apart_ms=MONTHS * 30 * 86_400_000 // runs)
            with database.connect() as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
    yield asyncio.run(_appends(plain, partitioned, options))
    yield _reads(plain, partitioned)


async def _appends(plain: str, partitioned: str, options: Options) -> Report:
    report = Report(
        f"Durable appends, in turns, with {MONTHS} months", ("batch", "without", "p99", "partitioned", "p99")
    )
    async with Log(plain) as without, Log(partitioned) as with_months:
        runs = {log: await log.begin() for log in (without, with_months)}
        for batch in BATCHES:
            took: dict[Log, list[float]] = {log: [] for log in runs}
            for _ in range(20 if options.quick else 1_000):
                for log, run_id in runs.items():
                    start = time.perf_counter()
                    await log.append(run_id, batch)
                    took[log].append(time.perf_counter() - start)
            cells = (milliseconds(percentile(times, at)) for times in took.values() for at in (50, 99))
            report.add(str(batch), *cells)
    return report


def _reads(plain: str, partitioned: str) -> Report:
    report = Report(
        f"Reads, in turns, with {MONTHS} months: medians of {ASKS}", ("", "without", "partitioned")
    )
    with (
        opened_database(plain) as without,
        opened_database(partitioned) as with_months,
        without.connect() as one,
        with_months.connect() as other,
    ):
        middle = last_position(one) // 2
        runs = [event.run_id for event in read_all(one, middle, None, 1)]
        asked: dict[str, Callable[[Connection], object]] = {
            f"{PAGE} events by position": lambda connection: read_all(connection, middle, None, PAGE),
            "the last position": last_position,
            "a run": lambda connection: read_run(connection, runs[0], 0, None, PAGE, None),
            "the head of a run": lambda connection: read_head(connection, runs[0]),
        }
        for name, ask in asked.items():
            took: dict[Connection, list[float]] = {one: [], other: []}
            for _ in range(ASKS):
                for connection, times in took.items():
                    start = time.perf_counter()
                    ask(connection)
                    times.append(time.perf_counter() - start)
            report.add(name, *(f"{statistics.median(times) * 1e3:.2f} ms" for times in took.values()))
    return report


def _size(connection: Connection) -> int:
    tables = "SELECT relid FROM pg_partition_tree('events') UNION SELECT 'events'::regclass"
    found = connection.exec_driver_sql(f"SELECT sum(pg_total_relation_size(relid)) FROM ({tables}) tables")
    return int(found.scalar_one())


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
