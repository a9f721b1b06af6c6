"""The recorded requests of models, compared with those that the models got."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import pytest
from pydantic import BaseModel
from strands import Agent, ModelRetryStrategy, tool
from strands.agent.conversation_manager import (
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.hooks import AfterInvocationEvent, BeforeModelCallEvent
from strands.middleware import InvokeModelStage
from strands.models.routing import FallbackStrategy, ModelRouter
from strands.types.exceptions import ContextWindowOverflowException, ModelThrottledException

from runstore.core.codec import RecordedEvent
from runstore.core.content import message_with_bytes
from runstore.core.events import Context, Discarded, MessageRange, Queued, Request
from runstore.core.ids import new_run_id
from runstore.core.model_requests import ModelRequest
from runstore.core.ports import EventFilter, Head
from runstore.runtime.strands.agent import StrandsAgent
from runstore.store.request_reads import MAX_EARLIER, list_requests, read_request
from tests.kit.events import started
from tests.runtime.recording import ListRecorder, context
from tests.runtime.session import Session
from tests.runtime.strands_kit import Playbook, agent, cut, drive, say, use


class ListLog:
    """The port `LogReader` over one run's events."""

    def __init__(self, recorded: Sequence[RecordedEvent]) -> None:
        self._recorded = recorded

    async def head(self, run_id: str) -> Head | None:
        raise NotImplementedError

    async def read(
        self, run_id: str, *, after: int = 0, upto: int | None = None, limit: int = 1000,
        only: EventFilter | None = None, from_replica: bool = False,
    ) -> list[RecordedEvent]:  # fmt: skip
        last = len(self._recorded) if upto is None else upto
        found = [event for event in self._recorded if after < event.seq <= last]
        return [event for event in found if only is None or event.type in only.types][:limit]


async def requests(log: Any, run_id: str = "run-1") -> list[ModelRequest]:
    listed = await list_requests(log, run_id, after=0, limit=1000)
    return [await read_request(log, run_id, each.n, reads_session=True) for each in listed.data]


def messages(asked: Sequence[ModelRequest]) -> list[Any]:
    assert all(request.complete for request in asked)
    return [[message_with_bytes(message) for message in request.messages] for request in asked]


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


CALL = use(("t1", "double", {"number": 4}))


async def asked_of(product: Agent, input: Any = "hi", history: Any = ()) -> list[ModelRequest]:
    recorder, _ = await drive(product, input, history)
    return await requests(ListLog(recorder.recorded))


async def test_every_request_of_a_conversation_is_what_the_model_heard() -> None:
    model = Playbook(CALL, use(("t2", "double", {"number": 8})), say("16"))
    asked = await asked_of(agent(model, double, system_prompt="Be brief."))
    assert messages(asked) == model.heard
    assert [request.system for request in asked] == ["Be brief."] * 3
    assert [spec["name"] for spec in asked[0].tools] == ["double"]
    assert (asked[0].model, asked[0].provider) == ("playbook", "Playbook")
    assert asked[0].parameters == {"model_id": "playbook"}


async def test_a_conversation_is_stored_once_however_often_a_model_is_asked() -> None:
    turns = [use((f"t{number}", "double", {"number": number})) for number in range(100)]
    model = Playbook(*turns, say("done"))
    recorder, _ = await drive(agent(model, double, system_prompt="Be brief."))
    sizes = [len(event.data) for event in recorder.recorded if event.type == Request.type]
    assert len(recorder.of(Context)) == 3  # the prompt, the tools and the parameters
    assert max(sizes) < 500  # bytes; the whole conversation has 30,000
    last = (await requests(ListLog(recorder.recorded)))[-1]
    assert messages([last]) == [model.heard[-1]]


async def test_a_repeated_call_is_a_request_of_its_own() -> None:
    model = Playbook([ModelThrottledException("slow down")], say("fine"))
    retries = ModelRetryStrategy(max_attempts=2, initial_delay=0)
    assert messages(await asked_of(agent(model, retry_strategy=retries))) == model.heard
    assert len(model.heard) == 2


async def test_a_fallback_names_the_model_that_was_asked() -> None:
    first, second = (
        Playbook([RuntimeError("broken")], model_id="first"),
        Playbook(say("ok"), model_id="second"),
    )
    router = ModelRouter([first, second], strategy=FallbackStrategy())
    asked = await asked_of(Agent(model=router, callback_handler=None))
    assert [request.model for request in asked] == ["first", "second"]


async def test_a_trimmed_history_is_recorded_as_it_was_sent() -> None:
    turns = [use((f"t{number}", "double", {"number": number})) for number in range(6)]
    model = Playbook(*turns, say("done"))
    window = SlidingWindowConversationManager(window_size=4, per_turn=True)
    assert messages(await asked_of(agent(model, double, conversation_manager=window))) == model.heard
    assert len(model.heard[-1]) < 7


async def test_a_summarised_history_is_recorded_as_it_was_sent() -> None:
    """The conversation manager asks the model for the summary itself: that call is no agent's."""
    turns = [use((f"t{number}", "double", {"number": number})) for number in range(4)]
    too_long = [ContextWindowOverflowException("too long")]
    model = Playbook(*turns, too_long, say("They doubled numbers."), say("done"))
    manager = SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2)
    asked = messages(await asked_of(agent(model, double, conversation_manager=manager)))
    assert asked == [*model.heard[:5], model.heard[6]]
    assert asked[-1][0]["content"] == [{"text": "They doubled numbers."}]


async def test_middleware_and_hooks_have_had_their_say() -> None:
    def shout(context: Any) -> Any:
        return context.replace(messages=[{"role": "user", "content": [{"text": "HI"}]}])

    async def polite(context: Any, call: Any) -> Any:
        async for event in call(context.replace(system_prompt="Be polite.", model=second)):
            yield event

    def note(event: BeforeModelCallEvent) -> None:
        event.agent.system_prompt = "Be quick."

    first, second = Playbook(say("no")), Playbook(say("yes"), model_id="second")
    product = agent(first, system_prompt="Be brief.")
    product.add_hook(note, BeforeModelCallEvent)
    product.add_middleware(InvokeModelStage.Input, shout)
    product.add_middleware(InvokeModelStage, polite)
    (request,) = await asked_of(product)
    assert messages([request]) == second.heard
    assert (request.system, request.model) == ("Be polite.", "second")


class Answer(BaseModel):
    number: int


async def test_a_forced_object_is_asked_for_with_its_tool() -> None:
    model = Playbook(say("eight"), use(("t1", "Answer", {"number": 8})))
    asked = await asked_of(agent(model, structured_output_model=Answer))
    assert messages(asked) == model.heard
    assert asked[1].tool_choice == {"tool": {"name": "Answer"}}
    assert [spec["name"] for spec in asked[1].tools] == ["Answer"]


async def test_agents_as_tools_are_asked_at_their_own_place() -> None:
    inner = Playbook(CALL, say("8"))
    worker = agent(inner, double, name="worker", system_prompt="You double.")
    model = Playbook(use(("t1", "worker", {"input": "four"})), say("done"))
    asked = await asked_of(agent(model, worker))
    below = [request for request in asked if request.agent == "demo/worker"]
    assert messages(below) == inner.heard
    assert {request.call_id for request in below} == {"t1"}
    assert messages([request for request in asked if request.agent == "demo"]) == model.heard


async def test_a_new_attempt_refers_to_what_the_last_one_logged() -> None:
    recorder, _ = await drive(agent(Playbook(CALL, say("never heard")), double))
    history = cut(recorder, lambda event: event.type == "llm.message" and b"toolResult" in event.data)
    model = Playbook(say("8"))
    again, _ = await drive(agent(model, double), history=history)
    asked = await requests(ListLog(again.recorded))
    assert messages(asked[1:]) == model.heard
    assert not [each for each in again.of(Context) if each.kind == "message"]


async def test_messages_of_a_session_stay_in_their_own_runs() -> None:
    session = Session()
    for number in range(3):
        model = Playbook(CALL, say(f"answer {number}"))
        await session.turn(agent(model, double), f"question {number}")
    asked = await requests(session.log, session.runs[-1])
    assert messages(asked) == model.heard
    events = await session.log.read(session.runs[-1])
    assert not [event for event in events if event.type == Context.type and b'"message"' in event.data]
    assert {source.run_id for source in asked[0].sources} == {None, *session.runs[:2]}


async def test_messages_of_a_session_are_left_out_for_a_reader_of_one_run() -> None:
    session = Session()
    for number in range(2):
        await session.turn(agent(Playbook(say("fine"))), f"question {number}")
    request = await read_request(session.log, session.runs[-1], 1, reads_session=False)
    assert not request.complete
    assert request.messages[:-1] == [None, None]
    assert request.messages[-1]["content"] == [{"text": "question 1"}]
    assert [source.left_out for source in request.sources] == ["withheld", "withheld", None]


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": "bob", "session_id": "s"},
        {"user_id": "alice", "session_id": "t"},
        {"user_id": "alice", "session_id": None},
    ],
)
async def test_a_request_names_no_run_of_another_session(other: dict[str, Any]) -> None:
    log, stranger = Session().log, new_run_id()
    await log.append(stranger, [Queued(agent="demo", input="secret", **other)])
    for session_id in ("s", None):
        own = new_run_id()
        await log.append(own, [Queued(agent="demo", user_id="alice", input="hi", session_id=session_id)])
        lie = Request(agent="demo", messages=[MessageRange(run_id=stranger, held=[(1, 0)])])
        await log.append(own, [started(), lie])
        request = await read_request(log, own, 1, reads_session=True)
        assert (request.messages, request.sources[0].left_out) == ([None], "missing")


async def test_a_request_names_a_bounded_number_of_earlier_runs() -> None:
    session = Session()
    for number in range(2):
        await session.turn(agent(Playbook(say("fine"))), f"question {number}")
    strangers = [MessageRange(run_id=new_run_id(), held=[(1, 0)]) for _ in range(MAX_EARLIER)]
    first = MessageRange(run_id=session.runs[0], held=[(1, 0)])
    await session.recorded("hi", Request(agent="demo", messages=[*strangers, first]))
    request = await read_request(session.log, session.runs[-1], 1, reads_session=True)
    assert request.sources[-1].left_out == "missing"


async def test_a_redacted_answer_is_withheld_from_requests_too() -> None:
    def rewrite(event: AfterInvocationEvent) -> None:
        if event.result is not None:
            event.result.message["content"] = [{"text": "(withheld)"}]

    def again(event: AfterInvocationEvent) -> None:
        if model.calls == 1:
            event.resume = "go on"

    model = Playbook(say("hunter2"), say("other"))
    product = agent(model)
    product.add_hook(rewrite, AfterInvocationEvent)
    product.add_hook(again, AfterInvocationEvent)
    session = Session()
    await session.turn(product, "hi")
    assert model.heard[1:]
    run_id = session.runs[0]
    stored = b"".join(event.data for event in await session.log.read(run_id))
    assert any(event.type == Discarded.type for event in await session.log.read(run_id))
    assert b"hunter2" not in stored
    assert "hunter2" not in str(await requests(session.log, run_id))


async def test_content_that_no_event_can_hold_is_replaced_by_its_digest_and_size() -> None:
    def fill(context: Any) -> Any:
        return context.replace(messages=[{"role": "user", "content": [{"text": "x" * (1 << 20)}]}])

    product = agent(Playbook(say("ok")))
    product.add_middleware(InvokeModelStage.Input, fill)
    (request,) = await asked_of(product)
    (source,) = request.sources
    assert (request.messages, request.complete, source.left_out) == ([None], False, "too_large")
    assert source.size > 1 << 20
    assert len(source.sha256 or "") == 64


async def test_a_message_that_is_no_json_is_named_and_ends_nothing() -> None:
    class Odd:
        def __str__(self) -> str:
            raise ValueError("no")

    def spoil(context: Any) -> Any:
        return context.replace(messages=[{"role": "user", "content": [{"text": Odd()}]}])

    product = agent(Playbook(say("ok")))
    product.add_middleware(InvokeModelStage.Input, spoil)
    (request,) = await asked_of(product)
    assert "cannot be written as JSON" in (request.left_out or "")
    assert not request.complete


async def test_nothing_is_recorded_when_it_is_off() -> None:
    recorder = ListRecorder()
    product = agent(Playbook(say("ok")))
    await StrandsAgent(product, context(), WeakSet(), record_requests=False).run("hi", [], recorder)
    assert not recorder.of(Request) + recorder.of(Context)  # type: ignore[operator]


@pytest.mark.parametrize("key", ["api_key", "authorization", "token"])
async def test_a_models_secrets_are_in_no_event(key: str) -> None:
    model = Playbook(say("ok"))
    secret = "sk-secret-123456"
    model.update_config(params={key: secret, "temperature": 0.5}, headers={"X-Auth": secret})
    recorder, _ = await drive(agent(model))
    assert secret not in str([event.data for event in recorder.recorded])
    (asked,) = await requests(ListLog(recorder.recorded))
    assert asked.parameters["params"] == {key: "***", "temperature": 0.5}
