"""Replays, fixtures and differences of runs with a past: resumed, redacted, remembered, and other users'."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.command_line import call_command
from tests.kit.database import make_database
from tests.kit.keys import make_key
from tests.kit.replaying import ReplayServer, replay_server
from tests.kit.server import until

LOOKED = [["look_up", {"order": 7}]]
REMEMBERS = '[agents.remembers]\nfactory = "agents:clerk"\nmemory = "session"\n'
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayServer]:
    with replay_server(tmp_path_factory.mktemp("replayed"), REMEMBERS) as server:
        yield server


@pytest.fixture
def command(replays: ReplayServer) -> Command:
    replays.calls()
    return lambda *arguments: call_command(*arguments, "--url", replays.url, folder=replays.folder)


def test_a_run_that_outlived_its_worker_is_replayed_as_one(tmp_path: Path) -> None:
    with replay_server(tmp_path, drain_s=0) as replays:
        replays.plan(clerk=[LOOKED, [["wait", {}]], [["refund", {"order": 7}]], "Paid back."])
        run_id = replays.server.begin("clerk")
        log = replays.folder / "calls.log"
        until(lambda: log.exists() and "wait" in log.read_text(), "the tool waits")
        replays.server.kill()
        (replays.folder / "go").touch()
        replays.server.start()
        assert replays.server.ended(run_id)["attempt"] == 2
        assert replays.calls() == ["look_up 7", "wait", "wait", "refund 7"]
        (replays.folder / "go").unlink()  # now `wait` would never return
        arguments = (run_id, "--url", replays.url)
        done = call_command("replay", *arguments, "--json", folder=replays.folder)
        found = json.loads(done.stdout)
        assert (found["equal"], found["answered"]) == (True, 3), found
        assert replays.calls() == []
        fixture = json.loads(call_command("fixture", *arguments, folder=replays.folder).stdout)
        assert [len(dialogue["answers"]) for dialogue in fixture["dialogues"]] == [4]


def test_a_run_with_a_memory_begins_with_it_again(replays: ReplayServer, command: Command) -> None:
    replays.plan(clerk=[LOOKED, "I heard {heard} messages."])
    first = replays.run("remembers", "Order 7?", session_id="s")
    second = replays.run("remembers", "And again?", session_id="s")
    texts = [replays.server.record(run_id)["result"]["text"] for run_id in (first, second)]
    assert texts == ["I heard 3 messages.", "I heard 7 messages."]
    for run_id in (first, second):
        assert json.loads(command("replay", run_id, "--json").stdout)["equal"]
    assert len(json.loads(command("fixture", second).stdout)["memory"]) == 4


def test_redacted_text_is_in_no_fixture_and_no_comparison(replays: ReplayServer, command: Command) -> None:
    replays.plan(shy=[LOOKED, "A secret."])
    run_id = replays.run("shy")
    assert any(event["type"] == "llm.redacted" for event in replays.server.events(run_id))
    made = command("fixture", run_id)
    assert (made.returncode, "secret" in made.stdout) == (0, False), made
    fixture = json.loads(made.stdout)
    assert fixture["withheld"] == 1
    assert "1 messages of the run are redacted" in made.stderr
    shown = command("runs", "diff", run_id, run_id)
    assert "secret" not in shown.stdout
    assert "(redacted)" in shown.stdout
    found = json.loads(command("replay", run_id, "--json").stdout)
    assert (found["equal"], "secret" in str(found)) == (True, False), found


@pytest.mark.slow
def test_a_run_that_did_not_end_well_is_no_fixture(replays: ReplayServer, command: Command) -> None:
    replays.plan(clerk=[])
    made = command("fixture", replays.run("clerk"))
    assert (made.returncode, made.stdout) == (2, "")
    assert "a fixture is made of a run that ended well" in made.stderr
    assert command("fixture", "nothing").returncode == 2


@pytest.mark.slow
def test_no_user_replays_another_users_run(tmp_path: Path) -> None:
    make_database(tmp_path / "runstore.db")
    keys = {user: make_key(tmp_path, user) for user in ("alice", "bob")}
    with replay_server(tmp_path) as replays:
        replays.plan(clerk=["My words."])
        header = {"Authorization": f"Bearer {keys['alice']}"}
        started = replays.server.http.post("/agents/clerk/start", json={"input": "hi"}, headers=header)
        run_id = started.json()["run_id"]
        replays.server.http.get(f"/runs/{run_id}", params={"wait": 30}, headers=header)

        def call(user: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
            more: Any = {"RUNSTORE_API_KEY": keys[user]}
            return call_command(*arguments, "--url", replays.url, folder=replays.folder, **more)

        for words in (("replay", run_id), ("fixture", run_id), ("runs", "diff", run_id, run_id)):
            assert call("alice", *words).returncode == 0
            refused = call("bob", *words)
            assert (refused.returncode, refused.stdout) == (2, ""), refused
            assert "My words" not in refused.stderr
