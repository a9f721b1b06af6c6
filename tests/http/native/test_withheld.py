"""Text that a guardrail withheld is in no answer for people who look at runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.keys import client, make_key
from tests.kit.server import ServerProcess, serving

SECRET = "hunter2"
CONFIG = """
[agents.guarded]
factory = "agents:guarded"
"""
AGENTS = f"""
from strands import Agent

from runstore.demo.model import ScriptedModel


class Guarded(ScriptedModel):
    async def stream(self, *asked, **options):
        async for event in super().stream(*asked, **options):
            if "text" in event.get("contentBlockDelta", {{}}).get("delta", {{}}):
                event["contentBlockDelta"]["delta"]["text"] = "{SECRET} "
            if "messageStop" in event:
                yield {{"redactContent": {{"redactAssistantContentMessage": "[withheld]"}}}}
            yield event


def guarded():
    return Agent(model=Guarded())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("guarded"), CONFIG, AGENTS) as server:
        yield server


def test_withheld_text_is_in_no_answer_at_any_time(server: ServerProcess) -> None:
    one, two = (server.begin("guarded", text) for text in ("What is the key?", "Say the key"))
    last = server.ended(one)["last_seq"]
    server.ended(two)
    events = server.http.get(f"/runs/{one}/events").text
    assert "llm.redacted" in events, "there was something to withhold"
    paths = [f"/runs/{one}/steps", *(f"/runs/{one}/steps?at={seq}" for seq in range(1, last + 1))]
    paths += [f"/runs/{one}/compare/{two}", f"/runs/{one}/transcript", f"/runs/{one}/events", f"/runs/{one}"]
    for path in paths:
        for accept in ("application/json", "text/html"):
            answer = server.http.get(path, headers={"Accept": accept})
            assert answer.status_code == 200, path
            assert SECRET not in answer.text, path
    for path in (paths[0], f"/runs/{one}/compare/{two}", f"/runs/{one}/transcript"):
        assert "[withheld]" in server.http.get(path).text, path


def test_the_size_of_the_database_is_for_admins_and_auditors(tmp_path: Path) -> None:
    keys = {role: make_key(tmp_path, role, role) for role in ("user", "auditor", "admin")}  # type: ignore[arg-type]
    with serving(tmp_path) as server:
        for role, status in (("user", 403), ("auditor", 200), ("admin", 200)):
            with client(server, keys[role]) as http:
                assert http.get("/database").status_code == status, role
