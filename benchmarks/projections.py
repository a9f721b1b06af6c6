"""How fast the shipped projections fold a big log, and how much memory that takes."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

from sqlalchemy import make_url

from benchmarks.databases import empty_database, name_of
from benchmarks.options import Options
from benchmarks.report import Report
from runstore.core.codec import EncodedEvent, RecordedEvent, decode, encode
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
from runstore.core.ports import EventFilter
from runstore.database.columns import pack_run_id
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.database.dialects.base import Row
from runstore.eventlog.queries import last_position, read_all
from runstore.projections.projection import Projection
from runstore.projections.registry import shipped
from runstore.projections.runner import ProjectionRunner

BEGIN = 1_780_000_000_000
RUNS_AT_ONCE = 200  # runs of one transaction of the generator
TEMPLATES = 1_000  # runs whose agents say different things
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
                    bare = _time(partial(read, database, projection.reads))
                    before = _memory_mib()
                    took = _time(partial(_fold, database, projection))
                    rate, grown = runs * EVENTS_OF_A_RUN / took, _memory_mib() - before
                    report.add(
                        name_of(server_url), projection.name, f"{rate:,.0f}", f"{bare / took:.2f}",
                        f"{grown:.0f}",
                    )  # fmt: skip
            database.dialect.close()
    yield report


def write_log(database: Database, runs: int, *, apart_ms: int = 1_000) -> None:
    """Fill an empty log with runs that have ended.

    Runs differ in user, session and input. What their agents say is that of one of `TEMPLATES` runs, encoded
    once, so that ten million events take a minute.
    """
    random = Random(1)
    said = [[encode(event, at=BEGIN) for event in _said(number, random)] for number in range(TEMPLATES)]
    for start in range(0, runs, RUNS_AT_ONCE):
        numbers = range(start, min(start + RUNS_AT_ONCE, runs))
        rows = [
            row
            for number in numbers
            for row in _rows(number, BEGIN + number * apart_ms, random, said[number % TEMPLATES])
        ]
        with database.writing() as connection:
            database.dialect.insert_events(connection, b"benchmrk", rows)


def _rows(number: int, at: int, random: Random, said: Sequence[EncodedEvent]) -> Iterator[Row]:
    run_id = pack_run_id(first_run_id(at))
    yield Row(run_id, 1, encode(_queued(number, random), at=at + 1))
    for seq, event in enumerate(said, 2):
        yield Row(run_id, seq, EncodedEvent(event.type, event.version, event.ends, at + seq, event.data))


def _queued(number: int, random: Random) -> Queued:
    return Queued(
        agent="demo",
        user_id=f"user-{number % 500}",
        session_id=f"session-{number // 5}",
        input=_text(random, 20),
    )


def _said(number: int, random: Random) -> Iterator[Event | Custom]:
    """A run's events after the first one."""
    call: dict[str, Any] = {"agent": "demo", "tool_use_id": f"call-{number}", "name": f"tool{number % 20}"}
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


def read(database: Database, reads: EventFilter | None) -> None:
    """A bare read of the events that pass a filter, or of all: select, and decode each."""
    with database.connect() as connection:
        last = last_position(connection)
        page: Sequence[RecordedEvent] = ()
        while page := read_all(connection, page[-1].position if page else 0, last, 5_000, reads):
            for event in page:
                decode(event.type, event.version, event.data)


def _fold(database: Database, projection: Projection) -> None:
    ProjectionRunner(database, [projection]).run(once=True)


def _time(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _memory_mib() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
