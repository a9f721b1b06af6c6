"""`runstore erase`: what it says and returns."""

import asyncio
import json
from pathlib import Path

import pytest

from runstore.core.events import Queued
from runstore.core.ids import new_run_id
from runstore.feed.memory import MemoryFeed
from tests.kit.command_line import call_command
from tests.kit.database import make_database, open_log_at
from tests.kit.events import COMPLETED, started
from tests.kit.keys import make_key
from tests.kit.purging import act_once_found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_database(tmp_path / "runstore.db")
    return tmp_path


def write(folder: Path, user: str, *, ended: bool = True, fork_of: str | None = None) -> str:
    run_id = new_run_id()

    async def append() -> None:
        log = open_log_at(f"sqlite:///{folder / 'runstore.db'}", MemoryFeed())
        queued = Queued(agent="demo", user_id=user, input="hi", parent_run_id=fork_of)
        await log.append(run_id, [queued, started(), *([COMPLETED] if ended else [])])
        await log.close()

    asyncio.run(append())
    return run_id


def said(folder: Path, *arguments: str) -> tuple[int, str]:
    done = call_command("erase", *arguments, folder=folder)
    return done.returncode, (done.stdout + done.stderr).strip()


def test_a_dry_run_counts_and_an_erasure_says_what_it_did(folder: Path) -> None:
    for user in ("alice", "alice", "bob"):
        write(folder, user)
    assert said(folder, "--user", "alice", "--dry-run") == (
        0, "erase: 2 runs with 6 events, 0 keys and 0 hierarchies would be erased",
    )  # fmt: skip
    erased = said(folder, "--user", "alice", "--reason", "request 4711", "--by", "carol")
    assert erased == (0, "erase: purged 2 runs and removed 6 events, 0 keys changed, 0 hierarchies removed")
    assert said(folder, "--user", "alice", "--dry-run")[1].startswith("erase: 0 runs")
    assert said(folder, "--user", "bob", "--dry-run")[1].startswith("erase: 1 run with 3 events")


@pytest.mark.slow
def test_one_run_is_erased(folder: Path) -> None:
    run_id, _other = write(folder, "alice"), write(folder, "alice")
    assert said(folder, "--user", "alice", "--run", run_id, "--reason", "r")[1].startswith(
        "erase: purged 1 run"
    )
    assert said(folder, "--user", "alice", "--dry-run")[1].startswith("erase: 1 run ")


@pytest.mark.slow
def test_forks_that_stay_are_listed(folder: Path) -> None:
    first, unrelated = write(folder, "alice"), write(folder, "bob")
    own = write(folder, "alice", fork_of=first)
    of_bob = write(folder, "bob", fork_of=own)
    of_carol = write(folder, "carol", fork_of=of_bob)
    write(folder, "carol", fork_of=unrelated)
    lines = [f"  {of_bob} of bob, from {own}", f"  {of_carol} of carol, from {of_bob}"]
    assert said(folder, "--user", "alice", "--dry-run")[1].splitlines()[2:] == lines
    assert (
        f"  {own} of alice, from {first}" in said(folder, "--user", "alice", "--run", first, "--dry-run")[1]
    )
    code, printed = said(folder, "--user", "alice", "--reason", "r", "--pseudonym", "--json")
    report = json.loads(printed)
    assert (code, report["runs"], report["dry_run"], report["remains"]) == (0, 2, False, [])
    assert report["forks"] == [
        {"run_id": of_bob, "user_id": "bob", "parent_run_id": own},
        {"run_id": of_carol, "user_id": "carol", "parent_run_id": of_bob},
    ]
    said(folder, "--user", "bob", "--run", of_bob, "--reason", "r")
    assert "fork" not in said(folder, "--user", "bob", "--run", of_carol, "--dry-run")[1]


def test_a_run_that_begins_during_an_erasure_is_named_with_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "alice")
    make_key(folder, "alice")
    began: list[str] = []
    act_once_found(monkeypatch, lambda: began.append(write(folder, "alice", ended=False)))
    code, printed = said(folder, "--user", "alice", "--reason", "r", "--pseudonym")
    assert code == 1
    assert printed.startswith(
        "erase: purged 1 run and removed 3 events, 1 key changed, 0 hierarchies removed\n"
    )
    assert f"stop them, then erase: {began[0]}" in printed


def test_an_impossible_erasure_is_one_line_and_exit_code_2(folder: Path) -> None:
    open_run = write(folder, "alice", ended=False)
    bobs = write(folder, "bob")
    for arguments, part in (
        (("--user", "alice", "--reason", "r"), open_run),
        (("--user", "alice", "--dry-run"), open_run),
        (("--user", "bob"), "--reason"),
        (("--user", "bob", "--reason", " "), "--reason"),
        (("--user", "bob", "--reason", "x" * 201), "200 characters"),
        (("--user", "bob", "--run", "nonsense", "--dry-run"), "a run id is a UUID"),
        (("--user", "carol", "--run", bobs, "--dry-run"), bobs),
    ):
        code, line = said(folder, *arguments)
        assert (code, len(line.splitlines())) == (2, 1), line
        assert line.startswith("runstore: ")
        assert part in line
