"""`runstore erase`: what it says and returns."""

import asyncio
from pathlib import Path

import pytest

from runstore.core.events import Queued
from runstore.core.ids import new_run_id
from runstore.feed.memory import MemoryFeed
from tests.command_line import call_command
from tests.database import make_database, open_log_at
from tests.events import COMPLETED, started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_database(tmp_path / "runstore.db")
    return tmp_path


def write(folder: Path, user: str, *, ended: bool = True) -> str:
    run_id = new_run_id()

    async def append() -> None:
        log = open_log_at(f"sqlite:///{folder / 'runstore.db'}", MemoryFeed())
        queued = Queued(agent="demo", user_id=user, input="hi")
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


def test_one_run_is_erased(folder: Path) -> None:
    run_id, _other = write(folder, "alice"), write(folder, "alice")
    assert said(folder, "--user", "alice", "--run", run_id, "--reason", "r")[1].startswith(
        "erase: purged 1 run"
    )
    assert said(folder, "--user", "alice", "--dry-run")[1].startswith("erase: 1 run ")


def test_what_cannot_be_erased_is_one_line_and_exit_code_2(folder: Path) -> None:
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
