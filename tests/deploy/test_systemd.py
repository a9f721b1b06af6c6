"""deploy/systemd: every command and variable is real, systemd takes it all, and a drain has its time."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, LEAVES_S, environment_file, parse, seconds, unit, variables_of
from tests.kit.tools import require

SERVICES = sorted(path.name for path in (DEPLOY / "systemd").glob("*.service"))
UNITS = [*SERVICES, "runstore-retention.timer"]
LASTING = ["runstore-serve@.service", "runstore-worker@.service"]
HARDENING = "runstore-.service.d/hardening.conf"  # applies to all units whose names begin so
PROGRAM = "/opt/runstore/bin/runstore"


def arguments(name: str) -> list[str]:
    """Of the command that a unit runs, as its instance 8082."""
    [line] = unit(name)["Service.ExecStart"]
    program, *rest = shlex.split(line.replace("%i", "8082"))
    assert program == PROGRAM
    return rest


@pytest.mark.parametrize("name", SERVICES)
def test_every_command_is_one_of_the_command_line(name: str) -> None:
    parse(arguments(name))


def test_a_replica_is_on_its_port_of_this_machine_and_runs_no_agents() -> None:
    options = parse(arguments("runstore-serve@.service"))
    assert (options["host"], options["port"]) == ("127.0.0.1", 8082)
    assert "--no-worker" in arguments("runstore-serve@.service")


@pytest.mark.parametrize("name", SERVICES)
def test_every_unit_has_the_one_environment_and_a_user(name: str) -> None:
    settings = unit(name)
    assert settings["Service.EnvironmentFile"] == ["/etc/runstore/runstore.env"]
    assert settings["Service.User"] == settings["Service.Group"] == ["runstore"]


def test_the_restrictions_of_every_unit_leave_agents_what_they_need() -> None:
    settings = unit(HARDENING)
    assert settings["Service.NoNewPrivileges"] == ["yes"]
    assert settings["Service.ProtectSystem"] == ["strict"]
    assert HARDENING < "runstore-.service.d/override.conf", "the overridden file has to come first"
    denied = {name.partition(".")[2] for name in [*settings, *unit("runstore-worker@.service")]}
    assert not denied & {"ProtectProc", "ProcSubset", "MemoryDenyWriteExecute", "RestrictNamespaces"}


def test_every_variable_of_the_environment_is_one_that_the_commands_read() -> None:
    known = variables_of(["serve"]) | variables_of(["worker"])
    assert {"RUNSTORE_DATABASE_URL", "RUNSTORE_REDIS_URL"} <= set(environment_file()) <= known


def test_a_worker_has_more_time_to_leave_than_it_drains() -> None:
    drain_s = float(environment_file()["RUNSTORE_DRAIN_S"])
    [timeout] = unit("runstore-worker@.service")["Service.TimeoutStopSec"]
    assert seconds(timeout) >= drain_s + LEAVES_S
    [timeout] = unit("runstore-serve@.service")["Service.TimeoutStopSec"]
    assert seconds(timeout) >= LEAVES_S


@pytest.mark.parametrize("name", LASTING)
def test_a_stop_reaches_only_the_process_and_a_second_signal_is_not_a_failure(name: str) -> None:
    settings = unit(name)
    assert settings["Service.KillMode"] == ["mixed"], "else agents' processes are ended before the drain"
    assert settings["Service.Restart"] == ["on-failure"]
    assert settings["Service.SuccessExitStatus"] == ["143 130"]


def test_an_agent_without_memory_ends_alone() -> None:
    assert unit("runstore-worker@.service")["Service.OOMPolicy"] == ["continue"]


def test_replicas_and_workers_wait_for_the_migration_and_start_without_it() -> None:
    """A unit that is required and fails, since the database is late, would keep them from ever starting."""
    for name in LASTING:
        settings = unit(name)
        assert "runstore-migrate.service" in settings["Unit.After"][0].split()
        assert "runstore-migrate.service" in settings["Unit.Wants"][0].split()
        assert "Unit.Requires" not in settings


def test_old_runs_are_purged_only_by_a_timer_that_must_be_enabled() -> None:
    assert "Install.WantedBy" not in unit("runstore-retention.service")
    assert unit("runstore-retention.timer")["Install.WantedBy"] == ["timers.target"]


def test_systemd_takes_every_setting(tmp_path: Path) -> None:
    """But for the program's place; of a template it takes an instance."""
    analyze = require("systemd-analyze")
    for name in [*UNITS, HARDENING]:
        text = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    command = [analyze, "verify", "--man=no", *(f"./{name.replace('@', '@8082')}" for name in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
