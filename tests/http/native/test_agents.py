"""`/agents`: what there is, and starting runs."""

from uuid import UUID

import httpx
import pytest

from tests.kit.frames import read_frames, said, seqs
from tests.kit.server import ServerProcess, until


def test_the_list_names_every_agent_that_is_configured(http: httpx.Client) -> None:
    answer = http.get("/agents")
    assert answer.status_code == 200
    assert answer.json()["next"] is None
    names = {agent["name"] for agent in answer.json()["data"]}
    assert {"demo", "quick", "silent", "talker"} <= names


def test_the_list_says_that_the_scripted_model_is_not_an_llm(http: httpx.Client) -> None:
    quick = next(agent for agent in http.get("/agents").json()["data"] if agent["name"] == "quick")
    assert quick["model"] == "scripted"
    assert "not an llm" in str(quick).lower()


def test_starting_a_run_answers_202_with_its_record_and_its_location(http: httpx.Client) -> None:
    answer = http.post(
        "/agents/silent/start", json={"input": "hi", "session_id": "s-1", "metadata": {"ticket": [1, None]}}
    )
    assert answer.status_code == 202
    record = answer.json()
    assert UUID(record["run_id"]).version == 7
    assert answer.headers["location"] == f"/runs/{record['run_id']}"
    assert answer.headers["x-run-id"] == record["run_id"]
    assert record["agent_name"] == "silent"
    assert record["user_id"] == "local"
    assert record["session_id"] == "s-1"
    assert record["metadata"] == {"ticket": [1, None]}
    assert record["status"] in ("queued", "running")
    assert record["result"] is None
    assert http.get(answer.headers["location"]).json()["run_id"] == record["run_id"]


def test_the_body_may_name_its_charset(http: httpx.Client) -> None:
    answer = http.post(
        "/agents/silent/start",
        content='{"input": "Füße"}'.encode(),
        headers={"Content-Type": "Application/JSON; charset=utf-8"},
    )
    assert answer.status_code == 202


def test_the_first_event_of_a_started_stream_carries_the_run_id(server: ServerProcess) -> None:
    with server.http.stream("POST", "/agents/silent/stream", json={"input": "hi"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        first = next(read_frames(answer.iter_raw()))
        assert first.seq == 1
        assert first.type == "lifecycle.queued"
        assert first.event["run_id"] == answer.headers["x-run-id"]
        assert server.record(first.event["run_id"])["agent_name"] == "silent"


def test_a_started_stream_brings_the_whole_run(http: httpx.Client) -> None:
    with http.stream("POST", "/agents/quick/stream", json={"input": "one two three"}) as answer:
        frames = list(read_frames(answer.iter_raw()))
    assert seqs(frames) == list(range(1, len(frames) + 1))
    assert said(frames) == "one two three"
    assert frames[-1].type == "lifecycle.completed"


def test_closing_a_started_stream_does_not_end_its_run(server: ServerProcess) -> None:
    with server.http.stream("POST", "/agents/talker/stream", json={"input": "on and on"}) as answer:
        run_id = answer.headers["x-run-id"]
        frames = read_frames(answer.iter_raw())
        seen = next(frame.seq for frame in frames if frame.type == "llm.token")
    until(lambda: server.record(run_id)["last_seq"] > seen + 50, "the run goes on, long after its client")
    assert server.record(run_id)["status"] == "running"
    assert server.stop_run(run_id)["status"] == "stopped"


def test_an_input_of_exactly_what_an_event_may_hold_is_stored_whole(server: ServerProcess) -> None:
    text = "x" * ((1 << 20) - 2_000)
    run_id = server.begin("silent", text)
    assert server.events(run_id)[0]["data"]["input"] == text
    server.stop_run(run_id)


@pytest.mark.parametrize("surface", ["start", "stream"])
def test_an_unknown_agent_is_404_and_the_known_ones_are_named(http: httpx.Client, surface: str) -> None:
    answer = http.post(f"/agents/nobody/{surface}", json={"input": "hi"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "agent_not_found"
    message = answer.json()["error"]["message"]
    assert "nobody" in message
    for known in ("demo", "quick", "silent", "talker"):
        assert known in message
