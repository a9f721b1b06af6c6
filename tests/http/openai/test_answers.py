"""A chat answers with the agent's text: the same streamed and whole, with OpenAI's client."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from pydantic import BaseModel
from strands import Agent, ToolContext
from strands import tool as as_tool
from strands.hooks import AfterModelCallEvent
from strands.multiagent import GraphBuilder

from runstore import AgentSpec, RunContext
from runstore.cli.output import TextPrinter
from runstore.core.folds.transcript import text
from runstore.core.records import EventRecord
from runstore.http.streaming import frames
from runstore.mount import MountedApp
from runstore.runtime.memory.oversized import MAX_RESULT_BYTES
from tests.kit.database import make_database
from tests.runtime.strands_kit import Playbook, Turn, say, think, use

LONG = "0123456789" * 400  # said a hundred times: 400,000 characters
CHINESE = "世界人权宣言" * 1_000  # said a hundred times: 1.8 MB of UTF-8, more than one event holds
decode = msgspec.json.Decoder(EventRecord).decode
URL = "/v1/chat/completions"


@as_tool
def look_up(what: str) -> str:
    """Look something up."""
    return "page 12"


class Person(BaseModel):
    name: str


def new(*turns: Turn, tools: Any = (), **settings: Any) -> Agent:
    return Agent(model=Playbook(*turns), tools=list(tools), callback_handler=None, **settings)


def calling(words: Turn, name: str = "look_up", /, **input: Any) -> Turn:
    """Words and a tool call in one message."""
    *said, _, _ = words
    return [*said, *use(("t1", name, input))[1:]]


def looker() -> Agent:
    return new(calling(say("Let me ", "look."), what="x"), say("It is on ", "page 12."), tools=[look_up])


def blocks() -> Agent:
    *first, _, _ = say("Paris is ")
    _, *second, _, _ = say("the capital")
    _, *third = say(" of France.")
    return new([*first, *second, *third])


def thinker() -> Agent:
    first, *rest = say("Four.")
    return new([first, *think("Two and ", "two."), *rest])


def deep_thinker() -> Agent:
    use_it = use(("t1", "look_up", {"what": "x"}))
    first, *rest = say("Twelve.")
    return new([use_it[0], *think("I look."), *use_it[1:]], [first, *think("I see."), *rest], tools=[look_up])


def lengthy() -> Agent:
    return new(say(*[LONG] * 100))


def lengthier() -> Agent:
    return new(say(*[CHINESE] * 100))


def cut() -> Agent:
    return new(say("The answer ", "is fo", stop="max_tokens"))


def cut_in_a_call() -> Agent:
    *said, _, usage = calling(say("Let me look."), what="x")
    return new([*said, {"messageStop": {"stopReason": "max_tokens"}}, usage], tools=[look_up])


def counted() -> Agent:
    *said, _ = say("Four.")
    usage = {"inputTokens": 9, "outputTokens": 3, "totalTokens": 12, "cacheReadInputTokens": 4}
    return new([*said, {"metadata": {"usage": {**usage, "reasoningTokens": 2}}}])


def filtered() -> Agent:
    return new(say("I can", stop="content_filtered"))


def guarded() -> Agent:
    return new(say("No.", stop="guardrail_intervened"))


def refusing() -> Agent:
    return new(say("No.", stop="refusal"))


def person() -> Agent:
    return new(calling(say("Here it is:"), "Person", name="Ada 🙂"), structured_output_model=Person)


def silent() -> Agent:
    """Its model streams nothing but the message itself, as one that a hook answers for."""
    agent = new()

    def answer(event: Any) -> None:
        event.cancel = "We are closed."

    from strands.hooks import BeforeInvocationEvent

    agent.add_hook(answer, BeforeInvocationEvent)
    return agent


@as_tool(context=True)
def finish(tool_context: ToolContext, answer: Any) -> Any:
    """Answer at once."""
    tool_context.agent.cancel(after_current_tools=True)
    return answer if isinstance(answer, dict) else str(answer)


@as_tool(context=True)
def read_out(tool_context: ToolContext) -> str:
    """Answer at once, at length."""
    tool_context.agent.cancel(after_current_tools=True)
    return LONG * 100


def reader() -> Agent:
    return new(use(("t1", "read_out", {})), tools=[read_out])


def reader_of_three() -> Agent:
    return new(use(*((f"t{n}", "read_out", {}) for n in range(3))), tools=[read_out])


def finisher() -> Agent:
    return new(use(("t1", "finish", {"answer": "All is well."})), tools=[finish])


def finisher_in_json() -> Agent:
    content = [{"json": {"well": True}}, {"text": "All of it."}]
    return new(use(("t1", "finish", {"answer": {"status": "success", "content": content}})), tools=[finish])


def finisher_with_words() -> Agent:
    return new(calling(say("I look."), "finish", answer="All is well."), tools=[finish])


def finishing_graph() -> Any:
    builder = GraphBuilder().set_max_node_executions(9)
    builder.add_node(finisher(), "a")
    builder.set_entry_point("a")
    return builder.build()


def finisher_of_another() -> Agent:
    """Its helper's words are no answer yet."""
    helper = new(say("helper's words"), name="helper")
    calls = use(("t1", "helper", {"input": "x"})), use(("t2", "finish", {"answer": "All is well."}))
    return new(*calls, tools=[helper.as_tool(name="helper"), finish])


def quiet_person() -> Agent:
    return new(use(("t1", "Person", {"name": "Ada"})), structured_output_model=Person)


async def remembering(input: str, ctx: RunContext) -> AsyncIterator[str]:
    """Says what the session's memory has for an answer."""
    yield "\n\n".join(
        block["text"] for each in ctx.memory if each["role"] == "assistant" for block in each["content"]
    )


def boss() -> Agent:
    """Its helper's words belong to the call."""
    helper = new(say("helper's words"), name="helper")
    return new(
        calling(say("I ask."), "helper", input="x"), say("I know."), tools=[helper.as_tool(name="helper")]
    )


def graph() -> Any:
    builder = GraphBuilder().set_max_node_executions(9)
    builder.add_node(new(say("One. "), name="a"), "a")
    builder.add_node(new(say("Two."), name="b"), "b")
    builder.add_edge("a", "b")
    builder.set_entry_point("a")
    return builder.build()


def cut_graph() -> Any:
    builder = GraphBuilder().set_max_node_executions(9)
    builder.add_node(new(say("So f", stop="max_tokens"), name="a"), "a")
    builder.set_entry_point("a")
    return builder.build()


FRANCE = "The capital of France is Paris."


def retried() -> Agent:
    broken = [*say("The capital ", "of Fra")[:-3], ConnectionError("Incorrect API key: sk-abcdefghijkl")]
    agent = new(broken, say("The capital of", " France is Paris."))

    def again(event: AfterModelCallEvent) -> None:
        event.retry = event.exception is not None

    agent.add_hook(again, AfterModelCallEvent)
    return agent


def rejected() -> Agent:
    agent = new(say("Berlin", "!"), say(FRANCE))

    def reject(event: AfterModelCallEvent) -> None:
        event.retry = "Berlin" in str(event.stop_response)

    agent.add_hook(reject, AfterModelCallEvent)
    return agent


def redacted() -> Agent:
    *said, usage = say("It is ", "hunter2.")
    return new([*said, {"redactContent": {"redactAssistantContentMessage": "[redacted]"}}, usage])


def broken() -> Agent:
    return new([*say("The capital ")[:-3], ValueError("Incorrect API key: sk-abcdefghijkl")])


def halves() -> Agent:
    return new(say("a \ud83d", "\ude42 b", " \ud83d", "c", "\ud83d"))


def nul() -> Agent:
    return new(say("a\0", "b"))


async def generator(input: str) -> AsyncIterator[str]:
    for piece in ("Count: ", "\ud83d", "\ude42", "\ud83d"):
        yield piece


AGENTS = {
    function.__name__.replace("_", "-"): AgentSpec(factory=f"{__name__}:{function.__name__}")
    for function in (
        looker, blocks, thinker, deep_thinker, lengthy, lengthier, cut, cut_in_a_call, filtered, guarded,
        refusing, person, silent, boss, graph, cut_graph, halves, nul, generator, retried, rejected, redacted,
        broken, reader, reader_of_three, finisher, finisher_in_json, finisher_with_words,
        finishing_graph, finisher_of_another, quiet_person, remembering, counted,
    )
}  # fmt: skip


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = MountedApp(f"sqlite:///{make_database(tmp_path / 'runstore.db')}", agents=AGENTS)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with app.open(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http


@pytest.fixture
def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="x", http_client=http, max_retries=0)


class Said(BaseModel):
    """The outcome of a request."""

    content: str
    reasoning: str
    finish: str
    tokens: int


async def whole(client: openai.AsyncOpenAI, agent: str) -> Said:
    found = await client.chat.completions.create(model=agent, messages=[{"role": "user", "content": "hi"}])
    choice = found.choices[0]
    assert found.usage
    return Said(
        content=choice.message.content or "",
        reasoning=getattr(choice.message, "reasoning_content", ""),
        finish=choice.finish_reason,
        tokens=found.usage.total_tokens,
    )


async def streamed(client: openai.AsyncOpenAI, agent: str) -> Said:
    stream = await client.chat.completions.create(
        model=agent, messages=[{"role": "user", "content": "hi"}], stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage
    return Said(
        content="".join(choice.delta.content or "" for choice in choices),
        reasoning="".join(getattr(choice.delta, "reasoning_content", None) or "" for choice in choices),
        finish=choices[-1].finish_reason or "",
        tokens=chunks[-1].usage.total_tokens,
    )


@pytest.mark.parametrize(
    ("agent", "content", "finish"),
    [
        ("looker", "Let me look.\n\nIt is on page 12.", "stop"),
        ("blocks", "Paris is the capital of France.", "stop"),
        ("thinker", "Four.", "stop"),
        ("deep-thinker", "Twelve.", "stop"),
        ("lengthy", LONG * 100, "stop"),
        ("lengthier", CHINESE * 100, "stop"),
        ("reader", LONG * 100, "stop"),
        ("reader-of-three", (LONG * 100)[:MAX_RESULT_BYTES], "length"),
        ("cut", "The answer is fo", "length"),
        ("cut-in-a-call", "Let me look.", "length"),
        ("cut-graph", "So f", "length"),
        ("filtered", "I can", "content_filter"),
        ("guarded", "No.", "content_filter"),
        ("refusing", "No.", "content_filter"),
        ("person", '{"name":"Ada 🙂"}', "stop"),
        ("silent", "We are closed.", "stop"),
        ("boss", "I ask.\n\nI know.", "stop"),
        ("graph", "One. \n\nTwo.", "stop"),
        ("halves", "a 🙂 b \N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}", "stop"),
        ("nul", "a\N{REPLACEMENT CHARACTER}b", "stop"),
        ("retried", FRANCE, "stop"),
        ("generator", "Count: 🙂\N{REPLACEMENT CHARACTER}", "stop"),
    ],
)
async def test_a_streamed_answer_is_the_whole_one(
    client: openai.AsyncOpenAI, agent: str, content: str, finish: str
) -> None:
    found, stream = await asyncio.gather(whole(client, agent), streamed(client, agent))
    assert (found.content, found.finish) == (content, finish)
    assert stream == found


@pytest.mark.parametrize(
    ("agent", "content", "text_of_all"),
    [
        ("finisher", "All is well.", "All is well."),
        ("finisher-in-json", '{"well":true}\nAll of it.', '{"well":true}\nAll of it.'),
        ("finisher-with-words", "I look.", "I look."),
        ("finishing-graph", "All is well.", "All is well."),
        ("finisher-of-another", "All is well.", "helper's words\n\nAll is well."),
        ("quiet-person", '{"name":"Ada"}', '{"name":"Ada"}'),
        ("person", '{"name":"Ada 🙂"}', 'Here it is:\n\n{"name":"Ada 🙂"}'),
        ("silent", "We are closed.", "We are closed."),
        ("looker", "Let me look.\n\nIt is on page 12.", "Let me look.\n\nIt is on page 12."),
    ],
)
async def test_every_reader_and_the_memory_have_one_answer(
    http: httpx.AsyncClient,
    client: openai.AsyncOpenAI,
    capsys: pytest.CaptureFixture[str],
    agent: str,
    content: str,
    text_of_all: str,
) -> None:
    assert (await whole(client, agent)).content == (await streamed(client, agent)).content == content
    session = {"X-Session-Id": agent}
    found = await http.post(URL, json={"prompt": "hi", "model": agent}, headers=session)
    run_id = found.headers["x-run-id"]
    record = (await http.get(f"/runs/{run_id}")).json()
    events = await http.get(f"/runs/{run_id}/events", headers={"Accept": "application/x-ndjson"})
    told = [decode(line) for line in events.text.splitlines()]
    printer = TextPrinter()
    for event in told:
        printer.show(event)
    printed = capsys.readouterr().out
    remembered = await http.post(URL, json={"prompt": "?", "model": "remembering"}, headers=session)
    own = [event for event in told if not event.data.get("call_id")]
    assert record["result"].get("structured_output") or content.endswith(record["result"]["text"])
    assert text(told) == text_of_all
    assert printed.endswith(f"{text(own)}\n")
    assert remembered.json()["choices"][0]["message"]["content"] == text(own)


@pytest.mark.parametrize(("agent", "content"), [("rejected", FRANCE), ("redacted", "[redacted]")])
async def test_a_stream_whose_text_is_not_the_answer_ends_with_an_error(
    http: httpx.AsyncClient, client: openai.AsyncOpenAI, agent: str, content: str
) -> None:
    assert (await whole(client, agent)).content == content
    try:
        assert (await streamed(client, agent)).content == content  # redacted before anybody was sent it
        assert agent == "redacted"
    except openai.APIError as error:
        assert error.code == "answer_replaced"  # noqa: PT017
    runs = (await http.get("/runs")).json()["data"]
    for run in runs:
        record = (await http.get(f"/runs/{run['run_id']}", params={"wait": 60})).json()
        assert (record["status"], record["result"]["text"]) == ("success", content)
        events = await http.get(f"/runs/{run['run_id']}/events", headers={"Accept": "application/x-ndjson"})
        replay = await http.get(f"/runs/{run['run_id']}/stream")
        chunks = await http.get(f"/runs/{run['run_id']}/stream", params={"format": "openai"})
        assert "hunter2" not in events.text + replay.text + chunks.text
        assert text(map(decode, events.text.splitlines())) == content


async def test_a_providers_words_reach_no_reader(http: httpx.AsyncClient, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        await whole(client, "broken")
    with pytest.raises(openai.APIError) as cut_off:
        await streamed(client, "broken")
    run_id = raised.value.response.headers["x-run-id"]
    told = [raised.value.response.text, str(cut_off.value)]
    told += [(await http.get(f"/runs/{run_id}{path}")).text for path in ("", "/stream", "/events")]
    assert not [each for each in told if "sk-abc" in each]
    assert (raised.value.code, cut_off.value.code) == ("model_auth", "model_auth")


async def test_reasoning_is_sent_beside_the_content(client: openai.AsyncOpenAI) -> None:
    assert (await whole(client, "thinker")).reasoning == "Two and two."
    assert (await streamed(client, "thinker")).reasoning == "Two and two."
    assert (await whole(client, "deep-thinker")).reasoning == "I look.\n\nI see."
    assert (await streamed(client, "deep-thinker")).reasoning == "I look.\n\nI see."


async def test_cached_and_reasoning_tokens_are_counted_as_openai_does(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "counted", "messages": [{"role": "user", "content": "hi"}]}
    found = await client.chat.completions.create(**asked)
    options = {"include_usage": True}
    stream: Any = await client.chat.completions.create(**asked, stream=True, stream_options=options)
    *_, last = [chunk async for chunk in stream]
    assert found.usage
    assert found.usage.prompt_tokens_details
    assert found.usage.completion_tokens_details
    assert found.usage.prompt_tokens_details.cached_tokens == 4
    assert found.usage.completion_tokens_details.reasoning_tokens == 2
    assert last.usage == found.usage


async def test_an_answer_without_reasoning_says_nothing_of_it(http: httpx.AsyncClient) -> None:
    found = await http.post(URL, json={"prompt": "hi", "model": "blocks"})
    assert found.json()["choices"][0]["message"].keys() == {"role", "content", "refusal"}


async def test_a_stream_goes_on_at_any_chunk_as_it_went_on(http: httpx.AsyncClient) -> None:
    asked = {"prompt": "hi", "model": "looker", "stream": True}
    found = await http.post(URL, json=asked)
    run_id, body = found.headers["x-run-id"], found.content.removeprefix(b":\n")
    frames = [frame + b"\n\n" for frame in body.split(b"\n\n") if frame]
    seqs = [int(frame.removeprefix(b"id: ").split(b"\n")[0]) for frame in frames[:-1]]
    assert seqs == sorted(seqs)
    for after in range(1, seqs[-1]):
        query = f"/runs/{run_id}/stream?format=openai&lastEventId={after}"
        rest = b"".join(frame for frame, seq in zip(frames, seqs, strict=False) if seq > after) + frames[-1]
        assert (await http.get(query)).content.removeprefix(b":\n") == rest


@pytest.mark.parametrize("agent", ["deep-thinker", "person", "boss", "graph", "retried", "rejected"])
async def test_a_reconnect_at_any_chunk_goes_on_as_the_stream_did(
    http: httpx.AsyncClient, agent: str
) -> None:
    started = await http.post(f"/agents/{agent}/start", json={"input": "hi"})
    run_id = started.json()["run_id"]
    last = (await http.get(f"/runs/{run_id}", params={"wait": 60})).json()["last_seq"]
    query = f"/runs/{run_id}/stream?format=openai&lastEventId="
    body = (await http.get(f"{query}0")).content.removeprefix(b":\n")
    frames = [frame + b"\n\n" for frame in body.split(b"\n\n") if frame]
    seqs = [int(frame.removeprefix(b"id: ").split(b"\n")[0]) for frame in frames[:-1]]
    for after in range(1, last):
        rest = b"".join(frame for frame, seq in zip(frames, seqs, strict=False) if seq > after) + frames[-1]
        assert (await http.get(f"{query}{after}")).content.removeprefix(b":\n") == rest


async def test_a_reconnect_makes_no_chunks_of_what_its_client_has(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor of a run of 20,000 tokens, that was read from its beginning as if all of it were to be sent."""
    run_id = (await http.post("/agents/lengthy/start", json={"input": "hi"})).json()["run_id"]
    last = (await http.get(f"/runs/{run_id}", params={"wait": 60})).json()["last_seq"]
    made: list[object] = []
    encode = frames._encode

    def counted(value: object) -> bytes:
        made.append(value)
        return encode(value)

    monkeypatch.setattr(frames, "_encode", counted)
    await http.get(f"/runs/{run_id}/stream?format=openai&lastEventId={last - 2}")
    assert len(made) < 5


async def test_a_run_whose_answer_was_cut_is_a_success_that_says_so(http: httpx.AsyncClient) -> None:
    started = await http.post("/agents/cut/start", json={"input": "hi"})
    record = (await http.get(f"/runs/{started.json()['run_id']}", params={"wait": 60})).json()
    assert (record["status"], record["usage"]["total_tokens"]) == ("success", 9)
    assert record["result"] == {"text": "The answer is fo", "stop_reason": "max_tokens"}


async def test_a_token_has_no_half_of_a_character(http: httpx.AsyncClient) -> None:
    started = await http.post("/agents/halves/start", json={"input": "hi"})
    record = (await http.get(f"/runs/{started.json()['run_id']}", params={"wait": 60})).json()
    events = (await http.get(f"/runs/{record['run_id']}/events")).json()["data"]
    said = [event["data"]["text"] for event in events if event["type"] == "llm.token"]
    assert said == ["a ", "🙂 b", " ", "\ufffdc", "\ufffd"]
    assert record["result"]["text"] == "".join(said)
