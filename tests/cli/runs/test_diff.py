"""`runstore runs diff` of two runs."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.command_line import call_command
from tests.kit.replaying import ReplayServer, replay_server

LOOKED = [["look_up", {"order": 7}]]
Diff = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayServer]:
    with replay_server(tmp_path_factory.mktemp("diff")) as server:
        yield server


@pytest.fixture
def diff(replays: ReplayServer) -> Diff:
    return lambda *arguments: call_command(
        "runs", "diff", *arguments, "--url", replays.url, folder=replays.folder
    )


@pytest.fixture(scope="module")
def looked(replays: ReplayServer) -> str:
    replays.plan(clerk=[LOOKED, "It cost 7 euros."])
    return replays.run("clerk", "What did order 7 cost?")


def lines(done: "subprocess.CompletedProcess[str]") -> list[tuple[str, str, Any]]:
    assert done.returncode == 0, done.stderr
    found = map(json.loads, done.stdout.splitlines())
    return [(line["mark"], line["kind"], line["content"]) for line in found]


def test_equal_runs_have_no_marks(replays: ReplayServer, diff: Diff, looked: str) -> None:
    replays.plan(clerk=[LOOKED, "It cost 7 euros."])
    again = replays.run("clerk", "What did order 7 cost?")
    assert lines(diff(looked, again, "--json", "--exit-code")) == [
        ("=", "user", "What did order 7 cost?"),
        ("=", "call", {"order": 7}),
        ("=", "result", "order 7 cost 7 euros"),
        ("=", "assistant", "It cost 7 euros."),
        ("=", "ending", "success"),
    ]


def test_differences_are_marked_message_by_message(replays: ReplayServer, diff: Diff, looked: str) -> None:
    replays.plan(clerk=[[["look_up", {"order": 8}]], [["refund", {"order": 8}]], "Done."])
    other = replays.run("clerk", "What did order 7 cost?")
    assert lines(diff(looked, other, "--json")) == [
        ("=", "user", "What did order 7 cost?"),
        ("-", "call", {"order": 7}),
        ("-", "result", "order 7 cost 7 euros"),
        ("-", "assistant", "It cost 7 euros."),
        ("+", "call", {"order": 8}),
        ("+", "result", "order 8 cost 7 euros"),
        ("+", "call", {"order": 8}),
        ("+", "result", "refunded 8"),
        ("+", "assistant", "Done."),
        ("=", "ending", "success"),
    ]
    table = diff(looked, other)
    assert table.returncode == 0
    rows = [row.split() for row in table.stdout.splitlines()]
    assert ["-", "clerk", "call", "look_up", '{"order":7}'] in rows
    assert ["+", "clerk", "call", "refund", '{"order":8}'] in rows
    assert ["clerk", "user", "What", "did", "order", "7", "cost?"] in rows
    assert diff(looked, other, "--exit-code").returncode == 1


def test_a_failed_tool_and_another_prompt_and_input_are_differences(
    replays: ReplayServer, diff: Diff, looked: str
) -> None:
    replays.plan(clerk=[[["look_up", {"order": 0}]], "It cost 7 euros."])
    prompt = replays.folder / "prompt.txt"
    prompt.write_text("Be brief.")
    other = replays.run("clerk", "And order 0?")
    prompt.unlink()
    found = lines(diff(looked, other, "--json"))
    assert ("-", "system", "Be kind.") in found
    assert ("+", "system", "Be brief.") in found
    assert ("+", "user", "And order 0?") in found
    errors = [content["error"] for mark, kind, content in found if (mark, kind) == ("+", "result")]
    assert "no such order" in errors[0]
    assert ("=", "assistant", "It cost 7 euros.") in found


def test_agents_are_compared_one_by_one(replays: ReplayServer, diff: Diff) -> None:
    plan: dict[str, list[Any]] = {
        "chief": [[["helper", {"input": "Order 7?"}], ["look_up", {"order": 7}]], "All is well."],
        "helper": [[["refund", {"order": 7}]], "Refunded."],
    }
    replays.plan(**plan)
    one = replays.run("chief")
    replays.plan(**{**plan, "helper": ["Nothing."]})
    other = replays.run("chief")
    found = [json.loads(line) for line in diff(one, other, "--json").stdout.splitlines()]
    marked = [(each["agent"], each["mark"], each["kind"]) for each in found if each["mark"] != "="]
    assert ("chief/helper", "-", "call") in marked
    assert ("chief/helper", "+", "assistant") in marked
    assert [each for each in marked if each[0] == "chief"] == [
        ("chief", "-", "result"),
        ("chief", "+", "result"),
    ]


def test_runs_of_different_agents_end_differently(replays: ReplayServer, diff: Diff, looked: str) -> None:
    replays.plan(clerk=[])  # its model fails
    failed = replays.run("clerk", "What did order 7 cost?")
    marks = {(mark, kind) for mark, kind, _ in lines(diff(looked, failed, "--json"))}
    assert {("-", "ending"), ("+", "ending")} <= marks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("7",), "two seqs of the run"),
        (("x", "2"), "compared at two seqs"),
        (("2", "0"), "compared at two seqs"),
        (("2", "9" * 30), "compared at two seqs"),
        (("2", "9999"), "invalid_cursor: at=9999 is not an event"),
        (("nothing",), "there is no run"),
    ],
)
def test_an_impossible_comparison_is_exit_code_2(
    diff: Diff, looked: str, arguments: tuple[str, ...], said: str
) -> None:
    done = diff(looked, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split()), done.stderr


def test_the_states_of_a_run_that_is_missing_are_exit_code_2(diff: Diff) -> None:
    done = diff("01890a5d-ac96-774b-bcce-b302099a8057", "1", "2", "--exit-code")
    assert (done.returncode, done.stdout) == (2, ""), "1 would be a difference"
