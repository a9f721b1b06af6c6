"""The command line: an error is one line and exit code 2; success is exit code 0."""

import asyncio
import errno
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

import runstore.maintenance.purge as purging
from runstore import process
from runstore.cli.main import app
from runstore.core.errors import ConfigError
from runstore.feed.memory import MemoryFeed
from runstore.process import listen
from tests.kit.command_line import call_command
from tests.kit.database import make_database, make_old, migrate, open_log_at
from tests.kit.keys import url_of
from tests.kit.logs import assert_no_traceback
from tests.kit.process import environment
from tests.kit.purging import write_old
from tests.kit.server import DEADLINE_S, ServerProcess, run_command, until

COMMANDS = [
    "serve", "demo", "migrate", "projections list", "projections run", "projections rebuild",
    "projections verify", "projections pause", "projections resume", "projections skip",
    "projections drop", "retention", "erase",
]  # fmt: skip


def refused(done: "CompletedProcess[str]", *words: str) -> None:
    """One line on standard error that names `words`, and exit code 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("runstore: ")
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


# Help.


def help_of(*command: str) -> str:
    answer = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert answer.exit_code == 0
    return " ".join(answer.output.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example(command: str) -> None:
    assert f"Example: runstore {command}" in help_of(*command.split())


def test_help_names_every_command() -> None:
    said = help_of() + help_of("projections")
    for word in " ".join(COMMANDS).split():
        assert re.search(rf"\b{word}\b", said)


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert re.fullmatch(r"runstore \d+\.\d+\.\d+\S*\n", run_command("--version", folder=tmp_path).stdout)


def test_an_unknown_option_is_refused_with_2(tmp_path: Path) -> None:
    done = run_command("serve", "--prot", "8082", folder=tmp_path)
    assert done.returncode == 2
    assert "--port" in done.stderr


# The configuration.


def test_a_typo_in_the_configuration_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[agents.a]\nmodel = 'scripted'\ntoken = 5\n")
    done = call_command("serve", "--config", "mine.toml", "--port", "0", folder=tmp_path)
    refused(done, "mine.toml:3: [agents.a]: ", "`token`", "did you mean `tokens`?")


@pytest.mark.parametrize("command", ["migrate", "demo"])
def test_every_command_reads_the_configuration_strictly(tmp_path: Path, command: str) -> None:
    (tmp_path / "runstore.toml").write_text("[server]\nprot = 1\n")
    done = call_command(*command.split(), "--config", "runstore.toml", folder=tmp_path)
    assert done.returncode != 0
    assert "did you mean `port`" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("field", "value"), [("factory", '"agnets:build"'), ("tools", '["os:getcwd", "no_such.tools:search"]')]
)
def test_a_module_that_is_not_there_is_named_with_its_file_and_line(
    tmp_path: Path, field: str, value: str
) -> None:
    model = "" if field == "factory" else 'model = "scripted"\n'
    (tmp_path / "runstore.toml").write_text(f"[agents.mine]\n{model}{field} = {value}\n")
    done = call_command("serve", "--port=0", folder=tmp_path)
    assert done.returncode == 2
    line = 2 if field == "factory" else 3
    assert done.stderr.startswith(f"runstore: runstore.toml:{line}: [agents.mine]: `{field}`: ")
    assert done.stderr.count("\n") == 1


def test_a_function_that_is_not_there_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text('[agents.mine]\nfactory = "agents:biuld"\n')
    (tmp_path / "agents.py").write_text("def build(): ...\n")
    for command in ("serve", "worker"):
        refused(
            run_command(command, folder=tmp_path),
            "runstore: runstore.toml:2: [agents.mine]: `factory`: cannot import 'agents:biuld': ",
            "did you mean 'build'?",
        )


def test_code_that_cannot_be_imported_ends_the_server_with_2(tmp_path: Path) -> None:
    config = '[agents.mine]\nfactory = "agents:build"\n'
    server = ServerProcess(tmp_path, config, "import no_such_package\ndef build(): ...\n")
    try:
        server.launch()
        assert server.wait() == 2
        assert "[agents.mine]: `factory`: cannot import 'agents:build': No module named" in server.log
        assert_no_traceback(server.log)
    finally:
        server.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("host", '"0.0.0.0"', "loopback"),
        ("cors_origins", '["*"]', "any web page"),
        ("database_url", '"sqlite:///none/a.db"', "there is no directory none"),
        ("database_url", '"oracle://host/db"', "oracle"),
        ("log_file", '"no/where/server.log"', "cannot be opened"),
    ],
)
def test_a_setting_that_shows_its_fault_when_it_is_used_is_named_with_its_file_and_line(
    tmp_path: Path, setting: str, value: str, said: str
) -> None:
    make_database(tmp_path / "runstore.db")
    (tmp_path / "runstore.toml").write_text(f"[server]\nport = 0\n{setting} = {value}\n")
    done = run_command("serve", folder=tmp_path)
    refused(done, f"runstore: runstore.toml:3: [server]: `{setting}`: ", said)
    options = {"host": "--host=127.0.0.1", "database_url": "--database-url=sqlite:///none/b.db"}
    if setting in options:  # the message does not name a setting that has no effect
        done = run_command("serve", options[setting], "--log-file=no/where/b.log", folder=tmp_path)
        refused(done, "runstore: log file no/where/b.log")


def test_an_option_out_of_bounds_is_refused(tmp_path: Path) -> None:
    refused(call_command("serve", "--port", "70000", folder=tmp_path), "`port`", "70000", "65535")


@pytest.mark.parametrize(
    ("url", "word"),
    [("nonsense", "sqlite:///"), ("oracle://host/db", "oracle"), ("sqlite:///none/a.db", "none")],
)
def test_a_database_url_that_cannot_be_is_refused(tmp_path: Path, url: str, word: str) -> None:
    refused(call_command("serve", "--port", "0", "--database-url", url, folder=tmp_path), word)


# Starting.


@pytest.mark.parametrize("command", ["serve --port=0 --reload", "serve --port=0", "worker", "keys list"])
def test_a_command_in_a_directory_that_was_removed_is_refused(tmp_path: Path, command: str) -> None:
    (folder := tmp_path / "gone").mkdir()
    inside = 'import os, runpy; os.rmdir(os.getcwd()); runpy.run_module("runstore", run_name="__main__")'
    done = subprocess.run(
        [sys.executable, "-c", inside, *command.split()],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    refused(done, "the working directory was removed: change to another one")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (MemoryError(), "out of memory"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
    ids=["files", "read-only", "memory", "threads"],
)
def test_what_the_machine_refuses_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def serve(settings: object) -> None:
        raise error

    monkeypatch.setattr(process, "serve", serve)
    refused(call_command("serve", folder=tmp_path), said, "see the limits of this process")


def test_a_server_with_too_few_descriptors_is_refused(tmp_path: Path) -> None:
    inside = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)); "
        'runpy.run_module("runstore", run_name="__main__")'
    )
    done = subprocess.run(
        [sys.executable, "-c", inside, "serve", "--port=0"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "runstore: [Errno 24] Too many open files: see the limits" in done.stderr
    assert_no_traceback(done.stderr)


def test_a_server_that_has_no_memory_for_its_agents_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory() -> None:
        raise MemoryError

    monkeypatch.setattr(process, "_import_strands", no_memory)
    left: list[ConfigError] = []
    process._warm_up(cast(Any, SimpleNamespace(supervisor=SimpleNamespace(shared=None))), left.append)
    assert "the agents' code cannot be imported: out of memory" in str(left[0])


def test_a_server_whose_clients_have_all_descriptors_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(process, "_import_strands", no_descriptor)
    left: list[ConfigError] = []
    with capture_logs() as lines:
        process._warm_up(cast(Any, SimpleNamespace(supervisor=SimpleNamespace(shared=None))), left.append)
    assert (left, [line["event"] for line in lines]) == ([], ["agents_not_prepared"])


def test_a_database_that_cannot_be_created_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    refused(
        call_command("migrate", folder=tmp_path), "database runstore.db: cannot be created: Read-only file"
    )


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused(run_command("serve", "--port", port, folder=tmp_path), port, "in use")


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "é" * 64, "a\0b"])
def test_a_host_that_cannot_be_looked_up_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on") as refusal:
        listen(host, 0)
    assert refusal.value.setting == "host"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", ""])
def test_a_host_that_is_not_loopback_is_refused(tmp_path: Path, host: str) -> None:
    make_database(tmp_path / "runstore.db")
    refused(call_command("serve", "--port", "0", "--host", host, folder=tmp_path), "loopback")


def test_a_database_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = make_database(tmp_path / "runstore.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    for command in (["serve", "--port", "0"], ["projections", "rebuild", "runs"]):
        refused(call_command(*command, folder=tmp_path), "9999", "upgrade runstore")
    assert path.read_bytes() == before


def test_every_option_of_serve_has_its_environment_variable(tmp_path: Path) -> None:
    make_database(tmp_path / "mine.db")
    config = "[agents.mine]\nmodel = 'scripted'\ntokens = 9999\ntokens_per_s = 10\n"
    (tmp_path / "mine.toml").write_text(config)
    with closing(ServerProcess(tmp_path)) as server:
        server.variables = {
            "RUNSTORE_PORT": "0", "RUNSTORE_HOST": "localhost", "RUNSTORE_CONFIG": "mine.toml",
            "RUNSTORE_DATABASE_URL": "sqlite:///mine.db", "RUNSTORE_CAPACITY": "1",
            "RUNSTORE_DRAIN_S": "0", "RUNSTORE_HEARTBEAT_S": "0.1", "RUNSTORE_CANCEL_GRACE_S": "1",
        }  # fmt: skip
        server.start()
        talking, waiting = server.begin("mine"), server.begin("mine")
        until(lambda: server.record(talking)["status"] == "running", "the first run has the only place")
        assert server.record(waiting)["status"] == "queued"
        assert (tmp_path / "mine.db.workers").exists()
        with server.stream(waiting, after=1) as answer:
            assert b"".join(islice(answer.iter_raw(), 3)) == b":\n" * 3


def test_an_option_goes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    for name in ("file", "variable", "option"):
        make_database(tmp_path / f"{name}.db")
    (tmp_path / "runstore.toml").write_text("[server]\ndatabase_url = 'sqlite:///file.db'\n")
    variable = {"RUNSTORE_DATABASE_URL": "sqlite:///variable.db"}
    option = ["--database-url", "sqlite:///option.db"]
    assert "file.db" in call_command("migrate", folder=tmp_path).stdout
    assert "variable.db" in call_command("migrate", folder=tmp_path, **variable).stdout
    assert "option.db" in call_command("migrate", *option, folder=tmp_path, **variable).stdout


@pytest.mark.parametrize(
    "command",
    [
        "retention --older-than 90d --dry-run", "retention --older-than 90d", "workers", "projections verify",
        "projections rebuild --all", "projections drop runs", "projections list", "keys list",
        "keys create --user alice", "keys revoke 3f9a1c02d4e5",
    ],
)  # fmt: skip
def test_a_command_refuses_a_database_of_an_older_release_and_leaves_it_alone(
    tmp_path: Path, command: str
) -> None:
    """The migration cannot be undone, and there is no backup."""
    make_old(tmp_path / "runstore.db", "0004")
    refused(call_command(*command.split(), folder=tmp_path), "0004", "`runstore migrate`")
    assert migrate(tmp_path / "runstore.db") == "0004"


def test_serve_creates_a_missing_database(tmp_path: Path) -> None:
    with closing(ServerProcess(tmp_path, database_url="sqlite:///new.db")) as server:
        server.start()
        assert server.stop_run(server.begin("demo", "Count from 1 to 10000"))["status"] == "stopped"
    assert (tmp_path / "new.db").exists()


# Projections, while a server runs.


@pytest.fixture
def busy(serve: Callable[..., ServerProcess]) -> ServerProcess:
    """A server with a few runs that have ended and one that talks."""
    server = serve()
    server.begin("talker", "on and on")
    for _ in range(5):
        server.stop_run(server.begin("silent"))
    return server


def command(server: ServerProcess, *arguments: str) -> "tuple[int, str]":
    done = call_command(*arguments, folder=server.folder)
    return done.returncode, done.stdout


def test_a_dropped_run_list_is_rebuilt_while_the_server_runs(busy: ServerProcess) -> None:
    before = busy.http.get("/runs").content
    assert command(busy, "projections", "drop", "runs", "--yes") == (0, "runs: dropped\n")
    assert busy.http.get("/runs").json()["data"] == []
    code, said = command(busy, "projections", "verify", "runs")
    assert (code, "6 missing" in said) == (1, True)
    code, said = command(busy, "projections", "rebuild", "runs")
    assert (code, "6 missing" in said) == (0, True)
    assert command(busy, "projections", "verify", "runs") == (0, "runs: equal: 6 rows\n")
    assert busy.http.get("/runs").content == before


def test_a_run_can_be_read_and_stopped_while_its_projection_is_dropped(busy: ServerProcess) -> None:
    talking = busy.http.get("/runs", params={"status": "running"}).json()["data"][0]["run_id"]
    command(busy, "projections", "drop", "runs", "--yes")
    assert busy.record(talking)["status"] == "running"
    assert busy.stop_run(talking)["status"] == "stopped"
    listed = busy.http.get("/runs").json()["data"]
    assert [run["run_id"] for run in listed] == [talking], "its own ending brought it back"
    command(busy, "projections", "rebuild", "runs")
    assert command(busy, "projections", "verify", "runs") == (0, "runs: equal: 6 rows\n")


# Retention, while a server runs.


def test_retention_purges_what_ended_long_ago_and_nothing_else(busy: ServerProcess) -> None:
    running, *ended = [run["run_id"] for run in busy.http.get("/runs").json()["data"]][::-1]
    old = asyncio.run(write_old_at(url_of(busy.folder)))
    code, said = command(busy, "retention", "--older-than", "90d", "--dry-run")
    assert (code, said.partition(" (ended before 2")[0]) == (
        0, "retention: 1 run with 4 events would be purged",
    )  # fmt: skip
    assert busy.record(old)["status"] == "success"
    code, said = command(busy, "retention", "--older-than", "90d")
    assert (code, said.partition(" (ended before 2")[0]) == (
        0, "retention: purged 1 run and removed 4 events",
    )  # fmt: skip
    assert busy.http.get(f"/runs/{old}").status_code == 410
    assert [busy.record(run_id)["status"] for run_id in ended] == ["stopped"] * 5
    assert busy.record(running)["status"] == "running"
    listed = CliRunner().invoke(app, ["runs", "list", "--purged", "--url", str(busy.http.base_url)])
    assert old in listed.stdout


async def write_old_at(url: str) -> str:
    log = open_log_at(url, MemoryFeed())
    run_id = await write_old(log)
    await log.close()
    return run_id


@pytest.mark.parametrize("age", ["0d", "90", "d", "-1d", "1.5h", "90days", "", "999999999w"])
def test_retention_refuses_an_invalid_age(age: str) -> None:
    answer = CliRunner().invoke(app, ["retention", f"--older-than={age}"])
    assert isinstance(answer.exception, ConfigError)
    assert f"--older-than {age!r} must be" in str(answer.exception)


def test_ctrl_c_ends_retention_with_130_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_database(tmp_path / "runstore.db")
    url = url_of(tmp_path)
    asyncio.run(write_old_at(url))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    arguments = ["retention", "--older-than=1d", "--database-url", url]
    with monkeypatch.context() as patched:
        patched.setattr(purging.time, "sleep", interrupt)
        answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 130
    assert answer.stderr == (
        "retention: purged 1 run and removed 0 events, interrupted; the next purge continues\n"
    )
    found = CliRunner().invoke(app, [*arguments, "--dry-run"]).stdout
    assert "0 runs with 0 events would be purged, and 1 run that an earlier purge has begun" in found
    assert "purged 0 runs and removed 4 events" in CliRunner().invoke(app, arguments).stdout


def test_retention_makes_no_database(tmp_path: Path) -> None:
    done = call_command("retention", "--older-than", "90d", folder=tmp_path)
    refused(done, "there is no file")
    assert list(tmp_path.iterdir()) == []


# The demo.


@pytest.mark.slow
def test_the_demo_checks_every_claim_and_prints_one_line_for_each(tmp_path: Path) -> None:
    done = run_command("demo", folder=tmp_path, timeout_s=3 * DEADLINE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^✓ ", done.stdout, re.M)) >= 12
    assert "✗" not in done.stdout
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


@pytest.mark.slow
def test_the_demo_of_an_agent_that_fails_exits_1_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text("[agents.broken]\nfactory = 'broken:build'\n")
    (tmp_path / "broken.py").write_text("def build():\n    raise OSError('no model here')\n")
    done = run_command("demo", "--config", "runstore.toml", "--agent", "broken", folder=tmp_path)
    assert done.returncode == 1
    assert "✗" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_demo_of_an_unknown_agent_exits_1_and_names_the_known_ones(tmp_path: Path) -> None:
    done = run_command("demo", "--agent", "nobody", folder=tmp_path)
    assert done.returncode == 1
    assert "nobody" in done.stdout
    assert "demo" in done.stdout
