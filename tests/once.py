"""Leaves out the tests that an earlier run has passed: `-p tests.once --once=FILE` in both.

CI first runs the tests as on a machine without servers and tools. A test that passes there needs none of
them, and would only pass again: one that looks for a server or a tool is skipped where there is none
(`tests/repository/test_skips.py`). The option needs its `=`: otherwise pytest takes the file for tests.

`FILE.failed` names the tests that failed last time. Those of them that pass now are added to `FILE.flaky`,
and CI names them. Where the machine is another one than last time, remove `FILE.failed` first.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

PASSED, FAILED = pytest.StashKey[set[str]](), pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--once", type=Path, required=True, metavar="FILE", help="the tests that have passed, a line each"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PASSED], config.stash[FAILED] = set(), set()
    config.pluginmanager.register(Reports(config.stash[PASSED], config.stash[FAILED]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    passed = set(_read(config.option.once))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a process of xdist: the one that started it gets all reports
        return
    passed, failed, file = config.stash[PASSED], config.stash[FAILED], config.option.once
    _add(file, passed - failed)
    last = file.with_name(f"{file.name}.failed")
    _add(file.with_name(f"{file.name}.flaky"), (passed - failed).intersection(_read(last)))
    last.unlink(missing_ok=True)
    _add(last, failed)


class Reports:
    """Sorts the tests by their outcome. Setup and teardown have to pass, too."""

    def __init__(self, passed: set[str], failed: set[str]) -> None:
        self._passed = passed
        self._failed = failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self._passed.add(report.nodeid)


def _add(file: Path, tests: set[str]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(f"{id}\n" for id in sorted(tests))


def _read(file: Path) -> Iterator[str]:
    if file.exists():
        yield from file.read_text(encoding="utf-8").splitlines()
