"""Undocumented parts of other packages that runstore uses: docs/internals/internals-of-others.md.

Each test names the release that changed one of them, before anything subtler breaks.
"""

import ast
import asyncio
import re
import signal
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import version
from inspect import getsource
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel
from strands import Agent, ModelRetryStrategy
from strands.agent import _agent_as_tool
from strands.agent.conversation_manager import (
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.background_tasks import _background_tasks
from strands.background_tasks._types import BackgroundTask
from strands.hooks import BeforeNodeCallEvent, BeforeToolCallEvent
from strands.hooks import events as hook_events
from strands.interrupt import Interrupt
from strands.middleware import InvokeModelStage, stages
from strands.models.anthropic import AnthropicModel
from strands.models.llamacpp import LlamaCppModel
from strands.models.openai import OpenAIModel
from strands.multiagent import GraphBuilder
from strands.multiagent.graph import Graph
from strands.multiagent.swarm import Swarm
from strands.session import FileSessionManager
from strands.tools.executors._executor import _BackgroundExecuteToolContext
from strands.tools.mcp import MCPClient
from strands.tools.registry import ToolRegistry
from strands.types import tools as tool_types
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.server import Server as UvicornServer

from runstore.runtime.loops.interrupts import Interrupted, interrupt
from runstore.runtime.strands import internals
from runstore.runtime.strands.recorders.interrupts import OF_A_CALL, OF_A_NODE, OF_A_TOOL
from runstore.runtime.strands.stream.servers.mended import SOURCES
from tests.kit.server import until

ROOM = Path(internals.__file__).parent
PAGE = Path("docs/internals/internals-of-others.md")
# Private parts of other packages than strands.
OTHERS = {
    "recorders/model_calls.py": {"_getframe"},
    "stream/servers/anthropic.py": {"_raw_stream"},
    "stream/servers/openai.py": {"_decoder"},
}
STRANDS = f"strands-agents {version('strands-agents')}: "


def has(package: str, owner: Any, *names: str) -> None:
    release = sys.version.split()[0] if package == "Python" else version(package)
    missing = [name for name in names if not hasattr(owner, name)]
    assert not missing, f"{package} {release}: {owner!r} has no {', '.join(missing)}"


def private(name: str) -> bool:
    return re.fullmatch(r"_[a-z]\w*", name) is not None and not name.startswith("_runstore_")


def defined(tree: ast.Module) -> set[str]:
    """The private names that a file gives to its functions, classes, variables, fields and attributes."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
    return {name for name in found if private(name)}


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def foreign(tree: ast.Module, inherited: set[str]) -> set[str]:
    """The private names of other packages that a file uses. `inherited`: those of runstore's classes."""
    own = defined(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(each.name for each in node.names)]
            found |= {name for name in names if private(name)}
        elif isinstance(node, ast.Attribute) and private(node.attr):
            found |= {node.attr} - own - (inherited if is_self(node.value) else set())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and private(node.value):
            found.add(node.value)
    return found


def test_one_file_names_private_parts_of_strands() -> None:
    trees = {
        path.relative_to(ROOM).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in ROOM.rglob("*.py")
    }
    inherited = {name for tree in trees.values() for name in defined(tree)}
    used = {name: foreign(tree, inherited) for name, tree in trees.items() if name != "internals.py"}
    assert {name: names for name, names in used.items() if names} == OTHERS


def test_the_page_names_every_private_part() -> None:
    used = foreign(ast.parse(getsource(internals)), set()).union(*OTHERS.values())
    page = PAGE.read_text(encoding="utf-8")
    assert {"_session_manager", "_decoder", "_events"} < used
    assert not [name for name in sorted(used) if not re.search(rf"`(?:[\w.]+\.)?{name}(?:\.[\w.]+)?`", page)]


def test_an_exception_can_be_raised_in_another_thread() -> None:
    interrupted = threading.Event()

    def work() -> None:
        try:
            while True:
                pass
        except Interrupted:
            interrupted.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    interrupt(thread.ident or 0)
    until(
        interrupted.is_set,
        f"Python {sys.version}: PyThreadState_SetAsyncExc reaches a thread that computes",
    )
    thread.join()


async def test_a_task_that_is_thrown_away_can_be_kept_from_saying_so() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    has("Python", task, "_log_destroy_pending")
    await task


def test_the_frames_of_other_threads_can_be_read() -> None:
    assert threading.get_ident() in sys._current_frames()


def test_the_method_of_pools_that_is_replaced_is_the_one_that_map_calls() -> None:
    class Pool(ThreadPoolExecutor):
        submitted = 0

        def submit(self, *arguments: Any, **options: Any) -> Any:
            self.submitted += 1
            return super().submit(*arguments, **options)

    with Pool(1) as pool:
        assert list(pool.map(str, [1])) == ["1"]
        assert pool.submitted == 1


@pytest.mark.parametrize("name", ["_current_attempt", "_max_attempts", "_calculate_delay"])
def test_the_retry_strategy_can_be_asked_how_long_it_will_wait(name: str) -> None:
    has("strands-agents", ModelRetryStrategy(), name)


@pytest.mark.parametrize("manager", [SlidingWindowConversationManager, SummarizingConversationManager])
def test_a_conversation_manager_can_be_kept_from_pinning_first_messages(manager: Any) -> None:
    has("strands-agents", manager(pin_first=1), "_pin_first_applied")


def test_an_agents_retry_strategy_can_be_read() -> None:
    strategy = ModelRetryStrategy(max_attempts=3)
    agent = Agent(callback_handler=None, retry_strategy=strategy)
    assert internals.retry_strategy_of(agent) is strategy, STRANDS + "Agent._retry_strategy"


def test_an_agent_says_whether_a_session_manager_keeps_it(tmp_path: Path) -> None:
    manager = FileSessionManager(session_id="s", storage_dir=str(tmp_path))
    has("strands-agents", Agent(callback_handler=None), "_session_manager")
    kept = Agent(callback_handler=None, session_manager=manager)
    alone = Agent(callback_handler=None)
    found = [internals.has_session_manager(agent) for agent in (kept, alone)]
    assert found == [True, False], STRANDS + "Agent._session_manager"


def test_an_agent_says_whether_it_answers_with_an_object() -> None:
    class Answer(BaseModel):
        text: str

    has("strands-agents", Agent(callback_handler=None), "_default_structured_output_model")
    agents = Agent(callback_handler=None, structured_output_model=Answer), Agent(callback_handler=None)
    found = [internals.answers_object(agent) for agent in agents]
    assert found == [True, False], STRANDS + "Agent._default_structured_output_model"


def test_agents_and_graphs_have_interrupts_that_can_be_answered() -> None:
    agent = Agent(callback_handler=None)
    builder = GraphBuilder()
    builder.set_max_node_executions(1).add_node(agent, "one")
    for product in (agent, builder.build()):
        state = internals.interrupt_state_of(product)
        state.interrupts["id"] = Interrupt("id", "name", response="yes")
        assert state.activated is False
        state.activate()
        assert state.activated is True, STRANDS + f"{type(product).__name__}._interrupt_state"


def test_the_ids_of_interrupts_begin_as_before() -> None:
    made = {
        OF_A_TOOL[0]: getsource(hook_events.BeforeToolCallEvent),
        OF_A_TOOL[1]: getsource(tool_types),
        OF_A_TOOL[2]: getsource(stages),
        OF_A_NODE: getsource(hook_events),
        OF_A_CALL: getsource(_agent_as_tool),
    }
    for prefix, source in made.items():
        assert f'f"{prefix}{{' in source, STRANDS + prefix
    event = BeforeToolCallEvent(
        agent=Agent(callback_handler=None), selected_tool=None, invocation_state={},
        tool_use={"toolUseId": "u1", "name": "add", "input": {}},
    )  # fmt: skip
    one, other = (internals.interrupt_id_of(event, name) for name in ("one", "other"))
    assert one.startswith(f"{OF_A_TOOL[0]}u1:"), STRANDS + one
    assert one != other
    node = BeforeNodeCallEvent(source=event.agent, node_id="n")  # type: ignore[arg-type]
    expected = f"{OF_A_NODE}{uuid.uuid5(uuid.NAMESPACE_OID, 'n')}:"
    assert node._interrupt_id("one").startswith(expected), STRANDS + expected


def test_an_event_of_a_tool_that_asks_is_where_it_was() -> None:
    assert internals.ToolInterruptEvent.__module__ == "strands.types._events", STRANDS + "ToolInterruptEvent"


def test_a_stream_of_openais_package_decodes_with_the_part_that_is_wrapped() -> None:
    stream = getsource(openai.AsyncStream.__init__) + getsource(openai.AsyncStream._iter_events)
    for part in ("self._decoder = ", "self._decoder.aiter_bytes(self.response.aiter_bytes())"):
        assert part in stream, f"openai {version('openai')}: {part}"


def test_a_stream_of_anthropics_package_reads_the_part_that_is_wrapped() -> None:
    stream = getsource(anthropic.lib.streaming.AsyncMessageStream)
    for part in ("self._raw_stream = ", "in self._raw_stream"):
        assert part in stream, f"anthropic {version('anthropic')}: {part}"


def test_the_models_ask_the_clients_that_are_wrapped() -> None:
    llamacpp, claude = getsource(LlamaCppModel), getsource(AnthropicModel)
    assert "self.client = " in llamacpp, STRANDS + "LlamaCppModel.client"
    assert 'await self.client.post("/v1/chat/completions", json=request)' in llamacpp, STRANDS + "its call"
    assert "self.client = " in claude, STRANDS + "AnthropicModel.client"
    assert "self.client.messages.stream(**request)" in claude, STRANDS + "its call"


def test_the_registry_knows_its_tool_providers() -> None:
    has("strands-agents", ToolRegistry(), "_tool_providers", "_registry_id", "process_tools", "cleanup")
    has("strands-agents", Agent, "__del__")


def test_an_mcp_client_knows_its_consumers() -> None:
    client = MCPClient(lambda: None)  # type: ignore[arg-type,return-value]
    has("strands-agents", client, "_consumers", "_startup_timeout", "_background_thread_event_loop")
    has("strands-agents", client, "add_consumer", "remove_consumer", "load_tools")


@pytest.mark.slow
async def test_an_openai_model_asks_the_client_of_the_method_that_is_replaced() -> None:
    given = openai.AsyncOpenAI(api_key="k")
    has("strands-agents", OpenAIModel, "_get_client")
    async with OpenAIModel(given, model_id="m")._get_client() as client:
        assert callable(client.chat.completions.create)


@pytest.mark.slow
def test_other_models_ask_the_clients_that_are_replaced() -> None:
    for source in SOURCES:
        module = import_module(source.module)
        owner = module if source.cls is None else getattr(module, source.cls)
        has("strands-agents", owner, source.name)
        if source.cls is None:
            assert f"{source.name}(" in getsource(module) or f"{source.name}." in getsource(module), source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("openai", 'finish_reason or "end_turn"', "finish_reason = choice.finish_reason"),
        (
            "gemini",
            '"TOOL_USE" if tool_used else (candidate.finish_reason if candidate else "STOP")',
            "candidate = candidates[0] if candidates else None",
        ),
        ("llamacpp", "stop_reason", 'stop_reason = finish_reason or "end_turn"'),
        ("llamacpp", "stop_reason", 'finish_reason = choice.get("finish_reason")'),
        ("mistral", "choice.finish_reason", "choice = chunk.data.choices[0]"),
        ("ollama", "stop_reason", "else (event.done_reason if event else None)"),
    ],
    ids=["openai", "gemini", "llamacpp", "llamacpp's choice", "mistral", "ollama"],
)
def test_a_chunk_at_the_end_of_an_answer_is_made_of_its_reason(name: str, data: str, reason: str) -> None:
    source = " ".join(getsource(import_module(f"strands.models.{name}")).split())
    ends = re.compile(r'"chunk_type": "message_stop", "data": ' + re.escape(data) + r",? ?\}")
    release = f"strands-agents {version('strands-agents')}: {name}"
    assert ends.search(source), f"{release}: {data}"
    assert reason in source, f"{release}: {reason}"


def test_tools_in_the_background_can_be_recognised() -> None:
    agent = Agent(callback_handler=None, background_tasks=True)
    has("strands-agents", agent, "_background_tasks")
    has("strands-agents", agent._background_tasks, "_tasks", "_store_task")
    fields = _BackgroundExecuteToolContext.__dataclass_fields__
    assert "_background_interrupt" in fields, f"strands-agents {version('strands-agents')}: its context"


def test_a_task_in_the_background_is_acknowledged_stored_and_delivered_as_before() -> None:
    release = f"strands-agents {version('strands-agents')}: "
    fields = {"task_id", "tool_use_id", "tool_name", "status", "created_at", "last_updated_at"}
    fields |= {"result", "error", "interrupts"}
    assert BackgroundTask.__annotations__.keys() == fields, release + "the fields of a task"
    source = getsource(_background_tasks)
    for part in (
        '"Background task dispatched.",', "\"Task ID: {task['task_id']}\"", "\"Tool: {task['tool_name']}\"",
        '"toolUseId": task["task_id"]',
    ):  # fmt: skip
        assert part in source, release + f"it no longer says {part}"


def test_the_middleware_of_an_agent_can_be_read() -> None:
    async def wrap(context: Any, call: Any) -> Any:
        async for event in call(context):
            yield event

    agent = Agent(callback_handler=None)
    agent.add_middleware(InvokeModelStage, wrap)
    agent.add_middleware(InvokeModelStage.Input, lambda context: context)
    has("strands-agents", agent, "_middleware_registry")
    has("strands-agents", agent._middleware_registry, "_handlers")
    phases = [each.phase for each in agent._middleware_registry._handlers[InvokeModelStage]]
    assert phases == ["wrap", "input"], (
        f"strands-agents {version('strands-agents')}: the phases of middleware"
    )


async def test_a_stream_is_sent_by_the_method_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[httpx.Request] = []

    async def send(self: Any, request: httpx.Request, **options: Any) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, request=request)

    monkeypatch.setattr(httpx.AsyncClient, "send", send)
    async with httpx.AsyncClient() as client, client.stream("POST", "http://provider.test/"):
        pass
    assert len(sent) == 1, f"httpx {version('httpx')}: AsyncClient.stream calls send"


@pytest.mark.parametrize("owner", [Agent, Graph, Swarm])
def test_agents_are_called_by_the_method_that_is_replaced(owner: Any) -> None:
    has("strands-agents", owner, "stream_async", "invoke_async")


def test_a_connection_of_the_server_can_be_bounded() -> None:
    methods = ("connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing")
    callbacks = ("on_header", "on_headers_complete", "on_body", "on_message_complete", "on_response_complete")
    timers = ("_unset_keepalive_if_required", "timeout_keep_alive_handler")
    has("uvicorn", HttpToolsProtocol, *methods, *callbacks, *timers)


def test_a_connection_can_be_aborted_from_an_application() -> None:
    """`send` is a method of the object that holds the connection's transport."""
    attributes = getsource(RequestResponseCycle.__init__)
    assert "self.transport = transport" in attributes, f"uvicorn {version('uvicorn')}: {RequestResponseCycle}"
    has("uvicorn", RequestResponseCycle, "send")
    cycle = getsource(HttpToolsProtocol.on_headers_complete)
    assert "RequestResponseCycle(" in cycle, f"uvicorn {version('uvicorn')}: {HttpToolsProtocol}"


def test_an_answer_closes_its_connection_by_its_transport_alone() -> None:
    source = getsource(RequestResponseCycle)
    used = set(re.findall(r"self\.transport\.(\w+)", source))
    assert used == {"write", "close", "is_closing"}, f"uvicorn {version('uvicorn')}: {used}"
    for name in ("disconnected", "message_event"):
        assert f"self.{name} = " in getsource(RequestResponseCycle.__init__), name


def test_an_answer_is_not_sent_in_chunks_if_that_was_decided_before() -> None:
    attributes, source = getsource(RequestResponseCycle.__init__), getsource(RequestResponseCycle.send)
    for name in ("chunked_encoding", "expected_content_length"):
        assert f"self.{name}" in attributes, f"uvicorn {version('uvicorn')}: {name}"
    assert source.count("if self.chunked_encoding is None and ") == 1
    assert "and self.chunked_encoding is None:" in source


def test_the_servers_signal_handlers_can_be_kept() -> None:
    has("uvicorn", UvicornServer, "capture_signals", "handle_exit", "startup", "shutdown")
    assert {signal.SIGTERM, signal.SIGINT} <= set(HANDLED_SIGNALS)
