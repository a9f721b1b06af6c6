"""OpenAI's own clients, unchanged, against a server: what they read, and which of their errors they raise."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from runstore.core.errors import LogUnavailable
from runstore.mount import MountedApp
from runstore.store.runs import RunStore
from tests.kit.database import make_database
from tests.kit.server import DEADLINE_S, ServerProcess
from tests.kit.tools import lacking

NODE_FOLDER = Path(__file__).parents[2] / "node"
COUNT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from 1 to 3"}]
LONG: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Write a very long poem"}]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    http = httpx.Client(trust_env=False, verify=False, timeout=DEADLINE_S)
    with openai.OpenAI(base_url=f"{server.http.base_url}/v1", api_key="devkey", http_client=http) as client:
        yield client


@pytest.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False, verify=False, timeout=DEADLINE_S)
    url = f"{server.http.base_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="devkey", http_client=http) as client:
        yield client


def test_the_python_client_reads_a_completion(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model="quick", messages=COUNT)
    assert found.choices[0].message.content == "1 2 3"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.completion_tokens == 3


async def test_a_run_whose_answer_cannot_be_read_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = MountedApp(f"sqlite:///{make_database(tmp_path / 'runstore.db')}")
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def refuse(*arguments: Any) -> Any:
        raise LogUnavailable("the database has gone")

    async with app.open(), http:
        monkeypatch.setattr(RunStore, "get", refuse)
        client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="k", http_client=http)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="demo", messages=COUNT)
        assert (caught.value.status_code, caught.value.code) == (503, "log_unavailable")
        [run] = (await http.get("/runs")).json()["data"]
        assert caught.value.response.headers["x-run-id"] == run["run_id"]


def test_the_python_client_reads_a_stream(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="quick", messages=COUNT, stream=True, stream_options=options)
    )
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [text for text in texts if text] == ["1 ", "2 ", "3"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 8


def test_the_python_clients_stream_helper_accumulates_the_answer(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="quick", messages=COUNT) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "1 2 3"


async def test_the_python_clients_superseded_stream_is_an_api_error(
    async_client: openai.AsyncOpenAI,
) -> None:
    session = {"X-Session-Id": "python-superseded"}
    begun = asyncio.Event()

    async def read() -> None:
        stream = await async_client.chat.completions.create(
            model="talker", messages=LONG, stream=True, extra_headers=session
        )
        async for _ in stream:
            begun.set()

    older = asyncio.create_task(read())
    await asyncio.wait_for(begun.wait(), DEADLINE_S)
    newer = await async_client.chat.completions.create(model="quick", messages=COUNT, extra_headers=session)
    with pytest.raises(openai.APIError) as failure:
        await asyncio.wait_for(older, DEADLINE_S)
    assert failure.value.code == "superseded"
    assert newer.choices[0].message.content == "1 2 3"


def test_the_python_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="none", messages=COUNT)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        create(messages=[{"role": "nobody", "content": "hi"}], model="quick")
    assert (wrong.value.code, wrong.value.param) == ("invalid_body", "messages[0].role")
    reject = {**BUSY, "X-Multitask-Strategy": "reject"}
    with (
        create(model="silent", messages=COUNT, stream=True, extra_headers=BUSY),
        pytest.raises(openai.ConflictError) as busy,
    ):
        create(model="quick", messages=COUNT, extra_headers=reject)
    assert busy.value.code == "session_busy"


BUSY = {"X-Session-Id": "python-busy"}


def test_the_python_client_lists_the_models(client: openai.OpenAI) -> None:
    assert "quick" in [model.id for model in client.models.list()]
    assert client.models.retrieve("quick").id == "quick"


def test_a_python_client_that_leaves_its_stream_ends_its_run(
    server: ServerProcess, client: openai.OpenAI
) -> None:
    with client.chat.completions.create(model="talker", messages=LONG, stream=True) as stream:
        run_id = stream.response.headers["x-run-id"]
        next(iter(stream))
    assert server.ended(run_id)["reason"] == "client_disconnect"


def test_the_node_client_reads_completions_streams_and_errors(server: ServerProcess) -> None:
    found = found_in_node(server, "chat.mjs", "openai")
    assert "demo" in found["models"]
    assert found["whole"] == "1 2 3"
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert found["streamed"] == {"text": "1 2 3", "finish": "stop", "usage": usage}
    assert found["next"] == "4"
    assert (found["superseded"]["name"], found["superseded"]["code"]) == ("APIError", "superseded")
    assert found["noModel"] == {
        "name": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model",
    }  # fmt: skip
    assert found["badRole"] == {
        "name": "BadRequestError", "status": 400, "code": "invalid_body", "param": "messages[0].role",
    }  # fmt: skip


def test_the_ai_sdk_reads_completions_streams_and_errors(server: ServerProcess) -> None:
    """Vercel's `ai`, with its provider for servers that speak OpenAI's protocol."""
    found = found_in_node(server, "ai.mjs", "ai")
    counted = {"text": "1 2 3", "finishReason": "stop", "usage": 8}
    assert found["whole"] == found["settings"] == counted
    streamed = {"text": "1 2 3", "error": None, "last": "finish", "finish": "stop", "usage": 8}
    assert found["streamed"] == streamed
    assert found["history"] == "sunny"
    assert found["superseded"] == {"error": "superseded", "finish": "error", "next": "1 2 3"}
    assert (found["noModel"]["api"], found["noModel"]["status"]) == (True, 404)
    assert found["aborted"] == "abort"
    (run, *_) = server.http.get("/runs", params={"agent": "talker", "limit": 1}).json()["data"]
    assert run["input"].endswith(", please")
    assert server.ended(run["run_id"])["reason"] == "client_disconnect"


def found_in_node(server: ServerProcess, script: str, package: str) -> Any:
    """The output of a script of NODE_FOLDER about the server."""
    if not (NODE_FOLDER / "node_modules" / package).exists():
        lacking(f"the package {package} for Node is not installed (make node)")
    done = subprocess.run(
        [node(), script, f"{server.http.base_url}/v1"],
        cwd=NODE_FOLDER, capture_output=True, text=True, timeout=3 * DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def node() -> str:
    """Node of the development tools, else any installed one."""
    ours = shutil.which("node", path=str(Path(sys.executable).parent))
    return ours or shutil.which("node") or lacking("node is not installed (make node)")
