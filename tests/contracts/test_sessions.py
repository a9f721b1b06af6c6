"""Turns in a session: every kind of log lets one of its runs be started at a time, in their order."""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runstore.core.codec import decode, encode
from runstore.core.errors import AlreadyStarted, RunstoreError, SessionBusy
from runstore.core.events import STRATEGIES, CancelRequested, Deleted, Event, MultitaskStrategy, Queued
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog, Reservation
from runstore.database.columns import pack_run_id
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from tests.kit.events import CANCEL, CANCELLED, COMPLETED, ENDINGS, read_run, started
from tests.kit.purging import FOREVER, LATER, OLD, old_run_id
from tests.kit.writer import held_writer


async def queue(
    log: EventLog,
    strategy: MultitaskStrategy = "enqueue",
    *,
    session: str | None = "s",
    user: str = "alice",
    reservation: Reservation | None = None,
    clock: int | None = None,
) -> str:
    """`clock`: the time where the run is queued, if it is not ours; ms since 1970."""
    run_id = new_run_id() if clock is None else old_run_id(clock)
    queued = Queued(agent="a", user_id=user, input="hi", session_id=session, multitask_strategy=strategy)
    await log.append(run_id, [encode(queued, at=clock)], expected_seq=0, reservation=reservation)
    return run_id


async def start(log: EventLog, run_id: str) -> str:
    await log.append(run_id, [started()], expected_seq=1)
    return run_id


async def refused(log: EventLog, run_id: str) -> str:
    """The run that a start is refused for."""
    with pytest.raises(SessionBusy) as refusal:
        await start(log, run_id)
    return refusal.value.run_id


async def cancel_of(log: EventLog, run_id: str) -> Any:
    """The cancel request of a run, or None."""
    found = [decode(e.type, e.version, e.data) for e in await read_run(log, run_id)]
    return next((event for event in found if isinstance(event, CancelRequested)), None)


async def test_a_run_waits_until_the_one_before_it_has_ended(log: EventLog) -> None:
    first = await start(log, await queue(log))
    second = await queue(log)
    assert await refused(log, second) == first
    await log.append(first, [COMPLETED])
    await start(log, second)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.type)
async def test_every_ending_gives_the_session_back(log: EventLog, ending: Event) -> None:
    await log.append(await start(log, await queue(log)), [ending])
    await start(log, await queue(log, "reject"))


async def test_turns_are_taken_in_the_order_of_queueing(log: EventLog) -> None:
    runs = [await queue(log) for _ in range(3)]
    assert await refused(log, runs[2]) == runs[1]
    assert await refused(log, runs[1]) == runs[0]
    for run_id in runs:
        await start(log, run_id)
        await log.append(run_id, [COMPLETED])


async def test_turns_are_taken_in_the_order_of_queueing_with_any_clocks(log: EventLog) -> None:
    runs = [await queue(log, clock=FOREVER), await queue(log), await queue(log, clock=OLD), await queue(log)]
    for before, run_id in pairwise(runs):
        assert await refused(log, run_id) == before
    for run_id in runs:
        await start(log, run_id)
        await log.append(run_id, [COMPLETED])


async def test_runs_of_one_commit_take_their_turns_in_the_order_they_came(
    log: EventLog, feed: MemoryFeed
) -> None:
    async with held_writer(log, feed):
        coming = [asyncio.create_task(queue(log, clock=clock)) for clock in (FOREVER, LATER, OLD)]
        await asyncio.sleep(0)
    runs = await asyncio.gather(*coming)
    assert await refused(log, runs[2]) == runs[1]
    assert await refused(log, runs[1]) == runs[0]
    assert await log.session_runs("alice", "s", before=runs[2], limit=10) == [runs[1], runs[0]]


async def test_a_run_of_a_clock_that_is_behind_still_waits_for_the_active_one(log: EventLog) -> None:
    active = await start(log, await queue(log))
    assert await refused(log, await queue(log, clock=OLD)) == active


async def test_a_run_that_is_cancelled_in_the_queue_gives_its_turn_away(log: EventLog) -> None:
    first, second = await queue(log), await queue(log)
    await log.append(first, [CANCEL])
    assert await refused(log, second) == first
    await log.append(first, [CANCELLED])
    await start(log, second)


async def test_a_run_keeps_its_session_when_it_is_adopted(log: EventLog) -> None:
    run_id = await start(log, await queue(log))
    waiting = await queue(log)
    await log.append(run_id, [started(2, "worker-2", "adopted")], expected_seq=2)
    assert await refused(log, waiting) == run_id


async def test_sessions_of_two_users_with_one_name_are_two(log: EventLog) -> None:
    await start(log, await queue(log, user="alice"))
    await start(log, await queue(log, "reject", user="bob"))


async def test_runs_without_a_session_do_not_touch_each_other(log: EventLog) -> None:
    for strategy in STRATEGIES:
        run_id = await start(log, await queue(log, strategy, session=None))
        assert await cancel_of(log, run_id) is None


async def test_a_parallel_run_waits_for_no_run_and_no_run_for_it(log: EventLog) -> None:
    first = await start(log, await queue(log))
    parallel = await start(log, await queue(log, "parallel"))
    await log.append(first, [COMPLETED])
    await start(log, await queue(log, "interrupt"))
    assert await cancel_of(log, parallel) is None


async def test_a_run_that_would_not_wait_is_refused_and_not_stored(log: EventLog) -> None:
    waiting = await queue(log)
    with pytest.raises(SessionBusy) as refusal:
        await queue(log, "reject")
    assert refusal.value.run_id == waiting
    assert len(await log.read_all()) == 1
    assert len(await log.open_runs()) == 1


async def test_a_refused_start_keeps_no_idempotency_key_and_no_place(log: EventLog) -> None:
    first = await queue(log)
    reservation = Reservation("alice", max_active=2, key="k", body_hash=bytes(32))
    refusal = queue(log, "reject", reservation=reservation)
    others = [queue(log, session=None, user="bob") for _ in range(40)]  # which share its commit
    outcomes = await asyncio.gather(*others[:20], refusal, *others[20:], return_exceptions=True)
    assert [type(each) for each in outcomes if not isinstance(each, str)] == [SessionBusy]
    await log.append(first, [CANCELLED])
    await queue(log, "reject", reservation=reservation)
    with pytest.raises(AlreadyStarted):
        await queue(log, "reject", reservation=reservation)


async def test_an_interrupting_run_asks_all_before_it_to_stop(log: EventLog) -> None:
    before = [await start(log, await queue(log)), await queue(log), await queue(log, "interrupt")]
    newest = await queue(log, "interrupt")
    for run_id in before:
        cancel = await cancel_of(log, run_id)
        assert (cancel.by, cancel.reason) == ("alice", "superseded")
    assert [(await cancel_of(log, run_id)).superseded_by for run_id in before] == [before[2]] * 2 + [newest]
    assert await cancel_of(log, newest) is None


async def test_an_interrupting_run_starts_only_when_those_before_it_have_ended(log: EventLog) -> None:
    active, waiting = await start(log, await queue(log)), await queue(log)
    newest = await queue(log, "interrupt")
    assert await refused(log, newest) == waiting
    await log.append(waiting, [CANCELLED])
    assert await refused(log, newest) == active
    await log.append(active, [CANCELLED])
    await start(log, newest)


async def test_a_run_that_was_to_stop_anyway_is_not_asked_again(log: EventLog) -> None:
    first = await start(log, await queue(log))
    await log.append(first, [CANCEL])
    await queue(log, "interrupt")
    assert (await cancel_of(log, first)).reason == "user"
    assert len(await read_run(log, first)) == 3


async def test_a_run_that_begins_as_it_is_queued_takes_its_turn_or_is_not_stored(log: EventLog) -> None:
    async def begin() -> str:
        run_id = new_run_id()
        queued = Queued(agent="a", user_id="alice", input="hi", session_id="s")
        await log.append(run_id, [queued, started()], expected_seq=0)
        return run_id

    first = await begin()
    with pytest.raises(SessionBusy):
        await begin()
    assert len(await log.open_runs()) == 1
    await log.append(first, [COMPLETED])
    await begin()


async def test_a_deleted_run_has_no_turn(log: EventLog) -> None:
    first = await start(log, await queue(log))
    await log.append(first, [COMPLETED])
    await log.append(first, [Deleted(by="alice")])
    await start(log, await queue(log, "reject"))


@pytest.mark.parametrize("clocks", [(None, None, None), (FOREVER, None, OLD)], ids=["same", "differ"])
async def test_a_session_knows_its_runs_newest_first(log: EventLog, clocks: Sequence[int | None]) -> None:
    strategies: Sequence[MultitaskStrategy] = ("enqueue", "parallel", "interrupt")
    runs = [await queue(log, each, clock=clock) for each, clock in zip(strategies, clocks, strict=True)]
    await queue(log, user="bob")
    await queue(log, session="other")
    await queue(log, session=None)
    newest = await queue(log)

    async def before(run_id: str, limit: int = 10) -> list[str]:
        return await log.session_runs("alice", "s", before=run_id, limit=limit)

    assert await before(newest) == runs[::-1]
    assert await before(newest, limit=1) == runs[2:]
    assert await before(runs[1]) == runs[:1]


async def test_a_row_of_another_release_blocks_no_run(
    open_log: Callable[..., SqlEventLog], database: Path
) -> None:
    log = open_log()
    first = await start(log, await queue(log))
    await log.append(first, [COMPLETED])
    with closing(sqlite3.connect(database)) as connection, connection:
        row = ("alice", "s", pack_run_id(first))
        connection.execute("INSERT INTO sessions (user_id, session_id, run_id) VALUES (?, ?, ?)", row)
    await start(log, await queue(log, "reject"))


async def test_one_run_is_active_at_a_time_with_all_strategies_at_once(log: EventLog) -> None:
    assert await race([log], seed=1) > 0


async def test_processes_that_race_start_one_run_at_a_time(open_log: Callable[..., SqlEventLog]) -> None:
    assert await race([open_log(), open_log()], seed=2) > 0


async def race(logs: list[EventLog] | list[SqlEventLog], seed: int) -> int:
    """Clients queue runs while workers start, end and lose them; returns how many were superseded."""
    dice, open_runs = random.Random(seed), set[str]()

    async def client(log: EventLog) -> None:
        for _ in range(10):
            with_strategy = dice.choice(["interrupt", "enqueue", "reject"])
            try:
                open_runs.add(await queue(log, with_strategy))  # type: ignore[arg-type]
            except SessionBusy:
                await asyncio.sleep(0)

    async def worker(log: EventLog) -> None:
        while open_runs or not clients.done():
            for run_id in sorted(open_runs, key=lambda _: dice.random())[:3]:
                await work(log, run_id)
            await asyncio.sleep(0)

    async def work(log: EventLog, run_id: str) -> None:
        head = await log.head(run_id)
        assert head is not None
        try:
            if head.attempt or (head.cancel_requested and not head.closed):
                await log.append(run_id, [CANCELLED if head.cancel_requested else COMPLETED])
            elif not head.closed:
                await log.append(run_id, [started()], expected_seq=head.seq)
        except RunstoreError:
            pass  # another worker was first, or it is not the run's turn
        if head.closed:
            open_runs.discard(run_id)

    clients = asyncio.gather(*(client(log) for log in logs for _ in range(4)))
    await asyncio.wait_for(asyncio.gather(clients, *(worker(log) for log in logs for _ in range(3))), 60)
    active, superseded = set[str](), 0
    after = 0
    while page := await logs[0].read_all(after=after):
        for event in page:
            if event.type == "lifecycle.started":
                assert not active, "two runs of a session are active"
                active.add(event.run_id)
            elif event.ends:
                active.discard(event.run_id)
            superseded += event.type == "cancel.requested"
        after = page[-1].position
    assert not active
    return superseded
