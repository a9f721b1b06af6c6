"""A session's conversation, rebuilt from the log: its content, order and size."""

from typing import Any
from weakref import WeakSet

import msgspec
import pytest
from strands.agent.conversation_manager import SlidingWindowConversationManager

from runstore.core.events import Cancelled, Completed, Deleted, Event, Message, Purged, Queued
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog
from runstore.runtime.memory.session_memory import read_memory
from runstore.runtime.strands.agent import StrandsAgent
from tests.kit.events import CANCELLED, started, token
from tests.kit.purging import FOREVER, OLD, old_run_id
from tests.runtime.recording import ListRecorder, context
from tests.runtime.strands_kit import Playbook, agent, drive, say


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": text}]}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"text": text}]}


USE = {"toolUse": {"toolUseId": "t1", "name": "add", "input": {}}}
RESULT = {"toolResult": {"toolUseId": "t1", "status": "success", "content": [{"text": "3"}]}}


async def run(
    log: EventLog,
    asked: Any,
    *said: dict[str, Any],
    name: str = "demo",
    ending: Event | None = None,
    session: str = "s",
    clock: int | None = None,
) -> str:
    """A run of the session that has ended. `clock`: the time where it was made, if it is not ours."""
    run_id = new_run_id() if clock is None else old_run_id(clock)
    queued = Queued(agent=name, user_id="alice", input=asked, session_id=session)
    await log.append(run_id, [queued, started()], expected_seq=0)
    messages = [Message(agent=name, message=message) for message in said]
    inner = Message(agent=f"{name}/inner", call_id="t1", message=answer("inner"))
    await log.append(run_id, [*messages, inner, ending or Completed(result={"text": "the result"})])
    return run_id


async def memory(log: EventLog, name: str = "demo", session: str = "s") -> list[dict[str, Any]]:
    """The messages with which a new run of the session begins."""
    queued = Queued(agent=name, user_id="alice", input="next", session_id=session)
    run_id = new_run_id()
    await log.append(run_id, [queued, CANCELLED], expected_seq=0)
    return await read_memory(log, run_id, queued)


@pytest.mark.parametrize("clocks", [(None, None), (FOREVER, OLD)], ids=["same", "differ"])
async def test_a_conversation_is_its_runs_inputs_and_messages_in_order(
    log: EventLog, clocks: tuple[int | None, int | None]
) -> None:
    await run(log, "one", answer("two"), clock=clocks[0])
    await run(log, [{"text": "three"}], answer("four"), clock=clocks[1])
    assert await memory(log) == [user("one"), answer("two"), user("three"), answer("four")]


async def test_an_agent_that_records_no_messages_is_remembered_by_its_result(log: EventLog) -> None:
    await run(log, "one")
    assert await memory(log) == [user("one"), answer("the result")]


async def test_runs_that_did_not_succeed_are_left_out(log: EventLog) -> None:
    await run(log, "stopped", answer("half"), ending=Cancelled(reason="superseded"))
    deleted = await run(log, "deleted", answer("gone"))
    await log.append(deleted, [Deleted(by="alice")])
    await run(log, "elsewhere", answer("other"), session="other")
    await run(log, "one", answer("two"))
    open_run = new_run_id()
    queued = Queued(
        agent="demo", user_id="alice", input="open", session_id="s", multitask_strategy="parallel"
    )
    await log.append(open_run, [queued, started(), token()], expected_seq=0)
    assert await memory(log) == [user("one"), answer("two")]


@pytest.mark.parametrize("listed", [False, True], ids=["before", "while it is read"])
async def test_a_run_that_was_purged_is_left_out(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    purged = await run(log, "one", answer("two"))
    runs = [await run(log, "three", answer("four")), purged]
    summary = Purged(
        by="retention", user_id="alice", agent="demo", session_id="s", status="success", created_at=1,
        completed_at=2, counts={},
    )  # fmt: skip
    await log.append(purged, [summary])

    async def read_before(*where: str, **which: Any) -> list[str]:
        return runs

    if listed:
        monkeypatch.setattr(log, "session_runs", read_before)
    assert await memory(log) == [user("three"), answer("four")]


async def test_a_run_with_a_whole_conversation_replaces_all_earlier_turns(log: EventLog) -> None:
    await run(log, "one", answer("two"))
    instructions = {"role": "system", "content": [{"text": "be brief"}]}
    await run(log, [instructions, user("a"), answer("b"), user("c")], answer("d"))
    assert await memory(log) == [user("a"), answer("b"), user("c"), answer("d")]


async def test_tools_are_remembered_for_their_own_agent_and_words_for_others(log: EventLog) -> None:
    use, result = {"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}
    await run(log, "add", use, result, answer("3"))
    assert await memory(log) == [user("add"), use, result, answer("3")]
    assert await memory(log, "other") == [user("add"), answer("3")]


async def test_an_empty_message_to_the_model_is_left_out(log: EventLog) -> None:
    """As an answer leaves it whose tool calls a hook has taken out."""
    nothing = {"role": "user", "content": []}
    await run(log, "one", answer("two"), nothing, answer("three"))
    await run(log, "four", answer("five"), nothing)
    assert await memory(log) == [
        user("one"),
        {"role": "assistant", "content": [{"text": "two"}, {"text": "three"}]},
        user("four"),
        answer("five"),
    ]


async def test_the_newest_runs_are_remembered_as_far_as_there_is_room(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await run(log, f"question {number}", answer("x" * 1000))
    monkeypatch.setattr("runstore.runtime.memory.session_memory.MAX_MEMORY_BYTES", 2500)
    found = await memory(log)
    assert [found[0], found[2]] == [user("question 3"), user("question 4")]
    assert len(found) == 4


async def test_the_number_of_examined_runs_is_bounded(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        await run(log, f"question {number}", answer("yes"))
    monkeypatch.setattr("runstore.runtime.memory.session_memory.MAX_RUNS", 1)
    assert await memory(log) == [user("question 2"), answer("yes")]


async def test_an_agent_gets_its_memory_before_its_input() -> None:
    model = Playbook(say("yes"))
    recorder = await remembering(agent(model), [user("one"), answer("two")])
    assert model.heard[0][:3] == [user("one"), answer("two"), user("hi")]
    assert [message.message["role"] for message in recorder.of(Message)] == ["assistant"]


async def test_the_agents_conversation_manager_bounds_its_memory() -> None:
    model = Playbook(say("yes"))
    past = [message for number in range(10) for message in (user(f"q{number}"), answer(f"a{number}"))]
    small = agent(model, conversation_manager=SlidingWindowConversationManager(window_size=4))
    await remembering(small, past)
    assert model.heard[0][0] == user("q8")


async def test_a_conversations_instructions_are_added_to_the_agents_own() -> None:
    product = agent(Playbook(say("yes")), system_prompt="You are a cook.")
    await drive(product, [{"role": "system", "content": [{"text": "Be brief."}]}, user("hi")])
    assert product.system_prompt_content == [{"text": "You are a cook."}, {"text": "Be brief."}]


async def remembering(product: Any, past: list[dict[str, Any]]) -> ListRecorder:
    """Run an agent that begins with a memory."""
    recorder = ListRecorder()
    remembered = msgspec.structs.replace(context(), memory=past)
    await StrandsAgent(product, remembered, WeakSet()).run("hi", [], recorder)
    return recorder
