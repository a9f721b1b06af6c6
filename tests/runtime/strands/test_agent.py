import asyncio
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

import pytest
from pydantic import BaseModel
from strands import Agent, ModelRetryStrategy, tool
from strands.hooks import AfterToolCallEvent, BeforeInvocationEvent, BeforeToolCallEvent, MessageAddedEvent
from strands.multiagent import GraphBuilder, Swarm
from strands.tools.executors import SequentialToolExecutor
from strands.types.exceptions import ContextWindowOverflowException, ModelThrottledException

from runstore.core.depth import MAX_DEPTH
from runstore.core.errors import AgentError, RunClosed
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    InputReplaced,
    Message,
    Reasoning,
    Token,
    ToolFailed,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    Usage,
)
from runstore.demo.model import ScriptedModel
from runstore.runtime.memory.oversized import MAX_RESULT_BYTES
from runstore.runtime.memory.resume import discard_after, recall
from runstore.runtime.strands.agent import StrandsAgent
from tests.core.test_depth import deep
from tests.kit.polling import until
from tests.runtime.recording import ListRecorder, context, text
from tests.runtime.strands_kit import Playbook, Turn, agent, cut, delta, drive, say, think, use


@tool
def double(number: int) -> str:
    """Double a number."""
    return str(number * 2)


@tool
def fail() -> str:
    """Fail."""
    raise RuntimeError("out of paper")


def calls(recorder: ListRecorder) -> list[tuple[str, str, str | None, str]]:
    """(type, agent, call_id, tool use) of every tool event, in order."""
    found = [event for event in recorder.events if isinstance(event, ToolStarted | ToolFinished | ToolFailed)]
    return [(event.type, event.agent, event.call_id, event.tool_use_id) for event in found]


async def failure(product: Any, input: Any = "hi") -> AgentError:
    with pytest.raises(AgentError) as caught:
        await drive(product, input)
    return caught.value


# Recorded text


async def test_a_run_is_recorded_from_its_first_to_its_last_event() -> None:
    recorder, ended = await drive(agent(Playbook(say("Hel", "lo"))))
    assert recorder.types()[2:] == [
        "agent.started", "llm.context", "llm.request", "llm.token", "llm.token", "llm.usage",
        "llm.message", "agent.finished",
    ]  # fmt: skip
    assert text(recorder.of(Token)) == "Hello"
    assert ended.result == {"text": "Hello", "stop_reason": "end_turn"}
    assert ended.usage == {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}


async def test_a_scripted_agent_gives_exactly_400_tokens() -> None:
    recorder, _ = await drive(agent(ScriptedModel(tokens=400)), "ALPHA")
    assert [token.text.strip() for token in recorder.of(Token)] == ["ALPHA"] * 400
    assert recorder.of(Usage)[0].model == "scripted"


async def test_reasoning_is_separate_from_text() -> None:
    recorder, ended = await drive(agent(Playbook(think("hm ", "well") + say("yes"))))
    assert text(recorder.of(Reasoning)) == "hm well"
    assert text(recorder.of(Token)) == ended.result["text"] == "yes"


async def test_the_input_is_not_a_message_of_the_log_but_all_that_follows_is() -> None:
    model = Playbook(use(("t1", "double", {"number": 4})), say("8"))
    recorder, _ = await drive(agent(model, double))
    assert [(each.message["role"], list(each.message["content"][0])) for each in recorder.of(Message)] == [
        ("assistant", ["toolUse"]),
        ("user", ["toolResult"]),
        ("assistant", ["text"]),
    ]
    assert all(each.message.keys() == {"role", "content"} for each in recorder.of(Message))


async def test_an_input_may_be_content_blocks_with_base64_for_bytes() -> None:
    model = Playbook(say("a cat"))
    image = {"image": {"format": "png", "source": {"bytes": "cG5n"}}}
    await drive(agent(model), [{"text": "what is this?"}, image])
    assert model.heard[0][0]["content"][1]["image"]["source"]["bytes"] == b"png"


async def test_an_input_may_be_a_conversation() -> None:
    model = Playbook(say("fine"))
    said = [{"role": role, "content": [{"text": word}]} for role, word in
            (("user", "hi"), ("assistant", "hello"), ("user", "how are you?"))]  # fmt: skip
    await drive(agent(model), said)
    assert [message["role"] for message in model.heard[0]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("input", [None, 3, [], {"text": "hi"}, ["hi"], [{"role": "user"}], [{}]])
async def test_any_other_input_is_refused(input: Any) -> None:
    error = await failure(agent(Playbook()), input)
    assert error.code == "invalid_input"


async def test_bytes_that_are_no_base64_are_refused() -> None:
    image = {"image": {"format": "png", "source": {"bytes": "§"}}}
    assert (await failure(agent(Playbook()), [image])).code == "invalid_input"


async def test_a_long_answer_is_cut_in_the_result_and_whole_in_the_log() -> None:
    word = "ä" * 1_000
    recorder, ended = await drive(agent(Playbook(say(*[word] * 300))))
    assert ended.result["truncated"] is True
    assert MAX_RESULT_BYTES - 1 <= len(ended.result["text"].encode()) <= MAX_RESULT_BYTES
    assert len(text(recorder.of(Token))) == 300_000


async def test_structured_output_is_part_of_the_result() -> None:
    class Person(BaseModel):
        name: str

    model = Playbook(use(("t1", "Person", {"name": "Ada"})))
    _, ended = await drive(agent(model, structured_output_model=Person))
    assert ended.result["structured_output"] == {"name": "Ada"}


async def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    worker = Agent(model=Playbook(say("inner")), name="worker")
    await drive(Agent(model=Playbook(use(("t1", "worker", {"input": "?"})), say("outer")), tools=[worker]))
    assert capsys.readouterr().out == ""


async def test_a_callback_handler_of_the_users_own_stays() -> None:
    heard: list[Any] = []
    product = Agent(model=Playbook(say("hi")), callback_handler=lambda **item: heard.append(item))
    await drive(product)
    assert any("data" in item for item in heard)


async def test_tools_of_every_agent_find_the_context_in_the_invocation_state() -> None:
    found: list[Any] = []

    def look(event: BeforeToolCallEvent) -> None:
        found.append(event.invocation_state["runstore"])

    worker = agent(
        Playbook(use(("w1", "double", {"number": 1})), say("2")), double, name="worker", hooks=[look]
    )
    await drive(agent(Playbook(use(("t1", "worker", {"input": "?"})), say("ok")), worker, hooks=[look]))
    assert found == [context()] * 2


async def test_an_agent_that_another_run_has_is_refused() -> None:
    taken: WeakSet[Any] = WeakSet()
    shared = agent(Playbook(say("hi")), name="worker")
    StrandsAgent(agent(Playbook(), shared), context(), taken)
    for again in (shared, agent(Playbook(), shared)):
        with pytest.raises(AgentError, match="must build a new Agent for each run"):
            StrandsAgent(again, context(), taken)


async def test_an_agent_that_is_gone_is_no_longer_held() -> None:
    taken: WeakSet[Any] = WeakSet()
    StrandsAgent(agent(Playbook()), context(), taken)
    import gc

    gc.collect()
    assert len(taken) == 0


# Tools


async def test_parallel_tools_are_written_ahead_and_each_as_soon_as_it_is_done() -> None:
    order: list[str] = []
    recorder = ListRecorder()
    slow_may_end = asyncio.Event()

    @tool
    async def slow() -> str:
        """Wait for the quick one's result to be written."""
        order.append(recorder.types()[-1])
        await slow_may_end.wait()
        return "slow"

    @tool
    async def quick() -> str:
        """Return at once."""
        return "quick"

    def written(event: AfterToolCallEvent) -> None:
        if event.tool_use["name"] == "quick":
            asyncio.get_running_loop().call_soon(slow_may_end.set)

    model = Playbook(use(("t1", "slow", {}), ("t2", "quick", {})), say("done"))
    product = agent(model, slow, quick, hooks=[written])
    await StrandsAgent(product, context(), WeakSet()).run("hi", [], recorder)
    assert calls(recorder) == [
        ("tool.started", "demo", None, "t1"),
        ("tool.started", "demo", None, "t2"),
        ("tool.finished", "demo", None, "t2"),
        ("tool.finished", "demo", None, "t1"),
    ]
    assert all(kind.startswith("tool.") for kind in order)
    waited_for = {recorder.recorded[seq - 1].type for seq in recorder.committed}
    assert waited_for == {"tool.started", "tool.finished"}


async def test_a_tools_input_and_output_are_logged() -> None:
    model = Playbook(use(("t1", "double", {"number": 4})), say("8"))
    recorder, _ = await drive(agent(model, double))
    assert recorder.of(ToolStarted)[0].input == {"number": 4}
    assert recorder.of(ToolFinished)[0].output == [{"text": "8"}]


async def test_a_tool_that_raises_has_failed_and_the_agent_goes_on() -> None:
    recorder, ended = await drive(agent(Playbook(use(("t1", "fail", {})), say("sorry")), fail))
    assert calls(recorder)[1] == ("tool.failed", "demo", None, "t1")
    assert "out of paper" in recorder.of(ToolFailed)[0].output[0]["text"]
    assert ended.result["text"] == "sorry"


async def test_a_tool_that_exits_has_failed_and_ends_nothing_else() -> None:
    @tool
    def leave() -> str:
        """Leave the process."""
        raise SystemExit("bye")

    @tool
    async def leave_too() -> str:
        """Leave the process."""
        raise SystemExit("bye")

    model = Playbook(use(("t1", "leave", {}), ("t2", "leave_too", {})), say("still here"))
    recorder, ended = await drive(agent(model, leave, leave_too))
    outputs = [event.output[0]["text"] for event in recorder.of(ToolFailed)]
    assert outputs == ["Error: SystemExit: bye"] * 2
    assert ended.result["text"] == "still here"


async def test_an_unknown_tool_has_failed_too() -> None:
    recorder, _ = await drive(agent(Playbook(use(("t1", "nope", {})), say("sorry"))))
    assert [each[0] for each in calls(recorder)] == ["tool.started", "tool.failed"]


async def test_the_logged_result_is_the_one_that_the_users_hooks_made_of_it() -> None:
    def rewrite(event: AfterToolCallEvent) -> None:
        event.result["content"] = [{"text": "nine"}]

    model = Playbook(use(("t1", "double", {"number": 4})), say("9"))
    recorder, _ = await drive(agent(model, double, hooks=[rewrite]))
    assert recorder.of(ToolFinished)[0].output == [{"text": "nine"}]


async def test_a_result_that_a_hook_throws_away_is_not_logged() -> None:
    retries = iter([True, False])

    def again(event: AfterToolCallEvent) -> None:
        event.retry = next(retries)

    model = Playbook(use(("t1", "double", {"number": 4})), say("8"))
    recorder, _ = await drive(agent(model, double, hooks=[again]))
    assert [each[0] for each in calls(recorder)] == ["tool.started", "tool.started", "tool.finished"]


# Data too large for one event


MIB = 1 << 20


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([{"text": "x" * (2 * MIB)}], "2,097,"),
        ([{"image": {"format": "png", "source": {"bytes": b"\0" * 850_000}}}], "1,133,"),
    ],
    ids=["text", "screenshot"],
)
async def test_a_result_that_no_event_can_hold_is_its_tools_failure(content: Any, why: str) -> None:
    @tool
    def flood() -> Any:
        """Say too much."""
        return {"status": "success", "content": content}

    model = Playbook(use(("t1", "flood", {})), say("sorry"))
    recorder, ended = await drive(agent(model, flood))
    [failed] = recorder.of(ToolFailed)
    assert why in failed.output[0]["text"]
    assert "the result of tool 'flood' cannot be recorded" in failed.output[0]["text"]
    heard = model.heard[1][-1]["content"][0]["toolResult"]
    assert (heard["status"], heard["content"]) == ("error", failed.output)
    assert recorder.of(ToolFinished) == []
    assert ended.result["text"] == "sorry"


async def test_the_model_learns_of_an_input_that_no_event_can_hold_and_the_tool_is_not_called() -> None:
    called = []

    @tool
    def write(text: str) -> str:
        """Write."""
        called.append(text)
        return "written"

    model = Playbook(
        use(("t1", "write", {"text": "x" * (2 * MIB)}), ("t2", "write", {"text": "short"})), say("I see")
    )
    recorder, ended = await drive(agent(model, write))
    assert called == ["short"]
    [failed] = recorder.of(ToolFailed)
    assert failed.tool_use_id == "t1"
    assert (
        "the input of tool 'write' cannot be recorded: a tool.started event has 2,097,"
        in failed.output[0]["text"]
    )
    assert ended.result["text"] == "I see"


async def test_the_model_gets_all_results_that_only_together_are_too_large_also_after_a_crash() -> None:
    @tool
    def fetch(letter: str) -> str:
        """Fetch a page."""
        return letter * 300_000

    turns = use(*((f"t{n}", "fetch", {"letter": letter}) for n, letter in enumerate("abcd"))), say("read")
    model = Playbook(*turns)
    recorder, ended = await drive(agent(model, fetch))
    assert ended.result["text"] == "read"
    joint = recorder.of(Message)[1]
    kept = [block["toolResult"] for block in joint.message["content"]]
    assert [result["toolUseId"] for result in kept] == ["t0", "t1", "t2", "t3"]
    assert 0 < sum("content" in result for result in kept) < 4

    log = cut(recorder, lambda event: event.type == "llm.message" and event.seq < len(recorder.recorded) - 5)
    again = Playbook(say("read"))
    await drive(agent(again, fetch), history=log)

    def heard(messages: Any) -> list[tuple[str, str]]:
        results = [block["toolResult"] for block in messages[-1]["content"]]
        return [(result["toolUseId"], result["content"][0]["text"]) for result in results]

    assert heard(again.heard[0]) == heard(model.heard[1])
    assert [text[0] for _, text in heard(model.heard[1])] == list("abcd")


async def test_an_answer_that_no_event_can_hold_is_recorded_in_several() -> None:
    long = "\0" + "é" * (2 * MIB)
    recorder, ended = await drive(agent(Playbook(say(long))))
    assert text(recorder.of(Token)) == long
    assert ended.result["truncated"]
    parts = recorder.of(Message)
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    [conversation] = recall(recorder.recorded).conversations.values()
    assert conversation.messages == [{"role": "assistant", "content": [{"text": long}]}]


@pytest.mark.parametrize("signature", [{}, {"signature": "s"}], ids=["unsigned", "signed"])
async def test_reasoning_that_no_event_can_hold_is_recorded_in_several(signature: dict[str, str]) -> None:
    long = "é" * MIB
    start, *answer = say("yes")
    signed: Turn = [delta(reasoningContent=signature)] if signature else []
    *thoughts, end = think(long)
    recorder, ended = await drive(agent(Playbook([start, *thoughts, *signed, end, *answer])))
    assert ended.result["text"] == "yes"
    assert text(recorder.of(Reasoning)) == long
    assert len(recorder.of(Message)) > 1
    [conversation] = recall(recorder.recorded).conversations.values()
    said = {"reasoningContent": {"reasoningText": {"text": long, **signature}}}
    assert conversation.messages == [{"role": "assistant", "content": [said, {"text": "yes"}]}]


@pytest.mark.parametrize("how", ["before", "in place", "as it is added"])
async def test_input_that_a_hook_makes_too_large_for_an_event_is_recorded_without_it(how: str) -> None:
    page = {"text": "x" * (2 * MIB)}

    def before(event: BeforeInvocationEvent) -> None:
        assert event.messages
        if how == "before":
            event.messages = [{"role": "user", "content": [page, *event.messages[0]["content"]]}]
        elif how == "in place":
            event.messages[0]["content"].append(page)

    def as_added(event: MessageAddedEvent) -> None:
        if how == "as it is added" and event.message["role"] == "user":
            event.message["content"] = [*event.message["content"], page]

    model = Playbook(say("read"))
    reader = agent(model)
    reader.add_hook(before, BeforeInvocationEvent)
    reader.add_hook(as_added, MessageAddedEvent)
    recorder, ended = await drive(reader)
    assert ended.result["text"] == "read"
    assert page in model.heard[0][0]["content"]
    [replaced] = recorder.of(InputReplaced)
    texts = [block["text"] for block in replaced.messages[0]["content"]]
    assert sorted(texts) == ["(left out: text of 2,097,163 bytes)", "hi"]


async def test_a_message_whose_last_part_is_missing_was_never_said() -> None:
    recorder, _ = await drive(agent(Playbook(say("x" * (2 * MIB)))))
    first = next(event.seq for event in recorder.recorded if event.type == "llm.message")
    [conversation] = recall(recorder.recorded[:first]).conversations.values()
    assert conversation.messages == []
    assert discard_after(recorder.recorded[:first]) == 2


async def test_progress_that_no_event_can_hold_is_left_out_and_the_tool_goes_on() -> None:
    @tool
    async def render() -> Any:
        """Draw."""
        yield "x" * (2 * MIB)
        yield "done"

    recorder, ended = await drive(agent(Playbook(use(("t1", "render", {})), say("ok")), render))
    assert "left out" in recorder.of(ToolProgress)[0].output
    assert recorder.of(ToolFinished)[0].output == [{"text": "done"}]
    assert ended.result["text"] == "ok"


# Sub-agents


def worker_of(*turns: Any, name: str = "worker", **settings: Any) -> Agent:
    return agent(Playbook(*turns), double, name=name, **settings)


async def test_a_sub_agent_has_its_path_and_the_call_that_it_works_for() -> None:
    worker = worker_of(use(("w1", "double", {"number": 2})), say("four"))
    recorder, _ = await drive(agent(Playbook(use(("t1", "worker", {"input": "?"})), say("4")), worker))
    spoken = [
        (event.type, event.agent, event.call_id)
        for event in recorder.events[2:]
        if event.type not in ("llm.usage", "llm.context", "llm.request")
    ]
    assert spoken == [
        ("agent.started", "demo", None),
        ("llm.message", "demo", None),
        ("tool.started", "demo", None),
        ("agent.started", "demo/worker", "t1"),
        ("llm.message", "demo/worker", "t1"),
        ("tool.started", "demo/worker", "t1"),
        ("tool.finished", "demo/worker", "t1"),
        ("llm.message", "demo/worker", "t1"),
        ("llm.token", "demo/worker", "t1"),
        ("llm.message", "demo/worker", "t1"),
        ("agent.finished", "demo/worker", "t1"),
        ("tool.finished", "demo", None),
        ("llm.message", "demo", None),
        ("llm.token", "demo", None),
        ("llm.message", "demo", None),
        ("agent.finished", "demo", None),
    ]


async def test_the_usage_of_a_run_is_that_of_all_its_agents() -> None:
    worker = worker_of(say("a", "b"))
    model = Playbook(use(("t1", "worker", {"input": "?"})), say("c"))
    recorder, ended = await drive(agent(model, worker))
    assert ended.usage == {"input_tokens": 21, "output_tokens": 3, "total_tokens": 24}
    assert len(recorder.of(Usage)) == 3


@pytest.mark.parametrize("executor", [None, SequentialToolExecutor()])
async def test_two_calls_of_one_sub_agent_in_turn_are_distinguished(executor: Any) -> None:
    def turn(number: str) -> list[Any]:
        return [use((f"w{number}", "double", {"number": number})), say("ok")]

    worker = worker_of(*turn("1"), *turn("2"))
    model = Playbook(
        use(("t1", "worker", {"input": "?"})), use(("t2", "worker", {"input": "?"})), say("done")
    )
    recorder, _ = await drive(agent(model, worker, tool_executor=executor))
    assert [each for each in calls(recorder) if each[1] == "demo/worker"] == [
        ("tool.started", "demo/worker", "t1", "w1"),
        ("tool.finished", "demo/worker", "t1", "w1"),
        ("tool.started", "demo/worker", "t2", "w2"),
        ("tool.finished", "demo/worker", "t2", "w2"),
    ]


async def test_only_the_working_one_of_two_calls_of_one_sub_agent_says_so() -> None:
    """strands refuses the second call while the first one is in the agent."""
    worker = worker_of(use(("w1", "double", {"number": 1})), say("ok"))
    both = use(("t1", "worker", {"input": "?"}), ("t2", "worker", {"input": "?"}))
    recorder, _ = await drive(agent(Playbook(both, say("done")), worker))
    assert [(each.agent, each.call_id) for each in recorder.of(AgentStarted)] == [
        ("demo", None),
        ("demo/worker", "t1"),
    ]
    assert [(each.agent, each.call_id) for each in recorder.of(AgentFinished)] == [
        ("demo/worker", "t1"), ("demo", None),
    ]  # fmt: skip
    inner = [each for each in calls(recorder) if each[1] == "demo/worker"]
    assert inner == [
        ("tool.started", "demo/worker", "t1", "w1"),
        ("tool.finished", "demo/worker", "t1", "w1"),
    ]
    assert ("tool.failed", "demo", None, "t2") in calls(recorder)


async def test_two_sub_agents_at_once_keep_to_their_own_calls() -> None:
    one = worker_of(use(("w1", "double", {"number": 1})), say("1"), name="one")
    two = worker_of(use(("w1", "double", {"number": 2})), say("2"), name="two")
    model = Playbook(use(("t1", "one", {"input": "?"}), ("t2", "two", {"input": "?"})), say("done"))
    recorder, _ = await drive(agent(model, one, two))
    for token in recorder.of(Token)[:2]:
        assert (token.agent, token.call_id) == ("demo/one", "t1") if token.text == "1" else ("demo/two", "t2")
    assert {each[1:3] for each in calls(recorder) if each[3] == "w1"} == {
        ("demo/one", "t1"),
        ("demo/two", "t2"),
    }


@pytest.mark.parametrize("executor", [None, SequentialToolExecutor()])
async def test_a_hierarchy_of_three_levels_has_paths_of_three_names(executor: Any) -> None:
    worker = worker_of(use(("w1", "double", {"number": 1})), say("2"))
    team_model = Playbook(
        use(("m1", "worker", {"input": "?"})), use(("m2", "double", {"number": 5})), say("team")
    )
    team = agent(team_model, worker, double, name="team", tool_executor=executor)
    root = agent(Playbook(use(("t1", "team", {"input": "?"})), say("root")), team, tool_executor=executor)
    recorder, _ = await drive(root)
    started = [(each.agent, each.call_id, each.tool_use_id) for each in recorder.of(ToolStarted)]
    assert started == [
        ("demo", None, "t1"),
        ("demo/team", "t1", "m1"),
        ("demo/team/worker", "m1", "w1"),
        ("demo/team", "t1", "m2"),
    ]
    assert [token.agent for token in recorder.of(Token)] == ["demo/team/worker", "demo/team", "demo"]


async def test_tool_use_ids_that_come_again_in_another_call_are_no_confusion() -> None:
    """Each conversation of a scripted model begins with the id scripted-1."""
    team = agent(ScriptedModel(), agent(ScriptedModel(), double, name="worker"), name="team")
    ask = [use((f"t{number}", "team", {"input": "21"})) for number in (1, 2)]
    recorder, _ = await drive(agent(Playbook(*ask, say("done")), team))
    told = [
        (event.type, event.agent)
        for event in recorder.events[2:]
        if event.agent != "demo" and event.type != "llm.context"
    ]
    assert told[: len(told) // 2] == told[len(told) // 2 :]
    assert [event.call_id for event in recorder.of(AgentStarted)] == [
        None, "t1", "scripted-1", "t2", "scripted-1",
    ]  # fmt: skip


async def test_a_delegates_words_stay_out_of_the_memory_of_its_caller() -> None:
    """strands passes a delegate's stream on as the caller's own; only the hooks know whose message it is."""
    clerk = agent(Playbook(say("no ", "refund")), name="clerk")
    recorder, ended = await drive(
        agent(Playbook(use(("t1", "clerk", {"input": "?"}))), clerk.as_tool(delegate=True))
    )
    assert ended.result["text"] == "no refund"
    messages = [(each.agent, each.message["role"]) for each in recorder.of(Message)]
    assert messages == [
        ("demo", "assistant"), ("demo/clerk", "assistant"), ("demo", "user"), ("demo", "assistant"),
    ]  # fmt: skip


# Errors


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (
            ModelThrottledException("slow down"),
            "model_throttled",
            "the model's provider refuses the requests because there are too many",
        ),
        (ValueError("boom\n  and more"), "model_error", "the model call failed (ValueError)"),
        (KeyError(), "model_error", "the model call failed (KeyError)"),
        (SystemExit("bye"), "agent_error", "SystemExit: bye"),
    ],
)
@pytest.mark.parametrize("after_a_tool", [False, True])
async def test_a_failing_model_is_an_error_in_one_line(
    raised: BaseException, code: str, message: str, after_a_tool: bool
) -> None:
    turns = [use(("t1", "double", {"number": 1}))] if after_a_tool else []
    error = await failure(agent(Playbook(*turns, [raised]), double, retry_strategy=None))
    assert (error.code, str(error)) == (code, message)


async def test_a_conversation_that_is_too_long_for_the_model_is_an_error() -> None:
    error = await failure(agent(Playbook([ContextWindowOverflowException("too much")])))
    assert error.code == "context_overflow"


async def test_a_model_that_fails_in_mid_stream_leaves_what_it_said() -> None:
    recorder = ListRecorder()
    broken = agent(Playbook([*say("so ", "far")[:-3], OSError("connection reset")]))
    with pytest.raises(AgentError, match=r"the model call failed \(OSError\)"):
        await StrandsAgent(broken, context(), WeakSet()).run("hi", [], recorder)
    assert text(recorder.of(Token)) == "so far"
    assert recorder.types()[-2:] == ["llm.discarded", "agent.finished"]


async def test_an_answer_that_is_cut_by_the_token_limit_is_a_result_that_says_so() -> None:
    recorder, ended = await drive(agent(Playbook(say("and ", "so", stop="max_tokens"))))
    assert ended.result == {"text": "and so", "stop_reason": "max_tokens"}
    assert ended.usage["output_tokens"] == 2
    assert recorder.types()[-1] == "agent.finished"


async def test_a_token_limit_that_leaves_nothing_but_half_a_tool_call_is_a_result_too() -> None:
    cut: Any = [*use(("t1", "double", {"number": 1}))[:-2], {"messageStop": {"stopReason": "max_tokens"}}]
    recorder, ended = await drive(agent(Playbook(cut), double))
    assert ended.result["stop_reason"] == "max_tokens"
    assert "tool.started" not in recorder.types()


async def test_an_agent_that_answers_with_an_object_says_so_when_it_begins() -> None:
    class Person(BaseModel):
        name: str

    recorder, _ = await drive(
        agent(Playbook(use(("t1", "Person", {"name": "Ada"}))), structured_output_model=Person)
    )
    assert [each.structured_output for each in recorder.of(AgentStarted)] == [True]
    recorder, _ = await drive(agent(Playbook(say("hi"))))
    assert [each.structured_output for each in recorder.of(AgentStarted)] == [False]


async def test_the_blocks_of_a_message_are_joined_as_they_were_streamed() -> None:
    model = Playbook([*say("Paris is ")[:-2], *say("the capital", " of France.")[1:]])
    _, ended = await drive(agent(model))
    assert ended.result["text"] == "Paris is the capital of France."


async def test_halves_of_a_character_are_whole_in_a_result_that_is_cut() -> None:
    _, ended = await drive(agent(Playbook(say("\ud83d", "\ude42", "x" * MAX_RESULT_BYTES))))
    assert ended.result["text"].startswith("\U0001f642x")


async def test_a_hook_that_raises_is_an_error_of_the_agent() -> None:
    def refuse(event: BeforeToolCallEvent) -> None:
        raise PermissionError("not you")

    product = agent(Playbook(use(("t1", "double", {"number": 1}))), double, hooks=[refuse])
    error = await failure(product)
    assert (error.code, str(error)) == ("agent_error", "PermissionError: not you")


@pytest.mark.parametrize("when", ["llm.token", "tool.started", "tool.finished"])
@pytest.mark.parametrize("below", [False, True])
async def test_a_log_that_takes_no_more_ends_the_agent_at_once(when: str, below: bool) -> None:
    recorder = ListRecorder()
    keep = recorder.keep

    def refuse_from(event: Any) -> None:
        if event.type == when and (event.agent != "demo") == below:
            recorder.refusal = RunClosed("run-1", len(recorder.recorded))
        keep(event)

    recorder.keep = refuse_from  # type: ignore[method-assign]
    model = Playbook(use(("w1", "double", {"number": 1})), say("ok"), say("never"))
    product = agent(model, double, name="worker")
    if below:
        product = agent(Playbook(use(("t1", "worker", {"input": "?"})), say("ok")), product)
    with pytest.raises(RunClosed):
        await StrandsAgent(product, context(), WeakSet()).run("hi", [], recorder)
    assert recorder.types()[-1] != "agent.finished"


# Stopping


async def test_cancel_in_mid_stream_ends_it_at_the_next_chunk() -> None:
    recorder = ListRecorder()
    product = StrandsAgent(agent(ScriptedModel(tokens=1_000)), context(), WeakSet())
    record = recorder.record

    async def cancel_after_ten(event: Any) -> None:
        await record(event)
        if len(recorder.of(Token)) == 10:
            product.cancel()

    recorder.record = cancel_after_ten  # type: ignore[method-assign]
    ended = await product.run("tick", [], recorder)
    assert ended.result["stop_reason"] == "cancelled"
    assert len(recorder.of(Token)) == 10


async def test_each_model_call_says_how_long_it_took() -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    recorder, _ = await drive(agent(Playbook(use(("t1", "add", {"a": 1, "b": 2})), say("3")), add))
    assert len(recorder.of(Usage)) == 2
    for usage in recorder.of(Usage):
        assert usage.first_token_ms is not None
        assert usage.duration_ms is not None
        assert 0 <= usage.first_token_ms <= usage.duration_ms
        assert not usage.incomplete


async def test_a_call_that_a_stop_breaks_off_is_incomplete() -> None:
    product = StrandsAgent(agent(Playbook(say(*["tick "] * 50))), context(), WeakSet())
    recorder = ListRecorder()
    record = recorder.record

    async def cancel_after_ten(event: Any) -> None:
        await record(event)
        if len(recorder.of(Token)) == 10:
            product.cancel()

    recorder.record = cancel_after_ten  # type: ignore[method-assign]
    await product.run("tick", [], recorder)
    (usage,) = recorder.of(Usage)
    assert (usage.input_tokens, usage.output_tokens, usage.incomplete) == (0, 0, True)
    assert (usage.model, usage.first_token_ms is not None) == ("playbook", True)


async def test_a_call_that_waits_for_its_model_when_the_task_is_cancelled_is_incomplete() -> None:
    class Silent(Playbook):
        async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            self.calls += 1
            await asyncio.Event().wait()
            yield

    model, recorder = Silent(), ListRecorder()
    task = asyncio.create_task(StrandsAgent(agent(model), context(), WeakSet()).run("hi", [], recorder))
    await until(lambda: model.calls == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (usage,) = recorder.of(Usage)
    assert usage.incomplete
    assert usage.first_token_ms is None


async def test_a_call_that_fails_in_mid_answer_is_incomplete_and_one_that_never_began_used_nothing() -> None:
    overloaded = ModelThrottledException("later")
    model = Playbook([overloaded], [*say("half")[:3], overloaded], say("whole"))
    product = agent(model, retry_strategy=ModelRetryStrategy(max_attempts=3, initial_delay=0, max_delay=0))
    recorder, ended = await drive(product)
    assert [usage.incomplete for usage in recorder.of(Usage)] == [True, False]
    assert ended.usage == {"input_tokens": 7, "output_tokens": 1, "total_tokens": 8}


async def test_a_cancelled_task_ends_at_once_and_nothing_is_swallowed() -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    @tool
    async def hang() -> str:
        """Never return."""
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return ""

    recorder, before = ListRecorder(), asyncio.all_tasks()
    worker = agent(Playbook(use(("w1", "hang", {}))), hang, name="worker")
    product = agent(Playbook(use(("t1", "worker", {"input": "?"}))), worker)
    task = asyncio.create_task(StrandsAgent(product, context(), WeakSet()).run("hi", [], recorder))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left.is_set()
    assert recorder.types()[-1] == "tool.started"
    await until(lambda: asyncio.all_tasks() <= before)


class Held(ListRecorder):
    """Holds events of one type, without end or until it raises."""

    def __init__(self, kind: str, error: Exception | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.error = error
        self.reached = asyncio.Event()

    async def record(self, event: Any) -> None:
        if event.type == self.kind:
            self.reached.set()
            if self.error:
                raise self.error
            await asyncio.Event().wait()
        self.keep(event)


@pytest.mark.parametrize("error", [None, RunClosed("run-1", 9), ZeroDivisionError("a bug of ours")])
@pytest.mark.parametrize("layout", ["alone", "below", "graph"])
async def test_an_agent_that_is_left_in_mid_stream_leaves_nothing_behind(
    error: Exception | None, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its tools have ended, its memory got no last words, and no span was closed in the wrong place."""
    ended: list[str] = []

    @tool
    async def wait() -> str:
        """Wait until cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("wait")
        return ""

    @tool
    async def progress() -> Any:
        """Report, and work on."""
        try:
            yield "half way"
            await asyncio.Event().wait()
        finally:
            ended.append("progress")

    turns = use(("w1", "wait", {}), ("w2", "progress", {}))
    product: Any = agent(Playbook(turns), wait, progress, name="worker")
    if layout == "below":
        product = agent(Playbook(use(("t1", "worker", {"input": "?"}))), product)
    elif layout == "graph":
        builder = GraphBuilder()
        builder.add_node(product, "only")
        product = builder.set_execution_timeout(60).build()
    recorder, before = Held("tool.progress", error), asyncio.all_tasks()
    task = asyncio.create_task(StrandsAgent(product, context(), WeakSet()).run("hi", [], recorder))
    await recorder.reached.wait()
    if error is None:
        task.cancel()
    expected = {None: asyncio.CancelledError, RunClosed: RunClosed, ZeroDivisionError: AgentError}
    with pytest.raises(expected[type(error) if error else None]):
        await task
    await until(lambda: sorted(ended) == ["progress", "wait"])
    await until(lambda: asyncio.all_tasks() <= before)
    assert not any("Cancelled by user" in str(each.message) for each in recorder.of(Message))
    assert "Failed to detach context" not in caplog.text


async def test_a_tool_that_never_stops_talking_cannot_keep_its_agent_from_ending() -> None:
    @tool
    async def flood() -> Any:
        """Say more than anybody wants to know."""
        while True:
            yield "and on"
            await asyncio.sleep(0)

    builder = GraphBuilder()
    builder.add_node(agent(Playbook(use(("w1", "flood", {}))), flood), "only")
    product = builder.set_execution_timeout(60).build()
    recorder = ListRecorder()
    task = asyncio.create_task(StrandsAgent(product, context(), WeakSet()).run("hi", [], recorder))
    await until(lambda: "tool.progress" in recorder.types())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_tool_that_cancels_its_own_task_is_an_error_of_the_agent() -> None:
    def give_up(event: BeforeToolCallEvent) -> None:
        raise asyncio.CancelledError

    product = agent(Playbook([asyncio.CancelledError()]), hooks=[give_up])
    assert "cancelled the agent" in str(await failure(product))


async def test_a_stream_that_is_left_without_an_await_leaves_no_cancellation_behind() -> None:
    product = StrandsAgent(agent(ScriptedModel(tokens=100)), context(), WeakSet())
    with pytest.raises(RunClosed):
        await product.run("tick", [], Held("llm.token", RunClosed("run-1", 9)))
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


# Graph and Swarm


def graph(*models: Any) -> Any:
    builder = GraphBuilder()
    for number, model in enumerate(models):
        builder.add_node(agent(model, double), f"n{number}")
        if number:
            builder.add_edge(f"n{number - 1}", f"n{number}")
    return builder.set_execution_timeout(60).build()


async def test_a_graphs_nodes_are_its_agents_and_the_last_one_has_the_answer() -> None:
    product = graph(Playbook(use(("t1", "double", {"number": 3})), say("six")), Playbook(say("VI")))
    recorder, ended = await drive(product)
    assert ended.result == {"text": "VI", "stop_reason": "end_turn"}
    assert ended.usage == {"input_tokens": 21, "output_tokens": 2, "total_tokens": 23}
    assert [(each.agent, text([each])) for each in recorder.of(Token)] == [
        ("demo/n0", "six"),
        ("demo/n1", "VI"),
    ]
    assert calls(recorder) == [
        ("tool.started", "demo/n0", None, "t1"),
        ("tool.finished", "demo/n0", None, "t1"),
    ]
    assert [each.agent for each in recorder.of(AgentStarted)] == ["demo", "demo/n0", "demo/n1"]
    assert [each.agent for each in recorder.of(AgentFinished)] == ["demo/n0", "demo/n1", "demo"]
    assert len(recorder.of(Message)) == 4


async def test_a_graph_whose_node_fails_is_an_error() -> None:
    error = await failure(graph(Playbook([ValueError("boom")])))
    assert (error.code, str(error)) == ("model_error", "the model call failed (ValueError)")


async def test_a_swarm_hands_over_and_ends() -> None:
    hand_over = use(("t1", "handoff_to_agent", {"agent_name": "two", "message": "yours", "context": {}}))
    one = agent(Playbook(hand_over, say("handed over")), name="one")
    two = agent(Playbook(say("done")), name="two")
    recorder, ended = await drive(Swarm([one, two]), "count the cats")
    assert "User Request: count the cats" in str(one.messages)
    assert ended.result["text"] == "done"
    assert {each.agent for each in recorder.of(Token)} == {"demo/one", "demo/two"}


async def test_a_swarm_whose_agent_fails_is_an_error() -> None:
    error = await failure(Swarm([agent(Playbook([ValueError("boom")]), name="one")]))
    assert str(error) == "node 'one' failed: the model call failed (ValueError)"


async def test_a_graph_takes_no_conversation() -> None:
    said = [{"role": "user", "content": [{"text": "a"}]}, {"role": "assistant", "content": [{"text": "b"}]}]
    assert (await failure(graph(Playbook()), said)).code == "invalid_input"


async def test_cancelling_a_graph_cancels_its_nodes() -> None:
    recorder = ListRecorder()
    product = StrandsAgent(graph(ScriptedModel(tokens=1_000)), context(), WeakSet())
    product.cancel()
    with pytest.raises(AgentError):
        await product.run("tick", [], recorder)
    assert len(recorder.of(Token)) == 0


async def test_a_tool_whose_result_is_nested_too_deep_fails_and_the_agent_goes_on() -> None:
    @tool
    def dig() -> Any:
        """Dig."""
        return {"status": "success", "content": [{"json": {"deep": deep(300)}}]}

    recorder, ended = await drive(agent(Playbook(use(("t1", "dig", {})), say("no luck")), dig))
    [failed] = recorder.of(ToolFailed)
    assert "nested too deep" in failed.output[0]["text"]
    assert ended.result["text"] == "no luck"


async def test_a_tool_result_at_the_limit_of_depth_is_kept() -> None:
    @tool
    def dig() -> Any:
        """Dig."""
        return {"status": "success", "content": [{"json": deep(MAX_DEPTH)}]}

    recorder, _ = await drive(agent(Playbook(use(("t1", "dig", {})), say("deep")), dig))
    assert recorder.of(ToolFinished)[0].output == [{"json": deep(MAX_DEPTH)}]
