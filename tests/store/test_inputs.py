"""Answers to questions of runs, while others append to the run."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from runstore.core.codec import RecordedEvent, decode, json_size
from runstore.core.errors import Busy, InputClosed, InputNotFound, TooLarge, WrongExpectedSeq
from runstore.core.events import CancelRequested, Failed, InputGiven, InputRequested, Queued
from runstore.core.ids import new_run_id
from runstore.core.inputs import INPUTS
from runstore.core.run import Actor
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.supervision.expiry import expire
from runstore.store.inputs import MAX_ADDED_BYTES, MAX_PAGE_BYTES, InputStore
from runstore.store.runs import RunStore
from tests.contracts.memory_log import MemoryEventLog
from tests.kit.events import CANCEL, COMPLETED, asked, given, start_run, started

ASKED = InputRequested(agent="demo", request_id="1.1", prompt="Which size?", expires_at=1_000)


async def waiting(log: MemoryEventLog, *requests: InputRequested) -> str:
    run_id = new_run_id()
    await log.append(run_id, [Queued(agent="demo", user_id="ann", input="hi"), started()])
    await log.append(run_id, requests or [ASKED], attempt=1)
    return run_id


async def head_of(log: MemoryEventLog, run_id: str) -> int:
    head = await log.head(run_id)
    assert head is not None
    return head.seq


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


@pytest.mark.parametrize("first", ["S", "M"])
async def test_an_answer_counts_as_given_though_its_run_ends_before_it_is_stored(first: str) -> None:
    log = MemoryEventLog(MemoryFeed())
    run_id = await waiting(log, asked("1.1"))
    head, plain = await log.head(run_id), log.append
    assert head is not None

    async def late(*place: Any, **which: Any) -> int:
        log.append = plain  # type: ignore[method-assign]
        await log.append(run_id, [given("1.1", answer=first), started(2)])
        await log.append(run_id, [COMPLETED], attempt=2)
        return await plain(*place, **which)

    log.append = late  # type: ignore[method-assign]
    answering = InputStore(log).answer(run_id, head, "1.1", "S", by=Actor("ann"))
    if first == "S":
        await answering
    else:
        with pytest.raises(InputClosed, match="another answer"):
            await answering


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


async def test_all_expired_requests_take_their_defaults_in_one_append() -> None:
    log = MemoryEventLog(MemoryFeed())
    late = [asked(f"1.{n}", default=n, expires_at=1_000) for n in range(1, 101)]
    run_id = await waiting(log, *late, asked("1.101", expires_at=9_000))
    await expire(log, run_id, 999)
    assert await head_of(log, run_id) == 103, "none has expired"
    await expire(log, run_id, 1_000)
    given = [decode(each.type, each.version, each.data) for each in await log.read(run_id, after=103)]
    assert [each.answer for each in given if isinstance(each, InputGiven)] == [*range(1, 101)]
    assert [each.open for each in given if isinstance(each, InputGiven)] == [*range(100, 0, -1)]
    assert await log.expired(8_999, limit=1) == []
    assert await log.expired(9_000, limit=1) == [run_id]


async def test_an_expired_request_without_a_default_fails_its_run_at_once() -> None:
    log = MemoryEventLog(MemoryFeed())
    defaults = [asked(f"1.{n}", default=n, expires_at=1_000) for n in (1, 2)]
    run_id = await waiting(log, *defaults, asked("1.3", expires_at=1_000))
    await expire(log, run_id, 1_000)
    [ending] = await log.read(run_id, after=5)
    assert (ending.type, b"request 1.3" in ending.data) == (Failed.type, True)


async def test_an_answer_reads_only_the_last_attempts_requests() -> None:
    log = MemoryEventLog(MemoryFeed())
    run_id = await waiting(log, asked("1.1"))
    for attempt in range(2, 12):
        await log.append(run_id, [given(f"{attempt - 1}.1", answer=attempt), started(attempt)])
        await log.append(run_id, [asked(f"{attempt}.1")], attempt=attempt)
    read: list[RecordedEvent] = []
    plain = log.read

    async def noted(*place: Any, **which: Any) -> list[RecordedEvent]:
        page = await plain(*place, **which)
        read.extend(event for event in page if event.type in INPUTS.types)
        return page

    log.read = noted  # type: ignore[method-assign]
    store, head = InputStore(log), await log.head(run_id)
    assert head is not None
    await store.answer(run_id, head, "11.1", "yes", by=Actor("ann"))
    assert [event.seq for event in read] == [head.seq]
    await store.answer(run_id, head, "3.1", 4, by=Actor("ann"))
    with pytest.raises(InputClosed, match="another answer"):
        await store.answer(run_id, head, "3.1", 5, by=Actor("ann"))
    with pytest.raises(InputNotFound):
        await store.answer(run_id, head, "3.2", 5, by=Actor("ann"))
    assert await head_of(log, run_id) == head.seq + 1


async def test_an_answer_that_comes_after_the_default_hears_that_its_request_has_expired() -> None:
    log = MemoryEventLog(MemoryFeed())
    run_id = await waiting(log, replace(ASKED, default="M"))
    await expire(log, run_id, 2_000)
    head = await log.head(run_id)
    assert head is not None
    for answer in ("M", "S"):
        with pytest.raises(InputClosed, match=r"1\.1 has expired"):
            await InputStore(log).answer(run_id, head, "1.1", answer, by=Actor("ann"))


async def test_a_run_that_is_to_stop_takes_no_more_messages(open_shared: Callable[..., SqlEventLog]) -> None:
    log = open_shared()
    store = RunStore(log.database, log, MemoryFeed(), AgentCatalog({}))
    run_id = await start_run(log)
    seq = await store.add_input(run_id, "And socks.", by=Actor("ann"))
    await log.append(run_id, [CANCEL])
    with pytest.raises(InputClosed, match="is being stopped"):
        await store.add_input(run_id, "And shoes.", by=Actor("ann"))
    head = await log.head(run_id)
    assert head is not None
    assert head.seq == seq + 1


async def test_an_added_message_is_bounded() -> None:
    log = MemoryEventLog(MemoryFeed())
    run_id = await waiting(log)
    store = InputStore(log)
    assert await store.add(run_id, "x" * (MAX_ADDED_BYTES - 2), by=Actor("ann")) == 4
    with pytest.raises(TooLarge, match="524,288 bytes"):
        await store.add(run_id, "x" * MAX_ADDED_BYTES, by=Actor("ann"))


async def test_a_page_of_requests_is_bounded_by_the_bytes_of_their_answers() -> None:
    log = MemoryEventLog(MemoryFeed())
    ids = [f"1.{number}" for number in range(1, 21)]
    run_id = await waiting(log, *map(asked, ids))
    for request_id in reversed(ids[:-1]):  # the last stays open
        await log.append(run_id, [given(request_id, answer="x" * 100_000)])
    await log.append(run_id, [given("1.1000", answer="x" * 100_000)] * 100)
    store, after, found = InputStore(log), 0, []
    while True:
        page = await store.page(run_id, after=after, limit=1_000)
        assert sum(json_size(each) for each in page.inputs) <= MAX_PAGE_BYTES
        found += page.inputs
        if page.next is None:
            break
        after = page.next
    assert [each.request.request_id for each in found] == ids
    assert [each.given is None for each in found] == [False] * 19 + [True]


async def test_a_page_of_requests_has_at_least_one() -> None:
    log = MemoryEventLog(MemoryFeed())
    run_id = await waiting(log, *map(asked, ("1.1", "1.2")))
    for request_id in ("1.1", "1.2"):
        await log.append(run_id, [given(request_id, answer="x" * MAX_PAGE_BYTES)])
    page = await InputStore(log).page(run_id, after=0, limit=1_000)
    assert [each.request.request_id for each in page.inputs] == ["1.1"]
    assert page.next == page.inputs[0].seq
