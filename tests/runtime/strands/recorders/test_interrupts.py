"""strands interrupts: an attempt ends with requests for input, and the next one goes on with the answers."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import msgspec
import pytest
from strands import Agent, ToolContext, tool
from strands.hooks import BeforeNodeCallEvent, BeforeToolCallEvent, BeforeToolsEvent, HookOrder
from strands.middleware import ExecuteToolStage
from strands.middleware._agent_stream import AgentStreamStage
from strands.multiagent import GraphBuilder, Swarm
from strands.session import FileSessionManager

from runstore import AgentError, Question, at_most_once
from runstore.core.events import (
    InputReplaced,
    ToolFinished,
    ToolStarted,
)
from runstore.runtime.memory.at_most_once import obstacle
from runstore.runtime.strands.agent import StrandsAgent
from tests.runtime.recording import ListRecorder, again_after, context
from tests.runtime.story import Story, model
from tests.runtime.strands_kit import Playbook, agent, say, use

APPROVED = {"approve": True}


@pytest.fixture
def calls() -> Counter[str]:
    """How often each tool has done its work."""
    return Counter()


@pytest.fixture
def mail(calls: Counter[str]) -> Any:
    @tool(context=True)
    def mail(to: str, tool_context: ToolContext) -> str:
        """Send a mail, after a question.

        Args:
            to: The address.
        """
        answer = tool_context.interrupt("sure", reason=f"Mail {to}?")
        calls["mail"] += 1
        return f"{answer} to {to}"

    return mail


@pytest.fixture
def look(calls: Counter[str]) -> Any:
    @tool
    def look(word: str) -> str:
        """Look a word up.

        Args:
            word: The word.
        """
        calls["look"] += 1
        return f"seen {word}"

    return look


def asking_first(*names: str) -> Callable[[BeforeToolCallEvent], None]:
    """A hook that asks before these tools are called."""

    def ask(event: BeforeToolCallEvent) -> None:
        if event.tool_use["name"] in names and event.interrupt("allowed", reason={"of": [*names]}) != "yes":
            event.cancel_tool = "not allowed"

    return ask


async def test_a_tools_question_is_answered_in_the_next_attempt(mail: Any, calls: Counter[str]) -> None:
    playing = model(use(("t1", "mail", {"to": "bob"})), say("Done."))
    story = Story(lambda: agent(playing(), mail))
    [request] = await story.asks()
    assert (request.agent, request.prompt, request.kind, request.tool) == (
        "demo",
        "Mail bob?",
        "question",
        "mail",
    )
    assert calls["mail"] == 0
    story.answer("yes")
    assert await story.ends() == "Done."
    assert calls["mail"] == 1
    assert [event.output for event in story.of(ToolFinished)] == [[{"text": "yes to bob"}]]
    assert playing().calls == 2, "no model call was repeated"


async def test_finished_tools_beside_a_question_are_not_called_again(
    mail: Any, look: Any, calls: Counter[str]
) -> None:
    playing = model(
        use(("t1", "look", {"word": "a"}), ("t2", "mail", {"to": "bob"}), ("t3", "look", {"word": "b"})),
        say("Done."),
    )
    story = Story(lambda: agent(playing(), mail, look))
    await story.asks()
    assert calls == {"look": 2}
    story.answer("yes")
    assert await story.ends() == "Done."
    assert calls == {"look": 2, "mail": 1}
    results = playing().heard[-1][-1]["content"]
    assert [each["toolResult"]["toolUseId"] for each in results] == ["t1", "t3", "t2"] or len(results) == 3


async def test_several_questions_of_one_turn_are_asked_at_once(mail: Any, calls: Counter[str]) -> None:
    playing = model(use(("t1", "mail", {"to": "ann"}), ("t2", "mail", {"to": "bob"})), say("Done."))
    story = Story(lambda: agent(playing(), mail))
    requests = await story.asks()
    assert sorted(each.prompt for each in requests) == ["Mail ann?", "Mail bob?"]
    assert [each.request_id for each in requests] == ["1.1", "1.2"]
    story.answer(*(each.prompt for each in requests))
    assert await story.ends() == "Done."
    outputs = sorted(event.output[0]["text"] for event in story.of(ToolFinished))
    assert outputs == ["Mail ann? to ann", "Mail bob? to bob"]


async def test_a_tool_may_ask_one_question_after_another(calls: Counter[str]) -> None:
    @tool(context=True)
    def order(tool_context: ToolContext) -> str:
        """Order something."""
        size = tool_context.interrupt("size")
        colour = tool_context.interrupt("colour")
        calls["order"] += 1
        return f"{size} {colour}"

    playing = model(use(("t1", "order", {})), say("Done."))
    story = Story(lambda: agent(playing(), order))
    assert [each.name for each in await story.asks()] == ["size"]
    story.answer("big")
    assert [each.name for each in await story.asks()] == ["colour"]
    story.answer("red")
    assert await story.ends() == "Done."
    assert [event.output[0]["text"] for event in story.of(ToolFinished)] == ["big red"]


async def test_a_hook_asks_before_a_tool_is_called(look: Any, calls: Counter[str]) -> None:
    playing = model(use(("t1", "look", {"word": "a"})), say("Done."))

    def build() -> Agent:
        built = agent(playing(), look)
        built.add_hook(asking_first("look"), BeforeToolCallEvent)
        return built

    story = Story(build)
    [request] = await story.asks()
    assert (request.prompt, request.data, request.tool) == ("allowed", {"of": ["look"]}, "look")
    assert story.of(ToolStarted) == [], "the call has not begun"
    story.answer("yes")
    assert await story.ends() == "Done."
    assert calls["look"] == 1


async def test_a_refusal_in_a_hook_reaches_the_model(look: Any, calls: Counter[str]) -> None:
    playing = model(use(("t1", "look", {"word": "a"})), say("Then not."))

    def build() -> Agent:
        built = agent(playing(), look)
        built.add_hook(asking_first("look"), BeforeToolCallEvent)
        return built

    story = Story(build)
    await story.asks()
    story.answer("no")
    assert await story.ends() == "Then not."
    assert calls["look"] == 0
    assert "not allowed" in str(playing().heard[-1][-1])


async def test_an_answer_about_a_turns_tools_is_for_that_turn(look: Any, calls: Counter[str]) -> None:
    playing = model(use(("t1", "look", {"word": "a"})), use(("t2", "look", {"word": "b"})), say("Done."))

    def build() -> Agent:
        built = agent(playing(), look)
        built.add_hook(lambda event: event.interrupt("spend"), BeforeToolsEvent)
        return built

    story = Story(build)
    for number in (1, 2):
        assert [each.name for each in await story.asks()] == ["spend"]
        assert (playing().calls, calls["look"]) == (number, number - 1)
        story.answer("ok")
    assert await story.ends() == "Done."
    assert calls["look"] == 2


async def test_middleware_asks_around_a_tool(look: Any, calls: Counter[str]) -> None:
    playing = model(use(("t1", "look", {"word": "a"})), say("Done."))

    async def gate(ctx: Any, run: Any) -> Any:
        assert ctx.interrupt("gate").response == "open"
        async for event in run(ctx):
            yield event

    def build() -> Agent:
        built = agent(playing(), look)
        built.add_middleware(ExecuteToolStage, gate)
        return built

    story = Story(build)
    assert [(each.name, each.tool) for each in await story.asks()] == [("gate", "look")]
    story.answer("open")
    assert await story.ends() == "Done."
    assert calls["look"] == 1


async def test_middleware_asks_around_the_whole_agent(look: Any, calls: Counter[str]) -> None:
    playing = model(use(("t1", "look", {"word": "a"})), say("Done."))

    async def gate(ctx: Any, run: Any) -> Any:
        assert ctx.interrupt("begin").response == "go"
        async for event in run(ctx):
            yield event

    def build() -> Agent:
        built = agent(playing(), look)
        built.add_middleware(AgentStreamStage, gate)
        return built

    story = Story(build)
    assert [each.name for each in await story.asks()] == ["begin"]
    assert playing().calls == 0
    story.answer("go")
    assert await story.ends() == "Done."
    assert calls["look"] == 1


async def test_agents_as_tools_ask_through_their_callers(mail: Any, look: Any, calls: Counter[str]) -> None:
    boss, lead, clerk = (
        model(use(("b1", "lead", {"input": "do"}), ("b2", "look", {"word": "boss"})), say("All done.")),
        model(use(("l1", "clerk", {"input": "do"}), ("l2", "look", {"word": "lead"})), say("Lead done.")),
        model(use(("c1", "mail", {"to": "bob"}), ("c2", "look", {"word": "clerk"})), say("Clerk done.")),
    )

    def build() -> Agent:
        inner = agent(clerk(), mail, look, name="clerk")
        middle = agent(lead(), inner.as_tool(name="clerk"), look, name="lead")
        return agent(boss(), middle.as_tool(name="lead"), look)

    story = Story(build)
    [request] = await story.asks()
    assert (request.agent, request.call_id, request.tool) == ("demo/lead/clerk", "l1", "mail")
    assert calls == {"look": 3}
    story.answer("yes")
    assert await story.ends() == "All done."
    assert calls == {"look": 3, "mail": 1}
    assert [each().calls for each in (boss, lead, clerk)] == [2, 2, 2], "no model call was repeated"


async def test_two_calls_of_one_agent_ask_apart(mail: Any, calls: Counter[str]) -> None:
    boss = model(use(("b1", "ann", {"input": "do"}), ("b2", "bob", {"input": "do"})), say("All done."))
    clerks = {name: model(use(("same", "mail", {"to": name})), say("Clerk done.")) for name in ("ann", "bob")}

    def build() -> Agent:
        tools = [agent(clerks[name](), mail, name=name).as_tool(name=name) for name in clerks]
        return agent(boss(), *tools)

    story = Story(build)
    requests = await story.asks()
    assert sorted((each.agent, each.prompt) for each in requests) == [
        ("demo/ann", "Mail ann?"), ("demo/bob", "Mail bob?"),
    ]  # fmt: skip
    story.answer(*(f"to {each.agent}" for each in requests))
    assert await story.ends() == "All done."
    outputs = {event.output[0]["text"] for event in story.of(ToolFinished) if event.name == "mail"}
    assert outputs == {"to demo/ann to ann", "to demo/bob to bob"}


async def test_a_graph_goes_on_at_the_node_that_asked(mail: Any, look: Any, calls: Counter[str]) -> None:
    first, left, right, last = (
        model(use(("f1", "look", {"word": "f"})), say("First.")),
        model(use(("l1", "mail", {"to": "bob"})), say("Left.")),
        model(use(("r1", "look", {"word": "r"})), say("Right.")),
        model(say("Last.")),
    )

    def build() -> Any:
        graph = GraphBuilder()
        graph.add_node(agent(first(), look, name="first"), "first")
        graph.add_node(agent(left(), mail, name="left"), "left")
        graph.add_node(agent(right(), look, name="right"), "right")
        graph.add_node(agent(last(), name="last"), "last")
        for source, target in (("first", "left"), ("first", "right"), ("left", "last"), ("right", "last")):
            graph.add_edge(source, target)
        graph.set_entry_point("first").set_execution_timeout(60)
        return graph.build()

    story = Story(build)
    [request] = await story.asks()
    assert (request.agent, request.prompt) == ("demo/left", "Mail bob?")
    assert calls == {"look": 2}
    story.answer("yes")
    assert await story.ends() == "Last."
    assert calls == {"look": 2, "mail": 1}
    assert [each().calls for each in (first, left, right, last)] == [2, 2, 2, 1]


async def test_a_graphs_hook_asks_before_each_visit_of_a_node() -> None:
    one, other = model(say("One.")), model(say("Other."))

    def build() -> Any:
        graph = GraphBuilder()
        graph.add_node(agent(one(), name="one"), "one")
        graph.add_node(agent(other(), name="other"), "other")
        graph.add_edge("one", "other")
        graph.set_entry_point("one").set_execution_timeout(60)
        built = graph.build()
        built.hooks.add_callback(BeforeNodeCallEvent, lambda event: event.interrupt("visit", event.node_id))
        return built

    story = Story(build)
    for node in ("one", "other"):
        [request] = await story.asks()
        assert (request.agent, request.prompt) == ("demo", node)
        story.answer("go")
    assert await story.ends() == "Other."
    assert (one().calls, other().calls) == (1, 1)


async def test_a_swarm_goes_on_at_the_agent_that_asked(mail: Any, calls: Counter[str]) -> None:
    one = model(use(("h1", "handoff_to_agent", {"agent_name": "two", "message": "go"})), say("Over."))
    two = model(use(("t1", "mail", {"to": "bob"})), say("Sent."))

    def build() -> Any:
        members = [agent(one(), name="one"), agent(two(), mail, name="two")]
        return Swarm(members, entry_point=members[0])

    story = Story(build)
    [request] = await story.asks()
    assert (request.agent, request.prompt) == ("demo/two", "Mail bob?")
    story.answer("yes")
    assert await story.ends() == "Sent."
    assert (one().calls, two().calls, calls["mail"]) == (2, 2, 1)


async def test_a_question_says_what_an_answer_may_be() -> None:
    @tool(context=True)
    def order(tool_context: ToolContext) -> str:
        """Order something."""
        sizes = {"enum": ["S", "M"]}
        question = Question("Which size?", schema=sizes, data={"of": "shirts"}, expires_s=60, default="M")
        return str(tool_context.interrupt("size", reason=question))

    playing = model(use(("t1", "order", {})), say("Done."))
    [request] = await Story(lambda: agent(playing(), order)).asks()
    assert (request.prompt, request.schema, request.data, request.default) == (
        "Which size?", {"enum": ["S", "M"]}, {"of": "shirts"}, "M",
    )  # fmt: skip
    assert request.expires_at is not None


# ---- approvals that the configuration demands ----


def paying(calls: Counter[str], *turns: Any) -> Callable[[], Agent]:
    @tool
    def pay(amount: int) -> str:
        """Pay.

        Args:
            amount: In euros.
        """
        calls[f"pay {amount}"] += 1
        return f"paid {amount}"

    playing = model(*turns)
    return lambda: agent(playing(), pay)


async def test_an_approval_shows_the_exact_call(calls: Counter[str]) -> None:
    story = Story(paying(calls, use(("t1", "pay", {"amount": 5})), say("Done.")), approve=["pay"])
    [request] = await story.asks()
    assert (request.kind, request.tool, request.tool_use_id) == ("approval", "pay", "t1")
    assert (request.input, request.prompt) == ({"amount": 5}, "May demo call pay?")
    assert request.schema is not None
    assert request.schema["properties"]["input"]["properties"]["amount"]["type"] == "integer"
    assert not calls
    story.answer(APPROVED)
    assert await story.ends() == "Done."
    assert calls == {"pay 5": 1}


async def test_a_rejected_call_does_not_run_and_the_model_knows_why(calls: Counter[str]) -> None:
    build = paying(calls, use(("t1", "pay", {"amount": 5})), say("Then not."))
    story = Story(build, approve=["pay"])
    await story.asks()
    story.answer({"approve": False, "reason": "Too much."})
    assert await story.ends() == "Then not."
    assert not calls
    assert "not approved. Too much." in str(build().model.heard[-1][-1])  # type: ignore[attr-defined]


async def test_a_call_that_waits_for_an_approval_runs_as_it_is_judged_under_any_later_configuration(
    calls: Counter[str],
) -> None:
    story = Story(paying(calls, use(("t1", "pay", {"amount": 5})), say("Then not.")), approve=["pay"])
    await story.asks()
    story.answer({"approve": False})
    story.approve = frozenset()
    assert await story.ends() == "Then not."
    assert not calls


async def test_an_approver_may_edit_the_arguments(calls: Counter[str]) -> None:
    story = Story(paying(calls, use(("t1", "pay", {"amount": 5})), say("Done.")), approve=["pay"])
    await story.asks()
    story.answer({"approve": True, "input": {"amount": 3}})
    assert await story.ends() == "Done."
    assert calls == {"pay 3": 1}
    assert [event.input for event in story.of(ToolStarted)] == [{"amount": 3}]


async def test_a_changed_call_asks_again(calls: Counter[str]) -> None:
    """A hook that changes the arguments between two attempts gets no approval of the old ones."""
    amounts = iter([5, 500, 500])
    plain = paying(calls, use(("t1", "pay", {"amount": 0})), say("Done."))

    def build() -> Agent:
        def change(event: BeforeToolCallEvent) -> None:
            event.tool_use = {**event.tool_use, "input": {"amount": amount}}

        amount, built = next(amounts), plain()
        built.add_hook(change, BeforeToolCallEvent)
        return built

    story = Story(build, approve=["pay"])
    [first] = await story.asks()
    assert first.input == {"amount": 5}
    story.answer(APPROVED)
    [second] = await story.asks()
    assert second.input == {"amount": 500}
    assert not calls
    story.answer(APPROVED)
    assert await story.ends() == "Done."
    assert calls == {"pay 500": 1}


async def test_middleware_cannot_change_an_approved_call(calls: Counter[str]) -> None:
    plain = paying(calls, use(("t1", "pay", {"amount": 5})), say("Then not."))

    async def change(ctx: Any, run: Any) -> Any:
        async for event in run(ctx.replace(tool_use={**ctx.tool_use, "input": {"amount": 500}})):
            yield event

    def build() -> Agent:
        built = plain()
        built.add_middleware(ExecuteToolStage, change)
        return built

    story = Story(build, approve=["pay"])
    await story.asks()
    story.answer(APPROVED)
    assert await story.ends() == "Then not."
    assert not calls


async def test_an_approval_holds_for_its_call_alone_though_later_ones_have_its_id(
    look: Any, calls: Counter[str]
) -> None:
    pay, plain = use(("call_0", "pay", {"amount": 5})), use(("call_0", "look", {"word": "a"}))
    build = paying(calls, pay, plain, pay, say("Done."))
    story = Story(
        lambda: agent(build().model, *build().tool_registry.registry.values(), look), approve=["pay"]
    )
    await story.asks()
    story.answer(APPROVED)
    await story.asks()
    assert calls == {"pay 5": 1, "look": 1}
    story.answer(APPROVED)
    assert await story.ends() == "Done."
    assert calls == {"pay 5": 2, "look": 1}


async def test_an_approved_tool_runs_at_most_once(calls: Counter[str]) -> None:
    story = Story(paying(calls, use(("t1", "pay", {"amount": 5})), say("Done.")), approve=["pay"])
    await story.asks()
    story.answer(APPROVED)
    await story.ends()
    [started] = story.of(ToolStarted)
    assert started.at_most_once
    died = story.history[: 1 + next(e.seq for e in story.history if e.type == "tool.started") - 1]
    failed = obstacle(died, repeats=False)
    assert failed is not None
    assert failed.code == "at_most_once"


async def test_an_at_most_once_tool_that_asks_goes_on(calls: Counter[str]) -> None:
    @at_most_once
    @tool(context=True)
    def send(tool_context: ToolContext) -> str:
        """Send."""
        tool_context.interrupt("sure")
        calls["send"] += 1
        return "sent"

    playing = model(use(("t1", "send", {})), say("Done."))
    story = Story(lambda: agent(playing(), send))
    await story.asks()
    story.answer("yes")
    assert obstacle(story.history, repeats=False) is None
    assert await story.ends() == "Done."
    assert calls["send"] == 1


async def test_a_worker_that_dies_after_the_answer_does_not_ask_again(mail: Any, calls: Counter[str]) -> None:
    playing = model(use(("t1", "mail", {"to": "bob"})), say("Done."))
    story = Story(lambda: agent(playing(), mail))
    await story.asks()
    story.answer("yes")
    story.history = again_after(story.history, 2)  # the next attempt has begun, and its worker has died
    story.attempts = 2
    assert await story.ends() == "Done."
    assert calls["mail"] == 1


async def test_an_agent_with_a_session_manager_waits_and_goes_on_in_its_session(
    mail: Any, look: Any, calls: Counter[str], tmp_path: Any
) -> None:
    playing = model(use(("t1", "look", {"word": "a"}), ("t2", "mail", {"to": "bob"})), say("Done."))

    def build() -> Agent:
        sessions = FileSessionManager("s", storage_dir=str(tmp_path))
        return agent(playing(), look, mail, session_manager=sessions)

    story = Story(build)
    assert [each.prompt for each in await story.asks()] == ["Mail bob?"]
    assert calls == {"look": 1}
    story.answer("yes")
    assert await story.ends() == "Done."
    assert calls == {"look": 1, "mail": 1}
    assert [each["role"] for each in playing().heard[-1]] == ["user", "assistant", "user"], "in one session"
    assert story.of(InputReplaced) == []


async def test_an_approval_of_an_agent_with_a_session_manager(calls: Counter[str], tmp_path: Any) -> None:
    plain = paying(calls, use(("t1", "pay", {"amount": 5})), say("Done."))

    def build() -> Agent:
        sessions = FileSessionManager("s", storage_dir=str(tmp_path))
        return agent(plain().model, *plain().tool_registry.registry.values(), session_manager=sessions)

    story = Story(build, approve=["pay"])
    await story.asks()
    story.answer({"approve": True, "input": {"amount": 3}})
    assert await story.ends() == "Done."
    assert calls == {"pay 3": 1}


async def test_a_tool_that_finished_before_a_crash_is_not_called_again_in_a_session(
    calls: Counter[str], tmp_path: Any
) -> None:
    plain = paying(calls, use(("t1", "pay", {"amount": 5})), say("Done."), say("Done again."))

    def build() -> Agent:
        sessions = FileSessionManager("s", storage_dir=str(tmp_path / "sessions"))
        return agent(plain().model, *plain().tool_registry.registry.values(), session_manager=sessions)

    story = Story(build, approve=["pay"])
    await story.asks()
    story.answer(APPROVED)
    shutil.copytree(tmp_path / "sessions", tmp_path / "before")
    await story.ends()
    died = next(event.seq for event in story.history if event.type == "tool.finished")
    story.history = story.history[:died]
    shutil.rmtree(tmp_path / "sessions")  # it was not written before the crash
    shutil.copytree(tmp_path / "before", tmp_path / "sessions")
    assert await story.ends() == "Done again."
    assert calls == {"pay 5": 1}


async def test_an_answer_that_the_session_does_not_know_fails_the_run(mail: Any, tmp_path: Any) -> None:
    playing = model(use(("t1", "mail", {"to": "bob"})), say("Done."))
    sessions = iter(["one", "two"])
    story = Story(
        lambda: agent(
            playing(), mail, session_manager=FileSessionManager(next(sessions), storage_dir=str(tmp_path))
        )
    )
    await story.asks()
    story.answer("yes")
    with pytest.raises(AgentError, match="same session") as failure:
        await story.attempt()
    assert failure.value.code == "interrupted"


async def test_an_agent_that_a_session_keeping_agent_calls_cannot_ask(mail: Any, tmp_path: Any) -> None:
    clerk = agent(Playbook(use(("c1", "mail", {"to": "bob"}))), mail, name="clerk")
    boss = agent(
        Playbook(use(("b1", "clerk", {"input": "do"}))), clerk.as_tool(name="clerk"),
        session_manager=FileSessionManager("s", storage_dir=str(tmp_path)),
    )  # fmt: skip
    with pytest.raises(AgentError, match="not a called agent") as failure:
        await Story(lambda: boss).attempt()
    assert failure.value.code == "interrupted"


def test_a_question_is_a_value() -> None:
    assert msgspec.structs.replace(Question("a"), prompt="b") == Question("b")


# ---- models that use a tool use id twice ----


async def test_an_approved_call_runs_though_an_earlier_one_had_its_tool_use_id(
    mail: Any, look: Any, calls: Counter[str]
) -> None:
    playing = model(
        use(("call_0", "look", {"word": "a"})), use(("call_0", "look", {"word": "b"})), say("Done.")
    )
    story = Story(lambda: agent(playing(), look), approve=["look"])
    for approved in (1, 2):
        await story.asks()
        assert calls["look"] == approved - 1
        story.answer(APPROVED)
    assert await story.ends() == "Done."
    assert calls["look"] == 2
    assert playing().heard[-1][-1]["content"][0]["toolResult"]["content"] == [{"text": "seen b"}]


async def test_a_new_attempt_runs_a_later_call_with_a_known_tool_use_id(
    look: Any, calls: Counter[str]
) -> None:
    turns = [use(("call_0", "look", {"word": word})) for word in "ab"]
    recorder = ListRecorder()
    playing = model(*turns, say("Done."))
    await StrandsAgent(agent(playing(), look), context(), WeakSet()).run("hi", [], recorder)
    died = recorder.recorded[: recorder.types().index("tool.finished") + 1]
    again = ListRecorder(again_after(died, 2))
    retold = model(turns[1], say("Done again."))
    calls.clear()
    await StrandsAgent(agent(retold(), look), context(2), WeakSet()).run("hi", list(again.recorded), again)
    assert calls["look"] == 1
    assert retold().heard[-1][-1]["content"][0]["toolResult"]["content"] == [{"text": "seen b"}]


async def test_agents_that_work_at_once_may_use_the_same_tool_use_id(look: Any, calls: Counter[str]) -> None:
    """Each call runs with its own approval, and each question is about its own tool."""
    met: list[str] = []

    @tool(context=True)
    def peek(word: str, at: int, tool_context: ToolContext) -> str:
        """Look a word up, after a question.

        Args:
            word: The word.
            at: The page.
        """
        return f"{tool_context.interrupt('sure', reason='Sure?')} {word}"

    async def meet(event: BeforeToolCallEvent) -> None:
        met.append(event.agent.name)
        while len(met) % 2:
            await asyncio.sleep(0)

    def story_of(*names: str) -> Story:
        playing = {name: model(use(("call_0", "look", {"word": name})), say("Done.")) for name in names}
        if "peeks" in names:
            playing["peeks"] = model(use(("call_0", "peek", {"word": "c", "at": 1})), say("Done."))
        return Story(lambda: build(playing), approve=["look"])

    def build(playing: dict[str, Callable[[], Playbook]]) -> Any:
        graph = GraphBuilder()
        for name in playing:
            made = agent(playing[name](), peek if name == "peeks" else look, name=name)
            made.add_hook(meet, BeforeToolCallEvent, order=HookOrder.SDK_LAST + 9)
            graph.add_node(made, name)
            graph.set_entry_point(name)
        return graph.set_execution_timeout(60).build()

    story = story_of("a", "b")
    asked = await story.asks()
    assert sorted(request.input["word"] for request in asked) == ["a", "b"]
    story.answer(APPROVED, APPROVED)
    assert await story.ends()
    assert calls["look"] == 2
    for names in (("a", "peeks"), ("peeks", "a")):
        met.clear()
        asked = await story_of(*names).asks()
        assert {request.agent: request.tool for request in asked} == {
            "demo/a": "look", "demo/peeks": "peek",
        }  # fmt: skip
