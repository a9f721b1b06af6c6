"""Each turn of a session is sent to the model as one strands agent that lives on would have sent it.

One agent is called with ten inputs, one after the other; runstore runs the same inputs as ten runs of a
session, each with a new agent. Both models keep what they hear.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import (
    NullConversationManager,
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.agent.conversation_manager.compression.pin_message import pin_message, unpin_message
from strands.hooks import AfterModelCallEvent, BeforeInvocationEvent, MessageAddedEvent
from strands.models import Model
from strands.types.exceptions import ContextWindowOverflowException, MaxTokensReachedException

from runstore.core.content import input_messages
from runstore.core.events import Completed
from runstore.runtime.memory.session_memory import NO_TEXT
from tests.runtime.session import Session
from tests.runtime.strands_kit import Chunk, agent, delta, say, think, use

PIXEL = {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}}
REDACTED = "[User input redacted.]"

Heard = list[dict[str, Any]]
Turn = list[Any]


class Speaker(Model):
    """Answers by what it hears and by the number of the call, and keeps what it hears."""

    def __init__(self, answer: Callable[[Heard, int], Turn]) -> None:
        self._answer = answer
        self.heard: list[Heard] = []

    def update_config(self, **model_config: Any) -> None:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"model_id": "speaker"}

    async def structured_output(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Chunk]:
        heard = [{"role": message["role"], "content": message["content"]} for message in messages]
        self.heard.append(heard)
        for chunk in self._answer(heard, len(self.heard)):
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk


class Kind(NamedTuple):
    """One turn of a session. `make` builds the agent of one run, or returns the long-lived one."""

    answer: Callable[[Heard, int], Turn]
    make: Callable[[Model], Agent] = agent
    input: Callable[[int], Any] = "question {}".format


def last(heard: Heard) -> dict[str, Any]:
    content: list[dict[str, Any]] = heard[-1]["content"]
    return content[-1]


def plain(heard: Heard, call: int) -> Turn:
    return say(f"answer {call}, ", f"of {len(heard)} messages")


# ---- tools ----


@tool
def add(a: int, b: int) -> str:
    """Add."""
    return str(a + b)


@tool(context=True)
def finish(tool_context: ToolContext) -> str:
    """Answer at once."""
    tool_context.agent.cancel(after_current_tools=True)
    return "that is all"


@tool
def picture() -> dict[str, Any]:
    """Take one."""
    return {"status": "success", "content": [{"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}}]}


@tool
def breaks() -> str:
    """Fail."""
    raise ValueError("no")


def calling(*names: str, **arguments: Any) -> Callable[[Heard, int], Turn]:
    def answer(heard: Heard, call: int) -> Turn:
        if "toolResult" in last(heard):
            return say(f"done {call}")
        return [delta(text="Let me see."), *use(*((f"t{call}-{name}", name, arguments) for name in names))]

    return answer


class Answer(BaseModel):
    """A number."""

    number: int


def structured(heard: Heard, call: int) -> Turn:
    return use((f"s{call}", "Answer", {"number": call}))


def forced(heard: Heard, call: int) -> Turn:
    if call % 2:
        return say("a number: 3")
    return structured(heard, call)


def having_sub_agent(**options: Any) -> Callable[[Model], Agent]:
    def make(model: Model) -> Agent:
        speaker = Speaker(lambda heard, call: say(f"I heard {len(heard)} messages."))
        return agent(model, agent(speaker, name="inner").as_tool(**options))

    return make


# ---- guardrails ----


def said_by_user(heard: Heard) -> str:
    return " ".join(b["text"] for m in heard if m["role"] == "user" for b in m["content"] if "text" in b)


def blocked(**redaction: str) -> Turn:
    return [*say("I cannot speak of that.", stop="guardrail_intervened"), {"redactContent": redaction}]


def guarded(heard: Heard, call: int) -> Turn:
    if "CACTUS" in said_by_user(heard):
        return blocked(redactUserContentMessage=REDACTED)
    return plain(heard, call)


def guarded_output(heard: Heard, call: int) -> Turn:
    if call % 3 == 0:
        return [*say("The secret is X."), {"redactContent": {"redactAssistantContentMessage": "[Redacted.]"}}]
    return plain(heard, call)


def guarded_tool(heard: Heard, call: int) -> Turn:
    if "toolResult" in last(heard) and call % 4 == 0:
        return blocked(redactUserContentMessage=REDACTED)
    return calling("add", a=1, b=call)(heard, call)


def cactus(number: int) -> str:
    return "tell me of CACTUS" if number % 3 == 1 else f"what about roses {number}?"


def rewriting(model: Model) -> Agent:
    def hide(event: BeforeInvocationEvent) -> None:
        for message in event.messages or ():
            message["content"] = [
                {"text": block["text"].replace("4711", "****")} for block in message["content"]
            ]

    made = agent(model)
    made.add_hook(hide, BeforeInvocationEvent)
    return made


def rewriting_what_is_added(model: Model) -> Agent:
    def hide(event: MessageAddedEvent) -> None:
        for block in event.message["content"]:
            if "text" in block:
                block["text"] = block["text"].replace("4711", "****")

    made = agent(model)
    made.add_hook(hide, MessageAddedEvent)
    return made


# ---- answers that fail, are rejected or cut off ----


def unreliable(heard: Heard, call: int) -> Turn:
    if call % 2:
        return [delta(text="Half an "), ConnectionError("reset")]
    return plain(heard, call)


def repeating(model: Model) -> Agent:
    def again(event: AfterModelCallEvent) -> None:
        event.retry = isinstance(event.exception, ConnectionError)

    made = agent(model)
    made.add_hook(again, AfterModelCallEvent)
    return made


def rejecting(model: Model) -> Agent:
    def again(event: AfterModelCallEvent) -> None:
        answer = event.stop_response
        event.retry = bool(answer and answer.message["content"][0]["text"].startswith("bad"))

    made = agent(model)
    made.add_hook(again, AfterModelCallEvent)
    return made


def bad_first(heard: Heard, call: int) -> Turn:
    return say(f"bad {call}") if call % 2 else say(f"good {call}")


def too_long(heard: Heard, call: int) -> Turn:
    return [
        delta(text=f"a long answer {call}"),
        {"contentBlockStop": {}},
        *use(("t", "add", {"a": 1, "b": 2}))[1:-2],
        {"messageStop": {"stopReason": "max_tokens"}},
    ]


# ---- conversation managers ----


def managed(**settings: Any) -> Callable[[Model], Agent]:
    def make(model: Model) -> Agent:
        manager = SlidingWindowConversationManager(**settings)
        return agent(model, add, conversation_manager=manager)

    return make


def summarising(model: Model) -> Agent:
    manager = SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2)
    return agent(model, conversation_manager=manager)


def truncating(model: Model) -> Agent:
    return agent(model, long_report, conversation_manager=SlidingWindowConversationManager(window_size=12))


@tool
def long_report() -> str:
    """Write it."""
    return "word " * 500


def overflowing(answer: Callable[[Heard, int], Turn], limit: int) -> Callable[[Heard, int], Turn]:
    def speak(heard: Heard, call: int) -> Turn:
        if any("summarize" in b.get("text", "").lower() for b in heard[-1]["content"]):
            return say(f"summary {call} of {len(heard)} messages")
        if len(str(heard)) > limit:
            return [ContextWindowOverflowException("too long")]
        return answer(heard, call)

    return speak


@tool(context=True)
def keep(number: int, pinned: bool, tool_context: ToolContext) -> str:
    """Pin a message, or take its pin away."""
    (pin_message if pinned else unpin_message)(tool_context.agent.messages, number)
    return "done"


def pinning(*calls: tuple[int, bool] | None) -> Callable[[Heard, int], Turn]:
    """Pins or unpins a message of the conversation in each turn that has a call."""

    def answer(heard: Heard, call: int) -> Turn:
        question = last(heard).get("text", "")
        number = int(question.split()[-1]) if question else len(calls)
        if number >= len(calls) or (pin := calls[number]) is None:
            return say(f"answer {call}, of {len(heard)} messages")
        return use((f"t{call}", "keep", {"number": pin[0], "pinned": pin[1]}))

    return answer


def keeping(**settings: Any) -> Callable[[Model], Agent]:
    def make(model: Model) -> Agent:
        return agent(model, keep, conversation_manager=SlidingWindowConversationManager(**settings))

    return make


COOK = [
    {"role": "user", "content": [{"text": "You are a cook."}]},
    {"role": "assistant", "content": [{"text": "I am."}]},
]
KINDS = {
    "plain": Kind(plain),
    "a tool": Kind(calling("add", a=1, b=2), lambda model: agent(model, add)),
    "parallel tools": Kind(calling("add", "breaks", a=1, b=2), lambda model: agent(model, add, breaks)),
    "a picture from a tool": Kind(calling("picture"), lambda model: agent(model, picture)),
    "the turn ends in a tool result": Kind(calling("finish"), lambda model: agent(model, finish)),
    "a sub-agent": Kind(calling("inner", input="please"), having_sub_agent()),
    "a delegate": Kind(calling("inner", input="please"), having_sub_agent(delegate=True)),
    "structured output": Kind(structured, lambda model: agent(model, structured_output_model=Answer)),
    "forced structured output": Kind(forced, lambda model: agent(model, structured_output_model=Answer)),
    "blocked input": Kind(guarded, input=cactus),
    "blocked tool results": Kind(guarded_tool, lambda model: agent(model, add)),
    "redacted output": Kind(guarded_output),
    "rewritten input": Kind(plain, rewriting, "my card is 4711, {}".format),
    "input rewritten as it is added": Kind(plain, rewriting_what_is_added, "my card is 4711, {}".format),
    "a conversation rewritten as it is added": Kind(
        plain,
        rewriting_what_is_added,
        lambda number: (
            [
                {"role": "user", "content": [{"text": "my card is 4711"}]},
                {"role": "assistant", "content": [{"text": "Thanks."}]},
                {"role": "user", "content": [{"text": f"4711, I say {number}"}]},
            ]
            if number == 0
            else f"hm {number}"
        ),
    ),
    "retried answers": Kind(unreliable, repeating),
    "rejected answers": Kind(bad_first, rejecting),
    "answers cut off by max_tokens": Kind(too_long, lambda model: agent(model, add)),
    "reasoning": Kind(lambda heard, call: [*think("Hm, ", str(call)), *say(f"answer {call}")]),
    "empty answers": Kind(lambda heard, call: say("") if call % 2 else plain(heard, call)),
    "images": Kind(plain, input=lambda number: [{"text": f"picture {number}"}, PIXEL]),
    "a sliding window": Kind(plain, managed(window_size=5)),
    "a sliding window over tools": Kind(calling("add", a=1, b=2), managed(window_size=6)),
    "a sliding window with a pin": Kind(plain, managed(window_size=6, pin_first=1)),
    "a window that its pins fill": Kind(plain, managed(window_size=2, pin_first=5)),
    "a pin of this turn": Kind(pinning(None, (2, True)), keeping(window_size=4)),
    "a pin of an earlier turn": Kind(pinning(None, None, (1, True), (2, True)), keeping(window_size=5)),
    "a pin on a call": Kind(pinning(None, (2, True), (3, True)), keeping(window_size=4)),
    "a pin taken away": Kind(pinning(None, (2, True), None, None, (0, False)), keeping(window_size=4)),
    "pins alone": Kind(pinning(None, (2, True), None, (1, True)), keeping(window_size=0)),
    "a pin before the first ones": Kind(pinning(None, (2, True)), keeping(window_size=8, pin_first=1)),
    "first pins beyond messages of its own": Kind(
        plain,
        lambda model: agent(
            model,
            messages=deepcopy(COOK),
            conversation_manager=SlidingWindowConversationManager(6, pin_first=3),
        ),
    ),
    "a window that nothing fits": Kind(calling("add", a=1, b=2), managed(window_size=2)),
    "no window": Kind(plain, managed(window_size=0)),
    "a window at each call": Kind(calling("add", a=1, b=2), managed(window_size=4, per_turn=True)),
    "no manager": Kind(plain, lambda model: agent(model, conversation_manager=NullConversationManager())),
    "summaries": Kind(overflowing(plain, 600), summarising),
    "trimmed at an overflow": Kind(overflowing(plain, 500), managed(window_size=40)),
    "truncated tool results": Kind(overflowing(calling("long_report"), 6000), truncating),
    "messages of its own": Kind(
        plain,
        lambda model: agent(model, messages=deepcopy(COOK)),
    ),
}


async def lived(kind: Kind, inputs: Sequence[Any]) -> list[Heard]:
    """The messages that one strands agent sends if it is called with the inputs one after the other."""
    model = Speaker(kind.answer)
    one = kind.make(model)
    for asked in inputs:
        with contextlib.suppress(MaxTokensReachedException):
            async for _ in one.stream_async(input_messages(asked)):  # type: ignore[arg-type]
                pass
    return model.heard


@pytest.mark.parametrize("name", KINDS)
async def test_ten_turns_are_sent_as_one_long_lived_agent_sends_them(name: str) -> None:
    kind, session = KINDS[name], Session()
    model, inputs = Speaker(kind.answer), [kind.input(number) for number in range(10)]
    for asked in inputs:
        assert (await session.turn(kind.make(model), asked)).type == Completed.type
    expected = await lived(kind, inputs)
    assert [len(heard) for heard in model.heard] == [len(heard) for heard in expected]
    assert model.heard == expected


async def test_a_question_whose_answer_was_cut_off_after_its_reasoning_is_remembered() -> None:
    """strands keeps the reasoning, too, which providers refuse without a signature."""

    def answer(heard: Heard, call: int) -> Turn:
        cut = {"messageStop": {"stopReason": "max_tokens"}}
        return [*think("Hm, ", str(call)), cut] if call % 2 else plain(heard, call)

    kind, session = Kind(answer), Session()
    model, inputs = Speaker(kind.answer), [kind.input(number) for number in range(10)]
    for asked in inputs:
        assert (await session.turn(kind.make(model), asked)).type == Completed.type
    expected = await lived(kind, inputs)
    for message in [message for heard in expected for message in heard]:
        if all("reasoningContent" in block for block in message["content"]):
            message["content"] = [{"text": NO_TEXT}]
    assert model.heard == expected
    assert [message["content"][0]["text"] for message in await session.memory("another")][:2] == [
        "question 0", NO_TEXT,
    ]  # fmt: skip
