"""The examples of projections, as a user runs them: scripts, and a package that is built and installed."""

import asyncio
import sqlite3
import subprocess
import sys
import sysconfig
from contextlib import closing
from pathlib import Path

import pytest

from runstore.core.codec import encode
from runstore.core.events import Completed, Queued, Usage
from runstore.core.ids import new_run_id
from runstore.feed.memory import MemoryFeed
from tests.kit.database import make_database, open_sqlite_log
from tests.kit.events import started
from tests.kit.process import environment

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DAY_MS = 86_400_000
AT = 1_790_000_000_000  # 2026-09-21


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return make_database(tmp_path / "runstore.db")


def run(*command: object, code: int = 0, **options: object) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment(), check=False, **options
    )  # type: ignore[call-overload]
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout)


def write(database: Path, *users: str) -> None:
    """A run of each user, a day apart, with 1,000 input and 100 output tokens."""

    async def fill() -> None:
        log = open_sqlite_log(database, MemoryFeed())
        for number, user in enumerate(users):
            at = AT + number * DAY_MS
            used = Usage(agent="a", input_tokens=1_000, output_tokens=100)
            queued = Queued(agent="a", user_id=user, input="hi")
            parts = (queued, started(), used, Completed(result={}))
            await log.append(new_run_id(), [encode(event, at=at) for event in parts])
        await log.close()

    asyncio.run(fill())


@pytest.mark.slow
def test_the_rebuild_script_repairs_the_run_list(database: Path) -> None:
    write(database, "ann", "bob")
    url = f"sqlite:///{database}"
    assert "runs: 2 rows; 0 missing, 0 wrong, 0 extra" in run(sys.executable, EXAMPLES / "rebuild.py", url)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET status = 'queued' WHERE user_id = 'ann'")
    said = run(sys.executable, EXAMPLES / "rebuild.py", url, "runs", code=1)
    assert "runs: 2 rows; 0 missing, 1 wrong, 0 extra\n  wrong: {'run_id':" in said
    assert "1 wrong" not in run(sys.executable, EXAMPLES / "rebuild.py", url, "runs")


@pytest.mark.slow
def test_the_mirror_copies_each_event_once(database: Path, tmp_path: Path) -> None:
    url, target = f"sqlite:///{database}", tmp_path / "mirror.db"
    for users in (["ann"], ["bob", "eve"], []):
        write(database, *users)
        run(sys.executable, EXAMPLES / "mirror.py", url, target, "--once")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(target)) as copy:
        stored = source.execute("SELECT position, seq, type FROM events ORDER BY position").fetchall()
        assert copy.execute("SELECT position, seq, type FROM mirrored ORDER BY position").fetchall() == stored
        assert copy.execute("SELECT position FROM reached").fetchall() == [stored[-1][:1]]


# ---- the package ----


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel of the package, which borrows everything else from the tests."""
    folder = tmp_path_factory.mktemp("cost_report")
    offline = ("--quiet", "--no-deps", "--no-index")
    build = (*offline, "--no-build-isolation", "--wheel-dir", folder, EXAMPLES / "cost_report")
    run(sys.executable, "-m", "pip", "wheel", *build)
    (wheel,) = folder.glob("cost_report-*.whl")
    place = folder / "env"
    run(sys.executable, "-m", "venv", "--without-pip", place)
    run(sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", *offline, wheel)
    packages = next((place / "lib").glob("python*/site-packages"))
    borrowed = [sysconfig.get_path("purelib"), str(ROOT / "src")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return place / "bin"


@pytest.mark.slow
def test_an_installed_package_brings_its_projection_and_its_report(installed: Path, database: Path) -> None:
    write(database, "ann", "bob")
    write(database, "ann")
    url = f"sqlite:///{database}"
    said = run(installed / "cost-report", url, "--input", 3, "--output", 15)
    assert [line.split() for line in said.splitlines()] == [
        ["2026-09-21", "ann", "2", "runs", "0.0090"],
        ["2026-09-22", "bob", "1", "runs", "0.0045"],
    ]
    runstore = (installed / "python", "-m", "runstore", "projections")
    assert "costs" in run(*runstore, "list", "--database-url", url)
    assert run(*runstore, "verify", "costs", "--database-url", url) == "costs: equal: 3 rows\n"


@pytest.mark.slow
def test_the_package_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    tests = EXAMPLES / "cost_report" / "tests"
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={tmp_path}")
    said = run(installed / "python", "-m", "pytest", *options, "-c", "/dev/null", tests, cwd=tmp_path)
    assert "passed" in said
    assert "failed" not in said
