"""What a log's size costs: the same questions to servers with bigger and bigger logs, and rebuilds."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import make_url, select

from benchmarks.client import follow
from benchmarks.databases import empty_database, name_of
from benchmarks.options import Options
from benchmarks.projections import EVENTS_OF_A_RUN, WORDS, read, write_log
from benchmarks.report import Report
from benchmarks.server import Server
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.database.tables import runs
from runstore.eventlog.queries import last_position
from runstore.projections.registry import shipped

CONFIG = """
[agents.quick]
factory = "benchmarks.growth:quick"
[agents.endless]
factory = "benchmarks.growth:endless"
"""
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
BUILT = ("first: events/s", "rebuilt: events/s", "of a bare read", "of a read of the log", "peak memory, MiB")
ASKS = 40  # requests of each kind, of which the median counts
AUDIT_PAGE = 100  # events
HITS = 20  # of a search, for a word that even the smallest log has more often
NOTE = {"type": "custom.note", "data": {"rating": 5}}
TIMEOUT_S = 60

QUESTIONS = {
    "start": "a start, to its answer",
    "append": "an append of a note",
    "state": "GET /runs/{id}",
    "runs": "GET /runs",
    "audit runs": "GET /audit/runs?totals=false",
    "totals": "GET /audit/runs, with sums over all",
    "audit events": f"GET /audit/events, {AUDIT_PAGE} from the middle",
    "search": f"GET /audit/search, a page of {HITS}",
    "sessions": "GET /sessions?user_id=",
    "replay": f"replay of a run with {EVENTS_OF_A_RUN} events",
}


async def quick(input: str, ctx: Any) -> AsyncIterator[str]:
    yield "done"


async def endless(input: str, ctx: Any) -> AsyncIterator[str]:
    yield "waiting"
    await asyncio.Event().wait()


def run(options: Options) -> Iterator[Report]:
    """The questions, each to logs of growing size, and rebuilds of the same logs."""
    largest = options.events or (100_000 if options.quick else 10_000_000)
    sizes = [size for size in SIZES if size <= largest]
    for server_url in (None, *options.database_urls):
        asked = Report(
            f"A log that grows, on {name_of(server_url)}: medians of {ASKS} requests, in ms",
            ("", *(f"{size:,} events" for size in sizes), "last to 100,000"),
            "One client asks one question after the other. The last column is a ratio.",
        )
        rebuilt = Report(
            f"Rebuild of all projections, on {name_of(server_url)}",
            ("events", "written in s", *BUILT),
            "One job. First: without live tables; rebuilt: compared with them. A bare read selects and "
            "decodes what each projection reads, one after the other; a read of the log: all events.",
        )
        took: list[Mapping[str, float]] = []
        for size in sizes:
            with empty_database(server_url) as url, _opened(url) as database:
                written_s = _time(partial(write_log, database, size // EVENTS_OF_A_RUN))
                rebuilt.add(f"{size:,}", f"{written_s:.0f}", *_rebuild(url, database, size))
                took.append(_ask_all(url, database))
        for name, shown in QUESTIONS.items():
            times = [each[name] for each in took]
            ratio = times[-1] / times[sizes.index(100_000)]
            asked.add(shown, *(f"{1000 * seconds:.1f}" for seconds in times), f"{ratio:.2f}")
        yield asked
        yield rebuilt


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(open_dialect(make_url(url), statement_timeout=False))
    yield database
    database.dialect.close()


def _rebuild(url: str, database: Database, size: int) -> tuple[str, ...]:
    """The cells BUILT."""
    first_s, _ = _command(url)
    bare_s = _time(lambda: [read(database, projection.reads) for projection in shipped()])
    rebuilt_s, peak = _command(url)
    whole_s = _time(lambda: read(database, None))
    rates = (f"{size / seconds:,.0f}" for seconds in (first_s, rebuilt_s))
    return *rates, f"{bare_s / rebuilt_s:.2f}", f"{whole_s / rebuilt_s:.2f}", f"{peak / 1024:.0f}"


def _command(url: str) -> tuple[float, int]:
    """How long a rebuild takes, in seconds, and the peak memory of its process, in KiB."""
    command = [sys.executable, "-m", "runstore", "projections", "rebuild", "--all", "--json"]
    with subprocess.Popen([*command, "--database-url", url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        reports = [json.loads(line) for line in process.stdout]
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return max(report["seconds"] for report in reports), used.ru_maxrss


def _ask_all(url: str, database: Database) -> dict[str, float]:
    """The median of each question, in seconds."""
    with database.connect() as connection:
        last = last_position(connection)
        run_ids = list(connection.scalars(select(runs.c.run_id).order_by(runs.c.created_at).limit(ASKS)))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runstore.toml"
        config.write_text(CONFIG)
        with (
            Server(config, "--database-url", url) as server,
            httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=TIMEOUT_S) as client,
        ):

            def get(path: str) -> None:
                client.get(path).raise_for_status()

            def post(path: str, body: dict[str, Any]) -> None:
                client.post(path, json=body).raise_for_status()

            def replay(run_id: str) -> None:
                asyncio.run(follow(server.port, "GET", f"/runs/{run_id}/stream"))

            open_run = server.begin("endless")
            asked = {
                "start": lambda number: post("/agents/quick/start", {"input": f"hi {number}"}),
                "append": lambda number: post(
                    f"/runs/{open_run}/events", {"type": "custom.note", "data": {}}
                ),
                "state": lambda number: get(f"/runs/{run_ids[number]}"),
                "runs": lambda number: get("/runs"),
                "audit runs": lambda number: get("/audit/runs?totals=false"),
                "totals": lambda number: get("/audit/runs"),
                "audit events": lambda number: get(f"/audit/events?after={last // 2}&limit={AUDIT_PAGE}"),
                "search": lambda number: get(f"/audit/search?text={WORDS[30 + number]}&limit={HITS}"),
                "sessions": lambda number: get("/sessions?user_id=user-7"),
                "replay": lambda number: replay(run_ids[number]),
            }
            return {name: _median(ask) for name, ask in asked.items()}


def _median(ask: Callable[[int], None]) -> float:
    ask(0)  # warm up
    return statistics.median(_time(partial(ask, number)) for number in range(ASKS))


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
