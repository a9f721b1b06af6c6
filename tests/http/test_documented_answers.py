"""Answers that no made-up request meets, on every surface: each is one that the OpenAPI document has."""

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator

from runstore.http.app import SURFACES
from runstore.http.openapi import document
from tests.http.conftest import CONFIG
from tests.kit.chat import BEARER, URL, chunks
from tests.kit.server import SILENT_AGENT, ServerProcess, serving, until
from tests.kit.teams import EXECUTOR, Executor

DOCUMENT = msgspec.json.decode(msgspec.json.encode(document(SURFACES, needs_login=False)))
BROKEN_AGENT = """
def broken():
    raise RuntimeError("no luck")
"""
BROKEN_CONFIG = """
[agents.broken]
factory = "agents:broken"
"""
START, STREAM, TEAM = "/agents/{agent}/start", "/agents/{agent}/stream", f"{EXECUTOR}/runs/start"
ONE_OF_EACH_SURFACE = [("get", "/runs"), ("get", "/v1/models"), ("post", f"{EXECUTOR}/runs/list")]
of_each_surface = pytest.mark.parametrize(("method", "path"), ONE_OF_EACH_SURFACE)


def assert_valid(schema: dict[str, Any], value: Any) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def assert_documented(answer: httpx.Response, status: int, code: str, method: str, path: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    described = DOCUMENT["paths"][path][method]["responses"][str(status)]
    assert_valid(described["content"][answer.headers["content-type"]]["schema"], answer.json())
    for name, header in described.get("headers", {}).items():
        assert name in answer.headers or not header["required"]
        if name in answer.headers:
            assert_valid(header["schema"], answer.headers[name])


def assert_event_documented(name: str, event: Any) -> None:
    """Of a chat's stream, whose schema can only say what its texts hold."""
    [said, *_] = [
        each["contentSchema"]
        for each in DOCUMENT["paths"][URL]["post"]["responses"]["200"]["content"]["text/event-stream"][
            "schema"
        ]["properties"]["data"]["anyOf"]
        if each.get("contentSchema", {}).get("$ref", "").endswith(f"/{name}")
    ]
    assert_valid(said, event)


@pytest.fixture
def session() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def waiting() -> Iterator[ThreadPoolExecutor]:
    """Where a request waits for its answer."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def ask_silent(
    waiting: ThreadPoolExecutor, server: ServerProcess, session: str
) -> tuple[str, "Future[httpx.Response]"]:
    """A chat that waits for an agent that says nothing: its run, and its answer."""
    headers = {**BEARER, "X-Session-Id": session}
    asked = waiting.submit(server.http.post, URL, json={"prompt": "hi", "model": "silent"}, headers=headers)
    parameters = {"session_id": session}
    until(lambda: server.http.get("/runs", params=parameters).json()["data"], "there is a run")
    run_id: str = server.http.get("/runs", params=parameters).json()["data"][0]["run_id"]
    return run_id, asked


# ---- starts ----


def test_every_start_refuses_a_busy_session_as_documented(server: ServerProcess, session: str) -> None:
    run_id = server.begin("silent", session_id=session)
    more = {"session_id": session, "multitask_strategy": "reject"}
    hierarchy_id = Executor(server.http).create()
    headers = {"X-Session-Id": session, "X-Multitask-Strategy": "reject"}
    for path, url, body in (
        (START, "/agents/quick/start", {"input": "hi", **more}),
        (STREAM, "/agents/quick/stream", {"input": "hi", **more}),
        (TEAM, TEAM, {"hierarchy_id": hierarchy_id, "task": "hi", **more}),
        (URL, URL, {"prompt": "hi", "model": "quick"}),
    ):
        answer = server.http.post(url, json=body, headers=headers if path == URL else {})
        assert_documented(answer, 409, "session_busy", "post", path)
    server.stop_run(run_id)


# ---- chats whose run does not succeed ----


def test_a_chat_whose_run_is_stopped_is_answered_as_documented(
    server: ServerProcess, session: str, waiting: ThreadPoolExecutor
) -> None:
    run_id, asked = ask_silent(waiting, server, session)
    server.stop_run(run_id)
    assert_documented(asked.result(), 409, "stopped", "post", URL)


def test_a_chat_that_is_superseded_is_answered_as_documented(
    server: ServerProcess, session: str, waiting: ThreadPoolExecutor
) -> None:
    _, asked = ask_silent(waiting, server, session)
    newer = {"prompt": "hi", "model": "quick"}
    assert server.http.post(URL, json=newer, headers={"X-Session-Id": session}).is_success
    assert_documented(asked.result(), 409, "superseded", "post", URL)


def test_a_chat_whose_run_fails_and_one_that_the_server_leaves_are_answered_as_documented(
    tmp_path: Path, session: str, waiting: ThreadPoolExecutor
) -> None:
    agents = SILENT_AGENT + BROKEN_AGENT
    with serving(tmp_path, CONFIG + BROKEN_CONFIG, agents, drain_s=1) as server:
        failed = server.http.post(URL, json={"prompt": "hi", "model": "broken"})
        assert_documented(failed, 500, "agent_error", "post", URL)
        with server.http.stream(
            "POST", URL, json={"prompt": "hi", "model": "broken", "stream": True}
        ) as found:
            [*_, (_, last)] = chunks(found)
        assert last["error"]["code"] == "agent_error"
        assert_event_documented("ErrorResponse", last)
        _, asked = ask_silent(waiting, server, session)
        server.terminate()
        assert_documented(asked.result(), 503, "server_stopping", "post", URL)


@pytest.mark.parametrize("usage", [False, True])
def test_the_chunks_of_a_chat_are_as_documented(http: httpx.Client, usage: bool) -> None:
    body = {"prompt": "one two", "model": "quick", "stream": True, "stream_options": {"include_usage": usage}}
    with http.stream("POST", URL, json=body) as found:
        *some, (_, done) = chunks(found)
    assert len(some) == 4 + usage  # the role, two words, the reason of the end, the usage
    assert done == "[DONE]"
    for _, chunk in some:
        assert_event_documented("Chunk", chunk)


# ---- requests that no route sees ----


@of_each_surface
def test_another_host_is_refused_as_documented(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path, headers={"Host": "example.org"})
    assert_documented(answer, 400, "unknown_host", method, path)


@of_each_surface
def test_headers_that_are_too_large_are_refused_as_documented(
    http: httpx.Client, method: str, path: str
) -> None:
    answer = http.request(method, path, headers={"X-Large": "x" * 70_000})
    assert_documented(answer, 431, "headers_too_large", method, path)
