"""`runstore export otlp`: past runs as spans, in memory and at a real receiver of OTLP over HTTP."""

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from runstore.cli.otlp import spans_of
from runstore.client import RunRecord
from runstore.core.codec import RecordedEvent, encode
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    Event,
    Failed,
    Message,
    Queued,
    Started,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.times import timestamp
from tests.http.conftest import CONFIG
from tests.kit.command_line import call_command
from tests.kit.server import SILENT_AGENT, ServerProcess, serving
from tests.kit.tools import lacking
from tests.kit.traces import trace_of

RUN_ID = "01a1f900-1824-71ad-bcc8-2406f73dfc23"
AT = 1_795_178_840_000
CALLED = {"toolUse": {"toolUseId": "t1", "name": "find", "input": {"q": 1}}}
ASKED = {"role": "assistant", "content": [{"text": "I look."}, CALLED]}
TOLD = {"toolResult": {"toolUseId": "t1", "content": [{"text": "found"}]}}
HISTORY: tuple[Event, ...] = (
    Queued(agent="demo", user_id="ann", session_id="s-1", input="hi"),
    Started(worker_id="w", attempt=1, reason="claimed"),
    AgentStarted(agent="demo"),
    Message(agent="demo", message={"role": "user", "content": [{"text": "hi"}]}),
    Usage(
        agent="demo", model="big-1", input_tokens=30, output_tokens=5, cache_read_tokens=20,
        cache_write_tokens=4, reasoning_tokens=2, first_token_ms=120, duration_ms=400,
    ),
    Message(agent="demo", message=ASKED),
    ToolStarted(agent="demo", tool_use_id="t1", name="find", input={"q": 1}),
    ToolFinished(agent="demo", tool_use_id="t1", name="find", output=[{"text": "found"}]),
    Message(agent="demo", message={"role": "user", "content": [TOLD]}),
    ToolStarted(agent="demo", tool_use_id="t2", name="break", input=None),
    ToolFailed(agent="demo", tool_use_id="t2", name="break", output=[{"text": "no"}]),
    AgentFinished(agent="demo"),
    Failed(code="model_overloaded", message="too much"),
)  # fmt: skip


def exported(*, content: bool = True) -> dict[str, ReadableSpan]:
    """The spans of a run as an exporter gets them, by name; each event came a second after the other."""
    recorded = []
    for seq, event in enumerate(HISTORY, 1):
        at = AT + 1_000 * seq
        encoded = encode(event, at=at)
        recorded.append(
            RecordedEvent(RUN_ID, seq, seq, encoded.type, encoded.version, encoded.ends, at, encoded.data)
        )
    run = RunRecord(
        run_id=RUN_ID, status="error", user_id="ann", agent_name="demo", session_id="s-1",
        created_at=timestamp(AT + 1_000), completed_at=timestamp(AT + 13_000), error_code="model_overloaded",
        usage={"input_tokens": 30, "output_tokens": 5, "total_tokens": 35},
    )  # fmt: skip
    exporter = InMemorySpanExporter()
    exporter.export(spans_of(run, trace_of(RUN_ID, recorded), content=content))
    return {f"{place}:{span.name}": span for place, span in enumerate(exporter.get_finished_spans())}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_run_is_one_tree_of_spans_with_the_times_of_its_events() -> None:
    spans = list(exported().values())
    assert [span.name for span in spans] == [
        "invoke_agent demo", "attempt 1", "invoke_agent demo", "chat big-1", "execute_tool find",
        "execute_tool break",
    ]  # fmt: skip
    ids = [span.context.span_id for span in spans if span.context]
    parents = [span.parent.span_id if span.parent else None for span in spans]
    assert parents == [None, ids[0], ids[1], ids[2], ids[2], ids[2]]
    assert len({*ids}) == len(ids)
    assert {span.context.trace_id for span in spans if span.context} == {UUID(RUN_ID).int}
    second = 1_000_000_000
    for span, (begin, end) in zip(
        spans, [(1, 13), (2, 13), (3, 12), (4.6, 6), (7, 8), (10, 11)], strict=True
    ):
        assert (span.start_time, span.end_time) == (
            AT * 1_000_000 + int(begin * second), AT * 1_000_000 + int(end * second),
        )  # fmt: skip
    assert [span.kind for span in spans].count(SpanKind.CLIENT) == 1


def test_spans_have_the_attributes_of_the_conventions() -> None:
    run, _, agent, model, tool, broken = exported().values()
    assert attributes(run).items() >= {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "demo", "user.id": "ann",
        "gen_ai.conversation.id": "s-1", "session.id": "s-1", "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 5, "error.type": "model_overloaded", "runstore.run.id": RUN_ID,
        "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]',
    }.items()  # fmt: skip
    assert (run.status.status_code, run.status.description) == (StatusCode.ERROR, "too much")
    assert attributes(agent)["gen_ai.operation.name"] == "invoke_agent"
    assert agent.status.status_code == StatusCode.UNSET
    said = attributes(model)
    assert said.items() >= {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "strands-agents",
        "gen_ai.request.model": "big-1", "gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 20, "gen_ai.usage.cache_creation.input_tokens": 4,
        "gen_ai.server.time_to_first_token": 120,
    }.items()  # fmt: skip
    [answer] = json.loads(said["gen_ai.output.messages"])
    assert answer["parts"] == [
        {"type": "text", "content": "I look."},
        {"type": "tool_call", "id": "t1", "name": "find", "arguments": {"q": 1}},
    ]
    assert attributes(tool).items() >= {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find", "gen_ai.tool.call.id": "t1",
        "gen_ai.tool.call.arguments": '{"q":1}', "gen_ai.tool.call.result": '[{"text":"found"}]',
    }.items()  # fmt: skip
    assert (broken.status.status_code, attributes(broken)["error.type"]) == (StatusCode.ERROR, "tool_error")


def test_without_content_no_text_is_sent() -> None:
    for span in exported(content=False).values():
        text = json.dumps(attributes(span))
        for word in ("messages", "arguments", "result", "I look", "found"):
            assert word not in text


def test_a_repeated_export_gives_the_same_spans() -> None:
    first, second = ([span.to_json() for span in exported().values()] for _ in range(2))
    assert first == second


# ---- at a receiver ----


class Receiver(ThreadingHTTPServer):
    """Takes OTLP over HTTP. `status`: its answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        packed = self.headers.get("Content-Encoding") == "gzip"
        self.server.bodies.append(gzip.decompress(body) if packed else body)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    if find_spec("opentelemetry.sdk") is None:
        lacking("OpenTelemetry's SDK is not installed")
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("export"), CONFIG, SILENT_AGENT, heartbeat_s=0.2) as server:
        yield server


def export(server: ServerProcess, folder: Path, *arguments: str) -> tuple[int, str]:
    url = str(server.http.base_url)
    done = call_command("export", "otlp", *arguments, "--url", url, folder=folder)
    return done.returncode, done.stderr.strip()


def test_a_receiver_gets_the_runs_that_have_ended(
    server: ServerProcess, receiver: Receiver, tmp_path: Path
) -> None:
    run_id = server.begin("quick", "one two", session_id="exported")
    server.ended(run_id)
    open_run = server.begin_silent()
    since = ("--since", "2026-01-01T00:00:00Z", "--endpoint", receiver.url)
    code, said = export(server, tmp_path, *since, "--session-id", "exported")
    spans = receiver.spans()
    assert (code, said) == (0, f"export: {len(spans)} spans sent")
    assert {UUID(bytes=span.trace_id) for span in spans} == {UUID(run_id)}
    [root] = [span for span in spans if not span.parent_span_id]
    values = {each.key: each.value.string_value for each in root.attributes}
    assert (values["gen_ai.agent.name"], values["runstore.run.status"]) == ("quick", "success")
    assert "one two" in values["gen_ai.output.messages"]
    [call] = [span for span in spans if span.name.startswith("chat")]
    assert call.end_time_unix_nano >= call.start_time_unix_nano >= root.start_time_unix_nano
    receiver.bodies.clear()
    assert export(server, tmp_path, *since, "--no-content")[0] == 0
    assert UUID(open_run) not in {UUID(bytes=span.trace_id) for span in receiver.spans()}
    assert b"one two" not in b"".join(receiver.bodies)
    server.stop_run(open_run)


def test_a_receiver_that_refuses_is_said(server: ServerProcess, receiver: Receiver, tmp_path: Path) -> None:
    server.ended(server.begin("quick", "one two"))
    receiver.status = 400
    code, said = export(server, tmp_path, "--since", "2026-01-01T00:00:00Z", "--endpoint", receiver.url)
    assert code == 1
    assert "refused the spans" in said


def test_a_malformed_time_is_refused(server: ServerProcess, receiver: Receiver, tmp_path: Path) -> None:
    code, said = export(server, tmp_path, "--since", "yesterday", "--endpoint", receiver.url)
    assert code == 2
    assert "since" in said
    assert "spans sent" not in said
    assert receiver.bodies == []
