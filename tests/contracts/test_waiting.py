"""Runs that wait for a person's answer, in every kind of log (G15)."""

import asyncio

import pytest

from runstore.core.codec import encode
from runstore.core.errors import LeaseLost, RunClosed, RunstoreError, Unheard, WrongExpectedSeq
from runstore.core.events import InputAdded
from runstore.core.ports import Head, RunLog
from tests.kit.events import CANCEL, CANCELLED, COMPLETED, asked, given, note, start_run, started, token
from tests.kit.polling import until


async def waiting_run(log: RunLog) -> str:
    """A run that waits for one answer: its head is 3."""
    run_id = await start_run(log)
    await log.append(run_id, [asked()], attempt=1)
    return run_id


async def status_of(log: RunLog, run_id: str) -> str:
    head = await log.head(run_id)
    assert head is not None
    return head.status


async def listed(log: RunLog) -> dict[str, str | None]:
    """The open runs and their workers."""
    return {run.run_id: run.worker_id for run in await log.open_runs()}


async def test_a_run_waits_until_its_last_request_is_answered(log: RunLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [asked(), asked("1.2")], attempt=1)
    assert await log.head(run_id) == Head(4, attempt=1, status="waiting")
    await log.append(run_id, [given(open=1)], expected_seq=4)
    assert await status_of(log, run_id) == "waiting"
    await log.append(run_id, [given("1.2")], expected_seq=5)
    assert await log.head(run_id) == Head(6, attempt=1, status="queued")
    await log.append(run_id, [started(2, reason="input")], expected_seq=6)
    assert await log.head(run_id) == Head(7, attempt=2, status="running")


async def test_a_waiting_run_has_no_worker_and_needs_no_care(log: RunLog) -> None:
    run_id = await waiting_run(log)
    assert await log.runs_of("worker-1") == []
    assert await log.workers() == set()
    assert await listed(log) == {}
    assert await log.open_attempts([run_id]) == {run_id: 1}, "it is still open"


async def test_an_answered_run_is_queued_for_any_worker(log: RunLog) -> None:
    run_id = await waiting_run(log)
    await log.append(run_id, [given()], expected_seq=3)
    assert await listed(log) == {run_id: None}


async def test_a_waiting_run_that_is_to_stop_is_looked_after(log: RunLog) -> None:
    run_id = await waiting_run(log)
    await log.append(run_id, [CANCEL])
    assert await listed(log) == {run_id: None}
    await log.append(run_id, [CANCELLED])
    assert await listed(log) == {}


async def test_an_attempt_that_has_asked_writes_no_more(log: RunLog) -> None:
    run_id = await waiting_run(log)
    with pytest.raises(LeaseLost):
        await log.append(run_id, [token()], attempt=1)
    with pytest.raises(LeaseLost):
        await log.append(run_id, [asked("1.2")], attempt=1)
    await log.append(run_id, [given()], expected_seq=3)
    refusals: list[RunstoreError] = []
    assert log.offer(run_id, encode(token()), attempt=1, refused=refusals.append)
    await until(lambda: bool(refusals))
    assert isinstance(refusals[0], LeaseLost)


async def test_a_lost_attempt_cannot_ask(log: RunLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [started(2, "worker-2", "adopted")], expected_seq=2)
    with pytest.raises(LeaseLost):
        await log.append(run_id, [asked()], attempt=1)


async def test_an_ended_run_cannot_ask_or_be_answered(log: RunLog) -> None:
    run_id = await waiting_run(log)
    await log.append(run_id, [CANCELLED])
    with pytest.raises(RunClosed):
        await log.append(run_id, [given()], expected_seq=4)
    with pytest.raises(RunClosed):
        await log.append(run_id, [asked("1.2")], attempt=1)


async def test_of_two_answers_at_one_head_the_second_is_refused(log: RunLog) -> None:
    run_id = await waiting_run(log)
    answers = [log.append(run_id, [given(answer=text)], expected_seq=3) for text in ("yes", "no")]
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert [type(each) for each in outcomes].count(WrongExpectedSeq) == 1
    assert 4 in outcomes


async def test_requests_expire_in_their_order(log: RunLog) -> None:
    late, early, never = [await start_run(log) for _ in range(3)]
    await log.append(late, [asked(expires_at=2_000)], attempt=1)
    await log.append(early, [asked(expires_at=3_000), asked("1.2", expires_at=1_000)], attempt=1)
    await log.append(never, [asked()], attempt=1)
    assert await log.expired(999, limit=10) == []
    assert await log.expired(2_000, limit=10) == [early, late]
    assert await log.expired(2_000, limit=1) == [early]
    await log.append(late, [given()], expected_seq=3)
    assert await log.expired(2_000, limit=10) == [early]


async def test_requests_and_answers_of_one_commit_leave_the_last_state(log: RunLog) -> None:
    run_id = await start_run(log)
    appends = [
        log.append(run_id, [asked(expires_at=1_000)], attempt=1),
        log.append(run_id, [given()], expected_seq=3),
        log.append(run_id, [started(2, "worker-2", "input")], expected_seq=4),
        log.append(run_id, [asked("2.1", expires_at=2_000)], attempt=2),
    ]
    assert await asyncio.gather(*appends) == [3, 4, 5, 6]
    assert await status_of(log, run_id) == "waiting"
    assert await log.expired(1_999, limit=10) == []
    assert await log.expired(2_000, limit=10) == [run_id]


# ---- messages that people add ----


def say(content: str = "Hurry.") -> InputAdded:
    return InputAdded(content=content, by="ann")


async def test_an_agent_that_has_not_taken_a_message_cannot_end(log: RunLog) -> None:
    run_id = await start_run(log)
    assert await log.append(run_id, [say(), note(), say()]) == 5
    for heard in (0, 3, 4):
        with pytest.raises(Unheard) as refusal:
            await log.append(run_id, [COMPLETED], attempt=1, heard=heard)
        assert (refusal.value.head, refusal.value.added) == (5, 5)
    assert await log.append(run_id, [COMPLETED], attempt=1, heard=5) == 6


async def test_the_last_added_message_is_known_of_an_open_run(log: RunLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say()])
    await log.append(run_id, [note()])
    await log.append(run_id, [started(2, "worker-2", "adopted")])
    assert await log.head(run_id) == Head(5, attempt=2, status="running", added=3)
    assert [each.added for each in await log.runs_of("worker-2")] == [3]
    assert [each.added for each in await log.open_runs()] == [3]


async def test_a_message_that_comes_with_the_ending_is_before_it_or_refused(log: RunLog) -> None:
    for _ in range(10):
        run_id = await start_run(log)
        ending = log.append(run_id, [COMPLETED], attempt=1, heard=0)
        ended, added = await asyncio.gather(ending, log.append(run_id, [say()]), return_exceptions=True)
        assert sorted(map(type, (ended, added)), key=str) in (
            sorted([int, RunClosed], key=str), sorted([Unheard, int], key=str),
        )  # fmt: skip
