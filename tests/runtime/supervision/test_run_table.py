"""Each run that concerns a process is in one state, and goes from it to legal ones only."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.ports import OpenRun
from runstore.runtime.attempts.runner import AttemptRunner
from runstore.runtime.supervision.run_table import (
    LEGAL,
    WITH_SLOT,
    Lost,
    Running,
    RunTable,
    SlotKept,
    Starting,
    State,
    Stopping,
    WaitingForSession,
    WaitingForSlot,
)

OPEN = OpenRun("r", "ann", "running", 1, 0, "worker", None, 0)
RUNNER = cast(AttemptRunner, object())
STATES: list[State | None] = [
    None, WaitingForSlot("ann"), WaitingForSession("ann", "first"), Lost(OPEN, True), SlotKept(), Starting(),
    Running(RUNNER), Stopping(RUNNER),
]  # fmt: skip


def table(released: list[Any] | None = None) -> RunTable:
    return RunTable(release=([] if released is None else released).append)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(STATES)), max_size=30))
def test_only_legal_transitions_are_made_and_every_view_agrees(steps: list[tuple[str, State | None]]) -> None:
    runs, expected, left = table(released := []), dict[str, State | None](), 0
    for run_id, new in steps:
        old = expected.get(run_id)
        if type(new) in LEGAL[type(old)]:
            runs.move(run_id, new)
            expected[run_id] = new
            left += isinstance(old, Running) and not isinstance(new, Running)
        else:
            with pytest.raises(RuntimeError, match=f"run {run_id} cannot go from"):
                runs.move(run_id, new)
        assert {each: runs.get(each) for each in expected} == expected
        for state in filter(None, STATES):
            there = {each for each, at in expected.items() if type(at) is type(state)}
            assert runs.of(type(state)).keys() == there
        assert {each for each in expected if runs.has_slot(each)} == runs.of(*WITH_SLOT).keys()
        assert runs.awaited() == ({"first"} if runs.count(WaitingForSession) else set())
        assert len(released) == left


def test_lost_runs_are_chosen_before_queued_ones() -> None:
    runs = table()
    assert runs.next() is None
    runs.move("queued", WaitingForSlot("ann"))
    runs.move("lost", Lost(OPEN, True))
    assert runs.next() == ("lost", Lost(OPEN, True))
    runs.move("lost", Starting())
    assert runs.next() == ("queued", WaitingForSlot("ann"))


def test_a_run_that_ends_lets_those_that_wait_for_it_queue() -> None:
    runs = table()
    for run_id, before in (("b", "a"), ("c", "a"), ("d", "b")):
        runs.move(run_id, WaitingForSlot("ann"))
        runs.move(run_id, Starting())
        runs.move(run_id, WaitingForSession("ann", before))
    runs.end("b")
    assert runs.of(WaitingForSlot).keys() == {"d"}
    assert runs.of(WaitingForSession).keys() == {"c"}, "b has ended, and c waits for a"


def test_a_slot_that_is_free_is_reported_once_the_table_has_the_new_state() -> None:
    runs, seen = table(), list[int]()
    runs.on_free = lambda: seen.append(runs.count(*WITH_SLOT))
    for new in (WaitingForSlot("ann"), Starting(), Running(RUNNER), Starting(), Running(RUNNER), None):
        runs.move("a", new)
    assert seen == [0], "a run that begins its next attempt keeps its slot"


async def test_the_timers_of_a_run_end_with_its_attempt() -> None:
    runs = table()
    timer = asyncio.get_running_loop().call_later(60, print)
    for new in (WaitingForSlot("ann"), Starting(), Running(RUNNER, {"run": timer})):
        runs.move("a", new)
    runs.move("a", Stopping(RUNNER, {"run": timer}))
    assert not timer.cancelled()
    runs.move("a", None)
    assert timer.cancelled()
    await runs.until_idle()
