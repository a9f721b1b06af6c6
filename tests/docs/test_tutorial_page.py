"""The page of the tutorial's example, in a real browser; and what it asks the server, with a plain client."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

import runstore
from runstore.testing import ScriptedModel
from tests.docs.test_followed_pages import at_port
from tests.kit.browser import browsing, chromium
from tests.kit.pages import ROOT
from tests.kit.process import DEADLINE_S, environment, until
from tests.kit.tools import lacking

EXAMPLE = ROOT / "examples" / "tutorial"
COUNTED = " ".join(str(number) for number in range(1, 101))


class Chat:
    """`uvicorn chat:app` in a folder of its own; started again it has the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = at_port("8000", "8000")
        self.url = f"http://127.0.0.1:{self._port}"
        self.http = httpx.Client(base_url=self.url, timeout=DEADLINE_S, trust_env=False)
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--app-dir",
            str(EXAMPLE),
            "chat:app",
            "--port",
            self._port,
        ]
        with (self._folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=self._folder, env=environment()
            )
        until(self._answers, "the server answers")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self.http.close()

    def _answers(self) -> bool:
        try:
            return self.http.get("/").is_success
        except httpx.ConnectError:
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            return False


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    chat = Chat(tmp_path)
    yield chat
    chat.close()


async def test_the_agent_of_the_page_calls_its_tool_and_says_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    chat = import_module("chat")
    monkeypatch.setattr(chat, "ScriptedModel", lambda tokens_per_s: ScriptedModel())
    agents = {"desk": chat.build_desk}
    async with runstore.open(f"sqlite:///{tmp_path}/chat.db", agents=agents) as store:
        run_id = await store.start("desk", "Count to 100")
        events = [event async for event in store.tail(run_id)]
        result: Any = (await store.state(run_id)).result
        assert result["text"] == COUNTED
    assert [event.data["name"] for event in events if event.type == "tool.started"] == ["numbers"]


@pytest.mark.slow
def test_the_answer_is_read_on_from_last_event_id_after_the_server_was_killed(chat: Chat) -> None:
    run_id = chat.http.post("/ask", json={"text": "Count to 100"}).json()["run_id"]
    stream, seen = f"/runstore/runs/{run_id}/stream", "0"
    with chat.http.stream("GET", stream) as answer:
        for line in answer.iter_lines():
            seen = line.removeprefix("id: ") if line.startswith("id: ") else seen
            if '"text":"3 "' in line:
                break
    chat.kill()
    chat.start()
    rest = chat.http.get(stream, headers={"Last-Event-ID": seen}).text
    assert f"id: {int(seen) + 1}\n" in rest
    assert f'"text":"{COUNTED}"' in rest
    assert "event: lifecycle.completed" in rest
    assert rest.count("event: tool.started") == 0, "it was called before"


def test_a_reload_and_a_killed_server_cost_the_page_nothing(chat: Chat, tmp_path: Path) -> None:
    program = chromium() or lacking("Chromium is not installed; the test above does without")
    (tmp_path / "profile").mkdir()
    shown = 'document.querySelector("#answer")?.textContent'
    with browsing(program, tmp_path / "profile") as tab:
        tab.open(chat.url)
        tab.until('document.querySelector("input")?.value !== undefined', "the page is there")
        tab.evaluate('document.querySelector("input").value = "Count to 100"')
        tab.until("document.readyState === 'complete'", "the page's script has run")
        tab.evaluate('document.querySelector("button").click()')
        tab.until(f'{shown}.startsWith("1 2 3 ")', "the agent counts")
        tab.reload()
        tab.until(
            f'{shown}?.startsWith("1 2 3 4 5 ") === true', "the page has the beginning again, and goes on"
        )
        chat.kill()
        chat.start()
        tab.until('document.querySelector("#state").textContent === "completed"', "the run has ended")
        assert tab.evaluate(shown) == COUNTED
