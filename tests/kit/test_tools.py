"""A test that lacks a tool says so, and never passes for it."""

import pytest

from tests.kit.tools import forbidden, require


def test_a_tool_that_is_there_is_found() -> None:
    assert require("sh").endswith("/sh")


def test_a_missing_tool_skips_a_test_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        require("no-such-tool")


def test_a_missing_tool_fails_a_test_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool is not installed"):
        require("no-such-tool")


def test_a_machine_that_does_not_permit_a_test_skips_it_in_ci_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception, match="not permitted here"):
        forbidden("not permitted here")
