"""`runstore replay`: agents that run again, with their tools answered from the log."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.command_line import call_command
from tests.kit.replaying import Plan, ReplayServer, replay_server
from tests.kit.server import run_command

LOOKED = [["look_up", {"order": 7}]]
REFUNDED = [["refund", {"order": 7}]]
CLERK: Plan = {"clerk": [LOOKED, REFUNDED, "Paid back."]}
CHIEF: Plan = {
    "chief": [[["helper", {"input": "Order 7?"}], ["look_up", {"order": 8}]], "All is well."],
    "helper": [LOOKED, REFUNDED, "Paid back."],
}
LINE: Plan = {"first": [LOOKED, "7 euros."], "second": [REFUNDED, "Paid back."]}
CREW: Plan = {
    "ann": [LOOKED, [["handoff_to_agent", {"agent_name": "bob", "message": "Pay."}]], "Bob does."],
    "bob": [REFUNDED, "Paid back."],
}
PLANS = {"clerk": CLERK, "chief": CHIEF, "line": LINE, "crew": CREW}

Replay = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayServer]:
    with replay_server(tmp_path_factory.mktemp("replay")) as server:
        yield server


@pytest.fixture
def replay(replays: ReplayServer) -> Replay:
    replays.calls()
    return lambda *arguments: call_command("replay", *arguments, "--url", replays.url, folder=replays.folder)


@pytest.fixture(scope="module")
def run_of(replays: ReplayServer) -> Callable[[str], str]:
    """The run of an agent with its plan, which it has now as well."""
    made: dict[str, str] = {}

    def run(agent: str) -> str:
        replays.plan(**PLANS[agent])
        if agent not in made:
            made[agent] = replays.run(agent)
        return made[agent]

    return run


def report(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["equal"] is (done.returncode == 0)
    return found


RunOf = Callable[[str], str]


@pytest.mark.parametrize(("agent", "answered"), [("clerk", 2), ("chief", 3), ("line", 2), ("crew", 2)])
def test_an_agent_that_does_the_same_is_equal_and_calls_no_tool(
    replays: ReplayServer, replay: Replay, run_of: RunOf, agent: str, answered: int
) -> None:
    run_id = run_of(agent)
    before = replays.server.events(run_id), replays.server.http.get("/runs").json()
    found = report(replay(run_id, "--json"))
    assert (found["equal"], found["difference"]) == (True, None), found
    assert (found["answered"], found["called"], found["ended"]) == (answered, 0, "success")
    assert replays.calls() == []
    assert (replays.server.events(run_id), replays.server.http.get("/runs").json()) == before


@pytest.mark.parametrize(
    ("agent", "changed", "place", "recorded", "came"),
    [
        (
            "clerk", {"clerk": [LOOKED, [["refund", {"order": 8}]], "Paid back."]}, ("clerk", 2),
            {"name": "refund", "input": {"order": 7}}, {"name": "refund", "input": {"order": 8}},
        ),
        (
            "chief", {**CHIEF, "helper": [REFUNDED, "Paid back."]}, ("chief/helper", 1),
            {"name": "look_up", "input": {"order": 7}}, {"name": "refund", "input": {"order": 7}},
        ),
        (
            "line", {**LINE, "second": [[*REFUNDED, *REFUNDED], "Paid."]}, ("line/second", 1),
            None, {"name": "refund", "input": {"order": 7}},
        ),
        (
            "crew", {**CREW, "bob": [LOOKED, "Paid back."]}, ("crew/bob", 1),
            {"name": "refund", "input": {"order": 7}}, {"name": "look_up", "input": {"order": 7}},
        ),
    ],
)  # fmt: skip
def test_the_first_different_call_is_reported_and_stops_the_agent_before_the_tool_runs(
    replays: ReplayServer,
    replay: Replay,
    run_of: RunOf,
    agent: str,
    changed: Plan,
    place: tuple[str, int],
    recorded: Any,
    came: Any,
) -> None:
    run_id = run_of(agent)
    replays.plan(**changed)
    found = report(replay(run_id, "--json", "--only-calls"))
    difference = found["difference"]
    assert difference["kind"] == "call", difference
    assert (difference["agent"], difference["answer"]) == place
    assert (difference["recorded"], difference["came"]) == (recorded, came)
    assert (found["ended"], found["called"], found["equal"]) == ("difference", 0, False)
    assert replays.calls() == []


def test_a_different_text_is_a_difference_unless_only_calls_count(
    replays: ReplayServer, replay: Replay, run_of: RunOf
) -> None:
    run_id = run_of("clerk")
    replays.plan(clerk=[LOOKED, REFUNDED, "Your money is on its way."])
    found = report(replay(run_id, "--json"))["difference"]
    assert (found["kind"], found["agent"], found["answer"]) == ("message", "clerk", 3)
    assert found["recorded"] == {"text": "Paid back.", "calls": []}
    assert found["came"] == {"text": "Your money is on its way.", "calls": []}
    said = [event["seq"] for event in replays.server.events(run_id) if event["type"] == "llm.message"]
    assert found["seq"] == said[-1]
    assert report(replay(run_id, "--json", "--only-calls"))["equal"]


def test_a_call_that_is_missing_is_a_difference(replays: ReplayServer, replay: Replay, run_of: RunOf) -> None:
    run_id, call = run_of("clerk"), {"name": "refund", "input": {"order": 7}}
    replays.plan(clerk=[LOOKED, "Paid back."])
    found = report(replay(run_id, "--json"))["difference"]
    assert (found["kind"], found["answer"]) == ("message", 2)
    assert found["recorded"] == {"text": "", "calls": [call]}
    found = report(replay(run_id, "--json", "--only-calls"))["difference"]
    assert (found["kind"], found["recorded"], found["came"]) == ("call", call, None)


def test_a_live_replay_goes_on_with_real_tools_from_the_agents_first_different_call_on(
    replays: ReplayServer, replay: Replay, run_of: RunOf
) -> None:
    run_id = run_of("clerk")
    replays.plan(clerk=[LOOKED, [["refund", {"order": 8}]], LOOKED, "Paid back."])
    found = report(replay(run_id, "--json", "--live"))
    assert found["difference"]["came"] == {"name": "refund", "input": {"order": 8}}
    assert (found["answered"], found["called"], found["ended"]) == (1, 2, "success")
    assert found["result"]["text"] == "Paid back."
    assert replays.calls() == ["refund 8", "look_up 7"]


def test_a_live_replay_calls_no_tool_while_only_texts_differ(
    replays: ReplayServer, replay: Replay, run_of: RunOf
) -> None:
    run_id = run_of("line")
    replays.plan(first=[LOOKED, "Seven."], second=[REFUNDED, "Paid."])
    found = report(replay(run_id, "--json", "--live"))
    assert (found["difference"]["agent"], found["answered"], found["called"]) == ("line/first", 2, 0)
    assert replays.calls() == []


def test_a_live_replay_does_not_call_tools_that_need_approval(
    replays: ReplayServer, replay: Replay, run_of: RunOf
) -> None:
    run_id = run_of("clerk")
    careful = replays.folder / "careful.toml"
    careful.write_text('[agents.clerk]\nfactory = "agents:clerk"\napprove = ["refund"]\n')
    assert report(replay(run_id, "--json", "--live", "--config", str(careful)))["equal"]
    replays.plan(clerk=[LOOKED, [["refund", {"order": 8}]], "Paid back."])
    assert report(replay(run_id, "--json", "--live", "--config", str(careful)))["ended"] == "success"
    assert replays.calls() == []


def test_people_read_the_difference(replays: ReplayServer, replay: Replay, run_of: RunOf) -> None:
    run_id = run_of("clerk")
    assert replay(run_id).stdout.splitlines()[0].split() == ["replay", "equal"]
    replays.plan(clerk=[LOOKED, [["refund", {"order": 8}]], "Paid back."])
    lines = replay(run_id).stdout.splitlines()
    assert lines[0].split() == ["replay", "differs"]
    assert re.match(r"at +call of clerk, answer 2, seq \d+$", lines[1])
    assert lines[2].split() == ["recorded", '{"name":"refund","input":{"order":7}}']
    assert lines[3].split() == ["came", '{"name":"refund","input":{"order":8}}']


def test_a_process_of_its_own_replays_a_run(replays: ReplayServer, run_of: RunOf) -> None:
    run_id = run_of("chief")
    done = run_command("replay", run_id, "--json", "--url", replays.url, folder=replays.folder)
    assert report(done)["equal"], done


def test_a_run_that_failed_is_equal_if_it_fails_again(replays: ReplayServer, replay: Replay) -> None:
    replays.plan(clerk=[LOOKED])  # the model has no second answer
    run_id = replays.run("clerk")
    assert report(replay(run_id, "--json"))["equal"]
    replays.plan(clerk=[LOOKED, "Seven euros."])
    assert report(replay(run_id, "--json"))["difference"]["kind"] == "message"
    replays.plan(clerk=[LOOKED, "Seven euros."])
    assert report(replay(run_id, "--json", "--only-calls"))["difference"]["kind"] == "ending"


def test_an_agent_that_says_more_than_its_run_is_different(
    replays: ReplayServer, replay: Replay, run_of: RunOf
) -> None:
    run_id = run_of("clerk")
    replays.plan(clerk=[LOOKED, REFUNDED, LOOKED, "Paid back."])
    found = report(replay(run_id, "--json", "--only-calls"))["difference"]
    assert (found["recorded"], found["came"]) == (None, {"name": "look_up", "input": {"order": 7}})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "there is no run"),
        (("{run}", "--model", "gpt-5"), "model_id"),
        (("{run}", "--timeout", "0"), "--timeout"),
        (("{generator}",), "only strands agents"),
        (("{open}",), "has not ended"),
        (("{run}", "--config", "absent.toml"), "absent.toml"),
        (("{run}", "--config", "empty.toml"), "there is no agent 'clerk'"),
    ],
)
def test_a_replay_that_cannot_take_place_is_exit_code_2(
    replays: ReplayServer, replay: Replay, run_of: RunOf, arguments: tuple[str, ...], said: str
) -> None:
    (replays.folder / "empty.toml").write_text("")
    run_id = run_of("clerk")
    names = {"run": run_id, "generator": "", "open": ""}
    if "{generator}" in arguments:
        names["generator"] = replays.run("generator")
    if "{open}" in arguments:
        names["open"] = replays.server.begin("demo", "Write a very long essay")
    done = replay(*(each.format(**names) for each in arguments))
    if names["open"]:
        replays.server.stop_run(names["open"])
    assert (done.returncode, done.stdout) == (2, ""), done
    assert said in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_server_the_exit_code_is_2(replays: ReplayServer) -> None:
    done = call_command("replay", "x", "--url", "http://127.0.0.1:1", folder=replays.folder)
    assert (done.returncode, done.stdout) == (2, "")
