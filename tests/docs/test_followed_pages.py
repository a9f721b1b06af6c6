"""A reader who types the commands of the README and the tutorial sees what they show."""

import re
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import runstore
from tests.kit.pages import ROOT, fenced, page
from tests.kit.process import environment
from tests.kit.terminal import blocks, follow
from tests.kit.tools import lacking, require

TUTORIAL = "docs/tutorial/chat.md"
EXAMPLE = ROOT / "examples" / "tutorial"
FILES = {"python": ["chat.py"], "html": ["chat.html"]}
INSTALLATION_S = 300.0  # pip says nothing until all is there
REPOSITORY = tomllib.loads(page("pyproject.toml"))["project"]["urls"]["Repository"]


def reader(folder: Path, *, venv: bool) -> dict[str, str]:
    """The environment of a reader: pip has the packages of the tests."""
    variables = {name: value for name, value in environment().items() if not name.startswith("PYTHON")}
    variables |= {
        "HOME": str(folder),
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as "no": the build backend is among those packages
    }
    if venv:
        variables["PYTHONPATH"] = str(packages_into(folder))
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    return variables


def packages_into(folder: Path) -> Path:
    """The packages of the tests without runstore: pip would take it for the one to install."""
    packages = folder / "packages"
    packages.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if "runstore" not in found.name:
            (packages / found.name).symlink_to(found)
    return packages


def clone_into(folder: Path) -> None:
    """Give a reader the clone from which a page installs."""
    if not (ROOT / ".git").exists():
        lacking("this is no clone")
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "runstore"], check=True)


def at_port(text: str, port: str) -> str:
    """A page whose server listens on a free port instead of the one that it names."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return text.replace(port, str(free.getsockname()[1]))


def test_the_first_session_of_the_readme_goes_as_it_is_printed(tmp_path: Path) -> None:
    require("bash"), require("curl"), require("ps")
    text = at_port(page("README.md").partition("\n## A first session\n")[2], "8082")
    text = text.replace("runstore serve ", f"runstore serve --port {text.partition('127.0.0.1:')[2][:5]} ")
    assert follow(text, tmp_path, tmp_path, reader(tmp_path, venv=False)) == 3


def unpack_into(folder: Path) -> None:
    """Give a reader the source distribution instead."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (packed,) = folder.glob("runstore-*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    (folder / packed.name.removesuffix(".tar.gz")).rename(folder / "runstore")


@pytest.mark.slow
@pytest.mark.parametrize("bring", [clone_into, unpack_into], ids=["clone", "sdist"])
def test_runstore_is_installed_as_the_readme_says(tmp_path: Path, bring: Callable[[Path], None]) -> None:
    require("bash"), require("git"), require("ps")
    bring(tmp_path)
    text = page("README.md").partition("\n## A first session\n")[0]
    assert follow(text, tmp_path / "runstore", tmp_path, reader(tmp_path, venv=True), INSTALLATION_S) == 1
    assert (tmp_path / "runstore" / ".venv" / "bin" / "runstore").exists()


def test_the_pages_install_the_wheel_of_this_version() -> None:
    for name in ("README.md", TUTORIAL):
        assert re.findall(r"runstore-([\d.]+)-py3", page(name)) == [runstore.__version__]


def test_the_pages_name_the_repository_of_the_metadata() -> None:
    assert f"git+{REPOSITORY}" in page("README.md")
    assert f"git+{REPOSITORY}" in page(TUTORIAL)


def test_every_command_of_the_readme_is_in_one_of_these_parts() -> None:
    assert len(blocks(page("README.md"))) == 4


def tutorial_folder(folder: Path) -> Path:
    """The folder of a reader with the tutorial's files."""
    (folder / "chat").mkdir()
    for language, files in FILES.items():
        for file, block in zip(files, fenced(page(TUTORIAL), language), strict=True):
            (folder / "chat" / file).write_text(block)
    return folder / "chat"


@pytest.mark.parametrize("language", FILES)
def test_the_tutorial_shows_the_files_of_the_example(language: str) -> None:
    assert fenced(page(TUTORIAL), language) == [(EXAMPLE / file).read_text() for file in FILES[language]]


@pytest.mark.slow
def test_the_tutorial_goes_as_it_is_printed_from_its_installation_on(tmp_path: Path) -> None:
    require("bash"), require("curl"), require("git"), require("ps")
    clone_into(tmp_path)
    text, variables = at_port(page(TUTORIAL), "8000"), reader(tmp_path, venv=True)
    assert follow(text, tutorial_folder(tmp_path), tmp_path, variables, INSTALLATION_S) == 6
    assert len(blocks(page(TUTORIAL))) == 6
    assert (tmp_path / "chat" / ".venv" / "bin" / "runstore").exists()
