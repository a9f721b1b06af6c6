"""Log lines of real servers: their form, where they go, and whose run they are of."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kit.server import ServerProcess, run_command, serving, until

Start = Callable[..., ServerProcess]

CONFIG = """
[agents.talkative]
factory = "agents:talkative"

[agents.tool]
model = "scripted"
tools = ["agents:warn"]

[agents.failing]
factory = "agents:failing"

[agents.configuring]
factory = "agents:configuring"
"""
AGENTS = r"""
import asyncio
import logging
import logging.config

from strands import tool

log = logging.getLogger("agents")
both = asyncio.Barrier(2)

async def talkative(input):
    await both.wait()
    log.warning("a word from %s", input)
    logging.getLogger("strands.event_loop").warning("a word of strands for %s", input)
    await asyncio.to_thread(log.warning, "a thread of %s", input)
    yield input

async def configuring(input):
    logging.config.dictConfig({"version": 1})
    yield input

@tool
def warn(task: str) -> str:
    '''Warn.'''
    log.warning("a tool")
    return task

def failing():
    log.warning("first line\nlevel=error second line")
    logging.getLogger("strands.models").warning("refused: %s", "api_key=hunter2hunter2")
    raise ValueError("no agent: Incorrect API key provided: sk-abcdefghijkl")
"""


@pytest.fixture(scope="module")
def logfmt(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("logfmt"), CONFIG, AGENTS) as server:
        yield server


@pytest.fixture(scope="module")
def as_json(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("json"), CONFIG, AGENTS, log_format="json") as server:
        yield server


def json_lines(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines()]


def run_ids(server: ServerProcess, event: str) -> list[str | None]:
    """Of the JSON lines with this event."""
    return [line.get("run_id") for line in json_lines(server) if line["event"] == event]


# The form.


def test_logfmt_has_the_event_as_its_first_word_and_the_runs_id(logfmt: ServerProcess) -> None:
    run_id = logfmt.begin("tool", "hi")
    logfmt.ended(run_id)
    until(lambda: f"run_id={run_id} ending=" in logfmt.log, "the ending is logged")
    line = next(line for line in logfmt.log.splitlines() if f"run_id={run_id} ending=" in line)
    event, level, timestamp, run, ending = line.split(" ")
    assert (event, level) == ("run_ended", "level=info")
    assert timestamp.startswith("timestamp=20")
    assert (run, ending) == (f"run_id={run_id}", "ending=lifecycle.completed")


def test_a_message_of_several_lines_is_one_line_of_the_log(logfmt: ServerProcess) -> None:
    run_id = logfmt.begin("failing", "hi")
    logfmt.ended(run_id)
    until(lambda: "second line" in logfmt.log, "the warning is logged")
    found = [line for line in logfmt.log.splitlines() if "second line" in line]
    assert len(found) == 1
    assert found[0].startswith("first line\\nlevel=error second line level=warning timestamp=")
    assert found[0].endswith(f"run_id={run_id}")


def test_libraries_log_lines_and_agents_errors_have_no_key(logfmt: ServerProcess) -> None:
    run_id = logfmt.begin("failing", "hi")
    message = logfmt.ended(run_id)["error"]
    assert message.endswith("ValueError: no agent: Incorrect API key provided: ***")
    until(lambda: "refused: api_key=***" in logfmt.log, "the warning is logged")
    assert not [key for key in ("hunter2", "sk-abc") if key in logfmt.log]


def test_json_is_one_object_a_line_with_the_same_fields(as_json: ServerProcess) -> None:
    run_id = as_json.begin("tool", "hi")
    as_json.ended(run_id)
    until(lambda: run_id in run_ids(as_json, "run_ended"), "the ending is logged")
    line = next(
        line for line in json_lines(as_json) if line["event"] == "run_ended" and line["run_id"] == run_id
    )
    assert list(line) == ["event", "level", "timestamp", "run_id", "ending"]
    assert line["level"] == "info"


# Whose run.


def test_log_lines_of_two_agents_at_once_have_their_own_runs_id(as_json: ServerProcess) -> None:
    runs = {name: as_json.begin("talkative", name) for name in ("anna", "bela")}
    for run_id in runs.values():
        assert as_json.ended(run_id)["status"] == "success"
    for name, run_id in runs.items():
        for message in ("a word from", "a word of strands for", "a thread of"):
            until(lambda: run_ids(as_json, f"{message} {name}"), f"{message} is logged")  # noqa: B023
            assert run_ids(as_json, f"{message} {name}") == [run_id], message


def test_log_lines_of_a_tool_in_its_thread_have_its_runs_id(as_json: ServerProcess) -> None:
    run_id = as_json.begin("tool", "hi")
    as_json.ended(run_id)
    until(lambda: run_id in run_ids(as_json, "a tool"), "its line is there")


def test_log_lines_without_a_run_have_no_run_id(as_json: ServerProcess) -> None:
    as_json.ended(as_json.begin("tool", "hi"))
    assert run_ids(as_json, "listening") == [None]


# Where they go.


@pytest.fixture
def start(tmp_path: Path) -> Any:
    servers: list[ServerProcess] = []

    def start_one(**options: Any) -> ServerProcess:
        servers.append(ServerProcess(tmp_path, CONFIG, AGENTS, **options))
        return servers[-1].start()

    yield start_one
    for server in servers:
        server.close()


def test_a_log_file_gets_the_same_lines_after_what_it_has(start: Start, tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("from before\n")
    server = start(log_file="server.log", log_format="json")
    server.ended(server.begin("tool", "hi"))
    server.terminate()
    assert server.wait() == 0
    assert (tmp_path / "server.log").read_text() == "from before\n" + server.log


def test_the_folder_of_a_log_file_is_made(start: Start, tmp_path: Path) -> None:
    server = start(log_file="logs/system.log")
    assert (tmp_path / "logs" / "system.log").read_text() == server.log


def test_a_log_file_that_is_moved_away_is_created_again(start: Start, tmp_path: Path) -> None:
    server = start(log_file="server.log")
    (tmp_path / "server.log").rename(tmp_path / "server.log.1")
    run_id = server.begin("tool", "hi")
    server.ended(run_id)
    until(lambda: (tmp_path / "server.log").exists(), "there is a new file")
    assert run_id in (tmp_path / "server.log").read_text()
    assert "listening" in (tmp_path / "server.log.1").read_text()


def test_lines_go_to_standard_error_while_the_log_file_cannot_be_written(
    start: Start, tmp_path: Path
) -> None:
    server = start(log_file="logs/server.log")
    logs = tmp_path / "logs"
    logs.rename(tmp_path / "logs.1")
    logs.write_text("a file in the folder's place")
    for _ in range(3):
        run_id = server.begin("tool", "hi")
        server.ended(run_id)
        until(lambda run_id=run_id: run_id in server.log, "its line")
    assert server.log.count("log_file_unwritable level=error") == 1
    assert "Traceback" not in server.log
    logs.unlink()
    run_id = server.begin("tool", "hi")
    server.ended(run_id)
    until(lambda: (logs / "server.log").exists(), "there is a new file")
    until(lambda: run_id in (logs / "server.log").read_text(), "the file gets lines again")


def test_an_agent_that_configures_logging_does_not_end_the_servers_lines(start: Start) -> None:
    server = start()
    for agent in ("tool", "configuring", "tool"):
        run_id = server.begin(agent, "hi")
        server.ended(run_id)
    lines = (f"run_started level=info .*{run_id}", f"run_ended level=info .*{run_id}")
    until(lambda: all(re.search(line, server.log) for line in lines), "its lines")


def test_a_full_disk_is_one_line(start: Start) -> None:
    server = start(log_file="/dev/full")
    server.ended(server.begin("tool", "hi"))
    assert server.log.count("log_file_unwritable level=error") == 1
    assert "Traceback" not in server.log


def test_the_environment_and_the_file_say_it_too(tmp_path: Path) -> None:
    config = '[server]\nlog_format = "json"\nlog_file = "of-the-file.log"\n'
    server = ServerProcess(tmp_path, config, AGENTS)
    try:
        server.variables["RUNSTORE_LOG_FILE"] = "of-the-environment.log"
        server.start()
        lines = (tmp_path / "of-the-environment.log").read_text().splitlines()
        assert "listening" in [json.loads(line)["event"] for line in lines]
        assert not (tmp_path / "of-the-file.log").exists()
    finally:
        server.close()


def test_a_log_file_that_cannot_be_opened_is_exit_code_2(tmp_path: Path) -> None:
    done = run_command("serve", "--port=0", "--log-file=no/where/server.log", folder=tmp_path)
    assert done.returncode == 2
    assert "no/where/server.log" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_format_that_there_is_not_is_exit_code_2(tmp_path: Path) -> None:
    done = run_command("serve", "--port=0", "--log-format=xml", folder=tmp_path)
    assert done.returncode == 2
    assert "log_format" in done.stderr


UNPRINTABLE = """
import logging
import structlog
from structlog.contextvars import bind_contextvars
from runstore.logs import configure_logs, log_as_library

class Unprintable:
    def __str__(self):
        raise RuntimeError
    __repr__ = __str__

{setup}
fields = dict(run_id="r1", value="v1")
event = "happened"
{change}
if {foreign}:
    bind_contextvars(**fields)
    logging.getLogger("other").warning(event)
else:
    structlog.get_logger("runstore.x").warning(event, **fields)
print("goes on")
"""
SETUPS = {
    "logfmt": "configure_logs('logfmt')", "json": "configure_logs('json')", "library": "log_as_library()",
}  # fmt: skip
UNPRINTABLE_FIELDS = {
    "value": ("fields['value'] = Unprintable()", "happened", "r1"),
    "run_id": ("bind_contextvars(run_id=Unprintable()); del fields['run_id']", "happened", "v1"),
    "event": ("event = Unprintable()", "r1", "v1"),
}


def line_of(setup: str, change: str, *, foreign: bool) -> str:
    """What a program logs that goes on after an unprintable field."""
    code = UNPRINTABLE.format(setup=SETUPS[setup], change=change, foreign=foreign)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "goes on\n"
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("field", UNPRINTABLE_FIELDS)
def test_a_field_that_cannot_be_printed_is_named_and_the_caller_goes_on(setup: str, field: str) -> None:
    change, *words = UNPRINTABLE_FIELDS[field]
    line = line_of(setup, change, foreign=False)
    assert all(word in line for word in (*words, "not_printed", f"{field} (RuntimeError)"))


@pytest.mark.parametrize("setup", ["logfmt", "json"])
def test_a_librarys_line_is_kept_though_a_field_of_its_context_cannot_be_printed(setup: str) -> None:
    line = line_of(setup, "fields['value'] = Unprintable()", foreign=True)
    assert all(word in line for word in ("happened", "r1", "not_printed", "value (RuntimeError)"))
