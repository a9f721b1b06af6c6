"""The writer's queue: bounded, fair between runs, in order within each run."""

import pytest

from runstore.core.codec import encode
from runstore.core.errors import LogUnavailable
from runstore.core.events import Custom, Event
from runstore.eventlog import pending
from runstore.eventlog.admission import Append, Waiter, is_text
from runstore.eventlog.pending import (
    MAX_BATCH_EVENTS,
    MAX_JOINED,
    MAX_RUN_BYTES,
    MAX_RUN_EVENTS,
    MAX_URGENT_EVENTS,
    PendingAppends,
    without_cancelled_text,
)
from tests.kit.events import CANCEL, CANCELLED, COMPLETED, QUEUED, note, token

SOMEBODY = Waiter(None, None)  # type: ignore[arg-type]  # who waits is the writer's business


def awaited(run_id: str, *events: Event | Custom, patient: bool = False) -> Append:
    encoded = [encode(event) for event in events]
    size = sum(len(event.data) for event in encoded)
    return Append(run_id, encoded, patient=patient, size=size, waiter=SOMEBODY)


def offered(run_id: str, event: Event | Custom, attempt: int = 1) -> Append:
    data = encode(event)
    return Append(
        run_id, [data], attempt=attempt, patient=True, urgent=False, text=is_text(data), size=len(data.data)
    )


def flood(waiting: PendingAppends, run_id: str) -> int:
    """Offer text until there is no more room; returns how much was taken."""
    for taken in range(2 * MAX_RUN_EVENTS):
        if not waiting.put(offered(run_id, token())):
            return taken
    raise AssertionError("there is no end to the room")


def count(batch: list[Append]) -> int:
    return sum(len(append.events) for append in batch)


def drain(waiting: PendingAppends) -> list[Append]:
    """Everything that waits."""
    waiting.close()
    taken: list[Append] = []
    while batch := waiting.take():
        taken += batch
    return taken


# ---- fair ----


def test_an_awaited_append_does_not_wait_behind_other_runs_floods() -> None:
    waiting = PendingAppends()
    for run_id in ("a", "b", "c"):
        flood(waiting, run_id)
    waiting.put(awaited("d", QUEUED))
    waiting.put(awaited("e", COMPLETED))
    assert [append.run_id for append in waiting.take()[:2]] == ["d", "e"]


def test_a_cancel_does_not_wait_behind_other_runs_floods() -> None:
    waiting = PendingAppends()
    for run_id in ("a", "b", "c"):
        flood(waiting, run_id)
    waiting.put(offered("d", token()))
    waiting.put(awaited("d", CANCEL))
    assert [append.run_id for append in waiting.take()[:2]] == ["d", "d"]


def test_an_awaited_append_is_committed_with_little_of_other_runs_floods() -> None:
    waiting = PendingAppends()
    for run_id in ("a", "b", "c"):
        flood(waiting, run_id)
    waiting.put(awaited("d", QUEUED))
    assert MAX_URGENT_EVENTS <= count(waiting.take()) < MAX_URGENT_EVENTS + MAX_JOINED
    assert count(waiting.take()) >= MAX_BATCH_EVENTS


def test_an_awaited_append_stays_behind_its_own_runs_text() -> None:
    waiting = PendingAppends()
    flood(waiting, "a")
    waiting.put(awaited("a", COMPLETED))
    batch = waiting.take()
    assert count(batch) == MAX_RUN_EVENTS + 1
    assert batch[-1].events[0].ends


def test_flooding_runs_take_turns() -> None:
    waiting = PendingAppends()
    for run_id in ("a", "b", "c"):
        flood(waiting, run_id)
    batch = waiting.take()
    said = {run_id: count([a for a in batch if a.run_id == run_id]) for run_id in ("a", "b", "c")}
    assert max(said.values()) - min(said.values()) <= MAX_JOINED


def test_a_run_that_says_little_is_in_the_next_batch_beside_a_flood() -> None:
    waiting = PendingAppends()
    flood(waiting, "a")
    waiting.put(offered("b", token()))
    assert "b" in {append.run_id for append in waiting.take()}


def test_a_batch_of_text_is_bounded() -> None:
    waiting = PendingAppends()
    for number in range(8):
        flood(waiting, f"{number}")
    assert MAX_BATCH_EVENTS <= count(waiting.take()) < MAX_BATCH_EVENTS + MAX_JOINED


def test_a_batch_is_bounded_in_bytes() -> None:
    waiting = PendingAppends()
    for number in range(20):
        waiting.put(offered(f"{number}", note("x" * 1_000_000)))
    assert sum(append.size for append in waiting.take()) < pending.MAX_BATCH_BYTES + 1_000_100


def test_a_batch_of_endings_behind_text_is_bounded() -> None:
    waiting = PendingAppends()
    for number in range(8):
        flood(waiting, f"{number}")
    for number in range(8):
        waiting.put(awaited(f"{number}", COMPLETED))
    most = MAX_BATCH_EVENTS + MAX_RUN_EVENTS + 1 + MAX_JOINED  # the lane that fills it is taken to its ending
    assert MAX_BATCH_EVENTS <= count(waiting.take()) <= most
    ended = [append.run_id for append in drain(waiting) if append.events[0].ends]
    assert len(ended) == 7


def test_text_that_cancels_discard_fills_no_batch() -> None:
    waiting = PendingAppends()
    for number in range(8):
        flood(waiting, f"{number}")
        waiting.put(awaited(f"{number}", COMPLETED if number % 2 else CANCEL))
    taken = without_cancelled_text(waiting.take())
    cancels = [append.run_id for append in taken if append.events[0].type == CANCEL.type]
    assert cancels == ["0", "2", "4", "6"]
    assert {append.run_id for append in taken[: len(cancels)]} == {*cancels}


def test_an_awaited_append_does_not_wait_behind_floods_that_end() -> None:
    waiting = PendingAppends()
    for number in range(8):
        flood(waiting, f"{number}")
        waiting.put(awaited(f"{number}", COMPLETED))
    waiting.put(awaited("late", QUEUED))
    assert waiting.take()[0].run_id == "late"


def test_awaited_appends_do_not_keep_text_waiting_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_URGENT_EVENTS", 4)
    waiting = PendingAppends()
    waiting.put(offered("quiet", token()))
    for batch in range(10):
        for number in range(5):
            waiting.put(awaited(f"{batch}-{number}", QUEUED))
        if "quiet" in {append.run_id for append in waiting.take()}:
            return
    raise AssertionError("others were always first")


# ---- in order ----


def test_a_runs_appends_are_handed_out_in_their_order() -> None:
    waiting = PendingAppends()
    events = [token("1"), note("2"), token("3"), token("4"), note("5"), COMPLETED]
    for event in events[:-1]:
        waiting.put(offered("a", event))
        waiting.put(offered("b", event))
    waiting.put(awaited("a", COMPLETED))
    taken = [event.data for append in drain(waiting) if append.run_id == "a" for event in append.events]
    assert taken == [encode(event).data for event in events]


def test_consecutive_text_of_an_attempt_is_one_append() -> None:
    waiting = PendingAppends()
    for _ in range(MAX_JOINED + 1):
        waiting.put(offered("a", token()))
    waiting.put(offered("a", token(), attempt=2))
    assert [len(append.events) for append in waiting.take()] == [MAX_JOINED, 1, 1]


def test_awaited_appends_are_never_joined() -> None:
    waiting = PendingAppends()
    for append in (offered("a", token()), awaited("a", token()), offered("a", token())):
        waiting.put(append)
    assert [len(append.events) for append in waiting.take()] == [1, 1, 1]


# ---- bounded ----


def test_the_queue_of_one_run_is_bounded_in_events() -> None:
    waiting = PendingAppends()
    assert flood(waiting, "a") == MAX_RUN_EVENTS
    assert waiting.put(offered("b", token()))


def test_the_queue_of_one_run_is_bounded_in_bytes() -> None:
    waiting = PendingAppends()
    taken = 0
    while taken < 2 * MAX_RUN_BYTES and waiting.put(offered("a", note("x" * 1_000_000))):
        taken += 1_000_002
    assert MAX_RUN_BYTES <= taken < MAX_RUN_BYTES + 1_000_002


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_EVENTS", 100), ("MAX_BYTES", 100 * len(encode(token()).data))]
)
def test_the_queue_of_all_runs_together_is_bounded(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(pending, limit, value)
    waiting = PendingAppends()
    taken = 0
    while taken < 1_000 and waiting.put(offered(f"{taken}", token())):
        taken += 1
    assert taken == 100


def test_an_awaited_append_is_queued_however_long_the_queue_is() -> None:
    waiting = PendingAppends()
    flood(waiting, "a")
    assert waiting.put(awaited("a", COMPLETED))


def test_a_batch_of_the_writer_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_EVENTS", 100)
    waiting = PendingAppends()
    for _ in range(5):
        assert flood(waiting, "a") == 100
        waiting.take()


def test_text_that_cancels_overtook_has_made_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_EVENTS", 100)
    waiting = PendingAppends()
    for _ in range(5):
        assert flood(waiting, "a") == 100
        waiting.put(awaited("a", CANCEL))
        waiting.take()


def test_a_producer_that_waits_for_room_is_called_once_the_writer_takes() -> None:
    waiting = PendingAppends()
    flood(waiting, "a")
    calls: list[int] = []
    waiting.when_room(lambda: calls.append(1))
    assert calls == []
    for _ in range(2):
        waiting.take()
    assert calls == [1]


def test_a_producer_that_waits_for_room_is_called_even_if_only_errors_made_it() -> None:
    waiting = PendingAppends()
    waiting.put(awaited("a", QUEUED))
    calls: list[int] = []
    waiting.when_room(lambda: calls.append(1))
    waiting.take_impatient()
    assert calls == [1]


# ---- what a cancel overtook ----


def test_a_cancel_leaves_out_its_runs_text_before_it() -> None:
    batch = [
        offered("a", token()), offered("a", note("kept")), awaited("a", token("awaited")),
        offered("b", token()), awaited("a", CANCEL), offered("a", token("later")), awaited("a", CANCELLED),
    ]  # fmt: skip
    assert without_cancelled_text(batch) == batch[1:]


def test_a_batch_without_a_cancel_is_whole() -> None:
    batch = [offered("a", token()), awaited("a", COMPLETED)]
    assert without_cancelled_text(batch) == batch


# ---- errors and the end ----


def test_the_impatient_are_taken_from_among_the_patient() -> None:
    waiting = PendingAppends()
    patient = [offered("a", token()), awaited("a", note(), patient=True)]
    for append in (awaited("b", QUEUED), patient[0], awaited("a", CANCEL), patient[1]):
        waiting.put(append)
    assert [append.events[0].type for append in waiting.take_impatient()] == [
        "lifecycle.queued", "cancel.requested",
    ]  # fmt: skip
    assert drain(waiting) == patient


def test_a_closed_queue_hands_out_what_waits_and_takes_nothing() -> None:
    waiting = PendingAppends()
    waiting.put(offered("a", token()))
    waiting.close()
    with pytest.raises(LogUnavailable):
        waiting.put(awaited("a", COMPLETED))
    assert count(waiting.take()) == 1
    assert waiting.take() == []
