"""Where a tool is missing, a test is skipped, and under CI=true it fails.

Where the machine does not permit a test, it is skipped under CI=true, too: CI has to be able to pass in a
container without privileges. Such tests are listed here.

No test does something else instead: it would pass on a machine without the tool, and CI would not repeat it
on one with it (`tests/once.py`).
"""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
SKIPS = re.compile(r"\bpytest\.(skip|importorskip)\(")
# `lacking` itself, and the text of a test that another one runs
ALLOWED = {"kit/tools.py", "repository/test_once.py"}
LOOKS = re.compile(r"\bshutil\.which\(|\bimport which\b")
# Each ends a test with `lacking` where it finds nothing, but for programs that tests.bare does not hide.
LOOKING = {
    "acceptance/test_disk.py",
    "bare.py",
    "deploy/test_compose.py",
    "http/console/test_places.py",
    "http/openai/test_clients.py",
    "kit/browser.py",
    "kit/tools.py",
    "servers/owner.py",
}
FORBIDDEN = re.compile(r"^\s+forbidden\(", re.M)
NEEDING_RIGHTS = {"cli/test_secrets.py", "faults/test_full_disk.py", "kit/test_tools.py"}


def test_a_test_skips_only_where_ci_would_fail() -> None:
    assert files_with(SKIPS) == ALLOWED


def test_a_test_that_a_machine_may_not_permit_is_listed() -> None:
    assert files_with(FORBIDDEN) == NEEDING_RIGHTS


def test_a_test_looks_for_a_program_only_where_it_skips_without_it() -> None:
    assert files_with(LOOKS) == LOOKING


def files_with(pattern: re.Pattern[str]) -> set[str]:
    return {str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py") if pattern.search(path.read_text())}
