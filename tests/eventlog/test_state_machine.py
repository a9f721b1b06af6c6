"""After any sequence of appends, refusals, cancels, crashes, drops and resumes the log equals a plain list.

Hypothesis plays two server processes on one database; the model of a run is a list (G2, G4, G9, G10, G12).
"""

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, make_url

import runstore.maintenance.purge as purging
from runstore.core.codec import RecordedEvent, encode
from runstore.core.errors import (
    AppendRefused,
    LeaseLost,
    RunActive,
    RunClosed,
    RunPurged,
    RunstoreError,
    Unheard,
    WrongExpectedSeq,
)  # fmt: skip
from runstore.core.events import Custom, Deleted, Event, InputAdded
from runstore.core.ids import new_run_id
from runstore.core.run import EVOLVING_TYPES, Run, fold
from runstore.database.dialects import Dialect, open_dialect
from runstore.eventlog import queries
from runstore.eventlog.rules.control import read_open_runs
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from runstore.maintenance.purge import PurgeCount
from runstore.projections.runs import find_run
from tests.kit.database import open_log_at, run_list
from tests.kit.events import CANCEL, COMPLETED, ENDINGS, FAILED, QUEUED, asked, given, note, started, token
from tests.kit.frames import frame_of, read_frames
from tests.kit.polling import DEADLINE_S
from tests.kit.purging import FOREVER, purge
from tests.kit.rebuilding import rebuild_runs
from tests.kit.slow import slow
from tests.servers.databases import empty_database

Fact = tuple[str, bytes]  # type, data

HERE, THERE = 0, 1  # the process that runs the agents, and another replica
somewhere = st.sampled_from([HERE, THERE])
chance = st.integers(0, 1 << 16)


def fact(event: Event | Custom) -> Fact:
    encoded = encode(event)
    return encoded.type, encoded.data


@dataclass
class ModelRun:
    """The expected content of the log: the events in order, and offered text that may still be stored."""

    facts: list[Fact] = field(default_factory=list)
    offered: list[Fact] = field(default_factory=list)
    attempt: int = 0
    open: list[str] = field(default_factory=list)  # requests for input
    released: bool = False  # the attempt has ended with requests
    cancelled: bool = False
    closed: bool = False
    deleted: bool = False
    purged: bool = False
    listed: bool = True

    @property
    def added(self) -> list[int]:
        """The seqs of the messages that people have added."""
        return [seq for seq, (type, _) in enumerate(self.facts, 1) if type == InputAdded.type]

    def refusal(
        self, event: Event | Custom, expected_seq: int | None, attempt: int | None, heard: int | None
    ) -> type[RunstoreError] | None:
        deletion = isinstance(event, Deleted)
        if deletion and not self.closed:
            return RunActive
        if self.closed and not (deletion and not self.deleted and not self.purged):
            return RunClosed
        if attempt is not None and (attempt < self.attempt or self.released):
            return LeaseLost
        if expected_seq is not None and expected_seq != len(self.facts):
            return WrongExpectedSeq
        if heard is not None and self.added and self.added[-1] > heard:
            return Unheard
        return None

    def evolve(self, event: Event | Custom) -> None:
        self.cancelled |= event == CANCEL
        self.closed |= event in ENDINGS
        self.deleted |= isinstance(event, Deleted)


class LogMachine(RuleBasedStateMachine):
    kind: ClassVar[str]  # one of DATABASES

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(TemporaryDirectory()))
        self.files = count()
        self.numbers = count()
        self.loop = self.stack.enter_context(asyncio.Runner())
        try:
            self.url = self.stack.enter_context(empty_database(self.kind, self.folder))
            self.open()
        except BaseException:  # `teardown` is not called then
            self.stack.close()
            raise
        self.runs: dict[str, ModelRun] = {}
        self.frames: dict[tuple[str, int], bytes] = {}  # what a subscriber has ever been shown
        self.refusals: list[RunstoreError] = []  # of offered events

    # ---- processes ----

    def open(self) -> None:
        self.feed = MemoryFeed()
        self.logs = [open_log_at(self.url, feed) for feed in (self.feed, MemoryFeed())]

    def close(self) -> None:
        for log in self.logs:
            self.loop.run(log.close())

    def teardown(self) -> None:
        try:
            self.close()
        finally:
            self.stack.close()

    @rule()
    def restart(self) -> None:
        self.close()
        self.open()
        for run_id, run in self.runs.items():
            self.absorb(run_id)
            assert run.offered == [], "closing the log lost queued events"

    @rule()
    def crash(self) -> None:
        for log in self.logs:
            kill(log)
        if self.kind == "sqlite":
            self.url = copy(self.url, self.folder / f"{next(self.files)}.db")
        for log in self.logs:
            log._writer._store.close()  # as the operating system does with a dead process's connections
        self.close()
        self.open()
        for run_id, run in self.runs.items():
            self.absorb(run_id)
            run.offered.clear()  # was never acknowledged

    @precondition(lambda self: self.runs)
    @rule(which=chance, size=st.integers(1, 40))
    def crash_in_mid_sentence(self, which: int, size: int) -> None:
        self.offer(which, size)
        self.crash()

    # ---- writers ----

    @precondition(lambda self: len(self.runs) < 4)
    @rule(where=somewhere, worker=st.booleans())
    def start(self, where: int, worker: bool) -> None:
        run_id = new_run_id()
        events = [QUEUED, started()] if worker else [QUEUED]
        assert self.loop.run(self.logs[where].append(run_id, events, expected_seq=0)) == len(events)
        self.runs[run_id] = ModelRun([fact(event) for event in events], attempt=int(worker))

    @precondition(lambda self: self.runs)
    @rule(which=chance, size=st.integers(1, 40))
    def offer(self, which: int, size: int) -> None:
        run_id, run = self.pick(which)
        if run.closed or run.released or not run.attempt:
            return
        for _ in range(size):
            event = token(f"{next(self.numbers)}")
            refused = self.refusals.append
            assert self.logs[HERE].offer(run_id, encode(event), attempt=run.attempt, refused=refused)
            run.offered.append(fact(event))

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere, off=st.sampled_from([None, None, 0, 0, -1, 1]))
    def append(self, which: int, where: int, off: int | None) -> None:
        run_id, run = self.pick(which)
        if off is not None:
            self.settle(run_id)
        expected_seq = None if off is None else len(run.facts) + off
        self.write(where, run_id, note(f"{next(self.numbers)}"), expected_seq=expected_seq)

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere)
    def adopt(self, which: int, where: int) -> None:
        run_id, run = self.pick(which)
        self.settle(run_id)
        attempt = run.attempt + 1
        self.write(where, run_id, started(attempt, f"worker-{where}"), expected_seq=len(run.facts))
        if not run.closed:
            run.attempt, run.open, run.released = attempt, [], False

    # ---- people ----

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere, count=st.integers(1, 3), expires=st.booleans())
    def ask(self, which: int, where: int, count: int, expires: bool) -> None:
        """The attempt ends with requests, all in one append."""
        run_id, run = self.pick(which)
        if not run.attempt or run.released:
            return
        self.settle(run_id)
        requests = [asked(f"{run.attempt}.{n}", expires_at=n if expires else None) for n in range(count)]
        self.write(where, run_id, *requests, attempt=run.attempt)
        if not run.closed:
            run.open, run.released = [each.request_id for each in requests], True

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere, twice=st.booleans())
    def answer(self, which: int, where: int, twice: bool) -> None:
        """Of two replicas that answer at one head, the second is refused."""
        run_id, run = self.pick(which)
        if not run.open or run.closed:
            return
        seq = len(run.facts)
        self.write(where, run_id, given(run.open.pop(0), open=len(run.open)), expected_seq=seq)
        if twice:
            self.write(1 - where, run_id, given("late"), expected_seq=seq)

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere)
    def add(self, which: int, where: int) -> None:
        self.write(where, self.pick(which)[0], InputAdded(content=f"{next(self.numbers)}", by="local"))

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere)
    def expire(self, which: int, where: int) -> None:
        """Without a default, the run fails."""
        run_id, run = self.pick(which)
        if run.open and not run.closed:
            self.write(where, run_id, FAILED, expected_seq=len(run.facts))

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere)
    def speak_as_a_zombie(self, which: int, where: int) -> None:
        run_id, run = self.pick(which)
        self.write(where, run_id, note(f"{next(self.numbers)}"), attempt=run.attempt - 1)

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere)
    def cancel(self, which: int, where: int) -> None:
        self.write(where, self.pick(which)[0], CANCEL)

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere, ending=st.sampled_from(ENDINGS))
    def end(self, which: int, where: int, ending: Event) -> None:
        self.write(where, self.pick(which)[0], ending)

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere, missed=st.integers(0, 2))
    def complete(self, which: int, where: int, missed: int) -> None:
        """An agent ends that has not taken the last of the added messages."""
        run_id, run = self.pick(which)
        heard = [0, 0, 0, *run.added][-1 - missed]
        self.write(where, run_id, COMPLETED, heard=heard)

    @precondition(lambda self: self.runs)
    @rule(which=chance, where=somewhere)
    def delete(self, which: int, where: int) -> None:
        self.write(where, self.pick(which)[0], Deleted(by="local"))

    @rule(interrupted=st.booleans())
    def purge(self, interrupted: bool) -> None:
        """Of all that have ended; one that is interrupted has marked them."""
        due = sum(run.closed and not run.purged for run in self.runs.values())

        def interrupt(done: PurgeCount) -> None:
            if interrupted and done.runs == due:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            purge(self.url, before=FOREVER, progress=interrupt)
        for run in self.runs.values():
            run.listed |= run.closed and not run.purged
            run.purged |= run.closed

    # ---- projections ----

    @rule()
    def drop_the_run_list(self) -> None:
        with self.opened() as dialect, dialect.engine.connect() as connection:
            run_list().drop(connection)
            connection.commit()
        for run in self.runs.values():
            run.listed = False

    @rule()
    def rebuild_the_run_list(self) -> None:
        with self.opened() as dialect:
            rebuild_runs(dialect)
        for run in self.runs.values():
            run.listed = True

    # ---- readers ----

    @precondition(lambda self: self.runs)
    @rule(which=chance, cursor=chance)
    def resume_a_stream(self, which: int, cursor: int) -> None:
        run_id, run = self.pick(which)
        after = cursor % (len(run.facts) + 1)
        if run.purged:
            assert self.loop.run(is_refused(self.logs[HERE], self.feed, run_id, after))
            return
        stored = self.read(run_id)
        last = len(stored) - run.deleted
        body = self.loop.run(follow(self.logs[HERE], self.feed, run_id, after, last))
        frames = {one.seq: one.raw for one in read_frames([body])}
        assert list(frames) == list(range(after + 1, last + 1))
        for event in stored[after:last]:
            expected = frame_of(event)
            assert frames[event.seq] == expected == self.frames.setdefault((run_id, event.seq), expected)

    # ---- what always holds ----

    @invariant()
    def log_and_state_are_what_the_model_says(self) -> None:
        wrong = [error for error in self.refusals if not isinstance(error, AppendRefused)]
        assert wrong == [], "offered text was refused for another reason than its run's state"
        stored, states, open_runs = self.loop.run(self.logs[HERE].database.query(look_at, list(self.runs)))
        assert open_runs == {
            run_id for run_id, run in self.runs.items() if not run.closed and (not run.open or run.cancelled)
        }
        for run_id, run in self.runs.items():
            self.take_over(run_id, stored[run_id])
            types = [type for type, _ in run.facts]
            endings = [place for place, type in enumerate(types) if type in {event.type for event in ENDINGS}]
            assert len(endings) == run.closed
            assert types[endings[0] + 1 :] == ["run.deleted"] * run.deleted if endings else not run.deleted
            state = states[run_id]
            assert state is not None or not run.listed
            if state is not None and run.purged:
                assert (state.purged_at is not None, state.deleted) == (True, run.deleted)
                assert sum(state.counts.values()) == len(run.facts)
            elif state is not None:
                assert state == fold(run_id, stored[run_id])

    # ---- how ----

    @contextmanager
    def opened(self) -> Iterator[Dialect]:
        dialect = open_dialect(make_url(self.url), statement_timeout=False)
        yield dialect
        dialect.engine.dispose()

    def pick(self, which: int) -> tuple[str, ModelRun]:
        run_id = list(self.runs)[which % len(self.runs)]
        return run_id, self.runs[run_id]

    def write(self, where: int, run_id: str, *events: Event | Custom, **options: Any) -> None:
        """Append events: they are stored or refused as in the model, and earlier offered text is settled."""
        event = events[0]
        run = self.runs[run_id]
        refusal = run.refusal(event, *map(options.get, ("expected_seq", "attempt", "heard")))
        repeated = event == CANCEL and run.cancelled
        append = self.logs[where].append(run_id, events, **options)
        if refusal is not None:
            with pytest.raises(refusal):
                self.loop.run(append)
            self.absorb(run_id)
        else:
            seq = self.loop.run(append)
            self.absorb(run_id, *([] if repeated else map(fact, events)))
            assert repeated or run.facts[seq - 1] == fact(events[-1])
            run.evolve(event)
            run.listed |= not repeated and event.type in EVOLVING_TYPES  # a missing row heals with these
        if where == HERE:
            assert run.offered == [] or event == CANCEL, "offered text was overtaken"
        if run.closed or (where == HERE and event == CANCEL):
            run.offered.clear()  # refused, or discarded by the cancel

    def absorb(self, run_id: str, *appended: Fact) -> None:
        self.take_over(run_id, self.read(run_id), *appended)

    def take_over(self, run_id: str, stored: list[RecordedEvent], *appended: Fact) -> None:
        """The stored events must be all acknowledged ones, and a prefix of the offered text."""
        run, expected = self.runs[run_id], list(appended)
        if run.purged:
            assert (stored, appended) == ([], ())
            return
        assert [event.seq for event in stored] == list(range(1, len(stored) + 1))
        facts = [(event.type, event.data) for event in stored]
        assert facts[: len(run.facts)] == run.facts, "an acknowledged event has changed"
        for new in facts[len(run.facts) :]:
            source = run.offered if run.offered and run.offered[0] == new else expected
            assert source, f"no writer wrote {new}"
            assert source.pop(0) == new
            run.facts.append(new)
        assert expected == [], "an acknowledged event is missing"

    def settle(self, run_id: str) -> None:
        """Wait until all that was offered has landed."""

        def landed() -> bool:
            self.absorb(run_id)
            return not run.offered

        run = self.runs[run_id]
        deadline = time.monotonic() + DEADLINE_S
        while not landed():
            assert time.monotonic() < deadline, "offered text never lands"

    def read(self, run_id: str) -> list[RecordedEvent]:
        return self.loop.run(self.logs[HERE].database.query(read_events, run_id))


def read_events(connection: Connection, run_id: str) -> list[RecordedEvent]:
    """Nothing of a purged run."""
    events: list[RecordedEvent] = []
    try:
        while page := queries.read_run(connection, run_id, len(events), None, 1_000, None):
            events += page
    except RunPurged:
        return []
    return events


def look_at(
    connection: Connection, run_ids: list[str]
) -> tuple[dict[str, list[RecordedEvent]], dict[str, Run | None], set[str]]:
    """The events and the listed state of each run, and which are open."""
    stored = {run_id: read_events(connection, run_id) for run_id in run_ids}
    states = {run_id: find_run(connection, run_id) for run_id in run_ids}
    return stored, states, {run.run_id for run in read_open_runs(connection, 2_000)}


async def follow(log: SqlEventLog, feed: MemoryFeed, run_id: str, after: int, last: int) -> bytes:
    """The text that a subscriber shows up to the event `last`."""
    got = b""
    async with asyncio.timeout(DEADLINE_S):
        stream = native(Tail(log, feed, run_id, after=after))
        while after < last:
            got += await anext(stream)
            after = [one.seq for one in read_frames([got])][-1]
        await stream.aclose()  # type: ignore[attr-defined]
    return b"".join(one.raw for one in read_frames([got]) if one.seq <= last)


async def is_refused(log: SqlEventLog, feed: MemoryFeed, run_id: str, after: int) -> bool:
    """Whether a subscriber of a purged run gets no event, and the reason."""
    tail = Tail(log, feed, run_id, after=after)
    return [frame async for frame in native(tail)] == [] and tail.purged


def kill(log: SqlEventLog) -> None:
    """End the writer between two commits, as `kill -9` may: queued events are lost, no file is closed."""
    writer = log._writer
    store = writer._store
    writer._settle = lambda batch: None  # type: ignore[method-assign]
    close, store.close = store.close, lambda: None  # type: ignore[method-assign]
    writer._pending.close()
    writer._thread.join(DEADLINE_S)
    assert not writer._thread.is_alive()
    store.close = close  # type: ignore[method-assign]


def copy(url: str, target: Path) -> str:
    """The files as the dead process left them."""
    source = Path(make_url(url).database or "")
    for suffix in ("", "-wal"):
        if (file := source.with_name(source.name + suffix)).exists():
            shutil.copyfile(file, target.with_name(target.name + suffix))
    return f"sqlite:///{target}"


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("sqlite", 5),
        *(slow("sqlite", 8), slow("postgresql", 3), slow("mysql", 3)),
    ],
)
def test_after_any_history_the_log_equals_a_plain_list(
    kind: str, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "TURN_S", 0)
    machine = type("Machine", (LogMachine,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30))
