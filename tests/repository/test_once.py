"""A test run leaves out what an earlier one has passed."""

import os
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
    failed = passed.with_name("passed.failed").read_text().split()
    assert failed == ["some.py::test_fails", "some.py::test_whose_teardown_fails"]
