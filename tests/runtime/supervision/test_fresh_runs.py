"""A run that starts in the process that queued it: nothing of it is read in any case."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from runstore import app
from runstore.app import Runtime, open_runtime
from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import IdempotencyConflict, LogUnavailable
from runstore.core.events import Completed, InputAdded, Queued, Started
from runstore.core.ids import new_run_id
from runstore.core.new_run import NewRun
from runstore.core.ports import Committed, EventLog, OpenRun
from runstore.eventlog.admission import Append
from runstore.eventlog.sql import SqlEventLog
from runstore.eventlog.sql_store import SqlStore
from runstore.eventlog.writer import CommitResult
from runstore.runtime.attempts import starting
from runstore.runtime.attempts.runner import AttemptRunner
from runstore.runtime.catalog.specs import AgentSpec
from runstore.runtime.supervision import dispatcher, supervisor
from runstore.runtime.supervision.run_table import EarlyRequests
from runstore.runtime.supervision.supervisor import Supervisor
from runstore.settings import ServerSettings, Settings
from tests.kit.polling import DEADLINE_S, until

QUEUED = Queued(agent="demo", user_id="ann", input="hi")
NEW = NewRun(agent="once", user_id="ann", input="hi")
SLOW = NewRun(agent="slow", user_id="ann", input="hi")
AGENTS = {
    "once": AgentSpec(model="scripted", tokens=1),
    "slow": AgentSpec(model="scripted", tokens=1_000, tokens_per_s=10),
}
# Runs that fail if they count as lost.
FAILING = {"once": AgentSpec(model="scripted", tokens=1, on_worker_lost="fail")}
QUEUED_FAILING = replace(QUEUED, agent="once", definition={"on_worker_lost": "fail"})


def unread(*_: object) -> None:
    raise AssertionError("the start of a run was read")


@pytest.fixture
def settings(database: Path) -> Settings:
    server = ServerSettings(database_url=f"sqlite:///{database}", drain_s=0, capacity=1)
    return Settings(server, agents=AGENTS)


def claim_of_a_caller_that_has_gone(runtime: Runtime) -> tuple[str, EncodedEvent]:
    """A new run's id, and its claim, whose slot was given back."""
    run_id = new_run_id()
    started = runtime.supervisor.keep_slot(run_id)
    assert started is not None
    runtime.supervisor.free_slot(run_id)
    return run_id, started


def heard(runtime: Runtime) -> list[Committed]:
    commits: list[Committed] = []
    runtime.feed.listen(commits.append)
    return commits


def types(commits: list[Committed], run_id: str) -> list[list[str]]:
    return [[event.type for event in commit.events] for commit in commits if commit.run_id == run_id]


async def test_it_begins_without_a_look_at_the_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "read_start", unread)
    async with open_runtime(settings) as runtime:
        run_id = new_run_id()
        await runtime.event_log.append(run_id, [QUEUED], expected_seq=0)
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"


async def test_a_programs_own_run_is_claimed_by_no_worker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[str] = []
    monkeypatch.setattr(dispatcher.Attempts, "claim", lambda _, run_id, *rest: claimed.append(run_id))
    async with open_runtime(settings) as runtime:
        run_id = new_run_id()
        started = Started(worker_id=runtime.leases.worker_id, attempt=1, reason="claimed")
        await runtime.event_log.append(run_id, [QUEUED, started], expected_seq=0)
        await runtime.event_log.append(run_id, [Completed(result={})], attempt=1)
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"
    assert claimed == []


async def test_a_start_is_queued_and_started_with_one_commit(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        commits = heard(runtime)
        found = await runtime.store.start(NEW)
        run_id = found.run.run_id
        assert (found.run.status, found.last_seq) == ("queued", 1)
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"
        assert types(commits, run_id)[0] == [Queued.type, Started.type]


async def test_a_start_waits_while_all_slots_are_taken(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        commits = heard(runtime)
        await runtime.store.start(SLOW)
        second = (await runtime.store.start(NEW)).run.run_id
        assert types(commits, second) == [[Queued.type]]
        assert runtime.supervisor.running + runtime.supervisor.waiting == 2


async def test_a_start_of_a_session_waits_for_its_turn(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        commits = heard(runtime)
        new = NewRun(agent="once", user_id="ann", input="hi", session_id="s")
        run_id = (await runtime.store.start(new)).run.run_id
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"
        assert types(commits, run_id)[0] == [Queued.type]


async def test_a_refused_start_gives_its_slot_back(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        first = NewRun(agent="once", user_id="ann", input="hi", idempotency_key="k")
        run_id = (await runtime.store.start(first)).run.run_id
        await runtime.store.get(run_id, wait_s=DEADLINE_S)
        assert (await runtime.store.start(first)).run.run_id == run_id
        with pytest.raises(IdempotencyConflict):
            await runtime.store.start(NewRun(agent="once", user_id="ann", input="ho", idempotency_key="k"))
        assert runtime.supervisor.waiting == 0
        run_id = (await runtime.store.start(NEW)).run.run_id
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"


async def test_a_start_on_another_loop_is_left_to_the_servers_loop(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        commits = heard(runtime)
        found = await asyncio.to_thread(asyncio.run, runtime.store.start(NEW))
        run_id = found.run.run_id
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"
        assert types(commits, run_id)[0] == [Queued.type]


async def test_a_start_of_which_nothing_is_heard_gives_its_slot_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("this listener is broken")

    monkeypatch.setattr(Supervisor, "_notify_added", fail)
    async with open_runtime(settings) as runtime:
        run_id = (await runtime.store.start(NEW)).run.run_id
        assert runtime.supervisor.waiting == 0
        monkeypatch.undo()
        run = (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run
        assert (run.status, run.attempt) == ("success", 2)  # sweeps have found it


async def test_a_start_whose_caller_has_gone_begins_all_the_same(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        run_id, started = claim_of_a_caller_that_has_gone(runtime)
        await runtime.event_log.append(run_id, [QUEUED, started], expected_seq=0)
        run = (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run
        assert (run.status, run.attempt) == ("success", 1)


async def test_starts_whose_callers_have_gone_wait_for_a_slot(settings: Settings) -> None:
    async with open_runtime(replace(settings, agents=FAILING)) as runtime:
        run_id, started = claim_of_a_caller_that_has_gone(runtime)
        other = new_run_id()
        assert runtime.supervisor.keep_slot(other)  # the only slot
        await runtime.event_log.append(run_id, [QUEUED_FAILING, started], expected_seq=0)
        await asyncio.sleep(0)
        assert (runtime.supervisor.running, runtime.supervisor.waiting) == (0, 2)
        for _ in range(3):  # this worker does not count as crashed, however long the run waits
            await runtime.supervisor.sweep()
        assert (runtime.supervisor.running, runtime.supervisor.waiting) == (0, 2)
        runtime.supervisor.free_slot(other)
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"


async def test_a_start_that_waits_for_a_slot_since_a_sweep_began_is_not_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_runtime(replace(settings, agents=FAILING)) as runtime:
        run_id, started = claim_of_a_caller_that_has_gone(runtime)
        other = new_run_id()
        assert runtime.supervisor.keep_slot(other)  # the only slot
        read_open_runs, waiting = runtime.event_log.open_runs, list[int]()

        async def start_and_read(**query: Any) -> list[OpenRun]:
            waiting.append(runtime.supervisor.waiting)
            if len(waiting) == 1:
                await runtime.event_log.append(run_id, [QUEUED_FAILING, started], expected_seq=0)
            return await read_open_runs(**query)

        monkeypatch.setattr(runtime.event_log, "open_runs", start_and_read)
        await until(lambda: len(waiting) == 4)
        assert waiting == [1, 2, 2, 2]
        runtime.supervisor.free_slot(other)
        assert (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"


async def test_a_start_whose_answer_was_lost_is_not_adopted_before_the_log_is_back(
    settings: Settings, open_log: Callable[..., EventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_runtime(settings) as runtime:
        run_id = new_run_id()
        started = Started(worker_id=runtime.supervisor.worker_id, attempt=1, reason="claimed")
        monkeypatch.setattr(SqlEventLog, "unavailable", LogUnavailable("the network is away"))
        await open_log().append(run_id, [QUEUED, started], expected_seq=0)  # and nothing is heard of it
        for _ in range(3):
            await runtime.supervisor.sweep()
        assert runtime.supervisor.waiting + runtime.supervisor.running == 0
        monkeypatch.undo()
        await runtime.supervisor.sweep()
        assert runtime.supervisor.waiting + runtime.supervisor.running == 0
        run = (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run
        assert (run.status, run.attempt) == ("success", 2)


async def test_a_run_that_another_process_takes_at_once_is_not_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    async def look(_: object, run_id: str, *rest: object) -> None:
        looked.append(run_id)

    monkeypatch.setattr(supervisor, "HEAD_START_S", 0)
    monkeypatch.setattr(starting.Attempts, "claim", look)
    async with open_runtime(settings) as runtime:
        taken, left = new_run_id(), new_run_id()
        started = encode(Started(worker_id="elsewhere", attempt=1, reason="claimed"))
        commits = [
            Committed(run_id, 1, [encode(QUEUED)], control=True, remote=True) for run_id in (taken, left)
        ]
        runtime.feed.publish([*commits, Committed(taken, 2, [started], control=True, remote=True)])
        await until(lambda: bool(looked))
        await asyncio.sleep(0)
    assert looked == [left]


async def test_a_start_that_is_heard_of_while_it_is_adopted_begins_once(
    settings: Settings, open_log: Callable[..., EventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, adopt, launch = asyncio.Event(), starting.Attempts.adopt, dispatcher.Dispatcher._launch
    launched: list[int] = []

    async def slow(attempts: starting.Attempts, run: OpenRun) -> starting.Attempt | None:
        await held.wait()
        return await adopt(attempts, run)

    def keep(self: dispatcher.Dispatcher, attempt: starting.Attempt, meanwhile: EarlyRequests) -> None:
        launched.append(attempt.number)
        launch(self, attempt, meanwhile)

    monkeypatch.setattr(starting.Attempts, "adopt", slow)
    monkeypatch.setattr(dispatcher.Dispatcher, "_launch", keep)
    async with open_runtime(settings) as runtime:
        run_id = new_run_id()
        started = encode(Started(worker_id=runtime.supervisor.worker_id, attempt=1, reason="claimed"))
        await open_log().append(run_id, [QUEUED, started], expected_seq=0)
        await until(lambda: runtime.supervisor.waiting == 1)
        runtime.feed.publish([Committed(run_id, 1, [encode(QUEUED), started], control=True)])
        for _ in range(3):
            await asyncio.sleep(0)
        held.set()
        run = (await runtime.store.get(run_id, wait_s=DEADLINE_S)).run
        assert (run.status, run.attempt, launched) == ("success", 2, [2])


@pytest.mark.parametrize("gone", [False, True], ids=["", "its caller has gone"])
async def test_a_start_that_is_stored_during_a_drain_runs_here(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    reached, held, commit = threading.Event(), threading.Event(), SqlStore.commit

    def slow(store: SqlStore, batch: Sequence[Append]) -> CommitResult:
        reached.set()
        held.wait(DEADLINE_S)
        return commit(store, batch)

    server = replace(settings.server, capacity=2)
    async with open_runtime(replace(settings, server=server)) as runtime:
        run_id, other = new_run_id(), new_run_id()
        monkeypatch.setattr(SqlStore, "commit", slow)
        start = asyncio.create_task(runtime.store.start(NEW, run_id=run_id))
        await until(reached.is_set)
        assert runtime.supervisor.keep_slot(other)  # the drain waits for this one
        drain = asyncio.create_task(runtime.supervisor.drain(DEADLINE_S))
        await asyncio.sleep(0)
        if gone:
            start.cancel()
            await asyncio.wait([start])
        commits = heard(runtime)
        held.set()
        await until(lambda: bool(commits))
        await asyncio.sleep(0)  # the supervisor has heard of it
        runtime.supervisor.free_slot(other)
        await drain
        assert (await runtime.store.get(run_id)).run.status == "success"


async def test_its_agent_learns_of_a_message_that_came_before_it_began(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(AttemptRunner, "notify_added", lambda _, seq: told.append(seq))
    async with open_runtime(settings) as runtime:
        run_id = new_run_id()
        started = runtime.supervisor.keep_slot(run_id)
        assert started is not None
        added = InputAdded(by="ann", content="and more")
        await runtime.event_log.append(run_id, [QUEUED, started, added], expected_seq=0)
        await runtime.store.get(run_id, wait_s=DEADLINE_S)
    assert told[0] == 3  # as it begins, and not only at the next sweep


async def test_a_reader_that_follows_it_from_its_start_reads_no_rows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A poll between a commit and its publication makes readers look at the log.
    monkeypatch.setattr(app, "POLL_S", 100 * DEADLINE_S)
    async with open_runtime(settings) as runtime:
        first = (await runtime.store.start(NEW)).run.run_id  # imports strands
        await runtime.store.get(first, wait_s=DEADLINE_S)
        await until(lambda: runtime.supervisor.running == 0)  # its slot is free
        monkeypatch.setattr(SqlEventLog, "read", unread)
        monkeypatch.setattr(SqlEventLog, "head", unread)
        with ExitStack() as places:
            started, tail = await runtime.store.start_and_tail(NEW, places)
            seen = [event async for events in tail.events() for event in events]
        monkeypatch.undo()
        run_id = started.run.run_id
        stored = await runtime.event_log.read(run_id)
    assert [(e.seq, e.type, e.data) for e in seen] == [(e.seq, e.type, e.data) for e in stored]
    assert seen[-1].type == Completed.type  # its agent has read nothing, either


async def test_a_reader_of_a_repeated_request_follows_no_run_that_does_not_exist(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        new = replace(NEW, idempotency_key="k")
        run_id = (await runtime.store.start(new)).run.run_id
        await runtime.store.get(run_id, wait_s=DEADLINE_S)
        with ExitStack() as places:
            started, tail = await runtime.store.start_and_tail(new, places)
            assert (started.run.run_id, runtime.feed.followed) == (run_id, 0)
            seen = [event async for events in tail.events() for event in events]
        assert seen[-1].type == Completed.type
