"""deploy/Dockerfile: what it copies is enough for a wheel, and is all that is sent to the builder."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, compose
from tests.kit.pages import ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.M)


def copied() -> set[str]:
    """The files that the image copies from the checkout."""
    lines = [line.split() for line in instructions("COPY") if not line.startswith("--from")]
    return {source for *sources, _ in lines for source in sources}


@pytest.mark.slow
def test_a_wheel_can_be_built_from_the_copied_files(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for source in copied():
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / source, checkout / source, ignore=ignored)
        else:
            shutil.copy(ROOT / source, checkout / source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(checkout)], check=True)
    [wheel] = tmp_path.glob("runstore-*.whl")
    assert wheel.name.startswith(f"runstore-{PROJECT['version']}-")


def test_nothing_else_is_sent_to_the_builder() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    lines = [line for line in ignored if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied()


def test_the_extras_are_those_of_the_project() -> None:
    [default] = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.M)
    of_compose = {
        service["build"]["args"]["EXTRAS"] for service in compose()["services"].values() if "build" in service
    }
    assert of_compose == {f"${{EXTRAS:-{default}}}"}
    assert set(default.split(",")) <= set(PROJECT["optional-dependencies"])
    assert 'pip install --no-cache-dir "$(ls /wheels/runstore-*.whl)[${EXTRAS}]"' in DOCKERFILE


def test_it_runs_the_program_itself_as_a_user_without_rights() -> None:
    assert instructions("ENTRYPOINT") == ['["runstore"]']
    assert "runstore" in PROJECT["scripts"]
    [user] = instructions("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_its_python_is_one_that_the_project_supports() -> None:
    [version] = re.findall(r"^ARG PYTHON=(\d\.\d+)-", DOCKERFILE, re.M)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert set(instructions("FROM")) == {"python:${PYTHON} AS build", "python:${PYTHON}"}
