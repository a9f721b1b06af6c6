"""`runstore runs …` against real servers, as a person and as a script would use it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from runstore.cli import output
from runstore.cli.main import app
from tests.client.stranger import stranger
from tests.kit.command_line import call_command
from tests.kit.server import DEADLINE_S, PYTHON, ServerProcess, environment, run_command, serving
from tests.kit.slow import mostly_slow

CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.quick]
model = "scripted"

[agents.gated]
factory = "agents:gated"

[agents.broken]
factory = "agents:broken"

[agents.rude]
factory = "agents:rude"
"""
AGENTS = """
import asyncio
from pathlib import Path

async def silent(input):
    await asyncio.Event().wait()
    yield ""

async def gated(input):
    yield "one "
    yield "two "
    while not Path(input).exists():
        await asyncio.sleep(0.01)
    yield "three"

async def broken(input):
    yield "so far "
    raise ValueError("out of\\nwords")

async def rude(input):
    yield "clean\\x1b[2J\\x07 text\\x9b1m"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("server"), CONFIG, AGENTS, drain_s=0) as server:
        server.options["port"] = server.port  # a restart is found where the server was
        yield server


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def runs(server: ServerProcess) -> Run:
    """`runs("list", …)` runs `runstore runs list …` to its end."""

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return call_command(
            "runs", *arguments, folder=server.folder, **{"RUNSTORE_URL": url_of(server), **variables}
        )

    return run


@contextmanager
def tailing(server: ServerProcess, *arguments: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """`runstore runs tail …` while it goes on."""
    command = [*PYTHON, "runs", "tail", *arguments, "--url", url_of(server)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen(command, env=environment(), **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(server: ServerProcess) -> str:
    return str(server.http.base_url)


def objects(done: "subprocess.CompletedProcess[str]") -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# A person's day


def test_a_run_is_started_followed_and_its_words_are_printed(runs: Run) -> None:
    done = runs("start", "quick", "one two three", "--follow")
    assert (done.returncode, done.stdout) == (0, "one two three\n")
    assert runs("tail", done.stderr.strip()).stdout == "one two three\n"


def test_several_runs_are_followed_as_one_stream_of_json(runs: Run) -> None:
    good, bad = [runs("start", agent, "hi").stdout.strip() for agent in ("quick", "broken")]
    done = runs("tail", good, bad, "--json")
    assert done.returncode == 1  # one of them failed
    endings = {event["run_id"]: event["type"] for event in map(json.loads, done.stdout.splitlines())}
    assert endings == {good: "lifecycle.completed", bad: "lifecycle.failed"}
    for arguments in ((good, bad), (good, bad, "--json", "--after", "1")):
        refused = runs("tail", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")


def test_a_start_prints_the_runs_id_alone(runs: Run, server: ServerProcess) -> None:
    run_id = runs("start", "quick", "hi", "--session-id", "s", "--metadata", '{"n": 1}').stdout.strip()
    record = server.ended(run_id)
    assert (record["agent_name"], record["session_id"], record["metadata"]) == ("quick", "s", {"n": 1})


def test_an_input_may_come_from_a_pipe(runs: Run, server: ServerProcess) -> None:
    done = subprocess.run(
        [*PYTHON, "runs", "start", "quick", "-", "--follow", "--url", url_of(server)],
        input="from a pipe", capture_output=True, text=True, env=environment(), timeout=DEADLINE_S,
        check=True,
    )  # fmt: skip
    assert done.stdout == "from a pipe\n"


@pytest.mark.parametrize("input", ["-", os.fsdecode(b"caf\xe9")])
def test_an_input_that_is_no_utf_8_is_exit_code_2(server: ServerProcess, input: str) -> None:
    done = subprocess.run(
        [*PYTHON, "runs", "start", "quick", input, "--url", url_of(server)],
        input=b"caf\xe9", capture_output=True, env=environment(), timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_input_may_be_content_blocks(runs: Run, server: ServerProcess) -> None:
    blocks = [{"text": "one two"}, {"image": {"format": "png", "source": {"bytes": "aGk="}}}]
    run_id = runs("start", "quick", json.dumps(blocks), "--blocks").stdout.strip()
    assert server.events(run_id)[0]["data"]["input"] == blocks


def test_runs_of_a_workspace_are_started_and_listed(runs: Run, server: ServerProcess) -> None:
    run_id = runs("start", "quick", "hi", "--workspace-id", "red").stdout.strip()
    assert server.record(run_id)["workspace_id"] == "red"
    assert [run["run_id"] for run in objects(runs("list", "--workspace-id", "red", "--json"))] == [run_id]
    assert objects(runs("list", "--workspace-id", "blue", "--json")) == []


def test_the_list_and_one_run_are_tables(runs: Run, server: ServerProcess) -> None:
    run_id = server.begin("quick", "hi", session_id="table")
    server.ended(run_id)
    heading, row = runs("list", "--session-id", "table").stdout.splitlines()
    assert heading.split() == ["RUN", "STATUS", "USER", "AGENT", "CREATED", "DURATION", "SESSION"]
    assert row.split()[:4] == [run_id, "success", "local", "quick"]
    assert row.split()[-2:] == ["s", "table"]
    shown = dict(line.split(maxsplit=1) for line in runs("show", run_id).stdout.splitlines())
    assert (shown["run_id"], shown["status"]) == (run_id, "success")


def test_events_in_a_pipe_are_never_cut(runs: Run, server: ServerProcess) -> None:
    run_id = server.begin_silent()
    large = "x" * 100_000
    server.note(run_id, large)
    rows = runs("events", run_id, "--types", "custom.*").stdout.splitlines()
    assert (len(rows), rows[-1].split()) == (2, [*rows[-1].split()[:4], large])
    assert rows[-1].split()[2:4] == ["custom.note", "local"]
    server.stop_run(run_id)


def test_a_run_is_compared_at_two_of_its_events(runs: Run, server: ServerProcess) -> None:
    run_id = server.begin("quick", "hi")
    last_seq = server.ended(run_id)["last_seq"]
    changed = {
        each["field"]: (each["a"], each["b"]) for each in objects(runs("diff", run_id, "1", "2", "--json"))
    }
    assert changed["status"] == ("queued", "running")
    assert changed["attempt"] == (0, 1)
    assert "user_id" not in changed
    table = runs("diff", run_id, "2", str(last_seq)).stdout
    assert re.search(r"^status +running +success", table, re.M)
    shown = runs("show", run_id, "--at", "1").stdout
    assert re.search(r"^status +queued", shown, re.M)


def test_events_are_a_table_with_a_row_for_each(runs: Run, server: ServerProcess) -> None:
    run_id = server.begin("quick", "hi")
    server.ended(run_id)
    _, *rows = runs("events", run_id).stdout.splitlines()
    assert [row.split()[::2][:2] for row in rows] == [
        [str(e["seq"]), e["type"]] for e in server.events(run_id)
    ]


def test_what_models_were_asked_is_a_table_and_one_request_is_json(runs: Run, server: ServerProcess) -> None:
    run_id = server.begin("quick", "hi")
    server.ended(run_id)
    _, row = runs("requests", run_id).stdout.splitlines()
    assert row.split()[0] == "1"
    request = json.loads(runs("requests", run_id, "1").stdout)
    assert request["messages"] == [{"role": "user", "content": [{"text": "hi"}]}]


def test_a_run_is_forked_and_retried(runs: Run, server: ServerProcess) -> None:
    run_id = server.begin("quick", "hi there")
    server.ended(run_id)
    again = runs("retry", run_id).stdout.strip()
    assert server.ended(again)["result"]["text"] == "hi there"
    forked = json.loads(runs("fork", run_id, "--input", "more", "--json").stdout)
    assert forked["parent_run_id"] == server.record(again)["parent_run_id"] == run_id
    rounded = runs("fork", run_id, "--input", "more", "--at", "4")
    assert (rounded.returncode, len(rounded.stdout.split())) == (0, 1)
    assert rounded.stderr.startswith("it begins after seq 1, ")
    assert runs("fork", run_id, "--input", "more", "--at", "1").stderr == ""


def test_a_run_is_stopped_and_deleted(runs: Run, server: ServerProcess) -> None:
    run_id = server.begin("silent")
    assert runs("stop", run_id, "--reason", "enough").stdout == f"{run_id} is asked to stop\n"
    assert server.ended(run_id)["reason"] == "enough"
    assert runs("stop", run_id).stdout == f"{run_id} stopped\n"
    assert runs("delete", run_id).returncode == 0
    assert server.http.get(f"/runs/{run_id}").json()["deleted"], "an admin reads it until it is purged"
    assert run_id not in runs("list").stdout


# A script's


def test_json_is_one_object_on_a_line(runs: Run, server: ServerProcess) -> None:
    started = [objects(runs("start", "quick", "hi", "--session-id", "json", "--json"))[0] for _ in range(3)]
    ids = [run["run_id"] for run in started]
    for run_id in ids:
        server.ended(run_id)
    assert [run["run_id"] for run in objects(runs("list", "--session-id", "json", "--json"))] == ids[::-1]
    assert len(objects(runs("list", "--session-id", "json", "--limit", "2", "--json"))) == 2
    assert objects(runs("show", ids[0], "--json"))[0]["status"] == "success"
    assert objects(runs("stop", ids[0], "--json"))[0]["status"] == "success"
    events = server.events(ids[0])
    assert objects(runs("events", ids[0], "--json")) == events
    assert objects(runs("events", ids[0], "--json", "--after", "2", "--limit", "2")) == events[2:4]
    assert objects(runs("tail", ids[0], "--json", "--after", "1")) == events[1:]
    filtered = objects(runs("events", ids[0], "--json", "--types", "llm.token,lifecycle.*"))
    assert {event["type"].partition(".")[0] for event in filtered} == {"llm", "lifecycle"}


def test_the_list_has_all_runs_for_a_script_and_says_what_it_left_out_for_people(
    runs: Run, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "SHOWN_ROWS", 2)
    ids = [server.begin("quick", "hi", session_id="many") for _ in range(3)]
    for run_id in ids:
        server.ended(run_id)
    asked = ("list", "--session-id", "many")
    assert [run["run_id"] for run in objects(runs(*asked, "--json"))] == ids[::-1]
    table = runs(*asked)
    assert len(table.stdout.splitlines()) == 3
    assert table.stderr == "these are the first 2 rows: --limit N shows more, --json all\n"
    assert runs(*asked, "--limit", "3").stderr == ""


def test_a_record_waits_for_the_end_of_its_run(runs: Run, server: ServerProcess) -> None:
    (gate := server.folder / "shown").touch()
    run_id = server.begin("gated", gate.name)
    assert objects(runs("show", run_id, "--wait", "20", "--json"))[0]["status"] == "success"
    assert objects(runs("show", run_id, "--at", "1", "--json"))[0]["status"] == "queued"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nonsense"), "run_not_found: there is no run 'nonsense'"),
        (("tail", "01890a5d-ac96-774b-bcce-b302099a8057"), "run_not_found: "),
        (("start", "nobody", "hi"), "agent_not_found: there is no agent 'nobody'"),
        (("list", "--url", "http://127.0.0.1:1"), "http://127.0.0.1:1: "),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(runs: Run, arguments: tuple[str, ...], said: str) -> None:
    done = runs(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"runstore: {said}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "--since", "yesterday"), "invalid_parameter: since='yesterday'"),
        (("show", "{run}", "--at", "9999"), "invalid_cursor: at=9999"),
        (("events", "{run}", "--after", "9999"), "invalid_cursor: "),
        (("events", "{run}", "--types", "foo.bar"), "invalid_parameter: "),
        (("tail", "{run}", "--after", "9999"), "invalid_cursor: "),
        (("fork", "{run}", "--at", "9999"), "invalid_cursor: "),
        (("start", "quick", "x" * 2_000_000), "limit_exceeded: "),
    ],
)
def test_input_that_the_server_refuses_is_one_line_and_exit_code_2(
    runs: Run, server: ServerProcess, arguments: tuple[str, ...], said: str
) -> None:
    run_id = server.begin("quick", "hi")
    server.ended(run_id)
    done = runs(*(argument.replace("{run}", run_id) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"runstore: {said}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--url", "nonsense"),
        ("list", "--status", "odd"),
        ("start", "quick", "hi", "--metadata", "[]"),
        ("start", "quick", "hi", "--blocks"),
        ("show",),
    ],
)
def test_wrong_usage_is_exit_code_2(runs: Run, arguments: tuple[str, ...]) -> None:
    done = runs(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_run_that_failed_is_one_line_and_exit_code_1(runs: Run) -> None:
    done = runs("start", "broken", "hi", "--follow")
    assert (done.returncode, done.stdout) == (1, "so far \n")
    assert done.stderr.splitlines()[1].startswith("runstore: the run failed: agent_error: ")
    assert len(done.stderr.splitlines()) == 2


def test_the_key_is_sent(runs: Run) -> None:
    with stranger((200, {"Content-Type": "application/json"}, b'{"data": [], "next": null}')) as server:
        runs("list", RUNSTORE_URL=server.url, RUNSTORE_API_KEY="secret")
        runs("list", "--url", server.url, "--api-key", "given", RUNSTORE_API_KEY="secret")
    assert [request.headers["Authorization"] for request in server.asked] == ["Bearer secret", "Bearer given"]


@pytest.mark.slow
def test_a_key_opens_the_commands_and_nothing_else_does(tmp_path: Path) -> None:
    made = run_command("keys", "create", "--user", "alice", folder=tmp_path)
    with serving(tmp_path, CONFIG, AGENTS) as server:
        runs = partial(run_command, "runs", folder=tmp_path, RUNSTORE_URL=url_of(server))
        for variables in ({}, {"RUNSTORE_API_KEY": "wrong"}):
            done = runs("list", **variables)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
            assert done.stderr.startswith("runstore: unauthorized: ")
        key = {"RUNSTORE_API_KEY": made.stdout.strip()}
        assert runs("start", "quick", "one two", "--follow", **key).stdout == "one two\n"
        assert objects(runs("list", "--json", **key))[0]["user_id"] == "alice"


# Following


@pytest.mark.parametrize("how", mostly_slow(["kill -9", "SIGTERM"], "kill -9"))
def test_tail_survives_a_restart_and_drops_repeated_text(server: ServerProcess, how: str) -> None:
    gate = server.folder / f"after {how}"
    run_id = server.begin("gated", gate.name)
    with tailing(server, run_id) as process:
        assert process.stdout is not None
        assert process.stdout.read(len("one two ")) == "one two "
        server.kill() if how == "kill -9" else server.terminate()
        server.wait()
        server.start()
        gate.touch()
        rest, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")
    assert re.fullmatch("\n─+ attempt 2: .+ ─+\none two three\n", rest)


def test_ctrl_c_ends_the_tail_and_not_the_run(server: ServerProcess) -> None:
    gate = server.folder / "after Ctrl-C"
    run_id = server.begin("gated", gate.name)
    with tailing(server, run_id) as process:
        assert process.stdout is not None
        assert process.stdout.read(len("one two ")) == "one two "
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, rest) == (130, "\n")
    assert server.record(run_id)["status"] == "running"
    told = re.search(f"runstore runs tail {run_id} --after ([0-9]+)", errors)
    assert told
    gate.touch()
    with tailing(server, run_id, "--after", told[1]) as process:
        rest, errors = process.communicate(timeout=DEADLINE_S)
    assert rest in ("three\n", "two three\n")  # a word that it was just printing comes again
    assert errors == ""
    assert process.returncode == 0


def test_tail_says_that_a_run_was_stopped(server: ServerProcess) -> None:
    run_id = server.begin("silent")
    with tailing(server, run_id) as process:
        server.stop_run(run_id)
        said, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, said, errors) == (0, "", "runstore: the run was stopped: user\n")


def test_an_agent_cannot_drive_the_terminal(server: ServerProcess) -> None:
    run_id = server.begin("rude")
    ours, theirs = pty.openpty()
    with tailing(server, run_id, stdout=theirs) as process:
        assert process.wait(DEADLINE_S) == 0
    os.close(theirs)
    said = b"clean\\u001b[2J\\u0007 text\\u009b1m\n"
    assert os.read(ours, 1_000).replace(b"\r\n", b"\n") == said
    os.close(ours)


# The shell


def commands(group: Any = None, name: str = "runstore") -> dict[str, click.Command]:
    group = typer.main.get_command(app) if group is None else group
    if not hasattr(group, "commands"):
        return {name: group}
    return {
        n: c for child in group.commands.values() for n, c in commands(child, f"{name} {child.name}").items()
    }


@pytest.mark.parametrize("name", commands())
def test_every_command_has_an_example_of_itself(name: str) -> None:
    assert f"Example: {name}" in (commands()[name].help or "")


COMPLETED = "import sys; sys.argv = ['runstore']; import runstore.cli.main as command; command.main()"


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    asked = {"_RUNSTORE_COMPLETE": "complete_bash", "COMP_WORDS": "runstore runs s", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETED],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=tmp_path,
        env=environment() | asked,
    )  # fmt: skip
    assert done.stdout.split() == ["show", "start", "stop", "say"]
