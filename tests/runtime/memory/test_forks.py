"""Where a fork begins: at a message, or after all tools of one."""

from typing import Any

import pytest

from runstore.core.events import Queued
from runstore.runtime.memory.forks import ForkedConversation, fork_of
from tests.runtime.memory.test_resume import BOTH, Desk
from tests.runtime.recording import ListRecorder, read
from tests.runtime.strands_kit import Playbook, agent, drive, say, use

QUESTION = [{"role": "user", "content": [{"text": "hi"}]}]


async def played() -> ListRecorder:
    """Two parallel tools, and an answer."""
    recorder, _ = await drive(agent(Playbook(BOTH, say("done ", "now")), *Desk().tools))
    return recorder


def forked(recorder: ListRecorder, at: int, *, asks: bool = False) -> ForkedConversation:
    queued = read(recorder.recorded[:1])[0]
    assert isinstance(queued, Queued)
    return fork_of(queued, recorder.recorded[:at], memory=[], asks=asks)


def seqs(recorder: ListRecorder, type: str) -> list[int]:
    return [event.seq for event in recorder.recorded if event.type == type]


async def test_between_two_tools_it_goes_back_to_the_input() -> None:
    recorder = await played()
    first, second = seqs(recorder, "tool.finished")
    assert forked(recorder, first) == ForkedConversation(1, QUESTION, [])
    fork = forked(recorder, second)
    assert (fork.seq, [each["role"] for each in fork.messages]) == (second, ["user", "assistant", "user"])
    results = [block["toolResult"] for block in fork.messages[-1]["content"]]
    assert sorted(result["content"][0]["text"] for result in results) == ["1st", "2nd"]


async def test_it_ends_with_an_answer_only_if_input_follows() -> None:
    recorder = await played()
    calls, results, answer = seqs(recorder, "llm.message")
    assert forked(recorder, len(recorder.recorded), asks=True).seq == answer
    assert forked(recorder, len(recorder.recorded)).seq == results
    assert forked(recorder, calls, asks=True).seq == 1


@pytest.mark.parametrize("asks", [True, False])
async def test_every_seq_has_a_boundary_at_or_before_it(asks: bool) -> None:
    recorder = await played()
    for at in range(1, len(recorder.recorded) + 1):
        fork = forked(recorder, at, asks=asks)
        assert fork.seq <= at
        assert fork.messages[0] == QUESTION[0]


async def test_no_tool_runs_again_in_a_fork() -> None:
    recorder, desk = await played(), Desk()
    model = Playbook(say("again"))
    fork: Any = forked(recorder, len(recorder.recorded))
    _, ended = await drive(agent(model, *desk.tools), fork.messages)
    assert (ended.result["text"], desk.runs) == ("again", [])
    assert model.heard[0] == fork.messages


async def test_a_call_without_a_result_is_not_part_of_it() -> None:
    recorder, _ = await drive(agent(Playbook(use(("t1", "first", {})), say("x")), *Desk().tools))
    (started,) = seqs(recorder, "tool.started")
    assert forked(recorder, started, asks=True).messages == QUESTION


async def test_an_earlier_result_with_the_same_tool_use_id_is_of_another_call() -> None:
    turns = Playbook(use(("call_0", "first", {})), use(("call_0", "second", {})), say("x"))
    recorder, _ = await drive(agent(turns, *Desk().tools))
    _, second = seqs(recorder, "tool.finished")
    fork = forked(recorder, second - 1)
    assert fork.seq < second
    assert fork.messages == forked(recorder, seqs(recorder, "llm.message")[1]).messages
    assert "2nd" in str(forked(recorder, second).messages[-1])
