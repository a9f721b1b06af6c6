"""Answers to questions of runs, while others append to the run."""

from typing import Any

import pytest

from runstore.core.errors import Busy, TooLarge, WrongExpectedSeq
from runstore.core.events import CancelRequested, InputRequested, Queued
from runstore.core.ids import new_run_id
from runstore.core.run import Actor
from runstore.feed.memory import MemoryFeed
from runstore.runtime.supervision.expiry import expire
from runstore.store.inputs import MAX_ADDED_BYTES, InputStore
from tests.contracts.memory_log import MemoryEventLog
from tests.events import started

ASKED = InputRequested(agent="demo", request_id="1.1", prompt="Which size?", expires_at=1_000)


async def waiting(log: MemoryEventLog) -> str:
    run_id = new_run_id()
    await log.append(run_id, [Queued(agent="demo", user_id="ann", input="hi"), started()])
    await log.append(run_id, [ASKED], attempt=1)
    return run_id


async def test_an_answer_that_loses_every_race_may_be_tried_again() -> None:
    log = MemoryEventLog(MemoryFeed())
    run_id = new_run_id()
    await log.append(run_id, [Queued(agent="demo", user_id="ann", input="hi"), started()])
    await log.append(run_id, [InputRequested(agent="demo", request_id="1.1", prompt="Which?")], attempt=1)
    head = await log.head(run_id)
    assert head is not None

    async def lose(*_: Any, **__: Any) -> int:
        raise WrongExpectedSeq(run_id, 3, 4)

    log.append = lose  # type: ignore[method-assign, assignment]
    with pytest.raises(Busy, match="try again"):
        await InputStore(log).answer(run_id, head, "1.1", "S", by=Actor("ann"))


@pytest.mark.parametrize("stops", [False, True])
async def test_a_question_that_expires_does_not_fail_a_run_that_is_to_stop(stops: bool) -> None:
    log = MemoryEventLog(MemoryFeed())
    run_id = await waiting(log)
    if stops:
        await log.append(run_id, [CancelRequested(by="ann", reason="user")])
    await expire(log, run_id, 2_000)
    head = await log.head(run_id)
    assert head is not None
    assert head.closed is not stops


async def test_an_added_message_is_bounded() -> None:
    log = MemoryEventLog(MemoryFeed())
    run_id = await waiting(log)
    store = InputStore(log)
    assert await store.add(run_id, "x" * (MAX_ADDED_BYTES - 2), by=Actor("ann")) == 4
    with pytest.raises(TooLarge, match="524,288 bytes"):
        await store.add(run_id, "x" * MAX_ADDED_BYTES, by=Actor("ann"))
