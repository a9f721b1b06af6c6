"""The state of a run: a fold over its events, at any seq."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from runstore.core.codec import RecordedEvent, encode
from runstore.core.events import (
    Cancelled,
    CancelRequested,
    Completed,
    Custom,
    Deleted,
    Event,
    Failed,
    Queued,
    Usage,
)
from runstore.core.run import EVOLVING_TYPES, MAX_PROMPT, Actor, PendingInput, Run, evolve, fold
from tests.kit.events import CANCEL, CANCELLED, COMPLETED, FAILED, QUEUED, asked, note, started, token
from tests.kit.events import given as given_

RUN = "0192f0c1-2d3e-7f45-8a6b-0123456789ab"


def record(*events: Event | Custom) -> list[RecordedEvent]:
    """The events as a log holds them: the one with seq n came in second n."""
    encoded = [encode(event, at=1_000 * seq) for seq, event in enumerate(events, 1)]
    return [
        RecordedEvent(RUN, seq, seq, e.type, e.version, e.ends, e.at, e.data)
        for seq, e in enumerate(encoded, 1)
    ]


def state(*events: Event | Custom) -> Run:
    return fold(RUN, record(*events))


def usage(inputs: int, outputs: int) -> Usage:
    return Usage(agent="demo", input_tokens=inputs, output_tokens=outputs)


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([QUEUED], "queued"),
        ([QUEUED, CANCEL], "queued"),
        ([QUEUED, started()], "running"),
        ([QUEUED, started(), token(), CANCEL], "running"),
        ([QUEUED, started(), COMPLETED], "success"),
        ([QUEUED, started(), FAILED], "error"),
        ([QUEUED, started(), CANCEL, CANCELLED], "stopped"),
        ([QUEUED, CANCELLED], "stopped"),
        ([QUEUED, started(), asked()], "waiting"),
        ([QUEUED, started(), asked(), CANCEL], "waiting"),
        ([QUEUED, started(), asked(), asked("1.2"), given_(open=1)], "waiting"),
        ([QUEUED, started(), asked(), asked("1.2"), given_(open=1), given_("1.2")], "queued"),
        ([QUEUED, started(), asked(), given_(), started(2, reason="input")], "running"),
        ([QUEUED, started(), asked(), CANCEL, CANCELLED], "stopped"),
        ([QUEUED, started(), COMPLETED, Deleted(by="local")], "success"),
    ],
)
def test_the_status_follows_the_lifecycle(events: list[Event], status: str) -> None:
    run = state(*events)
    assert run.status == status
    assert run.closed == (status in ("success", "error", "stopped"))


def test_a_waiting_run_names_its_open_requests() -> None:
    run = state(QUEUED, started(), asked(expires_at=9_000), asked("1.2"), given_(open=1))
    assert run.pending_inputs == (PendingInput("1.2", 4, "question", "demo", "Really?"),)


def test_an_ended_run_has_no_open_requests() -> None:
    assert state(QUEUED, started(), asked(), CANCEL, CANCELLED).pending_inputs == ()


def test_a_long_prompt_is_cut_in_the_state() -> None:
    prompt = "?" * 10_000
    [pending] = state(QUEUED, started(), replace(asked(), prompt=prompt)).pending_inputs
    assert pending.prompt == prompt[:MAX_PROMPT]


def test_a_queued_run_knows_what_it_was_asked_for() -> None:
    queued = Queued(
        agent="demo", user_id="ann", input="hi", session_id="s", metadata={"a": 1}, parent_run_id="parent"
    )
    assert state(queued) == Run(
        RUN, user_id="ann", agent_name="demo", session_id="s", parent_run_id="parent", metadata={"a": 1},
        created_at=1_000, input="hi", started_by=Actor("ann"),
    )  # fmt: skip


def test_a_run_starts_once_however_many_attempts_it_takes() -> None:
    run = state(QUEUED, started(), started(attempt=2, reason="adopted"))
    assert (run.started_at, run.attempt) == (2_000, 2)


def test_a_cancel_is_remembered_with_the_run_that_superseded_it() -> None:
    assert not state(QUEUED).cancel_requested
    assert state(QUEUED, CANCEL).cancel_requested
    superseded = CancelRequested(by="ann", reason="superseded", superseded_by="another run")
    assert state(QUEUED, superseded).superseded_by == "another run"


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Completed(result={"text": "4"}), {"result": {"text": "4"}}),
        (Failed(code="timeout", message="too slow"), {"error": "too slow", "error_code": "timeout"}),
        (Cancelled(reason="user", forced=True), {"reason": "user", "forced": True}),
    ],
)
def test_a_closed_run_shows_how_and_when_it_ended(ending: Event, expected: dict[str, Any]) -> None:
    run = state(QUEUED, started(), ending)
    assert run.completed_at == 3_000
    assert {name: getattr(run, name) for name in expected} == expected


def test_usage_adds_up_over_the_models_calls() -> None:
    run = state(QUEUED, started(), usage(10, 1), token(), usage(20, 2))
    assert run.usage == {"input_tokens": 30, "output_tokens": 3, "total_tokens": 33}


def test_the_endings_own_usage_counts_if_it_has_one() -> None:
    own = Completed(result={}, usage={"input_tokens": 5})
    assert state(QUEUED, started(), usage(10, 1), own).usage == {"input_tokens": 5}
    assert state(QUEUED, started(), usage(10, 1), COMPLETED).usage["total_tokens"] == 11


def test_a_deleted_run_keeps_its_state() -> None:
    run = state(QUEUED, started(), COMPLETED, Deleted(by="local"))
    assert (run.deleted, run.status, run.result) == (True, "success", COMPLETED.result)


@pytest.mark.parametrize("event", [token(), note("x")])
def test_the_text_of_a_run_does_not_change_its_state(event: Event | Custom) -> None:
    assert event.type not in EVOLVING_TYPES
    assert state(QUEUED, started(), event) == state(QUEUED, started())


def test_an_event_of_a_newer_release_changes_nothing() -> None:
    before = state(QUEUED, started())
    paused = RecordedEvent(RUN, 3, 3, "lifecycle.paused", 1, False, 3_000, b'{"until":"tomorrow"}')
    assert evolve(before, paused) == before


STORY = [QUEUED, started(), token(), usage(1, 1), note(), CANCEL, started(attempt=2), usage(2, 2), CANCELLED]
STATES: list[tuple[str, int, bool, int]] = [  # status, attempt, cancel requested, tokens used
    ("queued", 0, False, 0),  # of no event yet
    ("queued", 0, False, 0),
    ("running", 1, False, 0),
    ("running", 1, False, 0),
    ("running", 1, False, 2),
    ("running", 1, False, 2),
    ("running", 1, True, 2),
    ("running", 2, True, 2),
    ("running", 2, True, 6),
    ("stopped", 2, True, 6),
]


@pytest.mark.parametrize(("seq", "expected"), list(enumerate(STATES)))
def test_the_state_at_any_seq_is_that_of_the_events_up_to_there(
    seq: int, expected: tuple[str, int, bool, int]
) -> None:
    run = fold(RUN, record(*STORY)[:seq])
    used = run.usage.get("total_tokens", 0)
    assert (run.status, run.attempt, run.cancel_requested, used) == expected
    assert (run.created_at, run.started_at) == (1_000 if seq >= 1 else 0, 2_000 if seq >= 2 else None)
    assert run.completed_at == (9_000 if seq == len(STORY) else None)


@given(st.lists(st.sampled_from([event for event in record(*STORY) if event.type not in EVOLVING_TYPES])))
def test_events_without_effect_on_the_state_change_nothing(extra: list[RecordedEvent]) -> None:
    evolving = [event for event in record(*STORY) if event.type in EVOLVING_TYPES]
    assert fold(RUN, [evolving[0], *extra, *evolving[1:]]) == fold(RUN, evolving)


def test_an_ending_of_a_newer_release_closes_the_run() -> None:
    *before, last = record(QUEUED, started(), note())
    ending = RecordedEvent(RUN, last.seq, last.position, "lifecycle.suspended", 1, True, last.at, b"{}")
    run = fold(RUN, [*before, ending])
    assert (run.status, run.completed_at) == ("error", last.at)
    assert "lifecycle.suspended" in (run.error or "")
