"""Undocumented parts of other packages that runstore uses: docs/internals/internals-of-others.md.

Each test names the release that changed one of them, before anything subtler breaks.
"""

import asyncio
import re
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import version
from inspect import getsource
from typing import Any

import httpx
import openai
import pytest
from strands import Agent, ModelRetryStrategy
from strands.background_tasks import _background_tasks
from strands.background_tasks._types import BackgroundTask
from strands.middleware import InvokeModelStage
from strands.models.openai import OpenAIModel
from strands.multiagent.graph import Graph
from strands.multiagent.swarm import Swarm
from strands.tools.executors._executor import _BackgroundExecuteToolContext
from strands.tools.mcp import MCPClient
from strands.tools.registry import ToolRegistry
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.server import Server as UvicornServer

from runstore.runtime.loops.interrupts import Interrupted, interrupt
from runstore.runtime.strands.servers.mended import SOURCES
from tests.kit.server import until


def has(package: str, owner: Any, *names: str) -> None:
    release = sys.version.split()[0] if package == "Python" else version(package)
    missing = [name for name in names if not hasattr(owner, name)]
    assert not missing, f"{package} {release}: {owner!r} has no {', '.join(missing)}"


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


def test_tools_in_the_background_can_be_told_from_others() -> None:
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
