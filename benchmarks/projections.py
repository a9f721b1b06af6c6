"""How fast the shipped projections fold a big log, and how much memory that takes."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

from sqlalchemy import insert, make_url

from benchmarks.databases import empty_database, name_of
from benchmarks.options import Options
from benchmarks.report import Report
from runstore.core.codec import encode
from runstore.core.events import (
    AgentStarted,
    Completed,
    Custom,
    Event,
    Message,
    Queued,
    Started,
    Token,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.ids import first_run_id
from runstore.database.dialects import open_dialect
from runstore.database.opening import Database
from runstore.database.tables import events
from runstore.eventlog.queries import last_position, read_all
from runstore.projections.projection import Projection
from runstore.projections.registry import shipped
from runstore.projections.runner import ProjectionRunner

BEGIN = 1_780_000_000_000
RUNS_AT_ONCE = 200  # runs of one transaction of the generator
TOKENS = 90  # of a run, whose other events are 10
EVENTS_OF_A_RUN = TOKENS + 10
WORDS = [f"word{number}" for number in range(20_000)]
OFTEN = list(accumulate(1 / (rank + 3) for rank in range(len(WORDS))))  # as in a language, by Zipf's law


def run(options: Options) -> Iterator[Report]:
    """Each projection alone, from an empty table to the end of the log."""
    runs = 2_000 if options.quick else 20_000
    report = Report(
        f"Projections over {runs * EVENTS_OF_A_RUN:,} events of {runs:,} runs, a tenth of them no tokens",
        ("database", "projection", "events/s", "of a bare read", "memory, MiB"),
        "A bare read selects and decodes the same rows. Memory: what the process grew by.",
    )
    for server_url in (None, *options.database_urls):
        with empty_database(server_url) as url:
            database = Database(open_dialect(make_url(url), statement_timeout=False))
            write_log(database, runs)
            for projection in shipped():
                if not projection.inline:
                    bare = _time(partial(read, database, projection))
                    before = _memory_mib()
                    took = _time(partial(_fold, database, projection))
                    rate, grown = runs * EVENTS_OF_A_RUN / took, _memory_mib() - before
                    report.add(
                        name_of(server_url), projection.name, f"{rate:,.0f}", f"{bare / took:.2f}",
                        f"{grown:.0f}",
                    )  # fmt: skip
            database.dialect.close()
    yield report


def write_log(database: Database, runs: int) -> None:
    """Fill an empty log with runs that have ended."""
    random = Random(1)
    for start in range(0, runs, RUNS_AT_ONCE):
        rows = [
            row for number in range(start, min(start + RUNS_AT_ONCE, runs)) for row in _run(number, random)
        ]
        with database.writing() as connection:
            connection.execute(insert(events), rows)


def _run(number: int, random: Random) -> Iterator[dict[str, Any]]:
    at = BEGIN + number * 1_000
    run_id = first_run_id(at)
    for seq, event in enumerate(_events(number, random), 1):
        encoded = encode(event, at=at + seq)
        yield {
            "run_id": run_id, "seq": seq, "type": encoded.type, "v": encoded.version,
            "ends": int(encoded.ends), "at": encoded.at, "append_id": b"benchmrk", "data": encoded.data,
        }  # fmt: skip


def _events(number: int, random: Random) -> Iterator[Event | Custom]:
    user, session = f"user-{number % 500}", f"session-{number // 5}"
    call: dict[str, Any] = {"agent": "demo", "tool_use_id": f"call-{number}", "name": f"tool{number % 20}"}
    yield Queued(
        agent="demo",
        user_id=user,
        session_id=session,
        input=" ".join(random.choices(WORDS, cum_weights=OFTEN, k=20)),
    )
    yield Started(worker_id="worker", attempt=1, reason="claimed")
    yield AgentStarted(agent="demo")
    yield Usage(agent="demo", model="model", input_tokens=900, output_tokens=20, first_token_ms=300)
    yield ToolStarted(**call, input={"query": _text(random, 5)})
    yield ToolFinished(**call, output=[{"text": _text(random, 30)}])
    said = _text(random, TOKENS)
    for word in said.split():
        yield Token(agent="demo", text=f"{word} ")
    yield Usage(agent="demo", model="model", input_tokens=1_200, output_tokens=TOKENS, first_token_ms=250)
    yield Message(agent="demo", message={"role": "assistant", "content": [{"text": said}]})
    yield Custom("custom.note", {"rating": 5})
    yield Completed(result={"text": said})


def _text(random: Random, words: int) -> str:
    return " ".join(random.choices(WORDS, cum_weights=OFTEN, k=words))


def read(database: Database, projection: Projection) -> None:
    """A bare read of what a projection reads: select and decode."""
    with database.connect() as connection:
        last = last_position(connection)
        page: Sequence[Any] = ()
        while page := read_all(connection, page[-1].position if page else 0, last, 5_000, projection.reads):
            pass


def _fold(database: Database, projection: Projection) -> None:
    ProjectionRunner(database, [projection]).run(once=True)


def _time(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _memory_mib() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
