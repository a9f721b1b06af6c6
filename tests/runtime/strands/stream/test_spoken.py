"""Text is recorded when the model sends it, and strands gets the text of a moment as one delta."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

import msgspec
import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.hooks import AfterModelCallEvent
from strands.middleware import InvokeModelStage
from strands.multiagent import GraphBuilder, Swarm

from runstore.core.codec import MAX_EVENT_BYTES
from runstore.core.errors import RunClosed
from runstore.core.events import Message, Reasoning, Token, ToolProgress
from runstore.runtime.strands.agent import StrandsAgent
from tests.kit.polling import until
from tests.runtime.recording import ListRecorder, context, text
from tests.runtime.strands_kit import Playbook, Turn, agent, delta, drive, say, think, use

WORDS = [f"w{number} " for number in range(400)]


def listening(model: Any, *tools: Any) -> tuple[Agent, list[Any]]:
    """An agent, and what its callback handler gets."""
    heard: list[Any] = []
    return Agent(model=model, tools=list(tools), callback_handler=lambda **item: heard.append(item)), heard


class Paused(Playbook):
    """Says its first turn, then waits until it may end it."""

    def __init__(self, *words: str) -> None:
        super().__init__(say(*words))
        self.paused, self.go_on = asyncio.Event(), asyncio.Event()
        self.said = 0

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for chunk in super().stream(*args, **kwargs):
            if "contentBlockStop" in chunk:
                self.paused.set()
                await self.go_on.wait()
            yield chunk
            self.said += "contentBlockDelta" in chunk


async def test_every_delta_is_an_event_and_strands_gets_them_joined() -> None:
    product, heard = listening(Playbook(say(*WORDS)))
    recorder, ended = await drive(product)
    assert [token.text for token in recorder.of(Token)] == WORDS
    pieces = [item["data"] for item in heard if "data" in item]
    assert pieces[0] == WORDS[0]
    assert "".join(pieces) == "".join(WORDS) == ended.result["text"]
    assert len(pieces) < len(WORDS)
    assert [message.message["content"] for message in recorder.of(Message)] == [[{"text": "".join(WORDS)}]]


async def test_text_is_recorded_while_strands_waits_for_it() -> None:
    model = Paused(*WORDS)
    product, heard = listening(model)
    recorder = ListRecorder()
    run = asyncio.create_task(StrandsAgent(product, context(), WeakSet()).run("hi", [], recorder))
    await model.paused.wait()
    assert [token.text for token in recorder.of(Token)] == WORDS
    assert len("".join(item["data"] for item in heard if "data" in item)) < len("".join(WORDS))
    model.go_on.set()
    assert (await run).result["text"] == "".join(WORDS)


async def test_text_and_reasoning_keep_their_order_for_strands_too() -> None:
    turn: Turn = [
        *think("a", "b"), *say("c", "d")[1:4], {"contentBlockStop": {}},
        *think("e", "f"), *say("g", "h")[1:],
    ]  # fmt: skip
    product, heard = listening(Playbook(turn))
    recorder, _ = await drive(product)
    said = [(type(each), each.text) for each in recorder.events if isinstance(each, Token | Reasoning)]
    kinds = {"a": Reasoning, "b": Reasoning, "e": Reasoning, "f": Reasoning}
    assert said == [(kinds.get(letter, Token), letter) for letter in "abcdefgh"]
    spans: list[list[Any]] = []
    for item in heard:
        kind = next((key for key in ("data", "reasoningText") if key in item), None)
        if kind and spans and spans[-1][0] == kind:
            spans[-1][1] += item[kind]
        elif kind:
            spans.append([kind, item[kind]])
    assert spans == [["reasoningText", "ab"], ["data", "cd"], ["reasoningText", "ef"], ["data", "gh"]]


async def test_deltas_of_different_blocks_are_not_joined() -> None:
    def block(index: int, **content: Any) -> Any:
        return {"contentBlockDelta": {"delta": content, "contentBlockIndex": index}}

    turn = say()
    turn[2:2] = [
        block(0, text="a"), block(0, text="b"), block(0, text="c"), block(1, text="d"),
        block(1, text="e", citation={}), block(1, text="f"), block(1, reasoningContent={"text": "g"}),
    ]  # fmt: skip
    product, heard = listening(Playbook(turn))
    recorder, _ = await drive(product)
    assert [each.text for each in recorder.of(Token)] == list("abcdef")
    chunks = [
        item["event"]["contentBlockDelta"] for item in heard if "contentBlockDelta" in item.get("event", {})
    ]
    of_blocks = [[each["delta"] for each in chunks if each["contentBlockIndex"] == index] for index in (0, 1)]
    assert "".join(each["text"] for each in of_blocks[0]) == "abc"
    assert of_blocks[1] == [
        {"text": "d"}, {"text": "e", "citation": {}}, {"text": "f"}, {"reasoningContent": {"text": "g"}}
    ]  # fmt: skip


async def test_a_model_is_not_asked_for_more_while_the_log_is_behind() -> None:
    class Full(ListRecorder):
        """Has room for three tokens, and for more on request."""

        full, room = asyncio.Event(), asyncio.Event()

        async def record(self, event: Any) -> None:
            if len(self.of(Token)) == 3 and isinstance(event, Token):
                self.full.set()
                await self.room.wait()
            self.keep(event)

    model, recorder = Paused(*WORDS), Full()
    run = asyncio.create_task(StrandsAgent(agent(model), context(), WeakSet()).run("hi", [], recorder))
    await recorder.full.wait()
    assert model.said == 3
    recorder.room.set()
    model.go_on.set()
    await run
    assert text(recorder.of(Token)) == "".join(WORDS)


async def test_text_that_middleware_changes_is_recorded_as_changed() -> None:
    async def mask(context: Any, call: Any) -> AsyncIterator[Any]:
        async for event in call(context):
            said = event.get("event", {}).get("contentBlockDelta", {}).get("delta", {}).get("text")
            yield type(event)(chunk=delta(text="*" * len(said))) if said else event

    product = agent(Playbook(say("my ", "secret")))
    product.add_middleware(InvokeModelStage, mask)
    recorder, _ = await drive(product)
    # The message that strands keeps is the model's, so that its text is said in the end.
    assert [token.text for token in recorder.of(Token)][:2] == ["***", "******"]


async def test_middleware_that_answers_itself_is_recorded() -> None:
    async def cached(context: Any, call: Any) -> AsyncIterator[Any]:
        async for event in call(context.replace(model=Playbook(say("from ", "the ", "cache")))):
            yield event

    product = agent(Playbook())
    product.add_middleware(InvokeModelStage, cached)
    recorder, ended = await drive(product)
    assert [token.text for token in recorder.of(Token)] == ["from ", "the ", "cache"]
    assert ended.result["text"] == "from the cache"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_model_that_middleware_chooses_is_recorded_once(when: str) -> None:
    product = agent(Playbook())

    def choose(context: Any) -> Any:
        return context.replace(model=Playbook(say("the ", "other")))

    if when == "before":
        product.add_middleware(InvokeModelStage.Input, choose)
    driven = StrandsAgent(product, context(), WeakSet())
    recorder = ListRecorder()
    record = recorder.record

    async def record_first(event: Any) -> None:  # the run's own middleware is there by now
        if event.type == "agent.started" and when == "after":
            product.add_middleware(InvokeModelStage.Input, choose)
        await record(event)

    recorder.record = record_first  # type: ignore[method-assign]
    await driven.run("hi", [], recorder)
    assert [token.text for token in recorder.of(Token)] == ["the ", "other"]


async def test_agents_that_share_a_model_speak_for_themselves() -> None:
    class Shared(Playbook):
        """Delegates if it can, and otherwise says much."""

        async def stream(self, messages: Any, tool_specs: Any = None, *args: Any, **kwargs: Any) -> Any:
            calls = [(f"t{n}", spec["name"], {"input": "?"}) for n, spec in enumerate(tool_specs or ())]
            delegated = any("toolUse" in block for message in messages for block in message["content"])
            for chunk in use(*calls) if calls and not delegated else say(*WORDS):
                await asyncio.sleep(0)
                yield chunk

    model = Shared()
    workers = [agent(model, name=name) for name in ("one", "two")]
    recorder, _ = await drive(agent(model, *workers))
    for path, call_id in (("demo", None), ("demo/one", "t0"), ("demo/two", "t1")):
        said = [each for each in recorder.of(Token) if each.agent == path]
        assert [each.text for each in said] == WORDS
        assert {each.call_id for each in said} == {call_id}


async def test_code_that_reads_an_agents_stream_gets_every_delta() -> None:
    @tool
    async def ask() -> Any:
        """Pass on what an agent says."""
        async for item in agent(Playbook(say(*WORDS))).stream_async("?"):
            if "data" in item:
                yield item["data"]

    recorder, _ = await drive(agent(Playbook(use(("t1", "ask", {})), say("done")), ask))
    assert [each.output for each in recorder.of(ToolProgress)][:400] == WORDS
    assert [each.text for each in recorder.of(Token) if each.agent == "demo/ask"] == WORDS


async def test_a_run_that_is_left_while_the_log_is_behind_leaves_nothing_behind() -> None:
    class Full(ListRecorder):
        """Has no room for a token, ever."""

        full = asyncio.Event()

        async def record(self, event: Any) -> None:
            if isinstance(event, Token):
                self.full.set()
                await asyncio.Event().wait()
            self.keep(event)

    class Closing(Playbook):
        closed = asyncio.Event()

        async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            try:
                async for chunk in super().stream(*args, **kwargs):
                    yield chunk
            finally:
                self.closed.set()

    model, recorder, before = Closing(say(*WORDS)), Full(), asyncio.all_tasks()
    run = asyncio.create_task(StrandsAgent(agent(model), context(), WeakSet()).run("hi", [], recorder))
    await recorder.full.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await model.closed.wait()
    await until(lambda: asyncio.all_tasks() <= before)


async def test_a_log_that_takes_no_more_ends_the_model_at_its_next_delta() -> None:
    class Closed(ListRecorder):
        """Refuses every token after the third."""

        async def record(self, event: Any) -> None:
            if len(self.of(Token)) == 3 and isinstance(event, Token):
                raise RunClosed("run-1", 9)
            self.keep(event)

    model, recorder = Paused(*WORDS), Closed()
    with pytest.raises(RunClosed):
        await StrandsAgent(agent(model), context(), WeakSet()).run("hi", [], recorder)
    assert model.said in (3, 4)  # stopped while it says the fourth, and on a busy machine cancelled there


@pytest.mark.parametrize("character", ["x", "\u2028"], ids=["short", "escaped"])
async def test_a_text_that_no_event_can_hold_is_recorded_in_several(character: str) -> None:
    long = (MAX_EVENT_BYTES + 1) * character
    recorder, _ = await drive(agent(Playbook(say("a", long, "b"))))
    assert text(recorder.of(Token)) == f"a{long}b"
    assert len(recorder.of(Token)) > 3


@pytest.mark.parametrize("orchestrator", ["graph", "swarm"])
async def test_nodes_speak_for_themselves(orchestrator: str) -> None:
    nodes = [agent(Playbook(say(*WORDS)), name=name) for name in ("one", "two")]
    product: Any = Swarm(nodes)
    if orchestrator == "graph":
        builder = GraphBuilder()
        for node in nodes:
            builder.add_node(node, node.name)
        product = builder.set_execution_timeout(60).build()
    recorder, _ = await drive(product)
    for path in ("demo/one", "demo/two")[: 2 if orchestrator == "graph" else 1]:
        assert [each.text for each in recorder.of(Token) if each.agent == path] == WORDS
        types = [event.type for event in recorder.events if getattr(event, "agent", "") == path]
        assert types[0] == "agent.started"
        assert types[-3:] == ["llm.usage", "llm.message", "agent.finished"]


async def test_an_answer_with_an_object_is_recorded_as_it_is_said() -> None:
    class City(BaseModel):
        name: str

    turns = [*say(*WORDS)[:-2], *use(("t1", "City", {"name": "Paris"}))[1:]]
    recorder, ended = await drive(agent(Playbook(turns, say("done")), structured_output_model=City))
    assert [each.text for each in recorder.of(Token)][:400] == WORDS
    assert ended.result["structured_output"] == {"name": "Paris"}


def of_chance(chance: random.Random, *tools: str) -> Turn:
    """A model's turn: texts, reasoning, perhaps calls of tools, a redaction, or a failure at any place."""
    turn = say()[:1]
    for _ in range(chance.randint(1, 4)):
        texts = [delta(text=chance.choice(["a ", "", "\ud83d", "\ude42"])) for _ in range(20)]
        thoughts = [delta(reasoningContent={"text": "hm "}) for _ in range(10)]
        block = chance.choice([texts, thoughts, chance.sample(texts + thoughts, 20)])
        turn += [{"contentBlockStart": {"start": {}}}, *block, {"contentBlockStop": {}}]
    calls = [(f"t{chance.random()}", name, {"input": "?"}) for name in tools]
    turn += use(*calls)[1:-1] if calls else [{"messageStop": {"stopReason": "end_turn"}}]
    if chance.random() < 0.2:
        turn.append({"redactContent": {"redactAssistantContentMessage": "[redacted]"}})
    if chance.random() < 0.2:
        return [*turn[: chance.randrange(len(turn))], ConnectionError("reset")]
    return [*turn, say()[-1]]


@pytest.mark.parametrize("seed", range(12))
async def test_the_log_is_that_of_agents_whose_stream_is_recorded(seed: int) -> None:
    async def passed_on(context: Any, call: Any) -> AsyncIterator[Any]:
        async for event in call(context):
            yield event

    def retry(event: AfterModelCallEvent) -> None:
        event.retry = event.exception is not None

    async def log(*, by_stream: bool) -> list[tuple[str, dict[str, Any]]]:
        chance = random.Random(seed)
        worker = agent(Playbook(*(of_chance(chance) for _ in range(50))), name="worker")
        expert = agent(Playbook(*(of_chance(chance) for _ in range(50))), name="expert")

        @tool
        def ask(input: str) -> str:
            """Ask an expert."""
            return str(expert(input))

        turns = [of_chance(chance, *chance.choice([(), ("ask",), ("worker",)])) for _ in range(50)]
        product = agent(Playbook(*turns), worker, ask)
        for each in (worker, expert, product):
            each.add_hook(retry, AfterModelCallEvent)
            if by_stream:
                each.add_middleware(InvokeModelStage, passed_on)
        recorder, _ = await drive(product)
        events = [(event.type, msgspec.json.decode(event.data)) for event in recorder.recorded]
        differing = {"redacts", "first_token_ms", "duration_ms"}
        return [(type, {key: data[key] for key in data.keys() - differing}) for type, data in events]

    assert await log(by_stream=False) == await log(by_stream=True)
