"""Which releases of other packages may be installed."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("package", ["uvicorn", "strands-agents"])
def test_a_package_whose_internals_are_used_stays_at_the_minor_release_that_is_tested(package: str) -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    [bounds] = [each for each in dependencies if re.match(rf"{package}\b", each)]
    found = re.search(r">=(\d+)\.(\d+),<(\d+)\.(\d+)$", bounds)
    assert found, bounds
    major, minor, below_major, below_minor = map(int, found.groups())
    assert (below_major, below_minor) == (major, minor + 1)
    assert version(package).split(".")[:2] == [str(major), str(minor)]
