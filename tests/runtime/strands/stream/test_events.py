from typing import Any

import pytest
from strands import Agent, tool
from strands.multiagent import GraphBuilder

from runstore.core.codec import encode
from runstore.core.events import AgentFinished, AgentStarted, Message, Reasoning, Token, ToolProgress, Usage
from runstore.runtime.strands.stream.events import Translator
from tests.runtime.strands_kit import Playbook, agent, delta, say, think, use


def translated(*items: dict[str, Any]) -> list[Any]:
    translator = Translator("demo", {"demo": "model-1"})
    return [event for item in items for event in translator.translate(item)]


async def streamed(product: Any) -> list[Any]:
    translator = Translator("demo")
    return [event async for item in product.stream_async("hi") for event in translator.translate(item)]


def nested(name: str, use_id: str, data: Any) -> dict[str, Any]:
    tool_use = {"name": name, "toolUseId": use_id, "input": {}}
    return {"type": "tool_stream", "tool_stream_event": {"tool_use": tool_use, "data": data}}


BEGIN = {"init_event_loop": True}
HI = {"event": delta(text="hi ")}


def test_a_raw_chunk_is_a_token_and_its_duplicate_is_nothing() -> None:
    duplicate = {"data": "hi ", "delta": {"text": "hi "}, "agent": object()}
    assert translated(HI, duplicate) == [Token(agent="demo", text="hi ")]


def test_an_empty_chunk_is_nothing() -> None:
    assert translated({"event": delta(text="")}) == []


def test_the_callers_state_never_becomes_an_event() -> None:
    state = {"event": delta(text="no"), "message": {"role": "user", "content": []}, "result": "no"}
    duplicate = {"data": "hi", "delta": {"text": "hi"}, **state}
    assert translated(duplicate, {"init_event_loop": True, **state}) == []


def test_a_reasoning_chunk_is_reasoning_and_its_signature_is_nothing() -> None:
    chunk = {"event": delta(reasoningContent={"text": "hm"})}
    signature = {"event": delta(reasoningContent={"signature": "s"})}
    redacted = {"event": delta(reasoningContent={"redactedContent": b"x"})}
    assert translated(chunk, signature, redacted) == [Reasoning(agent="demo", text="hm")]


def test_a_message_keeps_its_role_and_content_only() -> None:
    message = {"role": "assistant", "content": [{"text": "hi"}], "metadata": {}, "tracking_id": "t"}
    expected = {"role": "assistant", "content": [{"text": "hi"}]}
    assert translated({"message": message}) == [Message(agent="demo", message=expected)]


def test_usage_comes_from_the_models_metadata_and_names_the_model() -> None:
    usage = {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}
    assert translated({"event": {"metadata": {"usage": usage}}}) == [
        Usage(agent="demo", input_tokens=3, output_tokens=4, model="model-1")
    ]
    assert translated({"event": {"metadata": {"metrics": {}}}}) == []


@pytest.mark.parametrize(
    ("name", "reported", "inputs"),
    [
        ("the prompt includes the cache, as with OpenAI", (10, 4, 14), 10),
        ("the cache comes beside the prompt, as with Anthropic", (3, 4, 14), 10),
        ("the total leaves the cache out", (3, 4, 7), 10),
    ],
)
def test_the_input_counts_the_whole_prompt(name: str, reported: tuple[int, int, int], inputs: int) -> None:
    usage = dict(zip(("inputTokens", "outputTokens", "totalTokens"), reported, strict=True))
    cached = {"cacheReadInputTokens": 5, "cacheWriteInputTokens": 2}
    (event,) = translated({"event": {"metadata": {"usage": usage | cached}}})
    assert (event.input_tokens, event.cache_read_tokens, event.cache_write_tokens) == (inputs, 5, 2), name


def test_a_count_that_is_not_a_number_is_0() -> None:
    usage = {"inputTokens": None, "outputTokens": -1, "cacheReadInputTokens": "many"}
    (event,) = translated({"event": {"metadata": {"usage": usage}}})
    assert event == Usage(agent="demo", input_tokens=0, output_tokens=0, model="model-1")


@pytest.mark.parametrize(
    "item",
    [
        {"start": True},
        {"start_event_loop": True},
        {"event": {"messageStart": {"role": "assistant"}}},
        {"event": {"contentBlockStop": {}}},
        {"event": {"messageStop": {"stopReason": "end_turn"}}},
        {"event": delta(toolUse={"input": "{"})},
        {"event": delta(citation={"title": "t"})},
        {"type": "multiagent_handoff", "from_node_ids": ["a"], "to_node_ids": ["b"]},
        {"force_stop": True, "force_stop_reason": "x"},
        {"result": object()},
        {},
    ],
)
def test_the_rest_is_nothing(item: dict[str, Any]) -> None:
    assert translated(item) == []


def test_output_of_a_tool_before_it_is_done_is_progress() -> None:
    for said in ("half way", {"data": "x"}, {"done": 1, "of": 2}, None):
        assert translated(nested("search", "t1", said)) == [
            ToolProgress(agent="demo", tool_use_id="t1", name="search", output=said)
        ]


def test_a_sub_agents_path_grows_by_the_tools_name_and_its_call_id_is_the_tool_use() -> None:
    items = (nested("worker", "t1", BEGIN), nested("worker", "t1", HI))
    assert translated(*items) == [Token(agent="demo/worker", call_id="t1", text="hi ")]


def test_sub_agents_are_unwrapped_however_deep() -> None:
    def deep(item: dict[str, Any]) -> dict[str, Any]:
        return nested("team", "t1", nested("worker", "w1", item))

    items = (nested("team", "t1", BEGIN), deep(BEGIN), deep(HI), deep(nested("search", "s1", "50%")))
    assert translated(*items) == [
        Token(agent="demo/team/worker", call_id="w1", text="hi "),
        ToolProgress(agent="demo/team/worker", call_id="w1", tool_use_id="s1", name="search", output="50%"),
    ]


def test_two_calls_of_one_sub_agent_are_distinguished() -> None:
    events = translated(
        nested("worker", "t1", BEGIN), nested("worker", "t2", BEGIN), nested("worker", "t1", HI),
        nested("worker", "t2", HI),
    )  # fmt: skip
    assert [event.call_id for event in events] == ["t1", "t2"]


def test_a_tool_whose_use_id_was_a_sub_agents_in_another_conversation_is_a_tool() -> None:
    events = translated(nested("worker", "t1", BEGIN), nested("search", "t1", {"of": 2}))
    assert [type(event) for event in events] == [ToolProgress]


def test_the_nodes_of_a_graph_are_agents_of_its_hierarchy() -> None:
    wrapped = {"type": "multiagent_node_stream", "node_id": "writer", "event": HI}
    inner = {"type": "multiagent_node_stream", "node_id": "team", "event": wrapped}
    start = {"type": "multiagent_node_start", "node_id": "writer", "node_type": "agent"}
    stop = {"type": "multiagent_node_stop", "node_id": "writer", "node_result": object()}
    assert translated(start, wrapped, inner, stop) == [
        AgentStarted(agent="demo/writer"),
        Token(agent="demo/writer", text="hi "),
        Token(agent="demo/team/writer", text="hi "),
        AgentFinished(agent="demo/writer"),
    ]


async def test_a_tool_that_passes_an_agents_stream_on_speaks_as_that_agent() -> None:
    @tool
    async def ask(question: str) -> Any:
        """Ask another agent."""
        inner = Agent(model=Playbook(say("blue")), callback_handler=None)
        async for item in inner.stream_async(question):
            yield item
        yield "it said blue"

    events = await streamed(agent(Playbook(use(("t1", "ask", {"question": "?"})), say("ok")), ask))
    assert [(event.agent, event.text) for event in events if isinstance(event, Token)] == [
        ("demo/ask", "blue"),
        ("demo", "ok"),
    ]
    assert [event.output for event in events if isinstance(event, ToolProgress)] == ["it said blue"]


async def test_all_that_a_real_agent_streams_can_be_stored() -> None:
    worker = agent(Playbook(think("hm ", "so"), use(("s1", "count", {})), say("3")), count, name="worker")
    root = agent(Playbook(use(("t1", "worker", {"input": "?"})), say("three")), worker)
    events = await streamed(root)
    assert all(encode(event).data for event in events)
    assert {event.agent for event in events} == {"demo", "demo/worker"}


@tool
async def count() -> Any:
    """Count to three."""
    for number in (1, 2, 3):
        yield number


async def test_a_real_graphs_stream_is_translated() -> None:
    builder = GraphBuilder()
    builder.add_node(agent(Playbook(say("a ", "b"))), "first")
    builder.add_node(agent(Playbook(say("c"))), "second")
    builder.add_edge("first", "second")
    events = await streamed(builder.set_execution_timeout(60).build())
    assert [(event.type, event.agent) for event in events if not isinstance(event, Usage | Message)] == [
        ("agent.started", "demo/first"),
        ("llm.token", "demo/first"),
        ("llm.token", "demo/first"),
        ("agent.finished", "demo/first"),
        ("agent.started", "demo/second"),
        ("llm.token", "demo/second"),
        ("agent.finished", "demo/second"),
    ]
