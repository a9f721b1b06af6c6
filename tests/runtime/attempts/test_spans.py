"""One span for each attempt of a run, with strands' own below it; in one process, with the SDK's exporter.

The tracer provider is the process's, and can be set once: strands takes no other.
"""

import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runstore import AgentSpec
from runstore.app import Runtime, open_runtime
from runstore.core.new_run import NewRun
from runstore.core.run import Actor
from runstore.settings import ServerSettings, Settings
from tests.kit.polling import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
AGENTS = {
    "demo": AgentSpec(model="scripted"),
    "slow": AgentSpec(model="scripted", tokens=100_000, tokens_per_s=20),
    "missing": AgentSpec(factory="no_such_module:agent"),
}


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    importlib.import_module("runstore.runtime.strands.agent")  # as a server does: it takes long
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
async def runtime(exporter: InMemorySpanExporter, tmp_path: Path) -> AsyncIterator[Runtime]:
    async with open_runtime(settings(tmp_path)) as runtime:
        yield runtime


def settings(folder: Path) -> Settings:
    return Settings(ServerSettings(database_url=f"sqlite:///{folder}/runstore.db", drain_s=0), AGENTS)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {name.removeprefix("runstore."): value for name, value in (span.attributes or {}).items()}


async def spans_of(exporter: InMemorySpanExporter, run_id: str, attempts: int = 1) -> list[ReadableSpan]:
    """The spans of the run's attempts, once they have ended."""
    found: list[ReadableSpan] = []

    def have_ended() -> bool:
        found[:] = [s for s in exporter.get_finished_spans() if attributes(s).get("run_id") == run_id]
        return len(found) == attempts

    await until(have_ended)
    return found


async def start(runtime: Runtime, agent: str, input: str, **options: Any) -> str:
    return (await runtime.store.start(NewRun(agent, input, **options))).run.run_id


async def test_a_run_is_a_span_with_what_it_is_and_how_it_ended(
    runtime: Runtime, exporter: InMemorySpanExporter
) -> None:
    run_id = await start(runtime, "demo", "hi", user_id="anna", session_id="s1")
    (span,) = await spans_of(exporter, run_id)
    assert span.name == "run demo"
    assert span.parent is None
    assert span.status.status_code is trace.StatusCode.UNSET
    assert attributes(span) == {
        "run_id": run_id, "agent": "demo", "attempt": 1, "user_id": "anna", "session_id": "s1",
        "status": "success",
    }  # fmt: skip


async def test_the_callers_span_is_its_parent(runtime: Runtime, exporter: InMemorySpanExporter) -> None:
    run_id = await start(runtime, "demo", "hi", user_id="anna", traceparent=TRACEPARENT)
    (span,) = await spans_of(exporter, run_id)
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert f"{span.context.trace_id:032x}" == TRACE


async def test_the_spans_of_strands_are_below_it(runtime: Runtime, exporter: InMemorySpanExporter) -> None:
    runs = [await start(runtime, "demo", "hi", user_id="anna") for _ in range(3)]
    for run_id in runs:
        (span,) = await spans_of(exporter, run_id)
        ended = exporter.get_finished_spans()
        below = [s for s in ended if s.parent and s.parent.span_id == span.context.span_id]
        assert [s.name.split()[0] for s in below] == ["invoke_agent"]
        inner = [s for s in ended if s.context.trace_id == span.context.trace_id]
        assert "chat" in {s.name.split()[0] for s in inner}


async def test_a_run_that_fails_is_an_error_with_its_code(
    runtime: Runtime, exporter: InMemorySpanExporter
) -> None:
    run_id = await start(runtime, "missing", "hi", user_id="anna")
    (span,) = await spans_of(exporter, run_id)
    assert attributes(span)["status"] == "error"
    assert attributes(span)["error_code"] == "agent_error"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "no_such_module" in (span.status.description or "")


async def test_a_run_that_is_stopped_is_no_error(runtime: Runtime, exporter: InMemorySpanExporter) -> None:
    run_id = await start(runtime, "slow", "hi", user_id="anna")
    await until(lambda: runtime.supervisor.running == 1)
    await runtime.store.stop(run_id, by=Actor("anna"), reason="user")
    (span,) = await spans_of(exporter, run_id)
    assert attributes(span)["status"] == "stopped"
    assert span.status.status_code is trace.StatusCode.UNSET


async def test_each_attempt_is_a_span_of_the_callers_trace(
    exporter: InMemorySpanExporter, tmp_path: Path
) -> None:
    async with open_runtime(settings(tmp_path)) as first:
        run_id = await start(first, "slow", "hi", user_id="anna", traceparent=TRACEPARENT)
        await until(lambda: first.supervisor.running == 1)
    (span,) = await spans_of(exporter, run_id)
    assert attributes(span)["status"] == "handed_over"
    async with open_runtime(settings(tmp_path)) as second:
        await until(lambda: second.supervisor.running == 1)
        await second.store.stop(run_id, by=Actor("anna"), reason="user")
        spans = await spans_of(exporter, run_id, attempts=2)
    assert [(attributes(s)["attempt"], attributes(s)["status"]) for s in spans] == [
        (1, "handed_over"), (2, "stopped"),
    ]  # fmt: skip
    assert {f"{s.context.trace_id:032x}" for s in spans} == {TRACE}
