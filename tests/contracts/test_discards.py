"""Text that no longer counts, in every kind of log: where a discard begins, and which text is withheld."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from runstore.core.codec import RecordedEvent, decode, encode
from runstore.core.errors import RunClosed
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    Cancelled,
    Custom,
    Discarded,
    DiscardReason,
    Event,
    Failed,
    Message,
    Reasoning,
    Redacted,
    Started,
    Token,
    Unknown,
    Usage,
)
from runstore.core.folds.transcript import length_of
from runstore.core.ports import EventFilter, EventLog
from runstore.eventlog.discards import TextEvent, settle
from runstore.eventlog.queries import TEXT_AT_ONCE
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from tests.kit.events import COMPLETED, note, offer_all, read_run, start_run
from tests.kit.live import seqs

SECRET = "hunter2"
ANSWER = Message(agent="demo", message={"role": "assistant", "content": [{"text": SECRET}]})
PLAIN, REDACTS = AgentStarted(agent="demo"), AgentStarted(agent="demo", redacts=True)
CANCELLED = Cancelled(reason="user")
FORCED = Cancelled(reason="user", forced=True)
FAILED = Failed(code="run_timeout", message="too long")
GUIDANCE = Message(agent="demo", message={"role": "user", "content": [{"text": "be kind"}]})


def say(text: str, agent: str = "demo", call_id: str | None = None) -> Token:
    return Token(agent=agent, call_id=call_id, text=text)


def take_back(
    text: str, reason: DiscardReason = "retried", *, agent: str = "demo", call_id: str | None = None
) -> Discarded:
    return Discarded(agent=agent, call_id=call_id, reason=reason, length=length_of(text))


def read(events: Sequence[RecordedEvent]) -> list[Event | Custom | Unknown]:
    return [decode(event.type, event.version, event.data) for event in events]


async def discards(log: EventLog, run_id: str) -> list[Discarded]:
    return [event for event in read(await read_run(log, run_id)) if isinstance(event, Discarded)]


async def frames(log: EventLog, feed: MemoryFeed, run_id: str, *, after: int = 0) -> bytes:
    """All that a stream has to say of a run that has ended."""
    return b"".join([body async for body in native(Tail(log, feed, run_id, after=after))])


# ---- where it begins ----


async def test_a_discard_begins_with_the_first_withdrawn_piece_of_text(log: EventLog) -> None:
    run_id = await start_run(log)
    await offer_all(log, run_id, say("kept "), say("lost "), say("lost"))
    await log.append(run_id, [take_back("lost lost")], attempt=1)
    assert await discards(log, run_id) == [
        Discarded(agent="demo", reason="retried", length=9, from_seq=4)
    ]  # fmt: skip
    assert [event.text for event in read(await read_run(log, run_id)) if isinstance(event, Token)] == [
        "kept ", "lost ", "lost",
    ]  # fmt: skip


async def test_text_that_was_stored_long_ago_is_counted_too(log: EventLog) -> None:
    run_id = await start_run(log)
    for word in ("kept", "lost", "lost"):
        await log.append(run_id, [say(word)])
    await log.append(run_id, [note(), say("lost"), take_back(3 * "lost"), say("again")])
    assert [event.from_seq for event in await discards(log, run_id)] == [4]


async def test_events_of_other_agents_are_not_counted(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say("lost"), say("other", "demo/other", "t1"), note("x")])
    await log.append(run_id, [Usage(agent="demo", input_tokens=1, output_tokens=1), GUIDANCE])
    await log.append(
        run_id, [say("other", "demo", "t2"), Reasoning(agent="demo", text="hm"), take_back("losthm")]
    )
    assert [event.from_seq for event in await discards(log, run_id)] == [3]


async def test_each_of_two_discards_takes_back_its_own_text(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say("a"), take_back("a"), say("b"), take_back("b"), say("c")])
    assert [event.from_seq for event in await discards(log, run_id)] == [3, 5]


async def test_a_discard_of_more_than_there_is_begins_with_what_there_is(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say("a"), take_back("a long text")])
    await log.append(run_id, [take_back("a", agent="nobody")])
    assert [event.from_seq for event in await discards(log, run_id)] == [3, 5]


async def test_a_long_answer_is_measured_page_by_page(log: EventLog) -> None:
    run_id = await start_run(log)
    long = 2 * TEXT_AT_ONCE + 5
    await offer_all(log, run_id, *[say("word ") for _ in range(long + 5)])
    await log.append(run_id, [note()])
    await log.append(run_id, [take_back(long * "word ", "redacted")])
    assert [event.from_seq for event in await discards(log, run_id)] == [8]
    kinds = [event.type for event in await read_run(log, run_id)]
    assert kinds[2:-2] == ["llm.token"] * 5 + ["llm.redacted"] * long


async def test_text_is_measured_alike_however_a_character_was_cut(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say("kept"), say("😀"), say("😀"[:1]), say("\ud83d"), say("\ude00!")])
    await log.append(run_id, [take_back("😀😀\ud83d\ude00!")])
    assert [event.from_seq for event in await discards(log, run_id)] == [4]


# ---- withheld text ----


async def redacted_run(log: EventLog) -> str:
    """A run with a secret that was said: partly stored before it was redacted, partly with the redaction."""
    run_id = await start_run(log)
    await log.append(run_id, [say("fine "), say(SECRET), Reasoning(agent="demo", text=SECRET)])
    await log.append(run_id, [say("other ", "demo/other", "t1"), ANSWER, GUIDANCE])
    await offer_all(log, run_id, say(SECRET), say(SECRET))
    await log.append(run_id, [take_back(4 * SECRET, "redacted"), say("[redacted]")], attempt=1)
    return run_id


async def test_redacted_text_is_gone_for_every_later_reader(log: EventLog, feed: MemoryFeed) -> None:
    run_id = await redacted_run(log)
    await log.append(run_id, [COMPLETED])
    told = [
        *[event.data for event in await read_run(log, run_id)],
        *[event.data for event in await log.read(run_id, only=EventFilter(prefixes=("llm.",)))],
        *[event.data for event in await log.read_all()],
        await frames(log, feed, run_id),
        await frames(log, feed, run_id, after=3),
    ]
    assert not [data for data in told if SECRET.encode() in data]


async def test_an_answer_in_several_events_that_was_not_streamed_is_withheld_whole(log: EventLog) -> None:
    run_id = await start_run(log)
    said: dict[str, Any] = {"role": "assistant", "content": [{"text": SECRET}]}
    parts = [Message(agent="demo", message=said, more=more) for more in (True, True, False)]
    await log.append(run_id, [ANSWER, *parts, take_back("", "redacted")])
    kinds = [event.type for event in await read_run(log, run_id)]
    assert kinds[2:] == ["llm.message", *["llm.redacted"] * 3, "llm.discarded"]


async def test_a_tombstone_has_the_place_of_the_redacted_event(log: EventLog) -> None:
    run_id = await redacted_run(log)
    events = await read_run(log, run_id)
    assert [event.seq for event in events] == list(range(1, 13))
    assert [event.type for event in events[2:]] == [
        "llm.token", "llm.redacted", "llm.redacted", "llm.token", "llm.redacted", "llm.message",
        "llm.redacted", "llm.redacted", "llm.discarded", "llm.token",
    ]  # fmt: skip
    tombstones = {
        event.seq: e for event, e in zip(events, read(events), strict=True) if isinstance(e, Redacted)
    }
    answer = Redacted(agent="demo", message=True)
    assert set(tombstones.values()) == {Redacted(agent="demo"), answer}
    assert [seq for seq, tombstone in tombstones.items() if tombstone == answer] == [7]
    assert events == [event for event in await log.read_all() if event.run_id == run_id]
    assert [event.position for event in events] == sorted(event.position for event in events)


async def test_a_tombstone_has_the_time_and_the_place_in_the_log_of_the_event(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say(SECRET)])
    [before] = await log.read(run_id, after=2)
    await log.append(run_id, [take_back(SECRET, "redacted")])
    [after, _] = await log.read(run_id, after=2)
    assert after == msgspec.structs.replace(before, type="llm.redacted", data=b'{"agent":"demo"}')


async def test_events_kept_for_readers_are_dropped_with_the_redaction(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = await start_run(log)
    with feed.subscribe(run_id) as slow:
        await log.append(run_id, [say(SECRET)])
        assert seqs(slow.take(2)) == [3]
        await log.append(run_id, [say(SECRET), take_back(2 * SECRET, "redacted")])
        assert slow.take(2) is None  # it reads the log
        assert not any(SECRET.encode() in event.data for event in slow.take(3) or ())
    assert seqs(slow.take(3)) == [4, 5]


async def test_a_stream_in_the_middle_of_redacted_text_goes_on_with_tombstones(
    log: EventLog, feed: MemoryFeed
) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say(SECRET)])
    stream = native(Tail(log, feed, run_id, after=0))
    seen = await anext(stream)
    await log.append(run_id, [say(SECRET), take_back(2 * SECRET, "redacted")])
    await log.append(run_id, [COMPLETED])
    rest = b"".join([body async for body in stream])
    assert SECRET.encode() not in rest
    lines = (seen + rest).splitlines()
    assert [int(line[4:]) for line in lines if line.startswith(b"id: ")] == list(range(1, 7))


@pytest.mark.parametrize("withholds", [True, False])
async def test_a_new_attempt_withholds_what_the_last_one_left_unjudged(
    log: EventLog, withholds: bool
) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say("judged "), ANSWER, say("other", "demo/x", "t1"), say(SECRET), note()])
    again = Started(
        worker_id="w", attempt=2, reason="adopted", discard_after_seq=4, withholds=withholds
    )  # fmt: skip
    await log.append(run_id, [again, say("again")])
    events = await read_run(log, run_id)
    kinds = ["llm.redacted"] * 2 if withholds else ["llm.token"] * 2
    assert [event.type for event in events][2:] == [
        "llm.token", "llm.message", *kinds, "custom.note", "lifecycle.started", "llm.token",
    ]  # fmt: skip
    if withholds:
        assert read(events)[4:6] == [Redacted(agent="demo/x", call_id="t1"), Redacted(agent="demo")]


@pytest.mark.parametrize("ending", [CANCELLED, FAILED, FORCED], ids=["stopped", "failed", "forced"])
@pytest.mark.parametrize("together", [False, True])
async def test_an_ending_withholds_text_that_nothing_has_judged(
    log: EventLog, feed: MemoryFeed, ending: Event, together: bool
) -> None:
    run_id = await start_run(log)
    said = [say("judged "), ANSWER, say("other", "demo/x", "t1"), say(SECRET), say(SECRET), note()]
    batches = [[REDACTS, *said, ending]] if together else [[REDACTS], said, [say(SECRET), ending]]
    for batch in batches:
        await log.append(run_id, batch)
    events = await read_run(log, run_id)
    assert [event.type for event in events][3:8] == ["llm.token", "llm.message", *["llm.redacted"] * 3]
    assert not [event for event in events if event.seq > 5 and SECRET.encode() in event.data]
    assert read(events)[5:7] == [Redacted(agent="demo/x", call_id="t1"), Redacted(agent="demo")]
    assert b"hunter2hunter2" not in await frames(log, feed, run_id, after=5)


LAST = AgentStarted(agent="demo", redacts=True, redacts_last=True)
OTHER = AgentStarted(agent="demo/x", call_id="t1")
CALLS = Message(
    agent="demo",
    message={"role": "assistant", "content": [{"text": SECRET}, {"toolUse": {"name": "add"}}]},
)


@pytest.mark.parametrize("together", [False, True])
async def test_an_ending_withholds_a_last_answer_that_a_hook_had_yet_to_judge(
    log: EventLog, together: bool
) -> None:
    run_id = await start_run(log)
    earlier = [say("judged "), CALLS, GUIDANCE]
    last = [say("hun"), say("ter2"), msgspec.structs.replace(ANSWER, more=True), ANSWER]
    batches = (
        [[LAST, OTHER, *earlier, *last, CANCELLED]]
        if together
        else [[LAST, OTHER, *earlier, *last], [CANCELLED]]
    )
    for batch in batches:
        await log.append(run_id, batch)
    events = await read_run(log, run_id)
    assert msgspec.json.decode(events[-1].data)["withheld"] == [{"agent": "demo", "from_seq": 8}]
    assert [event.type for event in events][4:11] == [
        "llm.token", "llm.message", "llm.message", *["llm.redacted"] * 4,
    ]  # fmt: skip
    assert [event.message for event in read(events) if isinstance(event, Redacted)] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    "events",
    [
        [LAST, say(SECRET), ANSWER, AgentFinished(agent="demo")],
        [LAST, say(SECRET), CALLS],
        [LAST, msgspec.structs.replace(CALLS, more=True), ANSWER],
        [REDACTS, say(SECRET), ANSWER],
    ],
    ids=["judged", "not the last", "not the last, in parts", "no such hook"],
)
async def test_an_ending_keeps_an_answer_that_has_been_judged(log: EventLog, events: list[Event]) -> None:
    run_id = await start_run(log)
    await log.append(run_id, events)
    await log.append(run_id, [CANCELLED])
    assert read(await read_run(log, run_id))[2:5] == events[:3]


@pytest.mark.parametrize("redacts_last", [True, False])
@pytest.mark.parametrize("judged", [True, False])
async def test_an_ending_withholds_an_unjudged_last_answer_of_an_earlier_attempt(
    log: EventLog, judged: bool, redacts_last: bool
) -> None:
    run_id = await start_run(log)
    finished = [AgentFinished(agent="demo")] if judged else []
    await log.append(run_id, [LAST, say(SECRET), ANSWER, *finished])
    again = Started(worker_id="w", attempt=2, reason="adopted", discard_after_seq=5, withholds=True)
    began = msgspec.structs.replace(LAST, redacts_last=redacts_last)
    await log.append(run_id, [again, began, CANCELLED])
    kinds = [event.type for event in await read_run(log, run_id)][3:5]
    assert kinds == (["llm.token", "llm.message"] if judged else ["llm.redacted"] * 2)


@pytest.mark.parametrize("content", ["words", None, ["words"], [None], {"text": "words"}, 7])
@pytest.mark.parametrize("role", ["assistant", None, 7])
async def test_a_message_of_any_shape_hinders_no_ending_or_discard(
    log: EventLog, role: object, content: object
) -> None:
    run_id = await start_run(log)
    odd = Message(agent="demo", message={"role": role, "content": content})
    await log.append(run_id, [LAST, say(SECRET), odd])
    await log.append(run_id, [odd, say(SECRET), take_back(SECRET, "redacted"), CANCELLED])
    assert [event.type for event in await read_run(log, run_id)][-3:] == [
        "llm.redacted", "llm.discarded", "lifecycle.cancelled",
    ]  # fmt: skip


async def test_what_follows_an_answer_is_withheld_without_it(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [LAST, say("one"), ANSWER, say(SECRET), CANCELLED])
    kinds = [event.type for event in await read_run(log, run_id)][3:6]
    assert kinds == ["llm.token", "llm.message", "llm.redacted"]


@pytest.mark.parametrize("together", [False, True])
async def test_a_redaction_withholds_the_earlier_tries_of_its_answer(log: EventLog, together: bool) -> None:
    run_id = await start_run(log)
    tries = [say("fine"), ANSWER, say(SECRET), take_back(SECRET), say("x", "other"), say(SECRET)]
    redaction = [say(SECRET), take_back(2 * SECRET, "redacted"), say("[cut]"), COMPLETED]
    for batch in [[*tries, *redaction]] if together else [tries, redaction]:
        await log.append(run_id, batch)
    assert [event.type for event in await read_run(log, run_id)][2:10] == [
        "llm.token", "llm.message", "llm.redacted", "llm.discarded", "llm.token", "llm.redacted",
        "llm.redacted", "llm.discarded",
    ]  # fmt: skip
    assert [event.from_seq for event in await discards(log, run_id)] == [5, 8]


async def test_a_try_is_withheld_though_a_message_came_between_it_and_its_discard(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say("fine"), ANSWER, say(SECRET), GUIDANCE, take_back(SECRET, "rejected")])
    await log.append(run_id, [say(SECRET), take_back(SECRET, "redacted")])
    assert [event.type for event in await read_run(log, run_id)][2:] == [
        "llm.token", "llm.message", "llm.redacted", "llm.message", "llm.discarded", "llm.redacted",
        "llm.discarded",
    ]  # fmt: skip


@pytest.mark.parametrize(("began", "ending"), [(PLAIN, CANCELLED), (REDACTS, COMPLETED)])
async def test_an_ending_keeps_text_that_cannot_be_redacted_any_more(
    log: EventLog, began: Event, ending: Event
) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [began, say("half an ans")])
    await log.append(run_id, [ending])
    assert read(await read_run(log, run_id))[3] == say("half an ans")


@pytest.mark.parametrize("reason", ["retried", "failed", "rejected"])
async def test_text_that_is_not_redacted_is_replayed_unchanged(log: EventLog, reason: DiscardReason) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say("half an ans"), take_back("half an ans", reason)])
    assert read(await log.read(run_id, after=2, limit=1)) == [say("half an ans")]


async def test_a_run_that_has_ended_takes_no_redaction(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [say("a"), COMPLETED])
    with pytest.raises(RunClosed):
        await log.append(run_id, [take_back(SECRET, "redacted")])
    assert (await read_run(log, run_id))[2].type == "llm.token"


async def test_another_process_redacts_what_this_one_has_said(open_shared: Callable[..., Any]) -> None:
    here, there = open_shared(), open_shared()
    run_id = await start_run(here)
    await here.append(run_id, [say("fine "), say(SECRET)])
    await there.append(run_id, [take_back(SECRET, "redacted")])
    await here.append(run_id, [say("on"), take_back("on")])
    assert [event.type for event in await read_run(here, run_id)][2:] == [
        "llm.token", "llm.redacted", "llm.discarded", "llm.token", "llm.discarded",
    ]  # fmt: skip
    assert [event.from_seq for event in await discards(there, run_id)] == [4, 6]


@pytest.mark.parametrize(("place", "unread"), [("message", [1]), ("answer", [2, 1]), ("text", [1])])
def test_an_answer_that_was_not_streamed_is_looked_for_no_further_than_the_one_before(
    place: str, unread: list[int]
) -> None:
    before: dict[str, Event] = {"message": GUIDANCE, "answer": ANSWER, "text": say("said")}
    more = msgspec.structs.replace(ANSWER, more=True)
    other = msgspec.structs.replace(GUIDANCE, call_id="t1")
    log = [GUIDANCE, ANSWER, before[place], more, other, more, ANSWER, say("x", "demo/other"), GUIDANCE]
    stored = iter([TextEvent(seq, event.type, encode(event).data) for seq, event in enumerate(log, 1)][::-1])
    settled = settle([encode(take_back("", "redacted"))], len(log) + 1, lambda: stored)
    assert [each.seqs for each in settled.withheld] == [[6, 4], [7]]
    assert [event.seq for event in stored] == unread
