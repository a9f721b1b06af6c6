"""`/metrics` of a real server, as Prometheus reads it."""

from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from runstore.app import Runtime, open_runtime
from runstore.core.codec import encode
from runstore.settings import ServerSettings, Settings
from tests.kit.database import make_database
from tests.kit.events import note, offer, start_run, token
from tests.kit.metrics import sample
from tests.kit.server import SILENT_HEAD, ServerProcess, until
from tests.kit.writer import held_writer

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_the_text_format_is_the_answer_without_a_preference(http: httpx.Client) -> None:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["cache-control"] == "no-store"
    assert {"runstore_events", "process_resident_memory_bytes"} <= {f.name for f in read_text(answer.text)}


def test_openmetrics_is_the_answer_to_a_request_that_prefers_it(http: httpx.Client) -> None:
    answer = http.get("/metrics", headers={"Accept": OPENMETRICS})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "runstore_events" in {family.name for family in read_openmetrics(answer.text)}


def test_every_metric_has_a_text_of_help(http: httpx.Client) -> None:
    for family in read_text(http.get("/metrics").text):
        assert family.documentation, family.name


@pytest.mark.parametrize(
    ("name", "labels", "what"),
    [
        ("runstore_runs_queued_total", {}, 1),
        ("runstore_attempts_total", {"reason": "claimed"}, 1),
        ("runstore_runs_ended_total", {"status": "success"}, 1),
        ("runstore_runs_ended_total", {"status": "error"}, 0),
        ("runstore_cancels_total", {}, 0),
        ("runstore_late_events_refused_total", {"reason": "run_closed"}, 0),
    ],
)
def test_a_run_that_succeeds_is_counted_as_one(
    server: ServerProcess, name: str, labels: dict[str, str], what: int
) -> None:
    before = sample(server.http, name, **labels)
    server.ended(server.begin("quick", "one two three"))
    assert sample(server.http, name, **labels) == before + what


def test_all_events_of_a_run_are_counted(server: ServerProcess) -> None:
    before = sample(server.http, "runstore_events_total")
    last_seq = server.ended(server.begin("quick", "one two three"))["last_seq"]
    assert sample(server.http, "runstore_events_total") == before + last_seq
    commits = sample(server.http, "runstore_commit_seconds_count")
    assert commits == sample(server.http, "runstore_commit_events_count")
    assert commits == sample(server.http, "runstore_publish_lag_seconds_count")


def test_an_active_run_and_its_readers_are_seen_while_they_are_there(
    server: ServerProcess, silent_run: str
) -> None:
    http = server.http
    active = sample(http, "runstore_runs", state="active")
    readers, followed = sample(http, "runstore_subscribers"), sample(http, "runstore_runs_followed")
    with server.stream(silent_run) as one, server.stream(silent_run, after=SILENT_HEAD) as other:
        streams = [one.iter_raw(), other.iter_raw()]  # an iterator that is let go closes its stream
        assert all(next(stream) for stream in streams)
        until(lambda: sample(http, "runstore_subscribers") == readers + 2, "both streams follow the run")
        assert sample(http, "runstore_runs_followed") == followed + 1
    until(lambda: sample(http, "runstore_subscribers") == readers, "the streams are gone")
    server.stop_run(silent_run)
    until(lambda: sample(http, "runstore_runs", state="active") == active - 1, "the run is gone")


def test_a_cancel_is_counted_with_its_time(server: ServerProcess, silent_run: str) -> None:
    before = sample(server.http, "runstore_cancel_seconds_count")
    server.stop_run(silent_run)
    assert sample(server.http, "runstore_cancel_seconds_count") == before + 1


def test_a_log_that_takes_writes_is_not_unavailable(http: httpx.Client) -> None:
    assert sample(http, "runstore_log_unavailable") == 0


async def test_events_that_wait_to_be_committed_are_counted(tmp_path: Path) -> None:
    database = make_database(tmp_path / "runstore.db")
    settings = Settings(ServerSettings(database_url=f"sqlite:///{database}", worker=False, drain_s=0))
    async with open_runtime(settings) as runtime:
        run_id = await start_run(runtime.event_log)
        words = [token("one "), token("two "), token("three ")]
        async with held_writer(runtime.event_log, runtime.feed):
            for word in words:
                assert offer(runtime.event_log, run_id, word)
            assert exposed(runtime, "runstore_queue_events") == 3
            assert exposed(runtime, "runstore_queue_bytes") == sum(len(encode(word).data) for word in words)
        await runtime.event_log.append(run_id, [note()])  # which comes behind them
        assert exposed(runtime, "runstore_queue_events") == exposed(runtime, "runstore_queue_bytes") == 0


def exposed(runtime: Runtime, name: str) -> float:
    text, _ = runtime.metrics.expose("")
    return next(float(line.split()[1]) for line in text.decode().splitlines() if line.startswith(f"{name} "))
