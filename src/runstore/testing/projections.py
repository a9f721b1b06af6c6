"""A contract that every projection must keep, for the tests of the package that has it; needs pytest.

from runstore.testing import ProjectionContract

class TestMine(ProjectionContract):
    projection = Mine()
"""

import asyncio
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from sqlalchemy import Connection, select

from runstore.core.codec import EncodedEvent, RecordedEvent, encode
from runstore.core.events import (
    AgentStarted,
    Cancelled,
    CancelRequested,
    Completed,
    Custom,
    Deleted,
    Discarded,
    Event,
    Failed,
    Message,
    Queued,
    Started,
    Token,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.ids import first_run_id
from runstore.database.database import Database
from runstore.database.opening import open_database
from runstore.eventlog.queries import last_position, read_all
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.maintenance.purge import Purge, ended_before
from runstore.maintenance.rebuild import ProjectionReport, rebuild, verify
from runstore.projections.inline import InlineProjections
from runstore.projections.live import live_tables
from runstore.projections.projection import Projection, check_projection
from runstore.projections.runner import ProjectionRunner
from runstore.projections.runs import RunList

OLD = 1_700_000_000_000  # ms since 1970: when old runs ended
DAY_MS = 86_400_000
RUNS_UNDER_LOAD = 8  # runs that are written at least while a rebuild is under way
SIZES = (1, 2, 7, 1_000)  # events of a batch

Appends = Sequence[Sequence[EncodedEvent]]
Rows = dict[str, list[tuple[Any, ...]]]


class ProjectionContract:
    """The tests. Subclass it in a test module, under a name that pytest collects.

    projection: the projection, or override `make`.
    events: events of your own that each run gets as well, if the projection reads `custom.*` events.
    survives_purges: False if its rows may depend on events that a purge removes; a rebuild after a purge then
        differs. A projection that stores what each run contributed, and reads `run.purged`, survives.

    Override the fixture `database_url` to run on another database; it must be empty, and is written to.
    """

    projection: ClassVar[Projection]
    events: ClassVar[Sequence[Event | Custom]] = ()
    survives_purges: ClassVar[bool] = True

    def make(self) -> Projection:
        """The projection to test."""
        return self.projection

    @pytest.fixture
    def database_url(self, tmp_path: Path) -> str:
        """An empty database; SQLite unless overridden."""
        return f"sqlite:///{tmp_path / 'runstore.db'}"

    @pytest.fixture
    def subject(self, database_url: str) -> Iterator["Subject"]:
        """The projection on the database."""
        database = open_database(database_url)
        with closing(database.dialect):
            yield Subject(database, self.make(), self.events)

    def test_it_is_declared_rightly(self) -> None:
        check_projection(self.make())

    def test_a_replay_comes_out_equal(self, subject: "Subject") -> None:
        subject.write(runs=8)
        rows = subject.caught_up()
        subject.assert_equal(subject.rebuild())
        assert subject.rows() == rows
        subject.assert_equal(subject.rebuild())

    def test_batches_of_any_size_come_out_equal(self, subject: "Subject") -> None:
        subject.write(runs=8)
        rows = subject.caught_up()
        for size in SIZES:
            assert subject.folded_in_batches(size) == rows, f"batches of {size} events"

    def test_a_redacted_answer_comes_out_equal(self, subject: "Subject") -> None:
        subject.write(runs=2)
        run_id = subject.write_unfinished()
        subject.caught_up()
        subject.redact(run_id)
        subject.caught_up()
        subject.assert_equal(subject.verify())

    def test_an_answer_that_an_ending_withholds_comes_out_equal(self, subject: "Subject") -> None:
        subject.write(runs=2)
        run_id = subject.write_unjudged()
        subject.caught_up()
        subject.stop(run_id)
        subject.caught_up()
        subject.assert_equal(subject.verify())

    def test_purged_runs_come_out_equal(self, subject: "Subject") -> None:
        if not self.survives_purges:
            pytest.skip("the projection does not survive purges")
        subject.write(runs=6, at=OLD)
        subject.write(runs=3)
        subject.caught_up()
        subject.purge()
        subject.caught_up()
        subject.assert_equal(subject.verify())
        subject.assert_equal(subject.rebuild())

    def test_runs_that_are_purged_before_they_arrive_come_out_equal(self, subject: "Subject") -> None:
        if not self.survives_purges:
            pytest.skip("the projection does not survive purges")
        subject.write(runs=3, at=OLD)
        subject.purge()
        subject.write(runs=3)
        subject.caught_up()
        subject.assert_equal(subject.verify())

    def test_a_batch_that_is_cut_off_is_applied_once(self, subject: "Subject") -> None:
        if subject.projection.inline:
            pytest.skip("an inline projection has no batches of its own")
        subject.write(runs=6)
        subject.die_in_mid_batch()
        subject.caught_up()
        subject.assert_equal(subject.verify())

    def test_a_rebuild_under_write_load_comes_out_equal(self, subject: "Subject") -> None:
        subject.write(runs=8)
        subject.caught_up()
        with subject.writers():
            subject.assert_equal(subject.rebuild())
        subject.caught_up()
        subject.assert_equal(subject.verify())


class Killed(BaseException):
    """Stands for the end of the process."""


class Subject:
    """A projection on a database, and a log to write."""

    def __init__(self, database: Database, projection: Projection, events: Sequence[Event | Custom]) -> None:
        self.projection = projection
        self._database = database
        self._events = events
        self._numbers = count()
        self._inline: list[Any] = [RunList()]
        if projection.inline and not projection.in_schema:
            self._inline.append(InlineProjections([projection]))
            self.caught_up()  # it is live before the first append

    def write(self, *, runs: int, at: int = OLD + 900 * DAY_MS) -> None:
        """Append whole runs of several users and agents, with all kinds of endings."""
        asyncio.run(self._append_all(lambda: (self._run(at) for _ in range(runs))))

    def write_unfinished(self) -> str:
        """A run whose answer has been given, and not been ended."""
        run_id, appends = self._run(OLD + 900 * DAY_MS)
        asyncio.run(self._append_all(lambda: [(run_id, appends[:2])]))
        return run_id

    def redact(self, run_id: str) -> None:
        """Withhold the answer of that run, and end it."""
        redaction = Discarded(agent="writer", reason="redacted", length=len("Hello, you."))
        self._append(run_id, redaction, Completed(result={"text": ""}))

    def write_unjudged(self) -> str:
        """A run whose answer is complete, while a hook has yet to judge it."""
        run_id = self.write_unfinished()
        answer = {"role": "assistant", "content": [{"text": "Hello, you."}]}
        self._append(
            run_id,
            AgentStarted(agent="writer", redacts=True, redacts_last=True),
            Token(agent="writer", text="Hello, you."),
            Message(agent="writer", message=answer),
        )
        return run_id

    def stop(self, run_id: str) -> None:
        """Stop that run."""
        self._append(run_id, Cancelled(reason="user"))

    def purge(self) -> None:
        """Purge the old runs."""
        with closing(Purge(self._database, self._inline)) as purge:
            assert purge.run(ended_before(OLD + DAY_MS), by="retention").runs > 0

    def caught_up(self) -> Rows:
        """The rows, once everything in the log is applied."""
        ProjectionRunner(self._database, [self.projection], lease_s=0.0).run(once=True)
        return self.rows()

    def rows(self) -> Rows:
        """The live rows, by table and in the order of their keys."""
        with self._database.connect() as connection:
            tables = live_tables(connection, self.projection)
            assert tables is not None, "the projection has no live tables: did it refuse an event?"
            return {name: _rows(connection, table) for name, table in tables.items()}

    def rebuild(self) -> ProjectionReport:
        return rebuild(self._database, self.projection)

    def verify(self) -> ProjectionReport:
        return verify(self._database, self.projection)

    def assert_equal(self, report: ProjectionReport) -> None:
        assert report.tables is not None
        assert report.equal, {name: table for name, table in report.tables.items() if not table.equal}

    def folded_in_batches(self, size: int) -> Rows:
        """The rows of a fold of the whole log, in the other slot."""
        bound = self.projection.on("b")
        with self._database.connect() as connection:
            events = list(_all_events(connection, self.projection))
        with self._database.changing() as connection:
            bound.drop(connection)
            bound.create(connection)
        for start in range(0, len(events), size):
            with self._database.changing() as connection:
                bound.apply(connection, events[start : start + size])
        with self._database.changing() as connection:
            names = [table.name for table in type(self.projection).tables]
            rows = {name: _rows(connection, table) for name, table in zip(names, bound.tables, strict=True)}
            bound.drop(connection)
        return rows

    def die_in_mid_batch(self) -> None:
        """End a runner after it has applied a batch, before the commit."""
        kind = type(self.projection)

        def apply(self: Projection, connection: Connection, events: Sequence[RecordedEvent]) -> None:
            kind.apply(self, connection, events)
            raise Killed

        mortal = copy.copy(self.projection)
        mortal.__class__ = type(kind.__name__, (kind,), {"apply": apply})
        with pytest.raises(Killed):
            ProjectionRunner(self._database, [mortal]).run(once=True)

    def writers(self) -> "_Writers":
        """Runs are appended in the block, all the time."""
        return _Writers(lambda: self.write(runs=1))

    def _append(self, run_id: str, *events: Event) -> None:
        encoded = [encode(event, at=OLD + 900 * DAY_MS) for event in events]
        asyncio.run(self._append_all(lambda: [(run_id, [encoded])]))

    async def _append_all(self, runs: Callable[[], Iterable[tuple[str, Appends]]]) -> None:
        log = SqlEventLog(self._database, MemoryFeed(), self._inline)
        try:
            for run_id, appends in runs():
                for events in appends:
                    await log.append(run_id, events)
        finally:
            await log.close()

    def _run(self, at: int) -> tuple[str, Appends]:
        """A run, and its appends; every value follows from the number of the run."""
        number = next(self._numbers)
        run_id = str(UUID(int=UUID(first_run_id(at)).int + number))
        queued = Queued(
            agent="writer" if number % 2 else "team:lead", user_id=f"user-{number % 3}",
            session_id=f"session-{number % 4}" if number % 4 else None, input=f"question {number}",
        )  # fmt: skip
        used = Usage(agent="writer", input_tokens=10 + number, output_tokens=5, model="model-1")
        said = [Token(agent="writer", text="Hello, "), Token(agent="writer", text="you.")]
        call: dict[str, Any] = {"agent": "writer", "tool_use_id": "1", "name": "search"}
        finished = (
            ToolFailed(**call, output="no") if number % 3 == 0 else ToolFinished(**call, output="found")
        )
        called = [ToolStarted(**call, input={"q": f"{number}"}), finished]
        answer = {"role": "assistant", "content": [{"text": "Hello, you."}]}
        ending: list[list[Event | Custom]] = [
            [Message(agent="writer", message=answer), Completed(result={})],
            [Failed(code="agent_error", message="no")],
            [CancelRequested(by="user-0", reason="user"), Cancelled(reason="user")],
            [Completed(result={"text": "Hello, you."})],
        ]
        started = Started(worker_id="worker", attempt=1, reason="claimed")
        parts: list[list[Event | Custom]] = [
            [queued, started, *called, *self._events], [used, *said], ending[number % 4],
            [Deleted(by="user-0")] if number % 5 == 4 else [],
        ]  # fmt: skip
        appends = [
            [encode(event, at=at + 1_000 * place) for event in part] for place, part in enumerate(parts)
        ]
        return run_id, [append for append in appends if append]


class _Writers:
    """A thread that writes while it is entered, and at least RUNS_UNDER_LOAD times."""

    def __init__(self, write: Callable[[], None]) -> None:
        self._write = write
        self._stopping = threading.Event()
        self._begun = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        self._begun.wait()

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        self._thread.join()
        assert not self._errors, self._errors

    def _run(self) -> None:
        try:
            for number in count():
                if self._stopping.is_set() and number >= RUNS_UNDER_LOAD:
                    return
                self._write()
                self._begun.set()
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._begun.set()


def _rows(connection: Connection, table: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]


def _all_events(connection: Connection, projection: Projection) -> Iterator[RecordedEvent]:
    position, last = 0, last_position(connection)
    while page := read_all(connection, position, last, 1_000, projection.reads):
        yield from page
        position = page[-1].position
