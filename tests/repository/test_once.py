"""A test run leaves out what an earlier one has passed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os
import pytest

def test_passes():
    pass

@pytest.fixture
def broken():
    yield
    assert os.environ["MENDED"] == "1"

def test_whose_teardown_fails(broken):
    pass

def test_fails():
    assert os.environ["MENDED"] == "1"

def test_is_skipped():
    if os.environ["MENDED"] == "0":
        pytest.skip("not here")
"""


@pytest.mark.slow
def test_only_tests_that_have_not_passed_run_again(tmp_path: Path) -> None:
    (folder := tmp_path / "tests").mkdir()
    (folder / "some.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\npython_files = some.py\n")
    (passed := tmp_path / "passed").touch()

    def summary(mended: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist", "-n2",
             "-p", "tests.once", f"--once={passed}"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "MENDED": mended,
                 "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout.splitlines()[-1]

    assert summary("0").startswith("1 failed, 2 passed, 1 skipped, 1 error")
    assert summary("1").startswith("3 passed")
    assert passed.read_text().count("\n") == 4
    flaky = passed.with_name("passed.flaky").read_text().split()
    assert flaky == ["some.py::test_fails", "some.py::test_whose_teardown_fails"]


FAILING_IN = """
import os
import pytest

@pytest.mark.parametrize("runs", ["", "1", "12", "123", "1234"])
def test_fails_in(runs):
    assert os.environ["RUN"] not in runs
"""
# CI's own function for the tests of a machine, twice; `make` counts its calls.
TWO_STAGES = """
passed=$1
make() {
    export RUN=$((RUN + 1))
    "$PYTHON" -m pytest -q -p xdist -p tests.once --once="$passed" ${2#ARGS=}
}
tests test ""
tests test-all ""
"""


@pytest.mark.slow
def test_only_tests_that_pass_alone_on_the_machine_where_they_failed_are_flaky(tmp_path: Path) -> None:
    (folder := tmp_path / "tests").mkdir()
    (folder / "test_some.py").write_text(FAILING_IN)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (passed := tmp_path / "passed").touch()
    root = Path(__file__).parents[2]
    [function] = re.findall(r"^tests\(\) {\n.*?^}\n", (root / ".ci/run").read_text(), re.M | re.S)
    environment = {
        **os.environ, "PYTHONPATH": str(root), "PYTHON": sys.executable, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
    }  # fmt: skip
    subprocess.run(
        ["bash", "-c", function + TWO_STAGES, "-", passed], cwd=folder, env=environment, check=False
    )
    flaky = passed.with_name("passed.flaky").read_text().split()
    assert flaky == ["test_some.py::test_fails_in[1]", "test_some.py::test_fails_in[123]"]
    assert passed.read_text().count("\n") == 4
