"""A run's steps: a fold over its events, whole or from the middle of the run."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from runstore.core.folds.comparison import RunComparison
from runstore.core.folds.passages import Passages
from runstore.core.folds.step import Step
from runstore.core.folds.step_fold import StepFold
from runstore.core.records import EventRecord


def record(seq: int, type: str, /, agent: str | None = "demo", **data: Any) -> EventRecord:
    of = {} if agent is None else {"agent": agent}
    return EventRecord("run", seq, type, f"2026-11-29T10:00:{seq:02d}.000Z", {**of, **data})


def message(seq: int, *blocks: Any, role: str = "assistant", agent: str = "demo", **data: Any) -> EventRecord:
    return record(seq, "llm.message", agent, message={"role": role, "content": list(blocks)}, **data)


def started(seq: int, attempt: int = 1, **data: Any) -> EventRecord:
    return record(seq, "lifecycle.started", None, attempt=attempt, reason="claimed", worker_id="w", **data)


def token(seq: int, text: str, **data: Any) -> EventRecord:
    return record(seq, "llm.token", text=text, **data)


def folded(*events: EventRecord, whole: bool = True) -> StepFold:
    fold = StepFold(whole=whole).add_all(events)
    fold.settle()
    return fold


def steps(*events: EventRecord) -> list[Step]:
    return list(folded(*events).steps.values())


TOOL = {"tool_use_id": "t1", "name": "look_up"}


def test_a_run_is_a_tree_of_attempt_agent_and_calls() -> None:
    found = steps(
        started(2), record(3, "agent.started"), record(4, "llm.request", model="m"),
        message(5, {"toolUse": {"name": "look_up"}}), record(6, "tool.started", input={"a": 1}, **TOOL),
        record(7, "tool.finished", output="x", **TOOL), record(8, "agent.finished"),
        record(9, "lifecycle.completed", None, result={"text": "x"}),
    )  # fmt: skip
    assert [(step.key, step.parent, step.status) for step in found] == [
        ("attempt-2", None, "success"), ("agent-3", "attempt-2", "success"),
        ("model-4", "agent-3", "success"), ("tool-6", "agent-3", "success"),
        ("end-9", "attempt-2", "success"),
    ]  # fmt: skip
    model, tool = found[2], found[3]
    assert (model.name, model.request_seq, model.request_n) == ("m", 4, 1)
    assert (tool.input, tool.output, tool.last_seq) == ({"a": 1}, "x", 7)


def test_an_inner_agent_belongs_to_the_tool_call_that_it_works_for() -> None:
    found = steps(
        started(2), record(3, "tool.started", **TOOL),
        record(4, "agent.started", "demo/look_up", call_id="t1"),
    )  # fmt: skip
    assert [(step.kind, step.parent) for step in found] == [
        ("attempt", None), ("agent", "attempt-2"), ("tool", "agent-3"), ("agent", "tool-3"),
    ]  # fmt: skip


def test_an_inner_agent_belongs_to_the_call_of_its_own_node_among_calls_with_equal_ids() -> None:
    found = steps(
        started(2), record(3, "tool.started", "demo/a", **TOOL), record(4, "tool.started", "demo/b", **TOOL),
        record(5, "agent.started", "demo/a/look_up/clerk", call_id="t1"),
        record(6, "agent.started", "demo/b/look_up", call_id="t1"),
    )  # fmt: skip
    assert [step.parent for step in found if step.seq > 4 and step.kind == "agent"] == ["tool-3", "tool-4"]


def test_text_that_is_being_said_is_shown_and_a_message_takes_its_place() -> None:
    before = [started(2), record(3, "llm.request"), token(4, "Hel"), token(5, "lo")]
    (*_, call) = steps(*before)
    assert (call.text, call.content, call.status) == ("Hello", None, "running")
    (*_, call) = steps(*before, message(6, {"text": "Hello!"}))
    assert (call.text, call.content, call.status) == ("", [{"text": "Hello!"}], "success")


def test_only_text_that_no_message_repeats_is_missing_without_tokens() -> None:
    said = [started(2), record(3, "agent.started"), message(6, {"text": "Hello!"})]
    assert folded(*said).unsaid == 6
    open_call = [*said, record(7, "llm.request")]
    assert folded(*open_call).unsaid == 6
    silent = [started(2), record(3, "agent.started"), record(9, "agent.finished")]
    assert folded(*silent).unsaid == 2


def test_text_that_a_new_attempt_says_again_is_discarded() -> None:
    found = steps(
        started(2), record(3, "llm.request"), token(4, "Hel"),
        started(5, 2, discard_after_seq=2), token(6, "Hi"),
    )  # fmt: skip
    calls = [(step.status, step.text) for step in found if step.kind == "model"]
    assert calls == [("discarded", "Hel"), ("running", "Hi")]


def test_a_discarded_answer_is_a_call_without_its_text_and_its_request() -> None:
    found = steps(
        started(2), record(3, "agent.started"), record(9, "llm.discarded", reason="rejected", from_seq=4)
    )
    call = found[-1]
    assert (call.kind, call.status, call.discarded, call.started_at) == (
        "model", "discarded", "rejected", record(3, "").at,
    )  # fmt: skip


def test_an_answer_without_its_request_begins_with_the_agent() -> None:
    *_, call = steps(started(2), record(3, "agent.started"), message(6, {"text": "Hello!"}))
    assert (call.started_at, call.ended_at) == (record(3, "").at, record(6, "").at)


def test_a_retried_call_loses_the_text_of_the_try_before() -> None:
    found = steps(
        started(2), record(3, "llm.request"), token(4, "Hel"),
        record(5, "llm.discarded", reason="retried", from_seq=4),
        record(6, "llm.retrying", code="busy", message="m", attempt=1, wait_s=1), token(7, "Hi"),
    )  # fmt: skip
    [call] = [step for step in found if step.kind == "model"]
    assert (call.text, [retry["code"] for retry in call.retries]) == ("Hi", ["busy"])


def test_a_question_waits_until_it_is_answered() -> None:
    asked = [started(2), record(3, "input.requested", request_id="r", prompt="May I?")]
    fold = folded(*asked)
    assert (fold.status, fold.steps["question-3"].status) == ("waiting", "waiting")
    fold = folded(*asked, record(4, "input.given", None, request_id="r", answer=True, by="ben"))
    question = fold.steps["question-3"]
    assert (fold.status, question.status, question.answer) == (
        "queued", "success", {"request_id": "r", "answer": True, "by": "ben"},
    )  # fmt: skip


def test_calls_that_have_no_end_are_lost_with_their_attempt() -> None:
    found = steps(started(2), record(3, "tool.started", **TOOL), started(4, 2))
    assert [(step.kind, step.status) for step in found] == [
        ("attempt", "lost"), ("agent", "lost"), ("tool", "lost"), ("attempt", "running"),
    ]  # fmt: skip


def test_steps_may_begin_in_the_middle_of_a_run_and_then_have_no_request_numbers() -> None:
    fold = folded(record(100, "llm.request"), token(101, "Hi"), whole=False)
    assert [step.kind for step in fold.steps.values()] == ["attempt", "agent", "model"]
    assert fold.steps["model-100"].request_n is None


def test_each_step_knows_the_last_event_that_changed_it() -> None:
    fold = folded(
        started(2), record(3, "llm.request"), message(4, {"text": "Hi"}), record(5, "agent.finished")
    )
    assert fold.changed == {"attempt-2": 2, "agent-3": 5, "model-3": 4}


ODD = [{}, {"content": "a"}, {"content": None}, {"content": ["a", 1, None]}, {"content": [{"text": 5}]},
       {"content": [{"toolUse": 5}]}, {"content": [{"toolUse": {}}]},
       {"content": [{"image": {"format": []}}]},
       {"content": [{"reasoningContent": None}]}]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("role", ["assistant", "user", None])
def test_a_malformed_message_of_a_program_fails_nothing(odd: dict[str, Any], role: Any) -> None:
    said = {"role": role, **odd}
    events = [record(3, "llm.message", message=said), record(4, "llm.input_replaced", messages=[said])]
    found = steps(started(2), *events, message(5, {"text": "b"}))
    assert found[-1].kind == "model"
    RunComparison().steps(found, found)
    fold = Passages()
    assert [passage.text for event in events for passage in fold.add(event)] in ([], ["a"])


def _agents_of_calls(count: int) -> list[EventRecord]:
    calls = [at(seq, "tool.started", tool_use_id=f"t{seq}", name="ask") for seq in range(count)]
    inner = [at(seq, "agent.started", "demo/ask/inner", call_id=f"t{seq}") for seq in range(count)]
    return [*calls, *inner]


def _agents_without_parents(count: int) -> list[EventRecord]:
    return [at(seq, "agent.started", f"a{seq}/inner") for seq in range(count)]


def _discarded_tries(count: int) -> list[EventRecord]:
    said = [at(seq, "llm.token", text="x") for seq in range(count)]
    return said + [at(seq, "llm.discarded", from_seq=count, reason="retried") for seq in range(count)]


def _attempts_with_questions(count: int) -> list[EventRecord]:
    asked = {"request_id": "", "prompt": "p", "kind": "question"}
    attempt = {"attempt": 1, "reason": "claimed", "worker_id": "w"}
    return [
        event
        for seq in range(count)
        for event in (
            at(2 * seq, "lifecycle.started", **attempt, discard_after_seq=2 * seq),
            at(2 * seq + 1, "input.requested", **{**asked, "request_id": f"q{seq}"}),
        )
    ]


def at(seq: int, type: str, agent: str = "demo", **data: Any) -> EventRecord:
    return EventRecord("run", seq, type, "2026-11-29T10:00:00.000Z", {"agent": agent, **data})


@pytest.mark.parametrize(
    "events", [_agents_of_calls, _agents_without_parents, _discarded_tries, _attempts_with_questions]
)
def test_each_event_costs_about_the_same(events: Callable[[int], list[EventRecord]]) -> None:
    def cost(count: int) -> float:
        found, began = events(count), time.process_time()
        folded(*found)
        return time.process_time() - began

    # Six times the events; a quadratic fold would take 36 times as long.
    assert min(cost(6_000) for _ in range(5)) < 18 * max(cost(1_000) for _ in range(3))
