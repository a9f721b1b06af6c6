"""The header `traceparent` of a start (W3C Trace Context)."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit.server import ServerProcess

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"


def stored(server: ServerProcess, *headers: str, route: str = "start") -> Any:
    """The trace in the run's first event for these `traceparent` headers."""
    answer = server.http.post(
        f"/agents/quick/{route}", json={"input": "hi"}, headers=[("traceparent", value) for value in headers]
    )
    assert answer.is_success, answer.text
    return server.events(answer.headers["X-Run-Id"])[0]["data"].get("traceparent")


@pytest.mark.parametrize("route", ["start", "stream"])
def test_a_traceparent_is_kept_with_the_run(server: ServerProcess, route: str) -> None:
    assert stored(server, GOOD, route=route) == GOOD


def test_the_fields_of_version_00_are_kept_from_a_later_version(server: ServerProcess) -> None:
    assert stored(server, f"42-{TRACE}-{PARENT}-01-more") == f"42-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"{GOOD}-more",
        f"{GOOD}0",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        GOOD.upper(),
        f"42-{TRACE}-{PARENT}-01more",
    ],
)
def test_a_wrong_traceparent_is_as_good_as_none(server: ServerProcess, header: str) -> None:
    assert stored(server, header) is None


def test_two_of_them_are_as_good_as_none(server: ServerProcess) -> None:
    assert stored(server, GOOD, GOOD) is None


# The same set-up as by `opentelemetry-instrument`: the provider exists before the server starts.
SITECUSTOMIZE = """
import json

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

class ToFile(SpanExporter):
    def export(self, spans):
        with open("spans.jsonl", "a") as file:
            for span in spans:
                print(json.dumps(json.loads(span.to_json())), file=file)
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ToFile(), schedule_delay_millis=3_600_000))
trace.set_tracer_provider(provider)
"""
CONFIG = '[agents.quick]\nmodel = "scripted"\n'


@pytest.mark.slow
def test_a_server_that_leaves_hands_out_its_last_spans(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    server = ServerProcess(tmp_path, CONFIG)
    try:
        server.variables["PYTHONPATH"] = f"{tmp_path}:{Path(__file__).parents[2] / 'src'}"
        server.start()
        assert stored(server, GOOD) == GOOD
        server.ended(server.record(server.http.get("/runs").json()["data"][0]["run_id"])["run_id"])
        server.terminate()
        assert server.wait() == 0
    finally:
        server.close()
    spans = [json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()]
    run = next(span for span in spans if span["name"] == "run quick")
    assert run["parent_id"] == f"0x{PARENT}"
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{TRACE}"}
    assert len(spans) > 1
