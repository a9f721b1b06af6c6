"""Too deep values are refused everywhere, and deep values of an older release break no answer."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from strands import Agent

import runstore
from runstore.core.codec import EncodedEvent
from runstore.core.depth import MAX_DEPTH
from runstore.core.errors import ConfigError, EventTooDeep
from runstore.core.ids import new_run_id
from runstore.core.run import RUN_DEPTH
from runstore.feed.memory import MemoryFeed
from runstore.mount import MountedApp
from tests.core.test_depth import deep, depth_of
from tests.kit.database import make_database, open_sqlite_log
from tests.kit.polling import DEADLINE_S, until
from tests.kit.slow import mostly_slow
from tests.kit.teams import ALONE, EXECUTOR
from tests.runtime.strands_kit import Playbook, use

RAISED_LIMIT = """
import sys
from runstore.core.arguments import read_arguments
from runstore.core.errors import AgentError, EventTooDeep
from runstore.http.bodies import Body, _decode
from runstore.http.native.agents import StartBody
from runstore.runtime.code.agent import _item
from runstore.runtime.process.messages import Ended, Offered, event_of, result_of
from runstore.runtime.strands.stream.servers.llamacpp import _decoded
from runstore.runtime.strands.stream.servers.openai import _whole_answer

sys.setrecursionlimit(10**6)  # as libraries do that agents use
for deep in ("[" * 300_000, '{"a":' * 300_000 + "1" + "}" * 300_000):
    value = '{"metadata": {"a": %s}}' % deep
    for error, read in (
        (EventTooDeep, lambda: _decode(Body(StartBody), None, value.encode())),
        (ValueError, lambda: read_arguments(deep)),
        (EventTooDeep, lambda: _item(chr(30) + '{"event": %s}' % deep)),
        (AgentError, lambda: event_of(Offered(run=1, event="custom.a", at=0, data=deep.encode()))),
        (RecursionError, lambda: _whole_answer(b'{"error": %s}' % deep.encode())),
    ):
        try:
            read()
        except error:
            continue
        sys.exit(f"{error} was expected")
    assert _decoded(deep) is None
"""


def test_depth_is_bounded_where_a_library_has_raised_the_limit_of_recursion() -> None:
    """Otherwise a decoder overflows the stack, and a small request ends the process."""
    ended = subprocess.run([sys.executable, "-c", RAISED_LIMIT], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def tables(levels: int) -> Any:
    """So many nested objects."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


async def saying(input: str) -> AsyncIterator[Any]:
    yield {"type": "custom.deep", "data": tables(int(input))}


async def asking(input: str, ctx: Any) -> AsyncIterator[Any]:
    yield str(await ctx.ask("Well?"))


async def asking_with_data(input: str, ctx: Any) -> AsyncIterator[Any]:
    yield str(await ctx.ask("Well?", data=tables(int(input))))


async def asking_by_schema(input: str, ctx: Any) -> AsyncIterator[Any]:
    yield str(await ctx.ask("Well?", schema={"default": tables(int(input) - 1)}))


async def asking_or_default(input: str, ctx: Any) -> AsyncIterator[Any]:
    yield str(await ctx.ask("Well?", expires_s=60, default=tables(int(input))))


class Made(BaseModel):
    a: Any


def making(levels: int) -> Agent:
    turns = [use(("t1", "Made", tables(levels))), use(("t2", "Made", tables(1)))]
    return Agent(model=Playbook(*turns), structured_output_model=Made, callback_handler=None)


def making_64() -> Agent:
    return making(MAX_DEPTH)


def making_65() -> Agent:
    return making(MAX_DEPTH + 1)


FACTORIES = (saying, asking, asking_with_data, asking_by_schema, asking_or_default, making_64, making_65)
AGENTS = "[agents.run-code]\ncode = true\n" + "".join(
    f"[agents.{factory.__name__}]\nfactory = '{__name__}:{factory.__name__}'\n" for factory in FACTORIES
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{make_database(tmp_path / 'runstore.db')}"


@pytest.fixture
async def http(url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The API in this process."""
    config = tmp_path / "runstore.toml"
    config.write_text(AGENTS)
    async with opened(url, config) as client:
        yield client


@asynccontextmanager
async def opened(url: str, config: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = MountedApp(url, config=config)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with (
        app.open(),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=DEADLINE_S) as client,
    ):
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


# Every way in takes a value of MAX_DEPTH levels, and none takes one more.

Http = httpx.AsyncClient
Edge = Callable[[Http, int], Awaitable[str | None]]  # the code of the error, for a value of so many levels


async def sent(http: Http, path: str, body: Any) -> str | None:
    answer = await http.post(path, json=body)
    return None if answer.is_success else str(answer.json()["error"]["code"])


async def ended(http: Http, agent: str, **body: Any) -> Any:
    """The record of a new run, once it has ended or waits."""
    started = await http.post(f"/agents/{agent}/start", json=body)
    assert started.status_code == 202, started.text
    record: Any = None

    async def rests() -> bool:
        nonlocal record
        record = (await http.get(f"/runs/{started.json()['run_id']}")).json()
        return record["status"] not in ("queued", "running")

    await until(rests)
    return record


def of_body(number: int) -> Edge:
    async def edge(http: Http, levels: int) -> str | None:
        run_id = (await http.post("/agents/asking/start", json={"input": "hi"})).json()["run_id"]
        path, body = bodies(tables(levels))[number]
        return await sent(http, path.format(run=run_id), body)

    return edge


def of_agent(agent: str) -> Edge:
    async def edge(http: Http, levels: int) -> str | None:
        record = await ended(http, agent, input=str(levels))
        return None if record["error_code"] is None else str(record["error_code"])

    return edge


async def of_code(http: Http, levels: int) -> str | None:
    code = f"async def run(input, emit): return {tables(levels)}"
    record = await ended(http, "run-code", code=code)
    return None if record["error_code"] is None else str(record["error_code"])


async def of_answer(http: Http, levels: int) -> str | None:
    run_id = (await ended(http, "asking", input="hi"))["run_id"]
    [request] = (await http.get(f"/runs/{run_id}/inputs")).json()["data"]
    return await sent(http, f"/runs/{run_id}/inputs/{request['request_id']}", {"answer": tables(levels)})


async def of_object(http: Http, levels: int) -> str | None:
    """A model's object is the input of its call. A deeper one is refused there, and the model tries again."""
    record = await ended(http, f"making_{levels}", input="hi")
    events = (await http.get(f"/runs/{record['run_id']}/events", params={"limit": 100})).json()["data"]
    failed = [event["data"] for event in events if event["type"] == "tool.failed"]
    if failed:
        assert "is nested too deep: the limit is 64 " in failed[0]["output"][0]["text"]
        return "event_too_deep"
    assert record["result"]["structured_output"] == tables(levels)
    return None


EDGES: dict[str, Edge] = {
    **{f"{path}, {', '.join(body)}": of_body(n) for n, (path, body) in enumerate(bodies({}))},
    **{
        name: of_agent(name)
        for name in ("saying", "asking_with_data", "asking_by_schema", "asking_or_default")
    },
    "the result of code": of_code,
    "an answer": of_answer,
    "an agent's object": of_object,
}
del EDGES["/v1/chat/completions, prompt, response_format"]  # no code reads it, so the body alone has a limit


@pytest.mark.parametrize("name", mostly_slow(EDGES, *(EDGES.keys() - {"the result of code"})))
async def test_an_edge_takes_a_value_of_the_limit_and_refuses_a_deeper_one(http: Http, name: str) -> None:
    edge = EDGES[name]
    assert [await edge(http, MAX_DEPTH), await edge(http, MAX_DEPTH + 1)] == [None, "event_too_deep"]


MODEL = "model = 'llamacpp'\nmodel_args = {{ model_id = 'm', params = {} }}"
CONFIGURED = {
    "output_schema": "[agents.x]\nmodel = 'scripted'\noutput_schema = {{ default = {} }}",
    "model_args": f"[agents.x]\n{MODEL}",
    "model_args of a hierarchy": f"[hierarchies]\nmodel = 'x'\n[hierarchies.models.x]\n{MODEL}",
}


@pytest.mark.parametrize("setting", CONFIGURED)
async def test_a_setting_takes_a_value_of_the_limit_and_refuses_a_deeper_one(
    url: str, tmp_path: Path, setting: str
) -> None:
    async def start(levels: int) -> int:
        config = tmp_path / "runstore.toml"
        inner = re.sub(r'"(\w+)":', r"\1 =", json.dumps(tables(levels - 1)))
        config.write_text(CONFIGURED[setting].format(inner))
        async with opened(url, config) as http:
            if "hierarchy" not in setting:
                return (await http.post("/agents/x/start", json={"input": "hi"})).status_code
            made = (await http.post(f"{EXECUTOR}/hierarchies/create", json=ALONE)).json()
            body = {"hierarchy_id": made["data"]["hierarchy_id"], "task": "hi"}
            return (await http.post(f"{EXECUTOR}/runs/start", json=body)).status_code

    assert await start(MAX_DEPTH) < 300
    with pytest.raises(ConfigError, match=r"is nested too deep: the limit is 64 "):
        await start(MAX_DEPTH + 1)


async def test_a_record_shows_values_of_the_limit_whole(http: Http) -> None:
    value = tables(MAX_DEPTH)
    body = {"code": "print()", "input": value, "metadata": value}
    run_id = (await http.post("/agents/run-code/start", json=body)).json()["run_id"]
    record = (await http.get(f"/runs/{run_id}")).json()
    assert record["input"] == {"code": "print()", "input": value}
    assert record["metadata"] == value


async def test_an_agent_whose_event_is_nested_too_deep_fails(http: httpx.AsyncClient) -> None:
    run_id = (await http.post("/agents/saying/start", json={"input": "65"})).json()["run_id"]
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
        assert depth_of(record["result"]) == depth_of(record["metadata"]) == RUN_DEPTH - 1
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
