"""A disk that fills up while a command rebuilds or erases: a message, exit code 2, and nothing half done."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runstore.core.events import Queued
from runstore.core.ids import new_run_id
from runstore.feed.memory import MemoryFeed
from runstore.maintenance import patience
from runstore.maintenance.purge import Purge
from runstore.projections import advance, filling, runner
from runstore.projections.advance import Advance
from runstore.store.erasure import Erasure
from tests.kit.command_line import call_command
from tests.kit.database import make_database, open_log_at
from tests.kit.events import COMPLETED, started, token
from tests.kit.tools import DENIED, forbidden, require

MIB = 1 << 20
RUNS = 30


class Disk:
    """A file system of 8 MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'runstore.db'}"
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file:
            for size in (MIB, 4096):
                try:
                    while file.write(b"x" * size) == size:
                        pass
                except OSError:
                    pass  # no room for so much

    def free(self) -> None:
        self._filler.unlink()

    def call(self, *arguments: str) -> tuple[int, str]:
        done = call_command(*arguments, "--database-url", self.url, folder=self.folder.parent)
        return done.returncode, (done.stdout + done.stderr).strip()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk with runs of alice, whose commands lose their patience soon."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "runstore-test", str(folder)]
    if sys.platform != "linux" or os.geteuid():
        forbidden("only root may mount a small file system, on Linux")
    require("mount")
    mounted = subprocess.run(mount, capture_output=True, check=False, text=True)
    if DENIED.search(mounted.stderr):
        forbidden(f"this machine does not permit mounts: {mounted.stderr.strip()}")
    assert mounted.returncode == 0, mounted.stderr
    try:
        monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
        monkeypatch.setattr(runner, "ONCE_S", 0.3)
        make_database(folder / "runstore.db")
        disk = Disk(folder)
        asyncio.run(write(disk.url))
        assert disk.call("projections", "run", "--once")[0] == 0
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def write(url: str) -> None:
    log = open_log_at(url, MemoryFeed())
    for _ in range(RUNS):
        queued = Queued(agent="demo", user_id="alice", input="zebrafish " * 2_000)
        await log.append(new_run_id(), [queued, started(), token("hi"), COMPLETED])
    await log.close()


def fill_at(monkeypatch: pytest.MonkeyPatch, disk: Disk, owner: type, name: str, calls: int = 1) -> None:
    """Fill the disk just before a step, after so many calls of it."""
    step: Callable[..., object] = getattr(owner, name)
    left = calls

    def fill_before(*arguments: object, **options: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            disk.fill()
        return step(*arguments, **options)

    monkeypatch.setattr(owner, name, fill_before)


def refused(said: tuple[int, str]) -> None:
    code, line = said
    assert (code, line.count("\n")) == (2, 0), line
    assert line.startswith("runstore: database ")
    assert "full" in line


def test_a_rebuild_leaves_the_live_tables_and_the_next_one_goes_on(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("FIRST_EVENTS", "MOST_EVENTS", "LAST_EVENTS"):
        monkeypatch.setattr(advance, bound, 10)
    monkeypatch.setattr(filling, "LAST_EVENTS", 10)
    fill_at(monkeypatch, disk, Advance, "_apply", calls=3)
    refused(disk.call("projections", "rebuild", "text", "usage", "--jobs", "2"))
    disk.free()
    assert "different" not in disk.call("projections", "verify", "usage", "sessions")[1]
    code, said = disk.call("projections", "rebuild", "--all")
    assert (code, said.count("different")) == (0, 0)
    assert f"text: rebuilt from the log, equal: {2 * RUNS} rows" in said


@pytest.mark.parametrize(
    ("owner", "step"),
    [(Purge, "_mark"), (Purge, "_clear"), (Erasure, "settle")],
    ids=["before", "marked", "purged"],
)
def test_an_erasure_is_finished_by_the_same_command(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    erase = ("erase", "--user", "alice", "--reason", "request 4711")
    fill_at(monkeypatch, disk, owner, step, calls=2 if step == "_clear" else 1)
    refused(disk.call(*erase))
    disk.free()
    assert disk.call(*erase)[0] == 0
    assert disk.call("projections", "verify")[0] == 0
    stored = b"".join(file.read_bytes() for file in disk.folder.iterdir())
    assert b"zebrafish" not in stored
