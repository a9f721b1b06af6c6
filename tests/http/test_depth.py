"""Too deep values are refused everywhere, and deep values of an older release break no answer."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import runstore
from runstore.core.codec import EncodedEvent
from runstore.core.depth import MAX_DEPTH
from runstore.core.errors import EventTooDeep
from runstore.core.ids import new_run_id
from runstore.feed.memory import MemoryFeed
from runstore.mount import MountedApp
from tests.core.test_depth import deep, depth_of
from tests.kit.database import make_database, open_sqlite_log

AGENTS = """
[agents.run-code]
code = true

[agents.code]
factory = "tests.http.test_depth:silent"
"""


async def silent(input: Any) -> AsyncIterator[Any]:
    yield {"type": "custom.deep", "data": deep(MAX_DEPTH + 1)}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{make_database(tmp_path / 'runstore.db')}"


@pytest.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The API in this process."""
    config = tmp_path / "runstore.toml"
    config.write_text(AGENTS)
    app = MountedApp(url, config=config)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with app.open(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


def bodies(value: Any) -> list[tuple[str, Any]]:
    """(path, body) of every request that takes a value of any form."""
    return [
        ("/agents/demo/start", {"input": "hi", "metadata": value}),
        ("/agents/demo/stream", {"input": "hi", "metadata": value}),
        ("/agents/run-code/start", {"code": "print()", "input": value}),
        ("/runs/{run}/events", {"type": "custom.x", "data": value}),
        ("/runs/{run}/events", {"events": [{"type": "custom.x", "data": value}]}),
        ("/v1/chat/completions", {"prompt": "hi", "metadata": value}),
        ("/v1/chat/completions", {"prompt": "hi", "response_format": value}),
    ]


@pytest.mark.parametrize("levels", [MAX_DEPTH + 4, 300, 960, 20_000])
async def test_a_request_that_is_nested_too_deep_is_400(http: httpx.AsyncClient, levels: int) -> None:
    run_id = (await http.post("/agents/demo/start", json={"input": "hi"})).json()["run_id"]
    mark = "the value"
    value = b'{"a":' * levels + b"1" + b"}" * levels
    for path, body in bodies(mark):
        content = json.dumps(body).encode().replace(json.dumps(mark).encode(), value)
        answer = await http.post(
            path.format(run=run_id), content=content, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "event_too_deep"), (
            path,
            answer.text[:300],
        )
    assert len((await http.get("/runs")).json()["data"]) == 1


async def test_a_value_may_be_nested_up_to_the_limit(http: httpx.AsyncClient) -> None:
    body = {"input": "hi", "metadata": {"of": deep(MAX_DEPTH - 1)}}
    answer = await http.post("/agents/demo/start", json=body)
    assert answer.status_code == 202, answer.text
    run_id = answer.json()["run_id"]
    assert (await http.get(f"/runs/{run_id}")).json()["metadata"] == body["metadata"]
    answer = await http.post("/agents/demo/start", json={"input": "hi", "metadata": {"of": deep(MAX_DEPTH)}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "event_too_deep")


async def test_an_agent_whose_event_is_nested_too_deep_fails(http: httpx.AsyncClient) -> None:
    run_id = (await http.post("/agents/code/start", json={"input": "hi"})).json()["run_id"]
    record = (await http.get(f"/runs/{run_id}", params={"wait": 60})).json()
    assert (record["status"], record["error_code"]) == ("error", "event_too_deep")


async def test_a_program_cannot_store_too_deep_values(url: str) -> None:
    async with runstore.open(url) as store:
        async with store.begin("own") as run:
            for value in (deep(MAX_DEPTH + 1), deep(900)):
                with pytest.raises(EventTooDeep):
                    await run.record(runstore.Custom("custom.x", value))
                with pytest.raises(EventTooDeep):
                    await store.append(run.run_id, [runstore.Custom("custom.x", value)])
        with pytest.raises(EventTooDeep):
            async with store.begin("own") as run:
                run.result = deep(900)
        assert (await store.state(run.run_id)).error_code == "event_too_deep"


def old_event(type: str, data: bytes, *, ends: bool = False) -> EncodedEvent:
    """As an older release wrote it, which knew no limit."""
    return EncodedEvent(type, 1, ends, 1_795_169_410_123, data)


@pytest.fixture
async def old_run(url: str) -> str:
    value = b'{"a":' * 970 + b"1" + b"}" * 970
    log = open_sqlite_log(Path(url.removeprefix("sqlite:///")), MemoryFeed())
    run_id = new_run_id()
    queued = b'{"agent":"demo","user_id":"local","input":"hi","metadata":%b}' % value
    await log.append(
        run_id,
        [
            old_event("lifecycle.queued", queued),
            old_event("custom.deep", value),
            old_event("lifecycle.completed", b'{"result":%b}' % value, ends=True),
        ],
    )
    await log.close()
    return run_id


async def test_too_deep_values_in_an_old_log_break_no_answer(http: httpx.AsyncClient, old_run: str) -> None:
    for path in (f"/runs/{old_run}", f"/runs/{old_run}?at=3&include=schema_warnings"):
        record = (await http.get(path)).json()
        assert record["status"] == "success"
        assert depth_of(record["result"]) == depth_of(record["metadata"]) == MAX_DEPTH
    assert [run["run_id"] for run in (await http.get("/runs")).json()["data"]] == [old_run]
    for path in ("events?limit=1000", "stream", "stream?format=openai"):
        assert (await http.get(f"/runs/{old_run}/{path}")).status_code == 200, path
    assert (await http.delete(f"/runs/{old_run}")).status_code == 204


async def test_a_program_reads_too_deep_values_of_an_old_log(url: str, old_run: str) -> None:
    async with runstore.open(url) as store:
        assert (await store.state(old_run)).status == "success"
        assert [event.seq async for event in store.read(old_run)] == [1, 2, 3]
        assert [event.seq async for event in store.tail(old_run)] == [1, 2, 3]
        assert [run.run_id for run in await store.find()] == [old_run]
