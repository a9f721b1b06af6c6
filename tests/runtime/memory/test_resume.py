"""An agent whose worker died goes on from what the log holds: its messages, and its finished tools."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.session import FileSessionManager

from runstore.core.codec import RecordedEvent
from runstore.core.content import input_messages, with_bytes
from runstore.core.errors import AgentError
from runstore.core.events import (
    Message,
    Started,
    Token,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.demo.model import ScriptedModel
from runstore.runtime.memory.resume import discard_after, recall
from tests.runtime.recording import ListRecorder, again_after, read, spoken, text
from tests.runtime.strands_kit import Playbook, agent, cut, drive, say, think, use


class Desk:
    """Tools that count how often they really run."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    @property
    def tools(self) -> list[Any]:
        @tool
        def first() -> str:
            """The first."""
            self.runs.append("first")
            return "1st"

        @tool
        def second() -> str:
            """The second."""
            self.runs.append("second")
            return "2nd"

        @tool
        def broken() -> str:
            """It fails."""
            self.runs.append("broken")
            raise RuntimeError("jammed")

        return [first, second, broken]


BOTH = use(("t1", "first", {}), ("t2", "second", {}))


async def crashed(last: Callable[[RecordedEvent], bool], *turns: Any) -> list[RecordedEvent]:
    """The log of a run that went so far, when its worker died."""
    recorder, _ = await drive(agent(Playbook(*turns), *Desk().tools))
    return cut(recorder, last)


def of_type(*types: str) -> Callable[[RecordedEvent], bool]:
    return lambda event: event.type in types


async def resumed(
    history: Sequence[RecordedEvent], *turns: Any, **settings: Any
) -> tuple[ListRecorder, Any, Playbook, Desk]:
    model, desk = Playbook(*turns), Desk()
    recorder, ended = await drive(agent(model, *desk.tools, **settings), history=history)
    recorder.recorded = recorder.recorded[len(history) :]
    return recorder, ended, model, desk


def roles(messages: Any) -> list[str]:
    return [f"{message['role']}:{next(iter(message['content'][0]))}" for message in messages]


# The states that a worker can die in


async def test_before_the_first_message_it_starts_from_the_input() -> None:
    history = await crashed(of_type("llm.token"), say("so ", "far"))
    recorder, ended, model, _ = await resumed(history, say("all ", "again"))
    assert roles(model.heard[0]) == ["user:text"]
    assert text(recorder.of(Token)) == ended.result["text"] == "all again"


async def test_before_its_tools_ran_it_runs_them() -> None:
    history = await crashed(of_type("llm.message"), BOTH, say("ok"))
    history = [event for event in history if event.seq <= _first(history, "llm.message")]
    recorder, ended, model, desk = await resumed(history, say("ok"))
    assert sorted(desk.runs) == ["first", "second"]
    assert recorder.types("llm.usage", "agent.started", "agent.finished", "llm.request") == [
        "tool.started", "tool.started", "tool.finished", "tool.finished", "llm.message", "llm.token",
        "llm.message",
    ]  # fmt: skip
    assert ended.result["text"] == "ok"
    assert model.calls == 1


async def test_in_the_midst_of_its_tools_it_runs_only_those_without_a_result() -> None:
    history = await crashed(of_type("tool.finished"), BOTH, say("ok"))
    history = history[:-1]  # the later one's result did not make it
    known = [event.name for event in read(history) if isinstance(event, ToolFinished)]
    recorder, _, model, desk = await resumed(history, say("ok"))
    assert len(known) == len(desk.runs) == 1
    assert desk.runs != known
    assert [event.name for event in recorder.of(ToolStarted)] == desk.runs
    assert [event.name for event in recorder.of(ToolFinished)] == desk.runs
    results = [block["toolResult"]["content"] for block in model.heard[0][2]["content"]]
    assert results == [[{"text": "1st"}], [{"text": "2nd"}]]


async def test_with_all_results_known_no_tool_runs_again() -> None:
    history = await crashed(of_type("tool.finished"), BOTH, say("ok"))
    recorder, _, model, desk = await resumed(history, say("ok"))
    assert desk.runs == []
    assert recorder.of(ToolStarted) == recorder.of(ToolFinished) == []
    assert roles(model.heard[0]) == ["user:text", "assistant:toolUse", "user:toolResult"]


async def test_a_tools_failure_is_a_result_too() -> None:
    history = await crashed(of_type("tool.failed"), use(("t1", "broken", {})), say("sorry"))
    recorder, _, model, desk = await resumed(history, say("sorry"))
    assert desk.runs == []
    assert recorder.of(ToolFailed) == []
    result = model.heard[0][2]["content"][0]["toolResult"]
    assert result["status"] == "error"
    assert "jammed" in result["content"][0]["text"]


async def test_after_its_tools_it_asks_the_model_with_their_results() -> None:
    history = await crashed(of_type("llm.token"), BOTH, say("half ", "said"))
    recorder, ended, model, desk = await resumed(history, say("said ", "in full"))
    assert desk.runs == []
    assert roles(model.heard[0]) == ["user:text", "assistant:toolUse", "user:toolResult"]
    assert text(recorder.of(Token)) == ended.result["text"] == "said in full"


async def test_with_only_the_ending_missing_the_model_is_not_asked() -> None:
    history = await crashed(of_type("agent.finished"), BOTH, think("hm") + say("all ", "done"))
    recorder, ended, model, desk = await resumed(history[:-1])
    assert (model.calls, desk.runs) == (0, [])
    assert ended.result == {"text": "all done", "stop_reason": "end_turn"}
    assert recorder.types() == ["agent.started", "agent.finished"]


async def test_an_answer_without_text_is_asked_for_again() -> None:
    history = await crashed(of_type("llm.message"), say(""))
    _, ended, model, _ = await resumed(history, say("so"))
    assert roles(model.heard[0])[-1] == "user:text"
    assert ended.result["text"] == "so"


async def test_an_answer_that_was_cut_off_after_its_reasoning_ends_it_as_without_the_crash() -> None:
    recorder = ListRecorder()
    reasoning = {"reasoningContent": {"reasoningText": {"text": "hm"}}}
    recorder.keep(Message(agent="demo", message={"role": "assistant", "content": [reasoning]}))
    with pytest.raises(AgentError, match="only reasoning") as caught:
        await resumed(recorder.recorded, say("so"))
    assert caught.value.code == "model_invalid_answer"


async def test_text_that_a_guardrail_redacted_stays_redacted() -> None:
    redaction = {"redactContent": {"redactUserContentMessage": "[redacted]"}}
    history = await crashed(of_type("llm.input_replaced"), BOTH, [redaction, *say("No.")])
    _, _, model, _ = await resumed(history, say("so"))
    results = model.heard[0][2]["content"]
    assert [each["toolResult"]["content"] for each in results] == [[{"text": "[redacted]"}]] * 2


async def test_an_input_that_a_guardrail_has_redacted_stays_redacted() -> None:
    redaction = {"redactContent": {"redactUserContentMessage": "[redacted]"}}
    history = await crashed(of_type("llm.message"), [redaction, *use(("t1", "first", {}))], say("so"))
    history = [event for event in history if event.seq <= _first(history, "llm.message")]
    _, _, model, _ = await resumed(history, say("so"))
    assert model.heard[0][0]["content"] == [{"text": "[redacted]"}]


async def test_it_can_be_resumed_again_and_again() -> None:
    turns = [use((f"t{number}", "first", {})) for number in range(4)]
    history = await crashed(of_type("tool.finished"), turns[0], turns[1], say("."))
    first, _, _, desk = await resumed(history, turns[2], say("."))
    assert desk.runs == ["first"]
    again = ListRecorder(history)
    for event in first.recorded[:-3]:  # it dies once more, before its last message
        again.recorded.append(event)
    _, ended, model, desk = await resumed(again.recorded, say("done"))
    assert desk.runs == []
    assert roles(model.heard[0]) == ["user:text"] + ["assistant:toolUse", "user:toolResult"] * 3
    assert ended.result["text"] == "done"


async def test_usage_is_the_sum_over_all_attempts() -> None:
    history = await crashed(of_type("tool.finished"), BOTH, say("ok"))
    _, ended, _, _ = await resumed(history, say("one ", "two"))
    assert ended.usage == {"input_tokens": 14, "output_tokens": 2, "total_tokens": 16}


async def test_the_factorys_messages_come_before_the_agents_own() -> None:
    before: Any = [
        {"role": "user", "content": [{"text": "be brief"}]},
        {"role": "assistant", "content": [{"text": "yes"}]},
    ]
    history = await crashed(of_type("tool.finished"), BOTH, say("ok"))
    _, _, model, _ = await resumed(history, say("ok"), messages=before)
    assert roles(model.heard[0]) == [
        "user:text", "assistant:text", "user:text", "assistant:toolUse", "user:toolResult",
    ]  # fmt: skip


async def test_bytes_in_messages_are_bytes_again() -> None:
    @tool
    def look() -> dict[str, Any]:
        """Look at a picture."""
        image = {"format": "png", "source": {"bytes": b"png"}}
        return {"status": "success", "content": [{"image": image}]}

    recorder, _ = await drive(agent(Playbook(use(("t1", "look", {})), say("a cat")), look))
    for last in ("tool.finished", "llm.token"):
        model = Playbook(say("a cat"))
        await drive(agent(model, look), history=cut(recorder, of_type(last)))
        shown = model.heard[0][2]["content"][0]["toolResult"]["content"][0]
        assert shown["image"]["source"]["bytes"] == b"png"


# Structured output


class Person(BaseModel):
    name: str


PERSON = use(("p1", "Person", {"name": "Ada"}))


@pytest.mark.parametrize("last", ["tool.started", "tool.finished"])
async def test_structured_output_is_made_again(last: str) -> None:
    recorder, _ = await drive(agent(Playbook(PERSON), structured_output_model=Person))
    model = Playbook()
    product = agent(model, structured_output_model=Person)
    _, ended = await drive(product, history=cut(recorder, of_type(last)))
    assert ended.result["structured_output"] == {"name": "Ada"}
    assert model.calls == 0


async def test_an_answer_that_has_yet_to_be_structured_is_not_the_end() -> None:
    recorder, _ = await drive(agent(Playbook(say("Ada"), PERSON), structured_output_model=Person))
    for last in range(2):
        messages = [event.seq for event in recorder.recorded if event.type == "llm.message"]
        model = Playbook(PERSON)
        product = agent(model, structured_output_model=Person)
        _, ended = await drive(product, history=recorder.recorded[: messages[last]])
        assert ended.result["structured_output"] == {"name": "Ada"}
        assert roles(model.heard[0]) == ["user:text", "assistant:text", "user:text"]


# Hierarchies


def office(desk: Desk) -> Agent:
    """Three levels; the scripted model calls its first tool, and says the result."""
    worker = agent(ScriptedModel(), desk.tools[0], name="worker")
    team = agent(ScriptedModel(), worker, name="team")
    return agent(ScriptedModel(), team, name="root")


async def test_wherever_its_worker_dies_a_hierarchy_comes_to_the_same_end() -> None:
    desk = Desk()
    recorder, ended = await drive(office(desk))
    assert desk.runs == ["first"]
    whole = len(recorder.recorded)
    for seq in range(2, whole + 1):
        history, desk = recorder.recorded[:seq], Desk()
        again, ended_again = await drive(office(desk), history=again_after(history, 2))
        types = [event.type for event in history if event.type.startswith("tool.")]
        known = types.count("tool.finished") > 0
        assert desk.runs == ([] if known else ["first"]), seq
        assert ended_again.result == ended.result, seq
        assert _memory(again.recorded) == _memory(recorder.recorded), seq
        assert spoken(again.recorded) == spoken(recorder.recorded), seq


def _memory(recorded: Sequence[RecordedEvent]) -> list[Any]:
    messages = [event for event in read(recorded) if isinstance(event, Message)]
    return [(event.agent, event.call_id, event.message) for event in messages]


@pytest.mark.parametrize(
    ("kind", "nth", "runs"),
    [
        ("tool.started", 2, ["first", "first"]),  # the first call's worker had its tool running
        ("tool.finished", 0, ["first"]),  # it had the tool's result
        ("tool.finished", 1, ["first"]),  # the worker's call was done
        ("tool.finished", 2, ["first"]),  # the team's call was done
        ("tool.started", 5, ["first"]),  # the second call's worker had its tool running
    ],
)
async def test_a_second_call_does_not_remember_the_first_ones_conversation(
    kind: str, nth: int, runs: list[str]
) -> None:
    """The scripted model's tool use ids come again in every conversation."""

    def root(desk: Desk, *turns: Any) -> Agent:
        worker = agent(ScriptedModel(), desk.tools[0], name="worker")
        return agent(Playbook(*turns), agent(ScriptedModel(), worker, name="team"))

    ask = [use((f"t{number}", "team", {"input": "?"})) for number in (1, 2)]
    recorder, _ = await drive(root(Desk(), *ask, say("done")))
    seqs = [event.seq for event in recorder.recorded if event.type == kind]
    asked = nth > 2
    desk = Desk()
    rest = [say("done")] if asked else [ask[1], say("done")]
    again, _ = await drive(root(desk, *rest), history=recorder.recorded[: seqs[nth]])
    assert desk.runs == runs
    assert _memory(again.recorded) == _memory(recorder.recorded)


def test_a_call_that_has_its_result_is_forgotten_with_all_below_it() -> None:
    recorder = ListRecorder()
    said = {"role": "assistant", "content": [{"text": "hm"}]}
    for path, call_id in (
        ("demo", None),
        ("demo/team", "t1"),
        ("demo/team/worker", "w1"),
        ("demo/tea", "t1"),
    ):
        recorder.keep(Message(agent=path, call_id=call_id, message=said))
    recorder.keep(ToolFailed(agent="demo", tool_use_id="t1", name="team", output=[{"text": "no"}]))
    assert recall(recorder.recorded).conversations.keys() == {("demo", None), ("demo/tea", "t1")}


async def test_a_sub_agent_whose_ending_was_missing_is_not_asked_again() -> None:
    def root(model: Playbook) -> Agent:
        return agent(Playbook(use(("t1", "worker", {"input": "?"})), say("ok")), agent(model, name="worker"))

    recorder, _ = await drive(root(Playbook(say("the ", "answer"))))
    history = cut(recorder, lambda event: event.type == "llm.message" and b"the answer" in event.data)
    history = [event for event in history if event.seq < _first(recorder.recorded, "tool.finished")]
    model = Playbook()
    again, _ = await drive(agent(Playbook(say("ok")), agent(model, name="worker")), history=history)
    assert model.calls == 0
    assert again.of(ToolFinished)[0].output == [{"text": "the answer\n"}]


async def test_a_delegates_known_answer_ends_the_run_without_a_model_call() -> None:
    def root(*turns: Any) -> tuple[Agent, Playbook]:
        model = Playbook(*turns)
        clerk = agent(Playbook(say("no refund")), name="clerk")
        return agent(model, clerk.as_tool(delegate=True)), model

    recorder, ended = await drive(root(use(("t1", "clerk", {"input": "?"})))[0])
    product, model = root()
    _, again = await drive(product, history=cut(recorder, of_type("tool.finished")))
    assert model.calls == 0
    assert again.result["text"].strip() == ended.result["text"].strip() == "no refund"


async def test_an_agent_with_a_session_manager_of_its_own_starts_from_the_input(tmp_path: Any) -> None:
    history = await crashed(of_type("tool.finished"), BOTH, say("ok"))
    manager = FileSessionManager(session_id="s", storage_dir=str(tmp_path))
    _, _, model, desk = await resumed(history, BOTH, say("ok"), session_manager=manager)
    assert roles(model.heard[0]) == ["user:text"]
    assert sorted(desk.runs) == ["first", "second"]


# Text that a client drops


async def test_text_after_the_last_message_of_the_root_is_said_again() -> None:
    recorder, _ = await drive(agent(Playbook(BOTH, say("so ", "far")), *Desk().tools))
    history = cut(recorder, of_type("llm.token"))
    seq = discard_after(history)
    assert seq == max(event.seq for event in history if event.type == "llm.message")
    kept = [event for event in history if event.seq <= seq]
    again, ended, _, _ = await resumed(history, say("so ", "it is"))
    assert text([event for event in read(kept) if isinstance(event, Token)]) == ""
    assert text(again.of(Token)) == ended.result["text"]


async def test_before_the_first_message_all_text_is_said_again() -> None:
    history = await crashed(of_type("llm.token"), say("so ", "far"))
    assert discard_after(history) == 2 == _first(history, "lifecycle.started")


async def test_a_sub_agents_messages_do_not_keep_the_roots_text() -> None:
    recorder, _ = await drive(office(Desk()))
    first = _first(recorder.recorded, "llm.message")
    inner = [event.seq for event in recorder.recorded if event.type == "llm.message"][2]
    assert discard_after(recorder.recorded[:inner]) == first


async def test_streamed_text_may_be_left_out_of_the_history() -> None:
    history = await crashed(of_type("llm.token"), BOTH, say("so ", "far"))
    short = [event for event in history if event.type not in ("llm.token", "llm.reasoning")]
    assert discard_after(short) == discard_after(history)
    assert recall(short) == recall(history)


def test_a_later_attempt_without_a_message_keeps_the_first_one_s_cursor() -> None:
    recorder = ListRecorder()
    recorder.keep(Token(agent="demo", text="so "))
    recorder.keep(Started(worker_id="worker-2", attempt=2, reason="adopted", discard_after_seq=2))
    recorder.keep(Token(agent="demo", text="so "))
    assert discard_after(recorder.recorded) == 2


def test_a_run_that_never_started_has_nothing_to_drop() -> None:
    assert discard_after([]) is None
    assert discard_after(ListRecorder().recorded[:1]) is None


def test_nothing_is_recalled_of_an_empty_history() -> None:
    memory = recall([])
    assert (memory.conversations, memory.usage) == ({}, {})


def test_usage_is_recalled_of_every_agent() -> None:
    recorder = ListRecorder()
    for path in ("demo", "demo/worker"):
        recorder.keep(Usage(agent=path, input_tokens=1, output_tokens=2))
    assert recall(recorder.recorded).usage == {"input_tokens": 2, "output_tokens": 4, "total_tokens": 6}


@pytest.mark.parametrize(
    "block",
    [
        {"text": "bytes"},
        {"toolUse": {"toolUseId": "t", "name": "n", "input": {"bytes": "no base64"}}},
        {"toolResult": {"toolUseId": "t", "status": "success", "content": [{"json": {"bytes": "§"}}]}},
        {"image": "no image"},
        {"document": {"source": {"location": {"uri": "s3://x"}}}},
    ],
)
def test_only_media_hold_base64(block: Any) -> None:
    assert with_bytes(block) == block


def test_media_are_found_wherever_they_may_be() -> None:
    image = {"image": {"format": "png", "source": {"bytes": "cG5n"}}}
    real = {"image": {"format": "png", "source": {"bytes": b"png"}}}
    assert with_bytes({"guardContent": image}) == {"guardContent": real}
    assert with_bytes({"reasoningContent": {"redactedContent": "cG5n"}}) == {
        "reasoningContent": {"redactedContent": b"png"}
    }
    assert input_messages([{"role": "user", "content": [image]}]) == [{"role": "user", "content": [real]}]


def _first(history: Sequence[RecordedEvent], type: str) -> int:
    return next(event.seq for event in history if event.type == type)
