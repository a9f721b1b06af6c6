"""A run as a tree: golden examples of what its events come to."""

from typing import Any

import msgspec
import pytest

from runstore.core.codec import RecordedEvent, encode
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    Cancelled,
    Completed,
    Discarded,
    Event,
    Failed,
    InputGiven,
    InputRequested,
    Message,
    Queued,
    Retrying,
    Started,
    Token,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.folds import trace as trace_module
from runstore.core.times import timestamp
from tests.kit.traces import trace_of

RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
QUEUED = Queued(agent="boss", user_id="alice", input="add")


def at(second: int) -> str:
    return timestamp(second * 1_000)


def tree(*events: Event) -> dict[str, Any]:
    """The trace of a run whose events come one in a second, from second 1 on."""
    recorded = [
        RecordedEvent(RUN, seq, seq, e.type, e.version, e.ends, e.at, e.data)
        for seq, event in enumerate(events, 1)
        for e in (encode(event, at=seq * 1_000),)
    ]
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(trace_of(RUN, recorded)))
    return made


def started(attempt: int = 1, **fields: Any) -> Started:
    return Started(**{"worker_id": "w", "attempt": attempt, "reason": "claimed", **fields})


def said(text: str, agent: str = "boss", role: str = "assistant", **fields: Any) -> Message:
    return Message(agent=agent, message={"role": role, "content": [{"text": text}]}, **fields)


def usage(agent: str = "boss", **fields: Any) -> Usage:
    return Usage(agent=agent, **{"input_tokens": 3, "output_tokens": 2, "model": "m", **fields})


def tool(kind: type[Any], agent: str = "boss", id: str = "t1", **fields: Any) -> Any:
    return kind(agent=agent, tool_use_id=id, name="sum", **fields)


CALLED = {"kind": "tool", "name": "sum", "tool_use_id": "t1"}
COUNTS = {"input_tokens": 3, "output_tokens": 2}


def test_a_run_with_a_tool_that_works_and_one_that_fails() -> None:
    found = tree(
        QUEUED, started(), AgentStarted(agent="boss"),                              # 1 to 3
        Token(agent="boss", text="let"), said("let me add"),                        # 4, 5
        usage(first_token_ms=400, duration_ms=1_500),                               # 6
        tool(ToolStarted, input={"a": 1}), tool(ToolFinished, output=3),            # 7, 8
        tool(ToolStarted, id="t2"), tool(ToolFailed, id="t2", output="no"),         # 9, 10
        said("3; no", role="user"), said("it is 3"), usage(),                       # 11 to 13
        AgentFinished(agent="boss"), Completed(result={"text": "it is 3"}),         # 14, 15
    )  # fmt: skip
    assert found == {
        "run_id": RUN, "agent": "boss", "status": "success", "created_at": at(1), "ended_at": at(15),
        "input": "add", "output": {"text": "it is 3"},
        "attempts": [
            {
                "attempt": 1, "reason": "claimed", "worker_id": "w", "started_at": at(2), "ended_at": at(15),
                "agents": [
                    {
                        "agent": "boss", "started_at": at(3), "ended_at": at(14),
                        "steps": [
                            {
                                "kind": "model", "seq": 5, "status": "success", "name": "m",
                                "started_at": timestamp(4_500), "ended_at": at(5), "duration_ms": 1_500,
                                "first_token_ms": 400, "output": [{"text": "let me add"}], "usage": COUNTS,
                            },
                            {
                                **CALLED, "seq": 7, "status": "success", "started_at": at(7),
                                "ended_at": at(8), "duration_ms": 1_000, "input": {"a": 1}, "output": 3,
                            },
                            {
                                **CALLED, "tool_use_id": "t2", "seq": 9, "status": "error",
                                "started_at": at(9), "ended_at": at(10), "duration_ms": 1_000, "output": "no",
                            },
                            {
                                "kind": "model", "seq": 12, "status": "success", "name": "m",
                                "started_at": at(11), "ended_at": at(12), "duration_ms": 1_000,
                                "input": [{"text": "3; no"}], "output": [{"text": "it is 3"}],
                                "usage": COUNTS,
                            },
                        ],
                    }
                ],
            }
        ],
    }  # fmt: skip


def test_a_team_has_an_entry_for_each_call_of_an_agent() -> None:
    found = tree(
        QUEUED, started(), AgentStarted(agent="boss"),
        AgentStarted(agent="boss/clerk", call_id="1"), AgentStarted(agent="boss/clerk", call_id="2"),
        said("two", "boss/clerk", call_id="2"), said("one", "boss/clerk", call_id="1"),
        AgentFinished(agent="boss/clerk", call_id="1"), said("done"),
        Failed(code="timeout", message="too long"),
    )  # fmt: skip
    (attempt,) = found["attempts"]
    assert (found["status"], found["error"]) == ("error", {"code": "timeout", "message": "too long"})
    texts = [[step["output"][0]["text"] for step in agent["steps"]] for agent in attempt["agents"]]
    assert [
        (agent["agent"], agent.get("call_id"), agent.get("ended_at"), said)
        for agent, said in zip(attempt["agents"], texts, strict=True)
    ] == [
        ("boss", None, None, ["done"]),
        ("boss/clerk", "1", at(8), ["one"]),
        ("boss/clerk", "2", None, ["two"]),
    ]  # fmt: skip


def test_retries_belong_to_the_call_and_rejected_text_is_a_discarded_one() -> None:
    retry = Retrying(agent="boss", code="throttled", message="slow down", attempt=1, wait_s=2.0)
    found = tree(
        QUEUED, started(), AgentStarted(agent="boss"), retry, said("first"),
        Discarded(agent="boss", reason="rejected", length=5), said("second"), usage(),
        Cancelled(reason="user"),
    )  # fmt: skip
    steps = found["attempts"][0]["agents"][0]["steps"]
    assert [(step["status"], step.get("discarded"), step["output"][0]["text"]) for step in steps] == [
        ("discarded", "rejected", "first"), ("success", None, "second"),
    ]  # fmt: skip
    assert steps[0]["retries"] == [{"code": "throttled", "message": "slow down", "attempt": 1, "wait_s": 2.0}]
    assert (found["status"], found["reason"]) == ("stopped", "user")


def test_a_resumed_run_has_two_attempts_and_marks_repeated_text() -> None:
    found = tree(
        QUEUED, started(), AgentStarted(agent="boss"), said("kept"), usage(),
        tool(ToolStarted), said("lost"),
        started(2, reason="adopted", discard_after_seq=6), AgentStarted(agent="boss"), said("again"),
        Completed(result={}),
    )  # fmt: skip
    first, second = found["attempts"]
    assert [(step["status"], step.get("discarded")) for step in first["agents"][0]["steps"]] == [
        ("success", None), ("running", None), ("discarded", "resumed"),
    ]  # fmt: skip
    assert (first["ended_at"], second["reason"], second["repeats_after"]) == (at(8), "adopted", 6)
    assert second["agents"][0]["steps"][0]["output"] == [{"text": "again"}]


def test_a_call_that_broke_off_has_its_usage_and_no_end() -> None:
    found = tree(QUEUED, started(), AgentStarted(agent="boss"), usage(incomplete=True))
    (step,) = found["attempts"][0]["agents"][0]["steps"]
    assert (step["status"], step["usage"]) == ("running", COUNTS)
    assert found["status"] == "running"
    assert tree(QUEUED)["attempts"] == []


def test_a_trace_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    large = "x" * trace_module.MAX_VALUE_BYTES
    found = tree(Queued(agent="boss", user_id="a", input=large), started(), said(large))
    assert (found["truncated"], "input" in found) == (["input"], False)
    assert found["attempts"][0]["agents"][0]["steps"][0]["truncated"] == ["output"]
    found = tree(QUEUED, started(), said(large, more=True), said("its end"))
    [step] = found["attempts"][0]["agents"][0]["steps"]
    assert (step["truncated"], "output" in step) == (["output"], False)
    events = [QUEUED, started(), *(said(f"{n}") for n in range(9))]
    assert "complete" not in tree(*events)
    for limit, value in (("MAX_STEPS", 4), ("MAX_TRACED", 6), ("MAX_TRACED_BYTES", 300)):
        with monkeypatch.context() as patch:
            patch.setattr(trace_module, limit, value)
            found = tree(*events)
            assert found["complete"] is False, limit
            assert 0 < len(found["attempts"][0]["agents"][0]["steps"]) < 9


def test_an_answer_that_is_too_large_to_be_shown_is_a_call_of_its_own() -> None:
    large = "x" * trace_module.MAX_VALUE_BYTES
    found = tree(QUEUED, started(), said(large), usage(), said("short"), usage())
    first, second = found["attempts"][0]["agents"][0]["steps"]
    assert (first["seq"], first["truncated"], "output" in first) == (3, ["output"], False)
    assert (second["seq"], second["output"], second["usage"]) == (5, [{"text": "short"}], COUNTS)


def test_an_answer_in_several_parts_is_one_call() -> None:
    found = tree(QUEUED, started(), said("one ", more=True), said("two"), said("next"))
    first, second = found["attempts"][0]["agents"][0]["steps"]
    assert (first["output"], first["ended_at"]) == ([{"text": "one "}, {"text": "two"}], at(4))
    assert second["output"] == [{"text": "next"}]


def test_a_call_begins_where_the_answer_before_it_has_ended() -> None:
    found = tree(QUEUED, started(), AgentStarted(agent="boss"), said("one"), said("two"))
    steps = found["attempts"][0]["agents"][0]["steps"]
    assert [(step["started_at"], step["ended_at"]) for step in steps] == [(at(3), at(4)), (at(4), at(5))]


def test_a_request_is_a_step_until_its_answer() -> None:
    asked = InputRequested(
        agent="boss", request_id="1.1", prompt="May boss call add?", kind="approval", tool="add",
        tool_use_id="t1", input={"a": 1},
    )  # fmt: skip
    beginning = [QUEUED, started(), AgentStarted(agent="boss"), asked]
    waiting = tree(*beginning)
    assert (waiting["status"], waiting["attempts"][0]["ended_at"]) == ("waiting", at(4))
    [step] = waiting["attempts"][0]["agents"][0]["steps"]
    assert (step["kind"], step["status"], step["input"]) == ("input", "running", {"a": 1})
    answered = tree(*beginning, InputGiven(request_id="1.1", answer={"approve": True}, by="alice"))
    assert "status" not in answered, "queued, the default"
    [step] = answered["attempts"][0]["agents"][0]["steps"]
    assert (step["status"], step["output"], step["duration_ms"]) == ("success", {"approve": True}, 1_000)


def test_the_end_of_a_tool_whose_start_is_of_an_earlier_attempt_is_no_call() -> None:
    trace = tree(
        QUEUED,
        started(),
        ToolStarted(agent="boss", tool_use_id="t", name="add", input={}),
        started(2, reason="adopted"),
        ToolFinished(agent="boss", tool_use_id="t", name="add", output=3),
    )
    steps = [
        [step["kind"] for agent in each["agents"] for step in agent["steps"]] for each in trace["attempts"]
    ]
    assert steps == [["tool"], []]
