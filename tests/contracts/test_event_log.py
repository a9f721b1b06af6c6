"""The promises of every kind of log: the ports of a `RunLog`, against each of EVENT_LOGS."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import pairwise

import msgspec
import pytest

from runstore.core.codec import MAX_EVENT_BYTES, EncodedEvent, RecordedEvent, encode
from runstore.core.errors import (
    AppendRefused,
    EventTooLarge,
    InvalidEvent,
    LeaseLost,
    LogUnavailable,
    RunActive,
    RunClosed,
    RunNotFound,
    RunPurged,
    RunstoreError,
    WrongExpectedSeq,
)
from runstore.core.events import (
    Cancelled,
    CancelRequested,
    Custom,
    Deleted,
    Event,
    Message,
    Purged,
    Queued,
    Token,
)
from runstore.core.ids import new_run_id
from runstore.core.ports import Committed, EventFilter, EventLog, LiveFeed
from runstore.eventlog.pending import MAX_RUN_EVENTS
from tests.kit.events import (
    CANCEL,
    CANCELLED,
    COMPLETED,
    ENDINGS,
    QUEUED,
    close_run,
    fill_up,
    note,
    offer,
    offer_all,
    read_run,
    start_run,
    started,
    token,
    unexpected,
)
from tests.kit.polling import DEADLINE_S, until
from tests.kit.writer import held_writer

DELETED = Deleted(by="local")
PURGED = Purged(
    by="retention", user_id="local", agent="demo", status="success", created_at=1, completed_at=2, counts={}
)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text for this")


async def types(log: EventLog, run_id: str) -> list[str]:
    return [event.type for event in await read_run(log, run_id)]


async def race(*attempts: Awaitable[int]) -> tuple[list[int], list[BaseException]]:
    """The seqs of successful appends, and the errors of the others."""
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    return won, [outcome for outcome in outcomes if isinstance(outcome, BaseException)]


def in_threads(count: int, work: Callable[[int], Awaitable[None]]) -> Awaitable[None]:
    """Do `work(0)`, `work(1)`, … at once, each on an event loop and thread of its own."""

    def run(number: int) -> None:
        asyncio.run(work(number))  # type: ignore[arg-type]

    async def all_of_them() -> None:
        await asyncio.gather(*(asyncio.to_thread(run, number) for number in range(count)))

    return all_of_them()


# ---- order: seq 1, 2, 3, … for every writer (G2) ----


async def test_seqs_are_dense_from_one(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED, started()])
    await log.append(run_id, [token(), token(), token()])
    await log.append(run_id, [COMPLETED])
    assert [event.seq for event in await read_run(log, run_id)] == [1, 2, 3, 4, 5, 6]


async def test_an_append_returns_the_runs_last_seq(log: EventLog) -> None:
    run_id = new_run_id()
    assert await log.append(run_id, [QUEUED]) == 1
    assert await log.append(run_id, [started(), token()]) == 3


async def test_runs_are_numbered_apart(log: EventLog) -> None:
    one, other = await start_run(log), await start_run(log)
    await log.append(one, [token("one")])
    assert await log.append(other, [token("other")]) == 3


async def test_appenders_on_many_loops_and_threads_get_dense_seqs(log: EventLog) -> None:
    run_id = await start_run(log)
    seqs: list[int] = []

    async def append_some(number: int) -> None:
        seqs.extend([await log.append(run_id, [note(f"{number}.{i}")]) for i in range(30)])

    await in_threads(8, append_some)
    assert sorted(seqs) == list(range(3, 3 + 8 * 30))
    assert [event.seq for event in await read_run(log, run_id)] == list(range(1, 3 + 8 * 30))


async def test_each_appenders_events_keep_their_order(log: EventLog) -> None:
    run_id = await start_run(log)

    async def append_some(number: int) -> None:
        for i in range(30):
            await log.append(run_id, [note(f"{number}.{i}")])

    await in_threads(4, append_some)
    stored = [event.data.decode().strip('"') for event in (await read_run(log, run_id))[2:]]
    for number in range(4):
        own = [text for text in stored if text.startswith(f"{number}.")]
        assert own == [f"{number}.{i}" for i in range(30)]


async def test_offers_and_appends_keep_their_order(log: EventLog) -> None:
    run_id = await start_run(log)
    for i in range(20):
        offer(log, run_id, token(f"{i}"))
        await log.append(run_id, [note(f"{i}")])
    assert (await types(log, run_id))[2:] == ["llm.token", "custom.note"] * 20


# ---- what the log refuses ----


async def test_a_wrong_expected_seq_is_refused_with_the_head(log: EventLog) -> None:
    run_id = await start_run(log)
    with pytest.raises(WrongExpectedSeq) as refusal:
        await log.append(run_id, [note()], expected_seq=1)
    assert (refusal.value.head, refusal.value.expected) == (2, 1)


async def test_the_right_expected_seq_is_accepted(log: EventLog) -> None:
    run_id = await start_run(log)
    assert await log.append(run_id, [note()], expected_seq=2) == 3


async def test_a_refused_append_stores_nothing(log: EventLog) -> None:
    run_id = await start_run(log)
    with pytest.raises(WrongExpectedSeq):
        await log.append(run_id, [note(), note()], expected_seq=7)
    assert len(await read_run(log, run_id)) == 2


async def test_one_of_many_appends_at_one_expected_seq_wins(log: EventLog) -> None:
    run_id = await start_run(log)
    won, lost = await race(*(log.append(run_id, [note(f"{i}")], expected_seq=2) for i in range(20)))
    assert won == [3]
    assert [type(error) for error in lost] == [WrongExpectedSeq] * 19


async def test_a_run_is_created_once(log: EventLog) -> None:
    run_id = new_run_id()
    won, lost = await race(*(log.append(run_id, [QUEUED], expected_seq=0) for _ in range(5)))
    assert won == [1]
    assert [type(error) for error in lost] == [WrongExpectedSeq] * 4


@pytest.mark.parametrize("expected_seq", [None, 0, 1])
async def test_a_run_that_was_not_queued_is_not_found(log: EventLog, expected_seq: int | None) -> None:
    with pytest.raises(RunNotFound):
        await log.append(new_run_id(), [note()], expected_seq=expected_seq)


async def test_a_run_is_queued_only_as_its_first_event(log: EventLog) -> None:
    run_id = await start_run(log)
    for events in ([QUEUED], [note(), QUEUED]):
        with pytest.raises(RunstoreError):
            await log.append(run_id, events)
    assert len(await read_run(log, run_id)) == 2


async def test_an_older_attempt_has_lost_its_lease(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [started(attempt=2)], expected_seq=2)
    with pytest.raises(LeaseLost):
        await log.append(run_id, [note("zombie")], attempt=1)
    assert await log.append(run_id, [note("heir")], attempt=2) == 4


async def test_an_append_without_an_attempt_needs_no_lease(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [started(attempt=2)])
    assert await log.append(run_id, [CANCEL]) == 4


async def test_one_of_two_claims_of_a_queued_run_wins(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED])
    claims = (log.append(run_id, [started(worker_id=f"worker-{i}")], expected_seq=1) for i in range(2))
    won, lost = await race(*claims)
    assert (won, [type(error) for error in lost]) == ([2], [WrongExpectedSeq])


async def test_a_cancel_is_stored_once_however_often_it_is_asked_for(log: EventLog) -> None:
    run_id = await start_run(log)
    assert await race(*(log.append(run_id, [CANCEL]) for _ in range(5))) == ([3] * 5, [])
    assert await log.append(run_id, [CancelRequested(by="somebody else", reason="user")]) == 3
    assert (await types(log, run_id)).count("cancel.requested") == 1


async def test_events_appended_with_a_second_cancel_are_stored(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [CANCEL])
    assert await log.append(run_id, [CANCEL, CANCELLED]) == 4
    assert (await types(log, run_id))[2:] == ["cancel.requested", "lifecycle.cancelled"]


@pytest.mark.parametrize("count", [0, 1001])
async def test_an_append_has_a_size(log: EventLog, count: int) -> None:
    run_id = await start_run(log)
    with pytest.raises(InvalidEvent):
        await log.append(run_id, [note()] * count)


# ---- one ending (G4) ----


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.type)
async def test_a_closed_run_refuses_every_event(log: EventLog, ending: Event) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [ending])
    for event in (note(), token(), CANCEL, started(attempt=2), *ENDINGS):
        with pytest.raises(RunClosed) as refusal:
            await log.append(run_id, [event])
        assert refusal.value.head == 3
    assert len(await read_run(log, run_id)) == 3


async def test_a_run_can_be_closed_before_it_was_started(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED])
    assert await log.append(run_id, [CANCEL, CANCELLED]) == 3


async def test_one_of_racing_endings_is_stored(log: EventLog) -> None:
    runs = [await start_run(log) for _ in range(20)]
    outcomes = await asyncio.gather(*(race(*(log.append(run, [e]) for e in ENDINGS)) for run in runs))
    assert [(won, {type(e) for e in lost}) for won, lost in outcomes] == [([3], {RunClosed})] * 20
    assert [len(await read_run(log, run)) for run in runs] == [3] * 20


async def test_nothing_follows_an_ending_in_its_own_append(log: EventLog) -> None:
    run_id = await start_run(log)
    with pytest.raises(InvalidEvent):
        await log.append(run_id, [COMPLETED, note()])
    assert len(await read_run(log, run_id)) == 2


async def test_an_offer_after_an_ending_is_refused(log: EventLog) -> None:
    run_id = await close_run(log)
    refusals: list[RunstoreError] = []
    assert log.offer(run_id, encode(token()), attempt=1, refused=refusals.append)
    await until(lambda: bool(refusals))
    assert isinstance(refusals[0], RunClosed)
    assert len(await read_run(log, run_id)) == 3


@pytest.mark.parametrize(
    "event", [*ENDINGS, QUEUED, started(), CANCEL, DELETED], ids=lambda event: event.type
)
async def test_state_changes_cannot_be_offered(log: EventLog, event: Event) -> None:
    run_id = await start_run(log)
    with pytest.raises(InvalidEvent):
        offer(log, run_id, event)


async def test_an_active_run_cannot_be_deleted(log: EventLog) -> None:
    run_id = await start_run(log)
    with pytest.raises(RunActive):
        await log.append(run_id, [DELETED])
    assert len(await read_run(log, run_id)) == 2


async def test_a_deletion_cannot_hide_behind_another_event(log: EventLog) -> None:
    run_id = await start_run(log)
    with pytest.raises(RunstoreError):
        await log.append(run_id, [note(), DELETED])
    assert len(await read_run(log, run_id)) == 2


async def test_a_closed_run_is_deleted_once(log: EventLog) -> None:
    run_id = await close_run(log)
    won, lost = await race(*(log.append(run_id, [DELETED]) for _ in range(3)))
    assert (won, [type(error) for error in lost]) == ([4], [RunClosed] * 2)


async def test_a_run_that_was_cancelled_can_be_deleted(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [CANCEL])
    await log.append(run_id, [CANCELLED])
    assert await log.append(run_id, [DELETED]) == 5


async def test_nothing_slips_in_with_a_deletion(log: EventLog) -> None:
    run_id = await close_run(log)
    with pytest.raises(RunstoreError):
        await log.append(run_id, [DELETED, note()])
    assert len(await read_run(log, run_id)) == 3


# ---- durable before visible (G1), acknowledged is there (G12) ----


async def test_an_acknowledged_event_can_be_read_at_once(log: EventLog) -> None:
    run_id = await start_run(log)
    for i in range(30):
        seq = await log.append(run_id, [note(f"{i}")])
        assert [event.seq for event in await log.read(run_id, after=seq - 1)] == [seq]


async def test_nothing_is_published_before_it_can_be_read(
    log: EventLog, feed: LiveFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen: list[Committed] = []
    seen = 0
    publish = feed.publish

    async def stored(commit: Committed) -> bool:
        after, upto = commit.first_seq - 1, commit.first_seq + len(commit.events) - 1
        page = await log.read(commit.run_id, after=after, upto=upto)
        return [event.data for event in page] == [event.data for event in commit.events]

    def publish_what_can_be_read(commits: Sequence[Committed]) -> None:
        nonlocal seen
        seen += len(commits)
        unseen.extend(commit for commit in commits if not asyncio.run(stored(commit)))
        publish(commits)

    monkeypatch.setattr(feed, "publish", publish_what_can_be_read)
    for _ in range(5):
        run_id = await start_run(log)
        for i in range(20):
            await offer_all(log, run_id, token(f"{i}"))
        await log.append(run_id, [COMPLETED])
    assert seen >= 5
    assert unseen == []


async def test_no_append_is_acknowledged_before_it_is_published(log: EventLog, feed: LiveFeed) -> None:
    run_id = new_run_id()
    published: list[str] = []
    feed.listen(lambda commit: published.append(commit.run_id))
    await log.append(run_id, [QUEUED])
    assert published == [run_id]


async def test_everything_that_is_stored_is_published_once_and_in_order(
    log: EventLog, feed: LiveFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: dict[str, list[tuple[int, EncodedEvent]]] = {}

    def collect(commits: Sequence[Committed]) -> None:
        for commit in commits:
            published.setdefault(commit.run_id, []).extend(enumerate(commit.events, commit.first_seq))

    monkeypatch.setattr(feed, "publish", collect)
    runs = [await start_run(log) for _ in range(3)]
    for i in range(100):
        for run_id in runs:
            await offer_all(log, run_id, token(f"{i}"))
    for run_id in runs:
        await log.append(run_id, [COMPLETED])
        stored = [(event.seq, event.type, event.at, event.data) for event in await read_run(log, run_id)]
        assert [(seq, e.type, e.at, e.data) for seq, e in published[run_id]] == stored


async def test_a_refused_append_is_not_published(log: EventLog, feed: LiveFeed) -> None:
    run_id = await close_run(log)
    published: list[Committed] = []
    feed.listen(published.append)
    for refused in (CANCEL, COMPLETED):
        with pytest.raises(RunClosed):
            await log.append(run_id, [refused])
    assert published == []


async def heads_while_written(log: EventLog, run_id: str) -> AsyncIterator[int]:
    """The head of the run, again and again, while 40 appends of 25 events are made."""

    async def write() -> None:
        for _ in range(40):
            await log.append(run_id, [note()] * 25)

    writing = asyncio.create_task(write())
    while not writing.done():
        await asyncio.sleep(0)
        head = await log.head(run_id)
        assert head is not None
        yield head.seq
    await writing


async def test_a_reader_never_sees_a_part_of_an_append(log: EventLog) -> None:
    run_id = await start_run(log)
    async for head in heads_while_written(log, run_id):
        assert (head - 2) % 25 == 0
        assert len(await log.read(run_id, after=2, limit=2000)) % 25 == 0


async def test_all_events_up_to_the_head_can_be_read(log: EventLog) -> None:
    run_id = await start_run(log)
    async for head in heads_while_written(log, run_id):
        assert len(await log.read(run_id, upto=head, limit=2000)) == head


async def test_closing_commits_queued_events(
    log: EventLog, feed: LiveFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start_run(log)
    published: list[EncodedEvent] = []
    monkeypatch.setattr(
        feed, "publish", lambda commits: published.extend(e for c in commits for e in c.events)
    )
    async with held_writer(log, feed):
        for i in range(10):
            offer(log, run_id, token(f"{i}"))
        appending = asyncio.create_task(log.append(run_id, [COMPLETED]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(log.close())
        await asyncio.sleep(0)
    await closing
    assert await appending == 13
    assert [event.type for event in published[-11:]] == ["llm.token"] * 10 + ["lifecycle.completed"]


async def test_a_closed_log_takes_nothing_more(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.close()
    with pytest.raises(LogUnavailable):
        await log.append(run_id, [note()])
    with pytest.raises(LogUnavailable):
        offer(log, run_id, token())


async def test_closing_twice_is_closing_once(log: EventLog) -> None:
    await start_run(log)
    await log.close()
    await log.close()


# ---- events that cannot be stored fail alone ----


@pytest.mark.parametrize("data", [Unprintable(), {"deep": Unprintable()}], ids=["itself", "inside"])
async def test_an_event_that_is_no_json_is_refused_and_the_log_lives(log: EventLog, data: object) -> None:
    run_id = await start_run(log)
    with pytest.raises(InvalidEvent):
        await log.append(run_id, [note("good"), Custom("custom.bad", data)])
    assert await log.append(run_id, [note("after")]) == 3


async def test_an_event_over_the_limit_is_refused_and_the_log_lives(log: EventLog) -> None:
    run_id = await start_run(log)
    with pytest.raises(EventTooLarge):
        await log.append(run_id, [note("good"), note("x" * MAX_EVENT_BYTES)])
    assert await log.append(run_id, [note("after")]) == 3


async def test_an_event_of_exactly_the_limit_is_stored(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [note("x" * (MAX_EVENT_BYTES - 2))])
    assert len((await log.read(run_id, after=2))[0].data) == MAX_EVENT_BYTES


# ---- reading ----


async def test_a_run_that_does_not_exist_has_no_head_and_no_events(log: EventLog) -> None:
    assert await log.head(new_run_id()) is None
    assert await log.read(new_run_id()) == []


async def test_the_head_shows_the_state_of_a_run(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED])
    for event, seq, attempt, cancel_requested in ((started(), 2, 1, False), (CANCEL, 3, 1, True)):
        await log.append(run_id, [event])
        head = await log.head(run_id)
        assert head is not None
        assert (head.seq, head.attempt, head.cancel_requested) == (seq, attempt, cancel_requested)
        assert (head.closed, head.deleted) == (False, False)


async def test_the_head_of_a_closed_run_is_closed_and_then_deleted(log: EventLog) -> None:
    run_id = await close_run(log)
    head = await log.head(run_id)
    assert head is not None
    assert (head.seq, head.closed, head.deleted) == (3, True, False)
    await log.append(run_id, [DELETED])
    head = await log.head(run_id)
    assert head is not None
    assert (head.seq, head.closed, head.deleted) == (4, True, True)


# ---- purged ----


async def test_a_purged_run_is_read_no_more_and_keeps_its_head(log: EventLog) -> None:
    run_id, other = await close_run(log), await close_run(log)
    assert await log.append(run_id, [PURGED]) == 4
    for options in ({}, {"after": 3}, {"after": 9}, {"upto": 2}, {"only": EventFilter(prefixes=("llm.",))}):
        with pytest.raises(RunPurged):
            await log.read(run_id, **options)  # type: ignore[arg-type]
    head = await log.head(run_id)
    assert head is not None
    assert (head.seq, head.closed, head.purged) == (4, True, True)
    assert len(await read_run(log, other)) == 3
    assert [event.type for event in await log.read_all() if event.run_id == run_id][-1] == "run.purged"


async def test_a_deleted_run_is_purged_too_and_either_takes_nothing_more(log: EventLog) -> None:
    run_id, deleted = await close_run(log), await close_run(log)
    await log.append(deleted, [DELETED])
    for purged, seq in ((run_id, 4), (deleted, 5)):
        assert await log.append(purged, [PURGED], expected_seq=seq - 1) == seq
        for event in (note(), COMPLETED, DELETED, PURGED):
            with pytest.raises(RunClosed):
                await log.append(purged, [event])
        with pytest.raises(WrongExpectedSeq):
            await log.append(purged, [QUEUED])


async def test_only_a_run_that_has_ended_is_purged_and_only_as_it_was_seen(log: EventLog) -> None:
    run_id = await start_run(log)
    with pytest.raises(RunActive):
        await log.append(run_id, [PURGED])
    with pytest.raises(InvalidEvent):
        await log.append(run_id, [COMPLETED, PURGED])
    await log.append(run_id, [COMPLETED])
    await log.append(run_id, [DELETED])
    with pytest.raises(WrongExpectedSeq):
        await log.append(run_id, [PURGED], expected_seq=3)


async def test_a_session_lists_its_purged_runs_no_more(log: EventLog) -> None:
    purged, newest = new_run_id(), new_run_id()
    for run_id in (purged, newest):
        queued = Queued(agent="demo", user_id="ann", session_id="s", input="hi")
        await log.append(run_id, [queued, COMPLETED])
    await log.append(purged, [msgspec.structs.replace(PURGED, user_id="ann", session_id="s")])
    assert await log.session_runs("ann", "s", before=newest, limit=10) == []


async def test_an_event_that_was_encoded_before_is_stored_as_it_is(log: EventLog) -> None:
    run_id = await start_run(log)
    encoded = encode(COMPLETED, at=1_234)
    await log.append(run_id, [encoded])
    event = (await log.read(run_id, after=2))[0]
    assert (event.type, event.ends, event.at, event.data) == (encoded.type, True, 1_234, encoded.data)


async def test_the_log_returns_the_encoded_bytes(log: EventLog) -> None:
    run_id = await start_run(log)
    encoded = encode(Custom("custom.odd", {"b": 1, "a": "\x00\ud800", "c": [1.5, None]}), at=1_234)
    log.offer(run_id, encoded, attempt=1, refused=unexpected)
    await log.append(run_id, [note()])
    event = (await log.read(run_id, after=2))[0]
    assert (event.run_id, event.type, event.version, event.ends) == (run_id, "custom.odd", 1, False)
    assert (event.at, event.data) == (1_234, encoded.data)


@pytest.mark.parametrize("limit", [1, 7, 50])
async def test_pages_of_any_size_give_every_event_once(log: EventLog, limit: int) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [note(f"{i}") for i in range(48)])
    assert [event.seq for event in await read_run(log, run_id, limit=limit)] == list(range(1, 51))


async def test_a_page_holds_the_events_after_the_cursor_up_to_upto(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [note(f"{i}") for i in range(10)])
    assert [e.seq for e in await log.read(run_id, after=4, upto=7)] == [5, 6, 7]
    assert [e.seq for e in await log.read(run_id, after=4, upto=7, limit=2)] == [5, 6]
    assert await log.read(run_id, after=7, upto=7) == []
    assert await log.read(run_id, after=12) == []


async def test_a_page_is_bounded_in_bytes_and_paging_still_gives_everything(log: EventLog) -> None:
    run_id = await start_run(log)
    for _ in range(10):
        await log.append(run_id, [note("x" * 400_000)])
    assert 0 < len(await log.read(run_id)) <= 5
    assert 0 < len(await log.read_all()) <= 5
    assert [event.seq for event in await read_run(log, run_id)] == list(range(1, 13))


async def test_a_reader_gets_only_its_own_runs_events(log: EventLog) -> None:
    one, other = await start_run(log), await start_run(log)
    for i in range(20):
        await log.append(one, [note(f"one {i}")])
        await log.append(other, [note(f"other {i}")])
    assert all(event.run_id == one and b"other" not in event.data for event in await read_run(log, one))


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (EventFilter(types=frozenset({"llm.token"})), ["llm.token", "lifecycle.completed"]),
        (EventFilter(prefixes=("llm.", "cancel.")), ["llm.token", "cancel.requested", "lifecycle.completed"]),
        (EventFilter(prefixes=("custom.note",)), ["custom.note", "custom.notes", "lifecycle.completed"]),
        (EventFilter(prefixes=("custom.no_e",)), ["custom.no_e", "lifecycle.completed"]),
        (EventFilter(prefixes=("custom.N",)), ["custom.NOTE", "lifecycle.completed"]),
        (
            EventFilter(types=frozenset({"custom.NOTE"}), prefixes=("llm.",)),
            ["llm.token", "custom.NOTE", "lifecycle.completed"],
        ),
        (EventFilter(), ["lifecycle.completed"]),
    ],
    ids=["type", "prefixes", "prefix of a name", "underscore is itself", "case counts", "both", "nothing"],
)
async def test_a_filter_lets_through_what_it_names_and_every_ending(
    log: EventLog, only: EventFilter, expected: list[str]
) -> None:
    run_id = await start_run(log)
    customs = [Custom(f"custom.{name}") for name in ("note", "notes", "NOTE", "no_e")]
    await log.append(run_id, [token(), *customs, CANCEL])
    await log.append(run_id, [COMPLETED])
    page = await log.read(run_id, only=only)
    assert [event.type for event in page] == expected
    assert all(only.passes(event.type, event.ends) for event in page)


async def test_a_filtered_page_is_as_long_as_asked_for(log: EventLog) -> None:
    run_id = await start_run(log)
    for _ in range(10):
        await log.append(run_id, [note(), token()])
    page = await log.read(run_id, limit=4, only=EventFilter(types=frozenset({"llm.token"})))
    assert [event.seq for event in page] == [4, 6, 8, 10]


async def test_read_all_gives_every_event_of_every_run_once(log: EventLog) -> None:
    runs = [await start_run(log) for _ in range(3)]
    for i in range(10):
        await asyncio.gather(*(log.append(run, [note(f"{i}")]) for run in runs))
    everything: list[RecordedEvent] = []
    while page := await log.read_all(after=everything[-1].position if everything else 0, limit=7):
        everything += page
    assert all(before.position < after.position for before, after in pairwise(everything))
    for run in runs:
        assert [e for e in everything if e.run_id == run] == await read_run(log, run)
    assert len(everything) == 3 * 12


async def test_a_reader_of_all_runs_that_keeps_up_with_writers_misses_nothing(log: EventLog) -> None:
    runs = [await start_run(log) for _ in range(4)]

    async def write(run_id: str) -> None:
        for i in range(40):
            await log.append(run_id, [note(f"{i}")])

    writing = asyncio.gather(*map(write, runs))
    read: list[RecordedEvent] = []
    while len(read) < 4 * 42:
        finished = writing.done()
        await asyncio.sleep(0)
        page = await log.read_all(after=read[-1].position if read else 0, limit=5)
        read += page
        assert page or not finished, "the writers are done, and events are missing"
    for run in runs:
        assert [event.seq for event in read if event.run_id == run] == list(range(1, 43))
    await writing


# ---- open runs ----


async def test_a_run_is_open_from_its_first_event_to_its_ending(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED])
    assert [run.run_id for run in await log.open_runs()] == [run_id]
    await log.append(run_id, [started()])
    assert [run.run_id for run in await log.open_runs()] == [run_id]
    await log.append(run_id, [COMPLETED])
    assert await log.open_runs() == []


async def test_a_run_that_was_closed_in_one_append_was_never_open(log: EventLog) -> None:
    await log.append(new_run_id(), [QUEUED, started(), COMPLETED])
    assert await log.open_runs() == []


async def test_an_open_run_shows_its_worker_and_the_time_of_its_cancel_request(log: EventLog) -> None:
    run_id = new_run_id()
    await log.append(run_id, [QUEUED])
    (queued,) = await log.open_runs()
    assert (queued.status, queued.attempt, queued.worker_id, queued.cancel_at) == ("queued", 0, None, None)
    await log.append(run_id, [started(worker_id="worker-7")])
    await log.append(run_id, [note(), CANCEL])
    (running,) = await log.open_runs()
    events = await read_run(log, run_id)
    assert (running.status, running.attempt, running.worker_id) == ("running", 1, "worker-7")
    assert (running.queued_at, running.cancel_at) == (events[0].at, events[3].at)


async def test_only_adoptions_count_as_adoptions(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [started(attempt=2, reason="handed_over")])
    await log.append(run_id, [started(attempt=3, reason="adopted", worker_id="worker-2")])
    (run,) = await log.open_runs()
    assert (run.attempt, run.adoptions, run.worker_id) == (3, 1, "worker-2")


async def test_open_runs_come_oldest_first_and_as_many_as_asked_for(log: EventLog) -> None:
    runs = [await start_run(log) for _ in range(5)]
    assert [run.run_id for run in await log.open_runs()] == runs
    assert [run.run_id for run in await log.open_runs(limit=2)] == runs[:2]


async def queue_run(log: EventLog, user_id: str, *events: Event) -> str:
    run_id = new_run_id()
    await log.append(run_id, [Queued(agent="demo", user_id=user_id, input="hi"), *events])
    return run_id


async def test_open_runs_are_every_users_in_turns(log: EventLog) -> None:
    flood = [await queue_run(log, "flood") for _ in range(5)]
    others = [await queue_run(log, "one"), await queue_run(log, "two"), await queue_run(log, "one")]
    found = await log.open_runs()
    expected = [flood[0], others[0], others[1], flood[1], others[2], *flood[2:]]
    assert [run.run_id for run in found] == expected
    assert [run.user_id for run in found[:3]] == ["flood", "one", "two"]
    assert [run.run_id for run in await log.open_runs(limit=3)] == expected[:3]


async def test_open_runs_that_a_worker_has_come_before_queued_ones_and_workers_take_turns(
    log: EventLog,
) -> None:
    queued = await queue_run(log, "flood")
    busy = [await queue_run(log, "flood", started()) for _ in range(3)]
    other = await queue_run(log, "flood", started(worker_id="worker-2"))
    expected = [busy[0], other, *busy[1:], queued]
    assert [run.run_id for run in await log.open_runs()] == expected
    assert [run.run_id for run in await log.open_runs(limit=2)] == expected[:2]


async def test_runs_of_workers_that_need_no_look_leave_the_room_to_others(log: EventLog) -> None:
    busy = [await queue_run(log, f"user-{i}", started()) for i in range(3)]
    lost = await queue_run(log, "ann", started(worker_id="worker-2"))
    queued = await queue_run(log, "ben")
    to_stop = await queue_run(log, "cem", started(), CANCEL)
    found = await log.open_runs(limit=3, exclude_workers={"worker-1"})
    assert [run.run_id for run in found] == [to_stop, lost, queued]
    assert await log.workers() == {"worker-1", "worker-2"}
    assert {run.run_id for run in await log.runs_of("worker-1")} == {*busy, to_stop}


async def test_open_attempts_are_of_runs_that_have_not_ended(log: EventLog) -> None:
    running, queued, ended = await start_run(log), await queue_run(log, "ann"), await close_run(log)
    assert await log.open_attempts({running, queued, ended, new_run_id()}) == {running: 1, queued: 0}
    assert await log.open_attempts(()) == {}


async def test_open_runs_that_are_to_stop_come_first(log: EventLog) -> None:
    older, to_stop = new_run_id(), new_run_id()
    await log.append(older, [QUEUED])
    await log.append(to_stop, [QUEUED, started(), CANCEL])
    assert [run.run_id for run in await log.open_runs(limit=1)] == [to_stop]
    assert [run.run_id for run in await log.open_runs()] == [to_stop, older]


# ---- offers: without waiting, bounded, nothing lost (G11) ----


async def test_offers_are_stored_in_their_order(log: EventLog) -> None:
    run_id = await start_run(log)
    for i in range(2_000):
        await offer_all(log, run_id, token(f"{i}"))
    await log.append(run_id, [COMPLETED])
    texts = [event.data for event in (await read_run(log, run_id))[2:-1]]
    assert texts == [encode(token(f"{i}")).data for i in range(2_000)]


async def test_a_run_with_too_much_waiting_gets_no_more_room(log: EventLog, feed: LiveFeed) -> None:
    run_id = await start_run(log)
    async with held_writer(log, feed):
        for _ in range(MAX_RUN_EVENTS):
            assert offer(log, run_id, token())
        assert not offer(log, run_id, token())


async def test_room_comes_when_the_writer_goes_on(log: EventLog, feed: LiveFeed) -> None:
    run_id = await start_run(log)
    async with held_writer(log, feed):
        fill_up(log, run_id)
        room = asyncio.ensure_future(log.room(run_id))
        await asyncio.sleep(0)
        assert not room.done()
    await asyncio.wait_for(room, DEADLINE_S)
    assert offer(log, run_id, token())


async def test_a_flood_meets_back_pressure_and_loses_nothing(log: EventLog) -> None:
    run_id = await start_run(log)
    total = 3 * MAX_RUN_EVENTS
    for i in range(total):
        await offer_all(log, run_id, token(f"{i}"))
    await log.append(run_id, [COMPLETED])
    texts = [event.data for event in (await read_run(log, run_id))[2:-1]]
    assert texts == [encode(token(f"{i}")).data for i in range(total)]


async def test_an_external_append_waits_for_room_and_is_then_stored(log: EventLog, feed: LiveFeed) -> None:
    run_id = await start_run(log)
    async with held_writer(log, feed):
        fill_up(log, run_id)
        external = asyncio.create_task(log.append(run_id, [note()]))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(external, DEADLINE_S) == MAX_RUN_EVENTS + 3


async def test_an_ending_is_taken_in_however_full_its_run_is(log: EventLog, feed: LiveFeed) -> None:
    run_id = await start_run(log)
    async with held_writer(log, feed):
        fill_up(log, run_id)
        ending = asyncio.create_task(log.append(run_id, [COMPLETED], attempt=1))
        await asyncio.sleep(0)
    assert await ending == MAX_RUN_EVENTS + 3


async def test_a_refused_offer_gives_its_producer_the_reason(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [started(attempt=2)])
    refusals: list[tuple[RunstoreError, int]] = []
    log.offer(
        run_id,
        encode(token()),
        attempt=1,
        refused=lambda error: refusals.append((error, threading.get_ident())),
    )
    await until(lambda: bool(refusals))
    error, thread = refusals[0]
    assert isinstance(error, LeaseLost)
    assert isinstance(error, AppendRefused)
    assert thread != threading.get_ident()


async def test_a_producer_whose_callback_fails_does_not_stop_the_log(log: EventLog) -> None:
    run_id = await close_run(log)
    called = threading.Event()

    def fail(error: RunstoreError) -> None:
        called.set()
        raise RuntimeError("the loop is closed")

    log.offer(run_id, encode(token()), attempt=1, refused=fail)
    assert await asyncio.to_thread(called.wait, DEADLINE_S)
    await asyncio.wait_for(start_run(log), DEADLINE_S)


async def test_a_listener_that_fails_does_not_stop_the_log(log: EventLog, feed: LiveFeed) -> None:
    def fail(commit: Committed) -> None:
        raise RuntimeError("the loop is closed")

    feed.listen(fail)
    run_id = await asyncio.wait_for(start_run(log), DEADLINE_S)
    assert await asyncio.wait_for(log.append(run_id, [COMPLETED]), DEADLINE_S) == 3


async def test_a_cancel_discards_the_streamed_text_that_still_waits_and_nothing_else(
    log: EventLog, feed: LiveFeed
) -> None:
    run_id, other = await start_run(log), await start_run(log)
    message = Message(agent="demo", message={"role": "assistant", "content": []})
    async with held_writer(log, feed):
        for event in (token(), note("kept"), token(), message, token()):
            offer(log, run_id, event)
        offer(log, other, token("kept too"))
        appends = [asyncio.create_task(log.append(run_id, [event])) for event in (token("awaited"), CANCEL)]
        await asyncio.sleep(0)
        offer(log, run_id, token("said later"))
    await asyncio.gather(*appends)
    await log.append(run_id, [CANCELLED])
    await log.append(other, [COMPLETED])
    assert (await types(log, run_id))[2:] == [
        "custom.note", "llm.message", "llm.token", "cancel.requested", "llm.token", "lifecycle.cancelled",
    ]  # fmt: skip
    assert (await types(log, other))[2:] == ["llm.token", "lifecycle.completed"]


async def test_a_cancel_between_two_tokens_is_one_of_the_runs_events(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [Token(text="before", agent="demo")], attempt=1)
    await log.append(run_id, [CANCEL])
    await log.append(run_id, [Token(text="after", agent="demo")], attempt=1)
    await log.append(run_id, [Cancelled(reason="user")], attempt=1)
    stored = (await types(log, run_id))[2:]
    assert stored == ["llm.token", "cancel.requested", "llm.token", "lifecycle.cancelled"]


@pytest.mark.parametrize("first", ["ending", "cancel"])
async def test_a_cancel_that_races_an_ending_is_before_it_or_refused(log: EventLog, first: str) -> None:
    for _ in range(20):
        run_id = await start_run(log)
        racers = [log.append(run_id, [COMPLETED]), log.append(run_id, [CANCEL])]
        won, lost = await race(*(racers if first == "ending" else racers[::-1]))
        stored = (await types(log, run_id))[2:]
        assert stored == ["cancel.requested", "lifecycle.completed"][2 - len(won) :]
        assert all(isinstance(error, RunClosed) for error in lost)
