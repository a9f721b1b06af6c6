"""The promises of several processes on one log, on each kind of database."""

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from runstore.core.codec import encode
from runstore.core.errors import LeaseLost, RunClosed, RunstoreError, Unheard, WrongExpectedSeq
from runstore.core.events import Deleted, InputAdded, Queued
from runstore.core.ids import new_run_id
from runstore.core.ports import Head
from runstore.eventlog import sql_store
from runstore.eventlog.queries import read_head
from runstore.eventlog.sql import SqlEventLog
from tests.kit.events import CANCEL, CANCELLED, COMPLETED, note, offer, start_run, started, texts, token
from tests.kit.polling import until
from tests.servers.databases import KINDS

OpenLog = Callable[..., SqlEventLog]


async def test_processes_that_write_one_run_at_once_lose_nothing(open_shared: OpenLog) -> None:
    logs = [open_shared(), open_shared()]
    run_id = await start_run(logs[0])

    async def write(number: int) -> None:
        for i in range(number, 100, 2):
            await logs[number].append(run_id, [note(f"{i}")])

    await asyncio.gather(write(0), write(1))
    stored = await texts(logs[0], run_id)
    assert sorted(stored, key=int) == [f"{i}" for i in range(100)]
    for number in (0, 1):
        assert [text for text in stored if int(text) % 2 == number] == [f"{i}" for i in range(number, 100, 2)]


async def test_text_is_renumbered_behind_what_another_process_appended(open_shared: OpenLog) -> None:
    here, there = open_shared(), open_shared()
    run_id = await start_run(here)
    for i in range(0, 60, 3):
        offer(here, run_id, token(f"{i}"))
        offer(here, run_id, token(f"{i + 1}"))
        await there.append(run_id, [note(f"{i + 2}")])
    await here.append(run_id, [COMPLETED], attempt=1)
    stored = await texts(here, run_id)
    assert sorted(stored, key=int) == [f"{i}" for i in range(60)]
    own = [text for text in stored if int(text) % 3 < 2]
    assert own == sorted(own, key=int)


async def test_an_expected_seq_is_judged_by_the_head_that_another_process_made(open_shared: OpenLog) -> None:
    here, there = open_shared(), open_shared()
    run_id = await start_run(here)
    assert await there.append(run_id, [note("0")]) == 3
    assert await here.append(run_id, [note("1")], expected_seq=3) == 4
    with pytest.raises(WrongExpectedSeq) as refusal:
        await there.append(run_id, [note("2")], expected_seq=3)
    assert refusal.value.head == 4


async def test_a_cancel_by_another_process_is_learnt_of(open_shared: OpenLog) -> None:
    here, there = open_shared(), open_shared()
    run_id = await start_run(here)
    await here.append(run_id, [note("0")])
    assert await there.append(run_id, [CANCEL]) == 4
    head = await here.head(run_id)
    assert head is not None
    assert head.cancel_requested
    assert (await here.open_runs())[0].cancel_at is not None
    assert await here.append(run_id, [note("1")], attempt=1) == 5
    assert await here.append(run_id, [CANCEL]) == 5


async def test_an_ending_by_another_process_closes_the_run_here(open_shared: OpenLog) -> None:
    here, there = open_shared(), open_shared()
    run_id = await start_run(here)
    await there.append(run_id, [CANCELLED])
    with pytest.raises(RunClosed):
        await here.append(run_id, [COMPLETED], attempt=1)
    assert await here.append(run_id, [Deleted(by="local")]) == 4


async def test_a_run_that_another_process_closed_can_be_deleted_here(open_shared: OpenLog) -> None:
    here, there = open_shared(), open_shared()
    run_id = await start_run(here)
    await there.append(run_id, [CANCELLED])
    assert await here.append(run_id, [Deleted(by="local")]) == 4


async def test_an_adoption_by_another_process_takes_the_lease_from_here(open_shared: OpenLog) -> None:
    here, there = open_shared(), open_shared()
    run_id = await start_run(here)
    await there.append(run_id, [started(attempt=2, worker_id="worker-2", reason="adopted")], expected_seq=2)
    with pytest.raises(LeaseLost):
        await here.append(run_id, [note("0")], attempt=1)
    refusals: list[RunstoreError] = []
    here.offer(run_id, encode(token()), attempt=1, refused=refusals.append)
    await until(lambda: bool(refusals))
    assert isinstance(refusals[0], LeaseLost)


async def test_one_of_two_processes_endings_is_stored(open_shared: OpenLog) -> None:
    here, there = open_shared(), open_shared()
    for _ in range(20):
        run_id = await start_run(here)
        endings = (here.append(run_id, [COMPLETED]), there.append(run_id, [CANCELLED]))
        outcomes = await asyncio.gather(*endings, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome != 3] == [RunClosed]
        assert len(await here.read(run_id)) == 3


@pytest.mark.parametrize("database_url", KINDS, indirect=True)
async def test_a_run_that_ends_as_it_is_superseded_does_not_delay_its_successor(
    open_shared: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found open by one statement, and closed by the next."""
    here, there = open_shared(), open_shared()
    queued = Queued(agent="demo", user_id="local", input="hi", session_id="s", multitask_strategy="interrupt")
    before = new_run_id()
    await there.append(before, [queued], expected_seq=0)

    def ended_just_now(connection: Connection, run_id: str) -> Head | None:
        if run_id == before:
            monkeypatch.undo()
            asyncio.run(there.append(before, [CANCELLED]))
        return read_head(connection, run_id)

    monkeypatch.setattr(sql_store, "read_head", ended_just_now)
    assert await here.append(new_run_id(), [queued], expected_seq=0) == 1
    assert len(await here.read(before)) == 2


async def test_an_agent_cannot_end_before_a_message_that_another_process_took(open_shared: OpenLog) -> None:
    here, there = open_shared(), open_shared()
    for _ in range(10):
        run_id = await start_run(here)
        ending = here.append(run_id, [COMPLETED], attempt=1, heard=0)
        said = there.append(run_id, [InputAdded(content="Hurry.", by="ann")])
        outcomes = await asyncio.gather(ending, said, return_exceptions=True)
        refused = [type(each) for each in outcomes if isinstance(each, Exception)]
        assert refused in ([Unheard], [RunClosed]), outcomes
    run_id = await start_run(here)
    await here.append(run_id, [note("its head is known here")])
    await there.append(run_id, [InputAdded(content="Hurry.", by="ann")])
    with pytest.raises(Unheard):
        await here.append(run_id, [COMPLETED], attempt=1, heard=0)
