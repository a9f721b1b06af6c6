"""Runs of one session, and what the next one's model is sent."""

from collections.abc import Sequence
from typing import Any
from unittest.mock import ANY

import pytest
from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.multiagent import GraphBuilder, Swarm

from runstore.core.events import (
    Cancelled,
    Completed,
    ContextReduced,
    Deleted,
    Failed,
    InputReplaced,
    Message,
    Started,
)
from runstore.runtime.memory import session_memory
from runstore.runtime.memory.held import bare
from tests.runtime.recording import read
from tests.runtime.session import Session
from tests.runtime.strands_kit import Playbook, Turn, agent, delta, say, think, use

MAX_TOKENS = {"messageStop": {"stopReason": "max_tokens"}}
START = {"messageStart": {"role": "assistant"}}


class Answer(BaseModel):
    """A number."""

    number: int


@tool
def look() -> str:
    """Look it up."""
    return "on page 12"


@pytest.fixture
def session() -> Session:
    return Session()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": text}]}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"text": text}]}


def roles(messages: Sequence[Any]) -> list[str]:
    return [message["role"] for message in messages]


async def hears(session: Session, asked: Any = "next", name: str = "demo") -> list[dict[str, Any]]:
    """The messages that the model gets."""
    model = Playbook(say("yes"))
    await session.turn(agent(model), asked, agent=name)
    return [{"role": each["role"], "content": each["content"]} for each in model.heard[0]]


# ---- several agents ----


def with_a_tool() -> Agent:
    turns = [START, delta(text="Let me look."), {"contentBlockStop": {}}, *use(("t1", "look", {}))[1:]]
    return agent(Playbook(turns, think("Hm.") + say("It is on page 12.")), look)


def structured() -> Agent:
    return agent(Playbook(use(("s1", "Answer", {"number": 7}))), structured_output_model=Answer)


@tool(context=True)
def finish(tool_context: ToolContext) -> str:
    """Answer at once."""
    tool_context.agent.cancel(after_current_tools=True)
    return "on page 12"


def ends_in_a_result() -> Agent:
    return agent(Playbook(use(("t1", "finish", {}))), finish)


def graph() -> Any:
    builder = GraphBuilder()
    builder.add_node(agent(Playbook(say("first thoughts"))), "first")
    builder.add_node(agent(Playbook(say("the graph's answer"))), "second")
    builder.add_edge("first", "second")
    builder.set_execution_timeout(60)
    return builder.build()


def swarm() -> Any:
    return Swarm([agent(Playbook(say("the swarm's answer")), name="one")])


OTHERS = {
    "tools": (with_a_tool, "Let me look.", "It is on page 12."),
    "structured output": (structured, '{"number":7}'),
    "a result at its end": (ends_in_a_result, "on page 12"),
    "graph": (graph, "the graph's answer"),
    "swarm": (swarm, "the swarm's answer"),
}


@pytest.mark.parametrize(("make", "words"), [(make, words) for make, *words in OTHERS.values()], ids=OTHERS)
async def test_another_agents_turns_are_remembered_as_text_and_roles_alternate(
    session: Session, make: Any, words: list[str]
) -> None:
    assert await hears(session, "one") == [user("one")]
    await session.turn(make(), "look it up", agent="other")
    await session.turn(make(), "and again", agent="other")
    heard = await hears(session)
    said = {"role": "assistant", "content": [{"text": word} for word in words]}
    assert heard == [
        user("one"), answer("yes"), user("look it up"), said, user("and again"), said, user("next"),
    ]  # fmt: skip


async def test_each_of_two_agents_has_its_own_tools_and_the_others_words(session: Session) -> None:
    await session.turn(with_a_tool(), "look it up", agent="a")
    await hears(session, "thanks", "b")
    to_a, to_b = await session.memory("a"), await session.memory("b")
    assert roles(to_a) == ["user", "assistant", "user", "assistant", "user", "assistant"]
    assert "toolUse" in str(to_a)
    assert "reasoningContent" in str(to_a)
    assert roles(to_b) == ["user", "assistant", "user", "assistant"]
    assert not [word for word in ("toolUse", "toolResult", "reasoningContent") if word in str(to_b)]


async def test_another_agent_remembers_text_that_one_agent_has_forgotten(session: Session) -> None:
    for number in range(4):
        brief = agent(Playbook(say("yes")), conversation_manager=SlidingWindowConversationManager(2))
        await session.turn(brief, f"question {number}", agent="brief")
    assert await session.memory("brief") == [user("question 3"), answer("yes")]
    assert len(await session.memory("other")) == 8


async def test_a_run_without_memory_forgets_nothing_of_its_session(session: Session) -> None:
    await hears(session, "one")
    brief = SlidingWindowConversationManager(3)
    product = agent(Playbook(use(("t1", "look", {})), say("there")), look, conversation_manager=brief)
    await session.turn(product, "two", memory=None)
    assert (await session.memory())[:2] == [user("one"), answer("yes")]


# ---- turns that come to nothing, or not to their end ----

FAILING: dict[str, tuple[Turn, str]] = {
    "an error": ([START, delta(text="half"), ConnectionError("reset")], "model_unavailable"),
    "unsigned reasoning alone": (think("Hm, "), "model_invalid_answer"),
    "reasoning, and the stream ends": ([START, *think("Hm, ")], "model_unavailable"),
    "half an answer, and the stream ends": (say("The capital of")[:-2], "model_unavailable"),
    "half a tool call, and the stream ends": (use(("t1", "look", {}))[:-2], "model_unavailable"),
}


@pytest.mark.parametrize(("turn", "code"), FAILING.values(), ids=FAILING)
async def test_a_turn_that_was_not_answered_fails_and_is_left_out(
    session: Session, turn: Turn, code: str
) -> None:
    await hears(session, "one")
    ending = await session.turn(agent(Playbook(turn), look, retry_strategy=None), "two")
    assert isinstance(ending, Failed)
    assert ending.code == code
    assert await hears(session) == [user("one"), answer("yes"), user("next")]


async def test_an_answer_that_max_tokens_cut_off_is_remembered(session: Session) -> None:
    turn = [START, delta(text="The capital of"), {"contentBlockStop": {}}, MAX_TOKENS]
    await session.turn(agent(Playbook(turn)), "one")
    assert await hears(session) == [user("one"), answer("The capital of"), user("next")]


async def test_so_is_one_of_a_release_where_that_was_a_failure(session: Session) -> None:
    message = Message(agent="demo", message=answer("The capital of"))
    await session.recorded("one", message, Failed(code="max_tokens", message="cut off"))
    assert await hears(session) == [user("one"), answer("The capital of"), user("next")]


async def test_a_note_stands_for_reasoning_that_max_tokens_cut_off(session: Session) -> None:
    await session.turn(agent(Playbook([START, *think("Hm, "), MAX_TOKENS])), "one")
    assert await hears(session) == [user("one"), answer(session_memory.NO_TEXT), user("next")]


NOTHING: Turn = [START, {"messageStop": {"stopReason": "end_turn"}}]
USAGE = {"metadata": {"usage": {"inputTokens": 7, "outputTokens": 0, "totalTokens": 7}}}


@pytest.mark.parametrize("turn", [NOTHING, [*NOTHING, USAGE]], ids=["no usage", "usage"])
async def test_a_model_may_have_nothing_to_add_to_the_results_of_its_tools(
    session: Session, turn: Turn
) -> None:
    product = agent(Playbook(use(("t1", "look", {}))[:-1], turn), look)
    assert await session.turn(product, "one") == Completed({"text": "", "stop_reason": "end_turn"}, ANY)
    heard = await hears(session)
    assert roles(heard) == ["user", "assistant", "user", "assistant", "user"]
    assert heard[3] == answer("[blank text]")  # strands' words, since no provider accepts an empty message


async def test_a_model_that_says_nothing_at_all_has_failed(session: Session) -> None:
    ending = await session.turn(agent(Playbook(NOTHING)), "one")
    assert isinstance(ending, Failed)
    assert ending.code == "model_invalid_answer"


# ---- what the log says of it ----


async def events(session: Session, kind: Any) -> list[Any]:
    """The events of the last run."""
    return [event for event in read(await session.log.read(session.runs[-1])) if isinstance(event, kind)]


async def test_the_log_says_what_a_guardrail_made_of_the_input(session: Session) -> None:
    redaction = {"redactContent": {"redactUserContentMessage": "[redacted]"}}
    await session.turn(agent(Playbook([*say("No."), redaction])), "tell me of CACTUS")
    assert await events(session, InputReplaced) == [
        InputReplaced(agent="demo", messages=[user("[redacted]")])
    ]
    assert "CACTUS" not in str(await hears(session))
    assert "CACTUS" not in str(await hears(session, name="other"))


async def test_a_conversation_manager_that_takes_nothing_away_leaves_no_event(session: Session) -> None:
    for _ in range(3):
        await hears(session)
        assert await events(session, ContextReduced) == []


async def test_the_log_says_what_a_conversation_manager_has_left(session: Session) -> None:
    brief = SlidingWindowConversationManager(3)
    await session.turn(
        agent(Playbook(use(("t1", "look", {})), say("yes")), look, conversation_manager=brief), "one"
    )
    assert await events(session, ContextReduced) == [ContextReduced(agent="demo", kept=3)]


async def test_the_log_has_the_pins_of_the_conversation(session: Session) -> None:
    for number in range(3):
        brief = SlidingWindowConversationManager(3, pin_first=1)
        await session.turn(agent(Playbook(say("yes")), conversation_manager=brief), f"question {number}")
    assert await events(session, ContextReduced) == [
        ContextReduced(agent="demo", kept=2, begins_with=[user("question 0")], pinned=[0])
    ]


# ---- inputs ----


async def test_neighbours_are_joined_when_the_instructions_between_them_are_out(session: Session) -> None:
    system = {"role": "system", "content": [{"text": "be brief"}]}
    conversation = [user("a"), system, user("b"), answer("c"), system, answer("d"), user("e")]
    joined = [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "c"}, {"text": "d"}]},
        user("e"),
    ]
    assert await hears(session, conversation) == joined
    assert await hears(session) == [*joined, answer("yes"), user("next")]


# ---- how much ----


async def test_memory_is_cut_where_a_user_begins_to_speak(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = [each for n in range(50) for each in (user(f"{n} " + "x" * 100), answer("yes"))]
    await hears(session, [*conversation, user("so?")])
    await session.turn(with_a_tool(), "look it up")
    for room in range(1_000, 2_000, 50):
        monkeypatch.setattr(session_memory, "MAX_MEMORY_BYTES", room)
        memory = await session.memory()
        assert memory[0]["role"] == "user"
        assert "toolResult" not in memory[0]["content"][0]
        assert roles(memory[-4:]) == ["user", "assistant", "user", "assistant"]
    assert len(memory) > 8


async def test_a_turn_that_is_too_large_is_remembered_as_text(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_memory, "MAX_MEMORY_BYTES", 200)
    await session.turn(with_a_tool(), "look it up")
    words = {"role": "assistant", "content": [{"text": "Let me look."}, {"text": "It is on page 12."}]}
    assert await session.memory() == [user("look it up"), words]


# ---- several attempts ----


async def test_a_run_that_started_again_from_its_input_is_remembered_once(session: Session) -> None:
    again = Started(worker_id="w", attempt=2, reason="adopted", discard_after_seq=2)
    first = [Message(agent="demo", message=message) for message in (answer("half"), user("go on"))]
    whole = Message(agent="demo", message=answer("whole"))
    await session.recorded("one", *first, again, whole, Completed(result={"text": "whole"}))
    assert await session.memory() == [user("one"), answer("whole")]


async def test_a_message_in_several_events_is_one(session: Session) -> None:
    parts = [Message(agent="demo", message=answer(text), more=True) for text in ("The ", "capital")]
    lost = Message(agent="demo", message=answer("The c"), more=True)
    again = Started(worker_id="w", attempt=2, reason="adopted", discard_after_seq=2)
    inner = Message(agent="demo/inner", call_id="t1", message=answer("inner"))
    last = Message(agent="demo", message=answer("."))
    await session.recorded("one", lost, again, parts[0], inner, parts[1], last, Completed(result={}))
    assert await session.memory() == [user("one"), answer("The capital.")]


async def test_a_turn_with_results_that_no_event_could_hold_is_remembered_as_text(
    session: Session,
) -> None:
    asks = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "a", "input": {}}}]}
    left_out = {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "status": "success"}}]}
    said = [Message(agent="demo", message=message) for message in (asks, left_out, answer("done"))]
    await session.recorded("one", *said, Completed(result={"text": "done"}))
    assert await session.memory() == [user("one"), answer("done")]


async def test_a_turn_that_is_too_large_to_be_read_is_remembered_as_text(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_memory, "MAX_TURN_BYTES", 100)
    await session.turn(with_a_tool(), "look it up")
    words = {"role": "assistant", "content": [{"text": "Let me look."}, {"text": "It is on page 12."}]}
    assert await session.memory() == [user("look it up"), words]


# ---- agents that know something already ----


async def test_a_factory_may_make_its_agent_with_the_memory(session: Session) -> None:
    await hears(session, "one")
    model = Playbook(say("yes"))
    await session.turn(agent(model, messages=await session.memory()), "two")
    assert roles(model.heard[0]) == ["user", "assistant", "user"]
    assert len(await session.memory()) == 4


# ---- turns that do not count, between those that do ----


async def test_failed_stopped_and_deleted_turns_leave_nothing_between_the_others(session: Session) -> None:
    model = Playbook(*(say(f"answer {number}") for number in range(10)))
    for number in range(10):
        await session.turn(agent(model), f"question {number}")
        said = Message(agent="demo", message=answer("half"))
        await session.recorded("lost", said, Cancelled(reason="superseded"))
        await session.recorded("lost", said, Failed(code="model_unavailable", message="reset"))
        await session.recorded("lost", said, Completed(result={"text": "half"}), Deleted(by="alice"))
    one = Playbook(*(say(f"answer {number}") for number in range(10)))
    lived = agent(one)
    for number in range(10):
        await lived.invoke_async(f"question {number}")
    assert [[bare(each) for each in heard] for heard in model.heard] == [
        [bare(each) for each in heard] for heard in one.heard
    ]
