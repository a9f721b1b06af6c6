"""Agents that run again beside the log of their run, in this process."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import pytest
from msgspec.structs import replace
from pydantic import BaseModel
from strands import Agent, tool
from strands.hooks import AfterToolCallEvent, BeforeToolCallEvent
from strands.multiagent import GraphBuilder

from runstore.core.codec import decode
from runstore.core.errors import AgentError
from runstore.core.events import Completed, Failed, InputAdded, InputGiven, Queued, Started
from runstore.core.ports import AgentResult
from runstore.core.records import record_of
from runstore.runtime.replay.dialogues import RecordedRun, recorded_run
from runstore.runtime.replay.follower import Follower
from runstore.runtime.strands.agent import StrandsAgent
from runstore.store.replays import Replayed, run_beside
from tests.runtime.recording import ListRecorder, again_after, context
from tests.runtime.strands_kit import Playbook, agent, cut, drive, say, think, use

Make = Callable[[], Any]


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def search(calls: list[str]) -> Any:
    @tool
    def search(q: str) -> str:
        """Search."""
        calls.append(q)
        return f"found {q}"

    return search


def ended(recorder: ListRecorder, result: dict[str, Any] | None = None) -> RecordedRun:
    """The run in a log, once it has ended well."""
    recorder.keep(Completed(result=result or {}))
    return recorded_run(map(record_of, recorder.recorded))


async def run_of(product: Any, input: Any = "hi") -> RecordedRun:
    recorder, done = await drive(product, input)
    return ended(recorder, done.result)


async def again(product: Any, run: RecordedRun, **options: Any) -> Replayed:
    follower = Follower(run, **options)
    adapter = StrandsAgent(product, context(), WeakSet())
    adapter.answer_from(follower)
    return await run_beside(adapter, run, follower, 60)


async def test_calls_are_answered_though_the_model_gives_them_other_ids(
    search: Any, calls: list[str]
) -> None:
    def turns(number: int) -> list[Any]:
        return [use((f"{number}-a", "search", {"q": "x"}), (f"{number}-b", "search", {"q": "y"})), say("ok")]

    run = await run_of(agent(Playbook(*turns(1)), search))
    assert sorted(calls) == ["x", "y"]
    model = Playbook(*turns(2))
    done = await again(agent(model, search), run)
    assert (done.equal, done.answered) == (True, 2)
    assert len(calls) == 2
    results = [block["toolResult"] for block in model.heard[1][-1]["content"]]
    assert [each["content"] for each in results] == [[{"text": "found x"}], [{"text": "found y"}]]


async def test_a_model_may_use_an_id_again_in_a_later_turn(search: Any, calls: list[str]) -> None:
    turns = [use(("1", "search", {"q": "x"})), use(("1", "search", {"q": "y"})), say("ok")]
    run = await run_of(agent(Playbook(*turns), search))
    model = Playbook(*turns)
    assert (await again(agent(model, search), run)).equal
    said = [model.heard[turn][-1]["content"][0]["toolResult"]["content"] for turn in (1, 2)]
    assert said == [[{"text": "found x"}], [{"text": "found y"}]]
    assert len(calls) == 2


async def test_a_failed_tool_fails_again_with_the_same_words(calls: list[str]) -> None:
    @tool
    def fragile() -> str:
        """Break."""
        calls.append("called")
        raise ValueError("broken")

    turns = [use(("1", "fragile", {})), say("ok")]
    run = await run_of(agent(Playbook(*turns), fragile))
    model = Playbook(*turns)
    assert (await again(agent(model, fragile), run)).equal
    assert model.heard[1][-1]["content"][0]["toolResult"]["status"] == "error"
    assert calls == ["called"]


async def test_a_tool_that_the_agent_has_no_more_is_a_difference(search: Any) -> None:
    turns = [use(("1", "search", {"q": "x"})), say("ok")]
    run = await run_of(agent(Playbook(*turns), search))
    done = await again(agent(Playbook(*turns)), run)
    assert done.difference is not None
    assert (done.difference.kind, done.difference.recorded) == ("tool", "search")


async def test_reasoning_is_no_difference() -> None:
    run = await run_of(agent(Playbook([*think("a long while"), *say("ok")])))
    assert (await again(agent(Playbook(say("ok"))), run)).equal


async def test_the_same_agent_called_twice_with_one_id_has_two_dialogues(
    search: Any, calls: list[str]
) -> None:
    def chief() -> Agent:
        inner = [use(("1", "search", {"q": "x"})), say("one"), use(("1", "search", {"q": "y"})), say("two")]
        helper = agent(Playbook(*inner), search, name="helper")
        turns = [use(("1", "helper", {"input": "a"})), use(("1", "helper", {"input": "b"})), say("done")]
        return agent(Playbook(*turns), helper.as_tool(preserve_context=False))

    run = await run_of(chief())
    assert [each.agent for each in run.dialogues] == ["demo", "demo/helper", "demo/helper"]
    done = await again(chief(), run)
    assert (done.equal, done.answered) == (True, 2), done.difference
    assert calls == ["x", "y"]


async def test_a_node_that_is_visited_again_has_a_dialogue_for_each_visit(
    search: Any, calls: list[str]
) -> None:
    def graph(*last: Any) -> Any:
        model = Playbook(use(("1", "search", {"q": "x"})), say("again"), *last)
        builder = GraphBuilder()
        builder.add_node(agent(model, search), "node")
        builder.add_edge("node", "node", condition=lambda state: len(state.execution_order) < 2)
        builder.set_entry_point("node")
        builder.set_execution_timeout(60)
        builder.set_max_node_executions(5)
        return builder.build()

    ending = (use(("1", "search", {"q": "y"})), say("done"))
    run = await run_of(graph(*ending))
    assert [each.agent for each in run.dialogues if each.answers] == ["demo/node", "demo/node"]
    assert (await again(graph(*ending), run)).answered == 2
    done = await again(graph(say("done")), run)
    assert done.difference is not None
    assert (done.difference.agent, done.difference.answer) == ("demo/node", 1)
    assert len(calls) == 2


async def test_a_tool_that_calls_an_agent_is_answered_as_a_whole(calls: list[str]) -> None:
    inner = Playbook(say("thought"))

    @tool
    def think_it_over() -> str:
        """Ask another agent."""
        calls.append("called")
        return str(agent(inner)("hm"))

    turns = [use(("1", "think_it_over", {})), say("ok")]
    run = await run_of(agent(Playbook(*turns), think_it_over))
    done = await again(agent(Playbook(*turns), think_it_over), run)
    assert (done.equal, done.answered, inner.calls, calls) == (True, 1, 1, ["called"]), done.difference


async def test_arguments_that_a_hook_changes_have_to_be_the_same(search: Any, calls: list[str]) -> None:
    def changing(q: str) -> Agent:
        made = agent(Playbook(use(("1", "search", {"q": "x"})), say("ok")), search)
        made.add_hook(lambda event: event.tool_use.update(input={"q": q}), BeforeToolCallEvent)
        return made

    run = await run_of(changing("y"))
    assert (await again(changing("y"), run)).equal
    done = await again(changing("z"), run)
    assert done.difference is not None
    assert (done.difference.recorded["input"], done.difference.came["input"]) == ({"q": "y"}, {"q": "z"})
    assert calls == ["y"]


async def test_a_hook_that_changes_a_result_is_a_difference(search: Any) -> None:
    turns = [use(("1", "search", {"q": "x"})), say("ok")]
    run = await run_of(agent(Playbook(*turns), search))
    changed = agent(Playbook(*turns), search)

    def shorten(event: AfterToolCallEvent) -> None:
        event.result = {**event.result, "content": [{"text": "…"}]}

    changed.add_hook(shorten, AfterToolCallEvent)
    done = await again(changed, run)
    assert done.difference is not None
    assert done.difference.kind == "result"
    assert done.difference.came["output"] == [{"text": "…"}]


class Weather(BaseModel):
    """The weather."""

    degrees: int


async def test_an_object_is_made_again_and_compared() -> None:
    def forecaster(degrees: int) -> Agent:
        model = Playbook(use(("1", "Weather", {"degrees": degrees})))
        return agent(model, structured_output_model=Weather)

    run = await run_of(forecaster(7))
    done = await again(forecaster(7), run)
    assert (done.equal, done.result["structured_output"]) == (True, {"degrees": 7}), done
    assert not (await again(forecaster(8), run)).equal


async def test_a_call_without_a_result_in_the_log_is_not_made(search: Any, calls: list[str]) -> None:
    turns = [use(("1", "search", {"q": "x"})), say("ok")]
    recorder, _ = await drive(agent(Playbook(*turns), search))
    recorder.recorded = cut(recorder, lambda event: event.type == "tool.started")
    recorder.keep(Failed(code="worker_lost", message="gone"))
    run = recorded_run(map(record_of, recorder.recorded))
    calls.clear()
    done = await again(agent(Playbook(*turns), search), run)
    assert done.difference is not None
    assert (done.difference.kind, done.difference.recorded, calls) == ("result", None, [])


async def test_a_run_that_was_resumed_is_one_dialogue(search: Any, calls: list[str]) -> None:
    turns = [use(("1", "search", {"q": "x"})), use(("2", "search", {"q": "y"})), say("ok")]
    recorder, _ = await drive(agent(Playbook(*turns), search))
    first = cut(recorder, lambda event: event.type == "tool.finished" and b"found x" in event.data)
    history = again_after(first, 2)
    resumed, done = await drive(agent(Playbook(*turns[1:]), search), history=history)
    run = ended(resumed, done.result)
    assert [len(each.answers) for each in run.dialogues] == [3]
    assert (await again(agent(Playbook(*turns), search), run)).equal


async def test_a_run_that_was_restarted_counts_from_its_last_start(search: Any) -> None:
    turns = [use(("1", "search", {"q": "x"})), say("ok")]
    recorder, _ = await drive(agent(Playbook(*turns), search))
    definition = {"on_worker_lost": "restart"}
    restarted = ListRecorder(recorder.recorded[:0])
    restarted.recorded = []
    restarted.keep(Queued(agent="demo", user_id="local", input="hi", definition=definition))
    restarted.keep(Started(worker_id="w", attempt=1, reason="claimed"))
    for event in recorder.recorded[2:6]:
        restarted.keep(_again(event))
    restarted.keep(Started(worker_id="w", attempt=2, reason="adopted", discard_after_seq=2))
    for event in recorder.recorded[2:]:
        restarted.keep(_again(event))
    run = ended(restarted, {"text": "ok"})
    assert (await again(agent(Playbook(*turns), search), run)).equal


def _again(event: Any) -> Any:
    return decode(event.type, event.version, event.data)


async def test_what_people_added_is_heard_at_the_same_place() -> None:
    recorder = ListRecorder()

    @tool
    def wait(q: str) -> str:
        """Wait until a person says something."""
        recorder.keep(InputAdded(content="Only the inner planets.", by="ann"))
        return "waited"

    turns = [use(("1", "wait", {"q": "x"})), say("ok")]
    adapter = StrandsAgent(agent(Playbook(*turns), wait), context(), WeakSet())
    done = await adapter.run("hi", [], recorder)
    assert isinstance(done, AgentResult)
    run = ended(recorder, done.result)
    assert [(each.answer, each.content) for each in run.added] == [(1, "Only the inner planets.")]
    model = Playbook(*turns)
    assert (await again(agent(model, wait), run)).equal
    assert {"text": "Only the inner planets."} in model.heard[1][-1]["content"]
    assert {"text": "Only the inner planets."} not in model.heard[0][-1]["content"]


async def test_a_redacted_answer_is_withheld_and_compared_with_nothing() -> None:
    recorder, _ = await drive(agent(Playbook(say("my secret"))))
    events = [record_of(event) for event in recorder.recorded]
    told = [replace(each, type="llm.redacted", data={"agent": "demo", "message": True})
            if each.type == "llm.message" else each for each in events]  # fmt: skip
    run = recorded_run(told)
    run.status = "success"
    assert "secret" not in str(run)
    assert run.withheld == 1
    assert (await again(agent(Playbook(say("other words"))), run)).equal


async def test_a_product_with_a_session_manager_has_no_replay(tmp_path: Any) -> None:
    from strands.session.file_session_manager import FileSessionManager

    run = await run_of(agent(Playbook(say("ok"))))
    manager = FileSessionManager(session_id="s", storage_dir=str(tmp_path))
    kept = agent(Playbook(say("ok")), session_manager=manager)
    with pytest.raises(AgentError, match="session manager"):
        await again(kept, run)


async def test_an_edited_approval_is_not_asked_for_again(search: Any, calls: list[str]) -> None:
    turns = [use(("1", "search", {"q": "x"})), say("ok")]

    def careful(*more: Any) -> StrandsAgent:
        made = agent(Playbook(*more), search)
        return StrandsAgent(made, context(), WeakSet(), approve=frozenset({"search"}))

    recorder = ListRecorder()
    asked: Any = await careful(*turns).run("hi", [], recorder)
    request = asked.requests[0]
    recorder.keep(replace(request, request_id="1.1"))
    answer = {"approve": True, "input": {"q": "y"}}
    recorder.keep(InputGiven(request_id="1.1", answer=answer, by="ann"))
    history = again_after(recorder.recorded, 2)
    resumed = ListRecorder(history)
    done = await careful(*turns[1:]).run("hi", history, resumed)
    assert isinstance(done, AgentResult)
    assert calls == ["y"]
    run = ended(resumed, done.result)
    follower = Follower(run)
    adapter = careful(*turns)
    adapter.answer_from(follower)
    found = await run_beside(adapter, run, follower, 60)
    assert (found.equal, found.answered, calls) == (True, 1, ["y"]), found.difference
