"""Runs whose events were removed because of their age: 410 on every route, and a list of their own."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from runstore.core.errors import RunPurged
from runstore.core.run import Run
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.openai.stream import CHAT_EVENTS, ChatChunks, ChatTail
from tests.http.eventsource import EventSource
from tests.http.test_documented_answers import START, STREAM, TEAM, assert_documented
from tests.kit.database import open_log_at
from tests.kit.events import token
from tests.kit.frames import read_frames
from tests.kit.keys import url_of
from tests.kit.purging import purge_run, write_old
from tests.kit.server import ServerProcess
from tests.kit.teams import EXECUTOR, Executor


@pytest.fixture
def purged_run(server: ServerProcess, closed_run: str) -> str:
    purge_run(url_of(server.folder), closed_run)
    return closed_run


@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("get", "", {}, None),
        ("get", "", {"at": 1}, None),
        ("get", "", {"wait": 1}, None),
        ("get", "", {"include": "trace,ops_log,schema_warnings"}, None),
        ("get", "/events", {}, None),
        ("get", "/events", {"after": 3}, None),
        ("get", "/requests", {}, None),
        ("get", "/steps", {}, None),
        ("get", "/steps", {"at": 1}, None),
        ("get", "/transcript", {}, None),
        ("get", "/stream", {}, None),
        ("get", "/stream", {"after": 3, "types": "custom.*"}, None),
        ("get", "/stream", {"after": 1_000}, None),
        ("get", "/stream", {"format": "openai"}, None),
        ("post", "/events", {}, {"type": "custom.note"}),
        ("post", "/stop", {}, None),
        ("post", "/ticket", {}, None),
        ("delete", "", {}, None),
    ],
)
def test_a_purged_run_is_410_on_every_route(
    http: httpx.Client, purged_run: str, method: str, path: str, query: Any, body: Any
) -> None:
    answer = http.request(method, f"/runs/{purged_run}{path}", params=query, json=body)
    assert_documented(answer, 410, "run_purged", method, f"/runs/{{run_id}}{path}")


def test_a_purged_run_is_410_for_lines_and_for_a_known_page(server: ServerProcess, closed_run: str) -> None:
    path = f"/runs/{closed_run}/events"
    tag = server.http.get(path).headers["etag"]
    purge_run(url_of(server.folder), closed_run)
    for headers in ({"If-None-Match": tag}, {"If-None-Match": "*"}, {"Accept": "application/x-ndjson"}):
        answer = server.http.get(path, headers=headers)
        assert_documented(answer, 410, "run_purged", "get", "/runs/{run_id}/events")


@pytest.mark.parametrize("path", ["runs/get", "runs/stream", "runs/cancel"])
def test_a_purged_run_is_410_for_the_executors_clients(
    http: httpx.Client, purged_run: str, path: str
) -> None:
    answer = Executor(http).ask(path, {"run_id": purged_run})
    assert_documented(answer, 410, "run_purged", "post", f"{EXECUTOR}/{path}")


def test_the_key_of_a_purged_run_is_410_on_every_start(server: ServerProcess) -> None:
    hierarchy_id = Executor(server.http).create()
    for path, url, body in (
        (START, "/agents/quick/start", {"input": "hi"}),
        (STREAM, "/agents/quick/stream", {"input": "hi"}),
        (TEAM, TEAM, {"hierarchy_id": hierarchy_id, "task": "hi"}),
        ("/v1/chat/completions", "/v1/chat/completions", {"prompt": "hi", "model": "quick"}),
    ):
        headers = {"Idempotency-Key": uuid4().hex}
        run_id = server.http.post(url, json=body, headers=headers).headers["x-run-id"]
        server.ended(run_id)
        purge_run(url_of(server.folder), run_id)
        assert_documented(server.http.post(url, json=body, headers=headers), 410, "run_purged", "post", path)


def test_a_ticket_of_a_purged_run_is_410(server: ServerProcess, closed_run: str) -> None:
    ticket = server.http.post(f"/runs/{closed_run}/ticket").json()
    purge_run(url_of(server.folder), closed_run)
    assert server.http.get(ticket["url"]).json()["error"]["code"] == "run_purged"


# ---- readers that were there before ----


def test_an_eventsource_that_comes_back_to_a_purged_run_gives_up(
    server: ServerProcess, closed_run: str
) -> None:
    source = EventSource(server.http, f"/runs/{closed_run}/stream", lambda seconds: None)
    messages = source.messages()
    assert next(messages).last_event_id == "1"
    messages.close()  # type: ignore[attr-defined]
    purge_run(url_of(server.folder), closed_run)
    again = EventSource(server.http, f"/runs/{closed_run}/stream", lambda seconds: None)
    again.last_event_id = "1"
    assert list(again.messages()) == []
    assert (again.closed, again.opened) == (True, 0)


LARGE = "x" * 900_000


@pytest.fixture
def large_run(server: ServerProcess, silent_run: str) -> str:
    """A run that no connection takes at once."""
    for _ in range(30):
        server.note(silent_run, LARGE)
    server.stop_run(silent_run)
    return silent_run


@pytest.mark.slow
def test_a_stream_that_falls_behind_a_purge_ends_without_a_hole_and_then_is_410(
    server: ServerProcess, large_run: str
) -> None:
    with server.stream(large_run) as answer:
        parts = answer.iter_raw()
        got = [next(parts)]
        purge_run(url_of(server.folder), large_run)
        got += parts
    frames = list(read_frames(got))
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert len(frames) < 30
    assert not frames[-1].ends
    with server.stream(large_run, after=frames[-1].seq) as again:
        assert (again.status_code, msgspec.json.decode(again.read())["error"]["code"]) == (410, "run_purged")


def test_lines_that_fall_behind_a_purge_are_cut(server: ServerProcess, large_run: str) -> None:
    lines = {"Accept": "application/x-ndjson"}
    with server.http.stream("GET", f"/runs/{large_run}/events", headers=lines) as answer:
        parts = answer.iter_raw()
        next(parts)
        purge_run(url_of(server.folder), large_run)
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)


async def test_a_chat_that_falls_behind_a_purge_ends_with_an_error(database: Path, feed: MemoryFeed) -> None:
    url = f"sqlite:///{database}"
    log = open_log_at(url, feed)
    run_id = await write_old(log, *(token("x" * 100_000) for _ in range(9)))
    chat = ChatTail(Tail(log, feed, run_id, after=0, only=CHAT_EVENTS), ChatChunks(Run(run_id)))
    frames = chat.frames()
    assert b"word" in await anext(frames)
    await asyncio.to_thread(purge_run, url, run_id)
    rest = [frame async for frame in frames]
    assert len(rest) == 1
    assert msgspec.json.decode(rest[0].removeprefix(b"data: "))["error"]["code"] == RunPurged.code
    await log.close()


# ---- lists ----


def test_purged_runs_are_listed_by_themselves_with_their_summaries(server: ServerProcess) -> None:
    session = uuid4().hex
    kept, purged, deleted = (
        server.begin("quick", "one two", session_id=session, metadata={"secret": 1}) for _ in range(3)
    )
    before = {run_id: server.ended(run_id) for run_id in (kept, purged, deleted)}
    assert server.http.delete(f"/runs/{deleted}").status_code == 204
    for run_id in (purged, deleted):
        purge_run(url_of(server.folder), run_id)

    def listed(**parameters: Any) -> list[dict[str, Any]]:
        answer = server.http.get("/runs", params={"session_id": session, **parameters})
        assert answer.status_code == 200
        runs: list[dict[str, Any]] = answer.json()["data"]
        return runs

    assert [run["run_id"] for run in listed()] == [kept]
    assert [run["run_id"] for run in listed(purged="false")] == [kept]
    assert [run["run_id"] for run in listed(purged="true")] == [deleted, purged]
    assert listed(purged="true", status="error") == []
    record = listed(purged="true")[1]
    assert record.items() >= {
        "result": None, "metadata": {}, "deleted": False, "last_seq": before[purged]["last_seq"],
        **{name: before[purged][name] for name in (
            "user_id", "agent_name", "session_id", "status", "created_at", "started_at", "completed_at",
            "attempt", "usage",
        )},
    }.items()  # fmt: skip
    assert record["counts"].items() >= {"lifecycle.queued": 1, "llm.token": 2}.items()
    assert sum(record["counts"].values()) == record["last_seq"]
    assert record["purged_at"] > record["completed_at"]
    assert [run["deleted"] for run in listed(purged="true")] == [True, False]


@pytest.mark.parametrize("value", ["1", "", "True", "yes"])
def test_an_invalid_boolean_is_400(http: httpx.Client, value: str) -> None:
    answer = http.get("/runs", params={"purged": value})
    assert_documented(answer, 400, "invalid_parameter", "get", "/runs")
