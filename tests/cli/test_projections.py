"""`runstore projections`: what it prints and returns."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from getpass import getuser
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest
from sqlalchemy import select

from runstore.core.events import Custom
from runstore.database.opening import opened_database, read_from
from runstore.database.tables import events
from runstore.feed.memory import MemoryFeed
from runstore.library import open_projections
from tests.kit.command_line import call_command
from tests.kit.database import make_database, open_sqlite_log
from tests.kit.events import close_run, start_run
from tests.kit.process import DEADLINE_S, environment, until
from tests.projections.installed import install

Command = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    make_database(tmp_path / "runstore.db")
    return f"sqlite:///{tmp_path / 'runstore.db'}"


@pytest.fixture
def command(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`command("list")`, where a package with the projections `totals` and `picky` is installed."""
    installed = tmp_path / "installed"
    installed.mkdir()
    install(installed, totals="tests.projections.examples:Totals", picky="tests.projections.examples:Picky")
    monkeypatch.syspath_prepend(installed)
    return lambda *words: call_command("projections", *words, folder=tmp_path)


def write(url: str, *events: Custom) -> None:
    """Two runs; the second one has these events."""

    async def fill() -> None:
        log = open_sqlite_log(Path(url.removeprefix("sqlite:///")), MemoryFeed())
        await close_run(log)
        run_id = await start_run(log)
        if events:
            await log.append(run_id, events)
        await log.close()

    asyncio.run(fill())


def change(url: str, statement: str) -> None:
    with opened_database(url) as database, database.changing() as connection:
        connection.exec_driver_sql(statement)


def listed(command: Command) -> dict[str, dict[str, object]]:
    done = command("list", "--json")
    assert done.returncode == 0, done.stderr
    return {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}


def refused(done: "CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.slow
def test_the_list_says_how_far_each_is(url: str, command: Command) -> None:
    write(url)
    assert listed(command)["totals"] | {"version": 1} == {
        "name": "totals", "inline": False, "version": 1, "live_version": None, "state": "unbuilt",
        "position": None, "lag_events": 0, "lag_s": 0.0, "configured": True, "rebuilt_to": None,
        "waits": "for a process that runs it", "error": None, "skipped": 0,
    }  # fmt: skip
    assert command("run", "--once").returncode == 0
    found = listed(command)
    assert (found["runs"]["inline"], found["runs"]["position"]) == (True, None)
    assert (found["totals"]["state"], found["totals"]["position"], found["totals"]["lag_events"]) == (
        "running", 5, 0,
    )  # fmt: skip
    write(url)
    behind = listed(command)["totals"]
    assert behind["lag_events"] == 5
    assert isinstance(behind["lag_s"], float)
    table = command("list").stdout.splitlines()
    assert table[0].split() == [
        "NAME",
        "VERSION",
        "STATE",
        "CHECKPOINT",
        "LAG",
        "EVENTS",
        "LAG",
        "S",
        "NOTES",
    ]
    assert [line.split()[:5] for line in table[1:] if line.startswith("totals")] == [
        ["totals", "1", "running", "5", "5"]
    ]


def test_one_that_makes_no_progress_says_so(url: str, command: Command) -> None:
    write(url)
    command("run", "--once", "totals")
    write(url)
    change(url, "UPDATE projections SET updated_at = updated_at - 60000, owner = NULL")
    waits = str(listed(command)["totals"]["waits"])
    assert re.fullmatch("no progress for 6[0-9] s: no process runs it", waits)
    change(url, "UPDATE projections SET owner = 'gone'")
    assert re.search("no progress for 6[0-9] s: its process is slow or gone", command("list").stdout)


@pytest.mark.slow
def test_other_prices_ask_for_a_rebuild(url: str, command: Command, tmp_path: Path) -> None:
    write(url)
    command("run", "--once", "usage")
    assert listed(command)["usage"]["configured"]
    (tmp_path / "runstore.toml").write_text('[prices."model-1"]\ninput = 1\noutput = 2\ncurrency = "EUR"\n')
    assert not listed(command)["usage"]["configured"]
    assert "made with other settings than this command has" in command("list").stdout
    assert command("rebuild", "usage").returncode == 0
    assert listed(command)["usage"]["configured"]


def test_a_rebuild_prints_what_differed(url: str, command: Command) -> None:
    write(url)
    command("run", "--once", "totals")
    assert command("verify").stdout == "runs: equal: 2 rows\ntotals: equal: 3 rows\n"
    change(url, "UPDATE totals_a SET events = 7 WHERE type = 'lifecycle.queued'")
    expected = "different: 0 missing, 1 wrong, 0 too many, of 3 rows\n  wrong: type = lifecycle.queued\n"
    done = command("verify", "totals")
    assert (done.returncode, done.stdout) == (1, f"totals: {expected}")
    done = command("rebuild", "totals")
    assert (done.returncode, done.stdout) == (0, f"totals: rebuilt from the log, {expected}")
    done = command("verify", "totals", "--json")
    (report,) = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, report["equal"], report["tables"]["totals"]["rows"]) == (0, True, 3)


@pytest.mark.slow
def test_all_are_rebuilt_at_once(url: str, command: Command) -> None:
    write(url)
    done = command("rebuild", "--all", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"totals: built from the log", "runs: rebuilt from the log, equal: 2 rows"} <= set(lines)
    assert command("verify").returncode == 0


@pytest.mark.slow
def test_a_refused_event_is_named_and_skipped_by_command(url: str, command: Command) -> None:
    write(url, Custom("custom.bad", {}))
    command("run", "--once")
    failed = listed(command)["picky"]
    assert failed["state"] == "failed"
    assert "ValueError: no such events, please" in command("list").stdout
    done = command("rebuild", "picky")
    assert done.returncode == 1
    assert "picky: event 3 of run" in done.stderr.replace("'", "")
    done = command("skip", "picky")
    assert (done.returncode, "skipped event 3 of run" in done.stdout) == (0, True)
    command("run", "--once")
    assert (listed(command)["picky"]["state"], listed(command)["picky"]["skipped"]) == ("running", 1)


@pytest.mark.slow
def test_a_projection_is_paused_resumed_and_dropped(url: str, command: Command) -> None:
    write(url)
    command("run", "--once", "totals")
    assert command("pause", "totals").stdout == "totals: paused\n"
    refused(command("pause", "totals"), "pause needs a projection that is running, and it is paused")
    assert listed(command)["totals"]["waits"] == "for runstore projections resume"
    assert command("resume", "totals").stdout == "totals: resumed\n"
    assert command("drop", "totals").stdout == "totals: dropped\n"
    dropped = listed(command)["totals"]
    assert (dropped["state"], dropped["position"]) == ("paused", 0)
    command("resume", "totals")
    command("run", "--once", "totals")
    # One row for each type of event, also for the recorded commands.
    assert command("verify", "totals").stdout == "totals: equal: 4 rows\n"
    with read_from(url) as connection:
        found = connection.execute(select(events.c.data).where(events.c.type == "audit.projection"))
        recorded = [msgspec.json.decode(data) for data in found.scalars()]
    assert [(each["command"], each["projection"], each["by"]) for each in recorded] == [
        (verb, "totals", getuser()) for verb in ("pause", "resume", "drop", "resume")
    ]


def test_the_run_list_is_dropped_only_if_asked_twice(url: str, command: Command) -> None:
    write(url)
    refused(command("drop", "runs"), "empties the lists of all users", "projections rebuild runs", "--yes")
    assert command("verify", "runs").stdout == "runs: equal: 2 rows\n"
    assert command("drop", "runs", "--yes").stdout == "runs: dropped\n"
    assert command("verify", "runs").returncode == 1


@pytest.mark.parametrize("words", ["rebuild", "verify", "pause", "resume", "skip", "drop", "run --once"])
def test_an_unknown_projection_is_refused_with_the_known_ones(command: Command, words: str) -> None:
    refused(
        command(*words.split(), "total"), "no projection 'total'", "did you mean 'totals'?", "picky, runs"
    )


def test_a_rebuild_needs_names(command: Command) -> None:
    refused(command("rebuild"), "needs names, or --all", "picky, runs")
    refused(command("rebuild", "--all", "totals"), "needs names, or --all")


@pytest.mark.parametrize("words", ["pause", "resume", "skip"])
def test_an_inline_projection_cannot_be_paused(command: Command, words: str) -> None:
    refused(command(words, "runs"), "'runs'", "inline")


@pytest.mark.slow
def test_only_a_projection_that_failed_at_an_event_skips(url: str, command: Command) -> None:
    write(url)
    refused(command("skip", "totals"), "skip needs a projection that is failed, and it is not built")
    command("run", "--once", "totals")
    for state in ("running", "paused"):
        change(url, f"UPDATE projections SET state = '{state}'")
        before = listed(command)["totals"]
        refused(command("skip", "totals"), f"skip needs a projection that is failed, and it is {state}")
        assert listed(command)["totals"] == before
    fault = '{"error": "no such type", "remedy": "correct the tables"}'
    change(url, f"UPDATE projections SET state = 'failed', error = CAST('{fault}' AS BLOB)")
    refused(command("skip", "totals"), "it did not fail at an event; use resume")
    assert (listed(command)["totals"]["state"], listed(command)["totals"]["skipped"]) == ("failed", 0)
    assert command("resume", "totals").returncode == 0


def test_a_version_never_goes_back(url: str, command: Command) -> None:
    write(url)
    command("run", "--once", "totals")
    change(url, "UPDATE projections SET version = 3")
    refused(command("rebuild", "totals"), "the database has version 3, this code version 1")
    refused(command("verify", "totals"), "a version never goes back")
    assert listed(command)["totals"]["state"] == "newer"


def test_one_without_its_package_can_only_be_dropped(
    url: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(url)
    command("run", "--once", "totals")
    (tmp_path / "installed" / "their_projections-1.0.dist-info" / "entry_points.txt").unlink()
    found = listed(command)["totals"]
    assert (found["state"], found["version"], found["live_version"]) == ("unknown", None, 1)
    refused(command("rebuild", "totals"), "no projection 'totals'")
    assert command("drop", "totals").returncode == 0
    assert "totals" not in listed(command)


@pytest.mark.slow
def test_a_process_of_its_own_keeps_projections_up_to_date_until_it_is_stopped(
    url: str, tmp_path: Path
) -> None:
    write(url)
    arguments = [sys.executable, "-m", "runstore", "projections", "run", "--database-url", url]
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE) as process:
        with open_projections(url) as opened:
            until(
                lambda: all(each.lag_events == 0 and each.live_version for each in opened.status()), "it runs"
            )
            write(url)
            until(lambda: all(each.lag_events == 0 for each in opened.status()), "it goes on")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
