"""The examples, under an ordinary uvicorn: the API below a prefix of another application."""

import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

import runstore
from runstore import MountedApp
from tests.kit.keys import make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import DEADLINE_S, environment, new_client, until
from tests.kit.slow import mostly_slow

EXAMPLES = Path(__file__).parents[2] / "examples"
AGENTS = {"starlette_app": "demo", "fastapi_app": "parrot"}
SAID = {"starlette_app": "why not", "fastapi_app": "why! not! "}


class Example:
    """`uvicorn examples:app` in a folder of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.agent = AGENTS[name]
        self._log = folder / "uvicorn.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        options = ["--app-dir", str(EXAMPLES), "--port", str(self.port)]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", f"{name}:app", *options],
                stdout=output, stderr=output, cwd=folder, env=environment(),
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}/runstore"
        self.http = new_client(self.url)
        until(lambda: "Uvicorn running" in self.log or self.process.poll() is not None, "uvicorn serves")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.http.close()


@pytest.fixture(params=AGENTS, scope="module")
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    example = Example(request.param, tmp_path_factory.mktemp(request.param))
    yield example
    example.close()
    assert_no_traceback(example.log)


def test_a_route_of_the_outer_application_starts_a_run_that_is_followed_below_the_prefix(
    example: Example,
) -> None:
    answer = example.http.post(f"http://127.0.0.1:{example.port}/ask", params={"question": "why not"})
    assert answer.status_code == 202
    run_id = answer.json()["follow"].split("/")[-2]
    with runstore.Client(example.url) as client:
        assert runstore.text(client.stream(run_id)) == SAID[example.name]


def test_a_run_s_location_has_the_prefix(example: Example) -> None:
    answer = example.http.post(f"/agents/{example.agent}/start", json={"input": "hi"})
    assert answer.headers["Location"] == f"/runstore/runs/{answer.json()['run_id']}"
    found = example.http.get(f"http://127.0.0.1:{example.port}{answer.headers['Location']}")
    assert found.json()["run_id"] == answer.json()["run_id"]


def test_errors_are_those_of_the_api(example: Example) -> None:
    answer = example.http.get("/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = example.http.put("/runs")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert example.http.get("/runs/nonsense").json()["error"]["code"] == "run_not_found"


def test_chats_are_answered_below_the_prefix(example: Example) -> None:
    body = {"prompt": "why not", "model": example.agent}
    found = example.http.post("/v1/chat/completions", json=body)
    assert found.json()["choices"][0]["message"]["content"].strip() == SAID[example.name].strip()
    wrong = example.http.post("/v1/chat/completions", json={"prompt": ""}).json()["error"]
    assert (wrong["code"], wrong["param"]) == ("invalid_body", "prompt")


def test_a_page_that_rebinds_its_name_is_refused_below_the_prefix_only(example: Example) -> None:
    headers = {"Host": "evil.example"}
    answer = example.http.get("/agents", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_host")
    outside = example.http.get(f"http://127.0.0.1:{example.port}/ask", headers=headers)
    assert outside.status_code == 405, "what the outer application answers to is its own affair"


def test_without_keys_a_client_of_another_machine_is_refused(example: Example) -> None:
    headers = {"X-Forwarded-For": "203.0.113.7"}  # uvicorn believes it, coming from a proxy on this machine
    answer = example.http.get("/runs", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert example.http.get("/runs").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(AGENTS, "fastapi_app"))
def test_an_open_stream_does_not_delay_the_outer_server_and_its_run_goes_on_later(
    name: str, tmp_path: Path
) -> None:
    with closing(Example(name, tmp_path)) as first:
        answer = first.http.post("/agents/demo/start", json={"input": "Write a very long essay"})
        run_id = answer.json()["run_id"]
        with first.http.stream("GET", f"/runs/{run_id}/stream") as stream:
            parts = stream.iter_raw()
            while b"llm.token" not in next(parts):
                pass
            first.process.terminate()
            list(parts)
        first.process.wait(DEADLINE_S)
        assert "Finished server process" in first.log
    with closing(Example(name, tmp_path)) as second, runstore.Client(second.url) as client:
        until(lambda: client.get(run_id).attempt == 2, "the run goes on")
        client.stop(run_id)
        assert [event.type for event in client.stream(run_id)][-1] == "lifecycle.cancelled"


@pytest.fixture
def mounted(tmp_path: Path) -> MountedApp:
    return MountedApp(f"sqlite:///{tmp_path / 'runstore.db'}", allowed_hosts=["runs.example"])


async def status(
    app: MountedApp, host: str = "localhost", client: str = "127.0.0.1", key: str = ""
) -> tuple[int, str]:
    transport = httpx.ASGITransport(app, client=(client, 1))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as http:
        answer = await http.get("/runs", headers={"Authorization": f"Bearer {key}"})
    return answer.status_code, answer.json().get("error", {}).get("code", "")


async def test_before_its_store_is_open_and_afterwards_a_mounted_app_says_so(mounted: MountedApp) -> None:
    assert await status(mounted) == (503, "not_ready")
    async with mounted.open():
        assert await status(mounted) == (200, "")
    assert await status(mounted) == (503, "not_ready")


async def test_a_mounted_app_answers_to_the_hosts_that_it_is_given(mounted: MountedApp) -> None:
    async with mounted.open():
        assert await status(mounted, "runs.example") == (200, "")
        assert await status(mounted, "other.example") == (400, "unknown_host")


@pytest.mark.parametrize("client", ["203.0.113.7", "testclient", ""])
async def test_without_keys_a_client_that_may_be_elsewhere_is_refused(
    mounted: MountedApp, client: str
) -> None:
    async with mounted.open():
        assert await status(mounted, client=client) == (401, "unauthorized")


async def test_with_keys_any_client_that_has_one_is_answered(mounted: MountedApp, tmp_path: Path) -> None:
    async with mounted.open():
        pass  # it makes the database
    key = make_key(tmp_path, "alice")
    async with mounted.open():
        assert await status(mounted, client="203.0.113.7", key=key) == (200, "")
        assert await status(mounted, client="203.0.113.7", key="wrong") == (401, "unauthorized")
        assert await status(mounted) == (401, "unauthorized")


async def test_a_mounted_app_with_a_login_function_takes_no_body_that_may_have_trailers(
    tmp_path: Path,
) -> None:
    """A mounted application cannot distinguish trailers from headers: uvicorn adds them late."""
    (tmp_path / "runstore.toml").write_text('[server]\nauthenticate = "logins:nobody"\n')
    (tmp_path / "logins.py").write_text("def nobody(request):\n    return None\n")
    url = f"sqlite:///{tmp_path / 'runstore.db'}"
    mounted = MountedApp(url, config=tmp_path / "runstore.toml")

    async def chunk() -> AsyncIterator[bytes]:
        yield b"{}"

    async with mounted.open(), httpx.AsyncClient(transport=httpx.ASGITransport(mounted)) as http:
        answer = await http.post("http://localhost/agents/demo/start", content=chunk())
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")
        assert (await http.post("http://localhost/agents/demo/start", content=b"{}")).status_code == 401


async def test_a_mounted_app_refuses_two_host_headers(mounted: MountedApp) -> None:
    twice = [("Host", "localhost"), ("Host", "localhost")]
    async with mounted.open(), httpx.AsyncClient(transport=httpx.ASGITransport(mounted)) as http:
        answer = await http.get("http://localhost/runs", headers=twice)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_host")


async def test_the_signals_are_given_back(mounted: MountedApp) -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with mounted.open():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
