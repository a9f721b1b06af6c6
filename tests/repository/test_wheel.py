"""The wheel is all that a user needs: installed into an empty environment, it runs without a checkout."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.kit.server import environment

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
DEMO_S = 120.0  # the demo's own waits, on a busy machine


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `pip wheel` builds it of this project, with the build backend that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    run([sys.executable, "-m", "pip", "wheel", "--quiet", *options, str(ROOT)], folder)
    (built,) = folder.glob("runstore-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has nothing but the wheel; its dependencies are borrowed from the tests."""
    place = tmp_path_factory.mktemp("installed") / "env"
    run([sys.executable, "-m", "venv", "--without-pip", str(place)], place.parent)
    install = ("install", "--quiet", "--no-deps", "--no-index", str(wheel))
    run([sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), *install], place.parent)
    packages = next((place / "lib").glob("python*/site-packages"))
    # A path in a .pth file adds the folder alone: an editable runstore that is installed there is not found.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    files = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*") if path.is_file()}
    wanted = {name for name in files if "__pycache__" not in name and ".egg-info" not in name}
    assert {"runstore/py.typed", "runstore/migrations/versions/0001_first.py"} <= wanted
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == wanted


def test_the_source_distribution_has_what_a_deployment_needs(tmp_path: Path) -> None:
    run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)], ROOT)
    (built,) = tmp_path.glob("runstore-*.tar.gz")
    with tarfile.open(built) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    deploy = ROOT / "deploy"
    wanted = {
        str(path.relative_to(ROOT)) for path in deploy.rglob("*") if path.is_file() and path.name != ".env"
    }
    assert wanted
    assert wanted | {"README.md", "examples/fastapi_app.py"} <= packed


@pytest.mark.slow
def test_the_package_in_use_is_the_wheels_and_not_the_checkouts(installed: Path, tmp_path: Path) -> None:
    script = "import runstore, runstore.app; print(runstore.__file__)"
    found = run([str(installed / "bin" / "python"), "-c", script], tmp_path).strip()
    assert Path(found).is_relative_to(installed)


@pytest.mark.slow
def test_an_extra_is_added_to_the_runstore_that_is_installed(installed: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(installed / "bin" / "python")]
    said = run([*pip, "install", "--no-index", "runstore[postgres]"], tmp_path)
    assert re.search(rf"^Requirement already satisfied: runstore\[postgres\] in {installed}", said, re.M)
    assert "psycopg" in said


@pytest.mark.slow
def test_the_demo_runs_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    said = run([str(installed / "bin" / "runstore"), "demo"], tmp_path, DEMO_S)
    assert "Every claim held." in said
    assert list(tmp_path.iterdir()) == []


def run(command: Sequence[str], folder: Path, timeout_s: float = 60.0) -> str:
    """Run a program that must succeed, without a trace of this checkout in its environment."""
    variables = {name: value for name, value in environment().items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=timeout_s, check=False, env=variables
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
