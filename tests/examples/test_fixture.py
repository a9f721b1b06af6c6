"""The example of a fixture: a run of a real server becomes a test that needs no provider."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.command_line import call_command
from tests.kit.process import environment
from tests.kit.server import ServerProcess
from tests.models.standins import ModelServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "fixture"
PROVIDER = "http://127.0.0.1:1/v1"  # where nothing answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("example") / "fixture"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with ModelServer() as models:
        config = (folder / "runstore.toml").read_text()
        server = ServerProcess(folder, config, None)
        server.variables = {"MODEL_URL": f"{models.url}/v1", "MODEL": "talks"}
        try:
            yield server.start()
        finally:
            server.close()


def pytest_in(folder: Path) -> "subprocess.CompletedProcess[str]":
    variables = environment() | {"MODEL_URL": PROVIDER, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=folder, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def comparable(fixture: str) -> Any:
    """A fixture without what differs between two runs."""
    found = json.loads(re.sub(r'"seq": ?\d+', '"seq": 0', fixture))
    del found["run_id"]
    return found


@pytest.mark.slow
def test_the_fixture_is_what_the_command_prints_of_a_run(server: ServerProcess, folder: Path) -> None:
    run_id = server.begin("till", "What do 19 and 23 euros make?")
    assert server.ended(run_id)["status"] == "success"
    done = call_command("fixture", run_id, "--url", str(server.http.base_url), folder=folder)
    assert done.returncode == 0, done.stderr
    assert comparable(done.stdout) == comparable((EXAMPLE / "total.json").read_text())


@pytest.mark.slow
def test_it_passes_without_a_provider(folder: Path) -> None:
    done = pytest_in(folder)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.slow
def test_a_changed_agent_fails_with_the_difference(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "changed", ignore=shutil.ignore_patterns("runstore.db*"))
    till = changed / "till.py"
    till.write_text(till.read_text().replace("def total(", "def sum_up(").replace("[total]", "[sum_up]"))
    done = pytest_in(changed)
    assert done.returncode == 1, done.stdout
    assert "tool of agent 'till', answer 1" in done.stdout
    assert "recorded: total" in done.stdout
