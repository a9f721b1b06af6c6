import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from runstore.core.codec import RecordedEvent
from runstore.core.errors import AgentError, InvalidEvent, RunClosed
from runstore.core.events import Context, Custom, InputGiven, MessageRange, Request, Token
from runstore.core.inputs import numbered
from runstore.core.ports import AgentResult
from runstore.runtime.generator_agent import GeneratorAgent
from runstore.runtime.memory.oversized import MAX_RESULT_BYTES
from tests.runtime.recording import ListRecorder, again_after, context, text


async def drive(function: Any, input: Any = "hi") -> tuple[ListRecorder, AgentResult]:
    recorder = ListRecorder()
    return recorder, await GeneratorAgent(function, context()).run(input, [], recorder)


async def test_text_becomes_tokens_and_custom_events_are_kept() -> None:
    async def agent(input: str) -> AsyncIterator[Any]:
        yield f"{input} "
        yield {"type": "custom.progress", "data": {"done": 1}}
        yield {"type": "custom.bare"}
        yield "there"

    recorder, ended = await drive(agent)
    assert recorder.events[2:] != []
    assert recorder.types()[2:] == [
        "agent.started", "llm.token", "custom.progress", "custom.bare", "llm.token", "agent.finished",
    ]  # fmt: skip
    assert recorder.of(Token)[0] == Token(agent="demo", text="hi ")
    assert recorder.of(Custom)[0].data == {"done": 1}
    assert ended == AgentResult(result={"text": "hi there"}, usage={})


async def test_it_gets_the_context_when_it_asks_for_it() -> None:
    async def agent(input: str, *, ctx: Any) -> AsyncIterator[str]:
        yield f"{ctx.run_id} {ctx.metadata['colour']}"

    assert (await drive(agent))[1].result["text"] == "run-1 green"


async def test_its_input_need_not_be_text() -> None:
    async def agent(question: Any) -> AsyncIterator[str]:
        yield str(question["a"])

    assert (await drive(agent, {"a": 1}))[1].result["text"] == "1"


@pytest.mark.parametrize(
    "wrong", [None, 3, b"bytes", ["a"], {"text": "x"}, {"type": 3}, {"type": "custom.x", "more": 1}]
)
async def test_any_other_yielded_value_is_an_error_that_names_the_allowed_ones(wrong: Any) -> None:
    async def agent(input: str) -> AsyncIterator[Any]:
        yield wrong

    with pytest.raises(AgentError, match=r"yielded .* it may be text \(str\) or an event"):
        await drive(agent)


async def test_text_that_no_event_can_hold_becomes_several_tokens() -> None:
    long = "\0é" * (1 << 19)

    async def agent(input: str) -> AsyncIterator[Any]:
        yield long

    recorder, ended = await drive(agent)
    assert text(recorder.of(Token)) == long
    assert len(recorder.of(Token)) > 1
    assert ended.result["truncated"]


async def test_a_type_that_is_not_custom_is_refused() -> None:
    async def agent(input: str) -> AsyncIterator[Any]:
        yield {"type": "lifecycle.completed", "data": {}}

    with pytest.raises(InvalidEvent, match="must be 'custom"):
        await drive(agent)


@pytest.mark.parametrize("raised", [ValueError("boom"), SystemExit("boom")])
async def test_an_exception_of_the_generator_is_an_error_of_the_agent(raised: BaseException) -> None:
    async def agent(input: str) -> AsyncIterator[str]:
        yield "so far"
        raise raised

    recorder = ListRecorder()
    with pytest.raises(AgentError, match="boom") as caught:
        await GeneratorAgent(agent, context()).run("hi", [], recorder)
    assert caught.value.code == "agent_error"
    assert text(recorder.of(Token)) == "so far"


async def test_a_function_that_takes_no_input_is_an_error() -> None:
    async def agent() -> AsyncIterator[str]:
        yield ""

    with pytest.raises(AgentError, match="cannot be called with an input"):
        await drive(agent)


async def test_it_is_closed_when_the_log_takes_no_more() -> None:
    closed = []

    async def agent(input: str) -> AsyncIterator[str]:
        try:
            while True:
                yield "on and on "
        finally:
            closed.append(True)

    recorder = ListRecorder()
    recorder.refusal = None
    keep = recorder.keep

    def refuse(event: Any) -> None:
        if len(recorder.recorded) == 5:
            raise RunClosed("run-1", 5)
        keep(event)

    recorder.keep = refuse  # type: ignore[method-assign]
    with pytest.raises(RunClosed):
        await GeneratorAgent(agent, context()).run("hi", [], recorder)
    assert closed == [True]


async def test_a_refusal_of_another_run_is_its_own_error_and_not_the_loss_of_its_run() -> None:
    async def agent(input: str) -> AsyncIterator[str]:
        yield "x"
        raise RunClosed("another run", 5)

    with pytest.raises(AgentError, match="another run ended at seq 5") as caught:
        await drive(agent)
    assert caught.value.code == "run_closed"


async def test_it_is_closed_when_its_task_is_cancelled() -> None:
    waiting, closed = asyncio.Event(), asyncio.Event()

    async def agent(input: str) -> AsyncIterator[str]:
        yield "now "
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    task = asyncio.create_task(drive(agent))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()


async def test_a_long_text_is_cut_in_the_result() -> None:
    async def agent(input: str) -> AsyncIterator[str]:
        for _ in range(400):
            yield "ä" * 1_000

    recorder, ended = await drive(agent)
    assert ended.result["truncated"] is True
    assert len(ended.result["text"].encode()) <= MAX_RESULT_BYTES
    assert len(recorder.of(Token)) == 400


async def test_it_says_itself_what_it_asks_a_model() -> None:
    async def agent(input: str, *, ctx: Any) -> AsyncIterator[Any]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": input, "name": "bob"}]
        parameters = {"temperature": 0, "api_key": "sk-secret"}
        yield ctx.request(messages, model="gpt-5", system="Be brief.", parameters=parameters)
        yield "five"
        messages += [{"role": "assistant", "content": "five"}, {"role": "user", "content": "sure?"}]
        yield {"type": "llm.request", "data": {"model": "gpt-5", "messages": messages}}

    recorder, _ = await drive(agent)
    assert recorder.types("agent.started", "agent.finished")[2:] == [
        "llm.context", "llm.context", "llm.context", "llm.request", "llm.token",
        "llm.context", "llm.context", "llm.request",
    ]  # fmt: skip
    first, second = recorder.of(Request)
    assert (first.model, second.messages[0]) == ("gpt-5", MessageRange(last=(0, 1)))
    contents = {each.kind: each.content for each in recorder.of(Context)}
    assert contents["parameters"] == {"temperature": 0, "api_key": "***"}


@pytest.mark.parametrize(
    "data", [None, {"messages": "hi"}, {"messages": [1]}, {"parameters": 3}, {"headers": {}}]
)
async def test_a_malformed_request_is_an_error_that_names_its_place(data: Any) -> None:
    async def agent(input: str) -> AsyncIterator[Any]:
        yield {"type": "llm.request", "data": data}

    with pytest.raises(AgentError, match=r"llm\.request"):
        await drive(agent)


async def test_requests_are_not_recorded_when_that_is_off() -> None:
    async def agent(input: str, *, ctx: Any) -> AsyncIterator[Any]:
        yield ctx.request([{"role": "user", "content": input}])

    recorder = ListRecorder()
    await GeneratorAgent(agent, context(), record_requests=False).run("hi", [], recorder)
    assert recorder.of(Request) == []


# ---- questions to a person ----


async def attempts(function: Any, *answers: Any) -> tuple[list[list[str]], AgentResult]:
    """Run attempts until the generator ends; each answer is for one question. Returns what each asked."""
    history: list[RecordedEvent] = []
    left, prompts = list(answers), []
    for attempt in count(1):
        recorder = ListRecorder(again_after(history, attempt) if history else [])
        past = list(recorder.recorded) if history else []
        ended = await GeneratorAgent(function, context(attempt)).run("hi", past, recorder)
        if isinstance(ended, AgentResult):
            assert not left
            return prompts, ended
        asked = numbered(ended.requests, attempt)
        prompts.append([request.prompt for request in asked])
        for request in asked:
            recorder.keep(request)
        for request in asked:
            recorder.keep(InputGiven(request_id=request.request_id, answer=left.pop(0), by="ann"))
        history = recorder.recorded
    raise AssertionError


async def test_a_generator_asks_and_gets_the_answers() -> None:
    async def agent(input: str, ctx: Any) -> AsyncIterator[str]:
        yield "Hello. "
        size = await ctx.ask("Which size?", schema={"enum": ["S", "M"]})
        colour = await ctx.ask("Which colour?")
        yield f"{size} {colour}"

    prompts, ended = await attempts(agent, "S", "red")
    assert prompts == [["Which size?"], ["Which colour?"]]
    assert ended.result["text"] == "Hello. S red"


async def test_questions_of_several_tasks_are_asked_at_once() -> None:
    async def agent(input: str, ctx: Any) -> AsyncIterator[str]:
        yield " ".join(await asyncio.gather(ctx.ask("One?"), ctx.ask("Two?")))

    prompts, ended = await attempts(agent, "1", "2")
    assert prompts == [["One?", "Two?"]]
    assert ended.result["text"] == "1 2"


async def test_one_question_asked_twice_has_two_answers() -> None:
    async def agent(input: str, ctx: Any) -> AsyncIterator[str]:
        while (answer := await ctx.ask("More?")) != "no":
            yield answer

    prompts, ended = await attempts(agent, "a", "b", "no")
    assert len(prompts) == 3
    assert ended.result["text"] == "ab"


async def test_a_question_that_changes_in_each_attempt_ends_the_run() -> None:
    ticks = count(1)

    async def agent(input: str, ctx: Any) -> AsyncIterator[str]:
        yield await ctx.ask("Sure?")
        with suppress(Exception):
            yield await ctx.ask(f"Now {next(ticks)} – go?")

    with pytest.raises(AgentError, match=r"asks 'Now 2 – go\?', and no longer 'Now 1 – go\?'") as failure:
        await attempts(agent, "yes", "go", "go")
    assert failure.value.code == "question_changed"


async def test_tasks_may_ask_in_another_order_in_each_attempt() -> None:
    async def asks(ctx: Any, *prompts: str) -> str:
        return "".join([await ctx.ask(prompt) for prompt in prompts])

    async def agent(input: str, ctx: Any) -> AsyncIterator[str]:
        yield " ".join(await asyncio.gather(asks(ctx, "One?", "More?"), asks(ctx, "Two?")))

    prompts, ended = await attempts(agent, "1", "2", "3")
    assert prompts == [["One?", "Two?"], ["More?"]]
    assert ended.result["text"] == "13 2"


@pytest.mark.parametrize("error", [Exception, BaseException])
async def test_a_generator_cannot_go_on_without_its_answer(error: type[BaseException]) -> None:
    async def agent(input: str, ctx: Any) -> AsyncIterator[str]:
        try:
            answer = await ctx.ask("Well?")
        except error:
            answer = "nothing"
        yield answer

    prompts, ended = await attempts(agent, "yes")
    assert prompts == [["Well?"]]
    assert ended.result["text"] == "yes"


@pytest.mark.parametrize("expires_s", [0, -1, float("nan"), float("inf"), 1e12, 1e30])
async def test_a_question_with_an_expiry_that_cannot_be_is_an_error_that_names_the_bounds(
    expires_s: float,
) -> None:
    async def ask(input: Any, ctx: Any) -> AsyncIterator[str]:
        yield str(await ctx.ask("Well?", expires_s=expires_s))

    with pytest.raises(AgentError, match=r"`expires_s` must be above 0, and at most 31,622,400"):
        await drive(ask)
