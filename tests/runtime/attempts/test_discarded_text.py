"""Text that strands throws away is withdrawn, for every kind of failed or replaced call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from weakref import WeakSet

import msgspec
import pytest
from strands import Agent, ModelRetryStrategy, tool
from strands.hooks import AfterInvocationEvent, AfterModelCallEvent, BeforeModelCallEvent, MessageAddedEvent
from strands.middleware import InvokeModelStage
from strands.models.routing import ModelRouter
from strands.multiagent import GraphBuilder, Swarm
from strands.types.events import ModelStopReason
from strands.types.exceptions import ContextWindowOverflowException, ModelThrottledException

import runstore.runtime.strands.recorders.model_calls as strands_model_calls
from runstore.core.errors import AgentError
from runstore.core.events import (
    ContextReduced,
    Discarded,
    Message,
    Place,
    Queued,
    Reasoning,
    Retrying,
    Started,
    ToolFailed,
)
from runstore.core.folds.transcript import text as text_of
from runstore.core.ids import new_run_id
from runstore.core.records import EventRecord
from runstore.core.times import timestamp
from runstore.feed.memory import MemoryFeed
from runstore.runtime.attempts.recorder import Recorder
from runstore.runtime.memory.resume import recall
from runstore.runtime.strands.agent import Product, StrandsAgent
from runstore.runtime.strands.recorders.model_calls import Retries
from runstore.runtime.strands.stream.answers import OpenAnswers
from tests.contracts.memory_log import MemoryEventLog
from tests.kit.events import COMPLETED, read_run
from tests.runtime.recording import ListRecorder, context, read
from tests.runtime.strands_kit import Playbook, Turn, agent, delta, say, think, use

RIGHT = "The capital of France is Paris."
BROKEN = [*say("The capital ", "of Fra")[:-3]]
SECRET = "the key is hunter2"


class LoggedRun:
    """An agent's run in a log of this process."""

    def __init__(self, events: list[Any], outcome: Any) -> None:
        self.recorded = events
        self.outcome = outcome

    @property
    def events(self) -> list[Any]:
        return read(self.recorded)

    def of(self, cls: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, cls)]

    @property
    def text(self) -> str:
        """The text that a client shows."""
        return text_of(
            EventRecord(e.run_id, e.seq, e.type, timestamp(e.at), msgspec.json.decode(e.data))
            for e in self.recorded
        )

    @property
    def reasons(self) -> list[tuple[str, str]]:
        return [(event.agent, event.reason) for event in self.of(Discarded)]


async def run(product: Product, input: Any = "What is the capital of France?") -> LoggedRun:
    """Run an agent to any end."""
    log = MemoryEventLog(MemoryFeed())
    run_id = new_run_id()
    began = [
        Queued(agent="demo", user_id="local", input=input),
        Started(worker_id="worker-1", attempt=1, reason="claimed"),
    ]
    await log.append(run_id, began, expected_seq=0)
    outcome: Any
    try:
        agents = StrandsAgent(product, context(), WeakSet())
        outcome = await agents.run(input, [], Recorder(log, run_id, 1))
    except AgentError as error:
        outcome = error
    await log.append(run_id, [COMPLETED])
    events = await read_run(log, run_id)
    await log.close()
    return LoggedRun(events[:-1], outcome)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """strands' waits between two calls, which are over at once."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def over(delay: float, *rest: Any) -> None:
        if delay > 0.5:
            slept.append(delay)
            delay = 0
        await sleep(delay, *rest)

    monkeypatch.setattr("strands.event_loop._retry.asyncio.sleep", over)
    return slept


def throttled(*said: Any) -> Turn:
    return [*said, ModelThrottledException("Rate limit reached for key sk-abcdefghijklmnop")]


def retrying_hook(*refused: str) -> Callable[[AfterModelCallEvent], None]:
    """A hook that does not take an answer with one of these texts."""

    def hook(event: AfterModelCallEvent) -> None:
        if event.stop_response is not None:
            said = "".join(block.get("text", "") for block in event.stop_response.message["content"])
            event.retry = said in refused

    return hook


# ---- calls that fail ----


async def test_the_text_of_a_throttled_model_does_not_count() -> None:
    done = await run(agent(Playbook(throttled(*BROKEN), say(RIGHT))))
    assert done.text == done.outcome.result["text"] == RIGHT
    assert done.reasons == [("demo", "retried")]


@pytest.mark.parametrize("strategy", [Retries(max_attempts=4, initial_delay=1, max_delay=60), None])
async def test_each_wait_is_announced_before_it_begins(strategy: Any, waits: list[float]) -> None:
    settings = {"retry_strategy": strategy} if strategy else {}
    done = await run(agent(Playbook(throttled(), throttled(*BROKEN), throttled(), say(RIGHT)), **settings))
    told = [(event.attempt, event.wait_s, event.code) for event in done.of(Retrying)]
    assert [wait for _, wait, _ in told] == waits
    assert [(attempt, code) for attempt, _, code in told] == [(n, "model_throttled") for n in (1, 2, 3)]
    assert done.text == RIGHT
    assert len(done.of(Discarded)) == 1  # where nothing was said, nothing is taken back


async def test_a_call_that_fails_for_good_leaves_no_text(waits: list[float]) -> None:
    strategy = ModelRetryStrategy(max_attempts=2, initial_delay=1, max_delay=1)
    done = await run(agent(Playbook(throttled(*BROKEN), throttled(*BROKEN)), retry_strategy=strategy))
    assert isinstance(done.outcome, AgentError)
    assert done.text == ""
    assert done.reasons == [("demo", "retried"), ("demo", "failed")]
    assert [event.attempt for event in done.of(Retrying)] == [1]


async def test_an_error_that_a_hook_retries_takes_the_text_back() -> None:
    model = Playbook([*think("hm"), *BROKEN, ConnectionError("reset")], say(RIGHT))
    product = agent(model)

    def hook(event: AfterModelCallEvent) -> None:
        event.retry = event.exception is not None

    product.add_hook(hook, AfterModelCallEvent)
    done = await run(product)
    assert done.text == RIGHT
    assert done.reasons == [("demo", "retried")]
    assert [(e.attempt, e.wait_s, e.code) for e in done.of(Retrying)] == [(1, 0, "model_unavailable")]


async def test_the_answer_of_another_model_takes_the_place_of_the_first_ones() -> None:
    router = ModelRouter([Playbook([*BROKEN, ConnectionError("reset")]), Playbook(say(RIGHT))])
    done = await run(Agent(model=router, callback_handler=None))
    assert done.text == done.outcome.result["text"] == RIGHT
    assert done.reasons == [("demo", "retried")]


async def test_middleware_that_calls_the_model_again_takes_the_text_back() -> None:
    product = agent(Playbook([*BROKEN, ConnectionError("reset")], say(RIGHT)))

    async def again(context: Any, call: Any) -> AsyncIterator[Any]:
        try:
            async for event in call(context):
                yield event
        except ConnectionError:
            async for event in call(context):
                yield event

    product.add_middleware(InvokeModelStage, again)
    done = await run(product)
    assert done.text == done.outcome.result["text"] == RIGHT


async def test_a_conversation_that_is_too_long_is_said_again_when_it_was_cut() -> None:
    model = Playbook([*BROKEN, ContextWindowOverflowException("too long")], say(RIGHT))
    product = agent(model, messages=[
        {"role": role, "content": [{"text": f"{n}"}]} for n in range(30) for role in ("user", "assistant")
    ])  # fmt: skip
    done = await run(product)
    assert done.text == RIGHT
    assert done.reasons == [("demo", "failed")]


async def test_a_failing_call_that_had_said_nothing_takes_nothing_back() -> None:
    done = await run(agent(Playbook([ConnectionError("reset")])))
    assert done.reasons == []


async def test_earlier_answers_stay() -> None:
    @tool
    def look() -> str:
        """Look."""
        return "page 12"

    turn = [*say("Let me look.")[:-2], *use(("t1", "look", {}))[1:]]
    done = await run(agent(Playbook(turn, throttled(*BROKEN), say(RIGHT)), look))
    assert done.text == f"Let me look.\n\n{RIGHT}"


# ---- answers that are not taken ----


async def test_an_answer_that_a_hook_rejects_does_not_count() -> None:
    product = agent(Playbook([*think("hm"), *say("Berlin", "!")], say(RIGHT)))
    product.add_hook(retrying_hook("Berlin!"), AfterModelCallEvent)
    done = await run(product)
    assert done.text == done.outcome.result["text"] == RIGHT
    assert done.reasons == [("demo", "rejected")]
    assert not done.of(Retrying)


async def test_an_answer_that_is_rejected_with_advice_does_not_count() -> None:
    product = agent(Playbook(say("Berlin!"), say(RIGHT)))

    async def steer(event: AfterModelCallEvent) -> None:
        if event.stop_response and event.stop_response.message["content"][0]["text"] == "Berlin!":
            await event.agent._append_messages({"role": "user", "content": [{"text": "Look again."}]})
            event.retry = True

    product.add_hook(steer, AfterModelCallEvent)
    done = await run(product)
    assert done.text == RIGHT
    assert [event.message["role"] for event in done.of(Message)] == ["user", "assistant"]


# ---- answers that are redacted ----


def redacting(*said: str) -> Turn:
    """As Bedrock's guardrails do it: after all that was said, before the usage."""
    turn = say(*said)
    redaction = {"redactContent": {"redactAssistantContentMessage": "[redacted]"}}
    return [*turn[:-1], redaction, turn[-1]]


def hook_that_rewrites(event: AfterModelCallEvent) -> None:
    if event.stop_response is not None:
        event.stop_response.message["content"] = [{"text": "[redacted]"}]


def hook_that_rewrites_messages(event: MessageAddedEvent) -> None:
    if event.message["role"] == "assistant":
        event.message["content"] = [{"text": "[redacted]"}]


def hook_that_rewrites_results(event: AfterInvocationEvent) -> None:
    if event.result is not None:
        event.result.message["content"] = [{"text": "[redacted]"}]


def middleware_that_rewrites(result: Any) -> Any:
    reason, message, usage, metrics = result.result["stop"]
    message = {**message, "content": [{"text": "[redacted]"}]}
    stop = ModelStopReason(stop_reason=reason, message=message, usage=usage, metrics=metrics)
    return type(result)(result=stop)


def redacted_agent(how: str) -> Agent:
    product = agent(Playbook(redacting("Well, ", SECRET) if how == "model" else say("Well, ", SECRET)))
    match how:
        case "hook":
            product.add_hook(hook_that_rewrites, AfterModelCallEvent)
        case "message hook":
            product.add_hook(hook_that_rewrites_messages, MessageAddedEvent)
        case "result hook":
            product.add_hook(hook_that_rewrites_results, AfterInvocationEvent)
        case "middleware":
            product.add_middleware(InvokeModelStage.Output, middleware_that_rewrites)
    return product


@pytest.mark.parametrize("how", ["model", "hook", "message hook", "result hook", "middleware"])
async def test_redacted_text_is_withheld_and_its_replacement_is_recorded(how: str) -> None:
    done = await run(redacted_agent(how))
    assert not [event for event in done.recorded if SECRET.encode() in event.data]
    assert done.reasons == [("demo", "redacted")]
    assert done.text == done.outcome.result["text"] == "[redacted]"
    kept = [event.message for event in done.of(Message)]
    kept = (
        kept or done.of(ContextReduced)[0].begins_with[-1:]
    )  # a result that was rewritten when all was over
    assert [message["content"] for message in kept] == [[{"text": "[redacted]"}]]


def thinking_again(content: list[Any], instead: str) -> list[Any]:
    """The content of an answer with other reasoning, or none."""
    thoughts = [{"reasoningContent": {"reasoningText": {"text": instead}}}] if instead else []
    return thoughts + [block for block in content if "reasoningContent" not in block]


def rethought_agent(how: str, instead: str) -> Agent:
    """Its model's reasoning alone is rewritten."""
    first, *rest = say("Twelve.")
    product = agent(Playbook([first, *think("Well, ", SECRET), *rest]))

    def after_the_call(event: AfterModelCallEvent) -> None:
        if event.stop_response is not None:
            message = event.stop_response.message
            message["content"] = thinking_again(message["content"], instead)

    def as_it_is_added(event: MessageAddedEvent) -> None:
        event.message["content"] = thinking_again(event.message["content"], instead)

    def at_the_end(event: AfterInvocationEvent) -> None:
        if event.result is not None:
            event.result.message["content"] = thinking_again(event.result.message["content"], instead)

    match how:
        case "hook":
            product.add_hook(after_the_call, AfterModelCallEvent)
        case "message hook":
            product.add_hook(as_it_is_added, MessageAddedEvent)
        case "result hook":
            product.add_hook(at_the_end, AfterInvocationEvent)
    return product


@pytest.mark.parametrize("instead", ["", "[redacted]"], ids=["removed", "replaced"])
@pytest.mark.parametrize("how", ["hook", "message hook", "result hook"])
async def test_reasoning_alone_that_is_redacted_is_withheld(how: str, instead: str) -> None:
    done = await run(rethought_agent(how, instead))
    assert done.reasons == [("demo", "redacted")]
    assert done.text == done.outcome.result["text"] == "Twelve."
    assert [event.text for event in done.of(Reasoning)] == [instead] * bool(instead)
    if how != "result hook":  # which comes after the message was recorded
        assert not [event for event in done.recorded if SECRET.encode() in event.data]


async def test_reasoning_that_a_provider_leaves_out_of_its_message_stays() -> None:
    first, start, *rest = say("Twelve.")
    product = agent(Playbook([first, start, delta(reasoningContent={"text": "I see."}), *rest]))
    done = await run(product)
    assert [event.text for event in done.of(Reasoning)] == ["I see."]
    assert done.reasons == []


async def test_an_answer_that_is_redacted_with_its_tool_calls_leaves_no_empty_message() -> None:
    *said, _, _ = say("Well, ", SECRET)
    answer = [*said, *use(("t1", "add", {"a": 1}))[1:]]
    product = agent(Playbook(answer, say("done.")))

    def redact(event: AfterModelCallEvent) -> None:
        if event.stop_response is not None and event.stop_response.stop_reason == "tool_use":
            event.stop_response.message["content"] = [{"text": "[redacted]"}]

    product.add_hook(redact, AfterModelCallEvent)
    done = await run(product)
    assert [event.message["content"] for event in done.of(Message)][1] == []  # strands': no tool's results
    [conversation] = recall(done.recorded).conversations.values()
    assert conversation.messages == [
        {"role": "assistant", "content": [{"text": "[redacted]"}, {"text": "done."}]}
    ]


def hook_that_fails(event: AfterInvocationEvent) -> None:
    raise RuntimeError("the judge is away")


async def test_a_last_answer_is_withheld_if_the_hook_that_judges_it_fails() -> None:
    product = agent(Playbook(say("Well, ", SECRET)))
    product.add_hook(hook_that_fails, AfterInvocationEvent)
    done = await run(product)
    assert isinstance(done.outcome, AgentError)
    assert not [event for event in done.recorded if SECRET.encode() in event.data]
    assert done.reasons == [("demo", "redacted")]


async def test_an_answer_before_the_last_stays_though_a_hook_fails_at_the_end() -> None:
    product = agent(Playbook([*say("Let me look.")[:-2], *use(("t1", "add", {}))[1:]], [ValueError("no")]))
    product.add_hook(hook_that_fails, AfterInvocationEvent)
    done = await run(product)
    assert done.text == "Let me look."
    assert done.reasons == []


async def test_a_guardrails_redaction_is_stored_before_anything_else_happens() -> None:
    product, recorder = redacted_agent("model"), ListRecorder()
    seen: list[str] = []
    product.add_hook(lambda event: seen.extend(recorder.types()), AfterModelCallEvent)
    await StrandsAgent(product, context(), WeakSet()).run("?", [], recorder)
    assert "llm.discarded" in seen


async def test_text_that_a_hook_redacts_as_the_run_is_stopped_is_withheld() -> None:
    product, recorder = redacted_agent("hook"), ListRecorder()
    driven = StrandsAgent(product, context(), WeakSet())
    product.add_hook(lambda event: driven.cancel(), AfterModelCallEvent, order=-50)
    await driven.run("?", [], recorder)
    assert [event.reason for event in recorder.of(Discarded)] == ["redacted"]


async def test_a_last_answer_that_a_hook_redacts_as_the_run_is_stopped_is_withheld() -> None:
    product, recorder = redacted_agent("result hook"), ListRecorder()
    driven = StrandsAgent(product, context(), WeakSet())
    product.add_hook(lambda event: driven.cancel(), AfterInvocationEvent, order=-50)
    await driven.run("?", [], recorder)
    assert [event.reason for event in recorder.of(Discarded)] == ["redacted"]


async def test_an_answer_before_a_stop_is_not_taken_for_the_one_that_was_cut_short() -> None:
    @tool
    def look() -> str:
        """Look."""
        return "page 12"

    calls = [*say("Let me look.")[:-2], *use(("t1", "look", {}))[1:]]
    product, recorder = agent(Playbook(calls, say(RIGHT)), look), ListRecorder()
    driven = StrandsAgent(product, context(), WeakSet())

    def stop(event: BeforeModelCallEvent) -> None:
        if len(event.agent.messages) > 1:
            driven.cancel()

    product.add_hook(stop, BeforeModelCallEvent)
    await driven.run("?", [], recorder)
    assert not recorder.of(Discarded)


async def test_text_that_a_hook_adds_to_an_answer_is_recorded_too() -> None:
    product = agent(Playbook(say("Paris.")))

    def sign(event: AfterModelCallEvent) -> None:
        if event.stop_response is not None:
            event.stop_response.message["content"][0]["text"] += " (by a model)"

    product.add_hook(sign, AfterModelCallEvent)
    done = await run(product)
    assert done.text == done.outcome.result["text"] == "Paris. (by a model)"
    assert done.reasons == []


async def test_an_answer_of_many_blocks_counts() -> None:
    turn = [*say("one")[:-2], *say(" two")[1:-2], *say(" three")[1:]]
    done = await run(agent(Playbook(turn)))
    assert done.reasons == []
    assert done.text == "one two three"


async def test_an_answer_that_a_hook_forbids_beforehand_is_its_message() -> None:
    product = agent(Playbook())

    def deny(event: BeforeModelCallEvent) -> None:
        event.cancel = "no"

    product.add_hook(deny, BeforeModelCallEvent)
    done = await run(product)
    assert done.text == done.outcome.result["text"] == "no"
    assert done.reasons == []


# ---- agents below the run's own ----


def failing_helper() -> Agent:
    return agent(Playbook(throttled(*BROKEN), say(RIGHT)), name="helper")


async def test_a_retry_of_an_agent_that_is_a_tool_concerns_its_own_call() -> None:
    ask = use(("t1", "helper", {"input": "?"}))
    done = await run(agent(Playbook(ask, say("So it is.")), failing_helper().as_tool(name="helper")))
    assert done.text == f"{RIGHT}\n\nSo it is."
    [discarded] = done.of(Discarded)
    assert (discarded.agent, discarded.call_id) == ("demo/helper", "t1")
    assert done.of(Retrying)[0].call_id == "t1"


async def test_an_agent_that_fails_as_a_tool_leaves_no_text_and_no_words_of_its_provider() -> None:
    helper = agent(Playbook([*BROKEN, ValueError("Incorrect API key: sk-abcdefghijklmnop")]), name="helper")
    ask = use(("t1", "helper", {"input": "?"}))
    done = await run(agent(Playbook(ask, say("I do not know.")), helper.as_tool(name="helper")))
    assert done.text == "I do not know."
    assert done.reasons == [("demo/helper", "failed")]
    assert not [event for event in done.recorded if b"sk-abc" in event.data]
    assert done.of(ToolFailed)[0].output == [
        {"text": "Agent error: the model's provider refuses the key, or no key is set"}
    ]


def as_tool(inner: Agent) -> Any:
    return inner.as_tool(name="helper")


def in_code(inner: Agent) -> Any:
    @tool
    async def helper() -> str:
        """Help."""
        return str(await inner.invoke_async("?"))

    return helper


@pytest.mark.parametrize("helping", [as_tool, in_code])
@pytest.mark.parametrize("hook", [hook_that_fails, hook_that_rewrites_results])
async def test_a_hook_of_an_inner_agent_judges_its_last_answer(
    helping: Callable[[Agent], Any], hook: Callable[[Any], None]
) -> None:
    inner = agent(Playbook(say("Well, ", SECRET)), name="helper")
    inner.add_hook(hook, AfterInvocationEvent)
    ask = use(("t1", "helper", {"input": "?"}))
    done = await run(agent(Playbook(ask, say("So it is.")), helping(inner)))
    assert not [event for event in done.recorded if SECRET.encode() in event.data]
    assert done.reasons == [("demo/helper", "redacted")]
    said = "[redacted]\n\n" if hook is hook_that_rewrites_results else ""
    assert done.text == f"{said}So it is."


async def test_an_agent_whose_stream_a_tool_passes_on_takes_its_text_back() -> None:
    inner = agent(Playbook(throttled(*BROKEN), say(RIGHT)))

    @tool
    async def helper() -> AsyncIterator[Any]:
        """Help."""
        async for item in inner.stream_async("?"):
            yield item

    done = await run(agent(Playbook(use(("t1", "helper", {})), say("So it is.")), helper))
    assert done.text == f"{RIGHT}\n\nSo it is."


def graph(node: Agent) -> Any:
    builder = GraphBuilder()
    builder.add_node(node, "one")
    builder.set_max_node_executions(10)
    return builder.build()


@pytest.mark.parametrize("orchestrator", [graph, lambda node: Swarm([node])])
async def test_a_retry_of_a_node_concerns_the_node(orchestrator: Callable[[Agent], Any]) -> None:
    done = await run(orchestrator(failing_helper()))
    assert done.text.removeprefix("[") == RIGHT
    assert [reason for _, reason in done.reasons] == ["retried"]
    assert len(done.of(Retrying)) == 1


async def test_text_of_a_node_that_a_guardrail_redacts_is_withheld() -> None:
    done = await run(graph(redacted_agent("hook")))
    assert not [event for event in done.recorded if SECRET.encode() in event.data]
    assert done.text == "[redacted]"


@pytest.mark.parametrize("orchestrator", [graph, lambda node: Swarm([node])])
async def test_a_last_answer_of_a_node_is_withheld_if_its_hook_fails(
    orchestrator: Callable[[Agent], Any],
) -> None:
    node = agent(Playbook(say("Well, ", SECRET)), name="one")
    node.add_hook(hook_that_fails, AfterInvocationEvent)
    done = await run(orchestrator(node))
    assert not [event for event in done.recorded if SECRET.encode() in event.data]


# ---- what stays ----


async def test_text_until_a_run_is_stopped_stays() -> None:
    product = agent(Playbook([*say("one ", "two ", "three")]))
    recorder = ListRecorder()
    driven = StrandsAgent(product, context(), WeakSet())

    async def stop_after(event: Any) -> None:
        await ListRecorder.record(recorder, event)
        if event.type == "llm.token":
            driven.cancel()

    recorder.record = stop_after  # type: ignore[method-assign]
    await driven.run("?", [], recorder)
    assert not recorder.of(Discarded)
    assert [event.text for event in recorder.events if event.type == "llm.token"][:1] == ["one "]  # type: ignore[union-attr]


def test_text_redacted_while_a_run_is_being_stopped_is_withheld() -> None:
    answers, place = OpenAnswers(), Place("demo")
    answers.at(place).texts.append(SECRET)
    answers.stopping = True
    (discarded,) = answers.redact(place, "blocked")
    assert discarded == Discarded(agent="demo", reason="redacted", length=len(SECRET))


def test_a_users_strategy_without_a_known_wait_is_not_announced() -> None:
    class Odd(ModelRetryStrategy):
        def is_retryable(self, exception: Exception) -> bool:
            raise RuntimeError("no")

    product = agent(Playbook(), retry_strategy=Odd())
    assert strands_model_calls.wait_before_retry(product, ValueError()) is None
