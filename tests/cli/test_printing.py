"""The commands print any content to any output."""

import os
import sys
from contextlib import suppress
from functools import partial
from io import BytesIO, FileIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

import runstore.cli.main as cli
import runstore.cli.output as cli_output
from runstore import logs
from runstore.core.events import Token
from runstore.core.printable import escaped
from runstore.core.records import EventRecord
from runstore.database.opening import write_to
from runstore.store.keys import create_key
from tests.kit.database import make_database

HOSTILE = "a[/ops] [red]é\x1b[31m\r\u202e\x9b"


@pytest.fixture(autouse=True)
def _logs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstore.logs.configure_logs", lambda *arguments, **options: None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with a key whose names are hostile."""
    url = f"sqlite:///{make_database(tmp_path / 'runstore.db')}"
    made = partial(create_key, user_id=HOSTILE, role="user", name=HOSTILE, now=0, expires_at=None)
    write_to(url, made)
    return url


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdout: Any) -> int:
    """Run a command with this standard output; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["runstore", *arguments])
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as left:
        cli.main()
    if stdout is None:
        sys.stdout.close()
    return int(left.value.code or 0)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize(
    "command", [["keys", "list"], ["keys", "list", "--json"], ["--help"], ["runs", "--help"], ["workers"]]
)
def test_a_command_prints_any_names_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch, url: str, encoding: str, command: list[str]
) -> None:
    monkeypatch.setenv("RUNSTORE_DATABASE_URL", url)
    printed = BytesIO()
    out = TextIOWrapper(printed, encoding=encoding, write_through=True)
    assert run(monkeypatch, *command, stdout=out) == 0
    text = printed.getvalue()
    assert b"\x1b" not in text
    if command == ["keys", "list"]:
        assert b"a[/ops] [red]" in text
        assert b"\\u001b[31m" in text
        assert b"\\u202e" in text


@pytest.mark.parametrize(
    "command",
    [["keys", "list"], ["keys", "list", "--json"], ["keys", "create", "--user", "a"], ["--version"]],
)
def test_a_command_whose_output_is_lost_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, url: str, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.setenv("RUNSTORE_DATABASE_URL", url)
    assert run(monkeypatch, *command, stdout=None) == 1
    assert "Error" not in capfd.readouterr().err


def test_a_command_that_fails_keeps_its_exit_code_without_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "keys", "revoke", stdout=None) == 2


def test_a_command_whose_reader_has_gone_says_nothing(
    monkeypatch: pytest.MonkeyPatch, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in (["keys", "list"], ["keys", "list", "--json"]):
        reading, writing = os.pipe()
        os.close(reading)
        out = TextIOWrapper(FileIO(writing, "w"), write_through=True)
        assert run(monkeypatch, *command, "--database-url", url, stdout=out) == 1
        with suppress(BrokenPipeError):
            out.close()
    assert capfd.readouterr().err == ""


def test_an_argument_that_is_no_utf_8_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argument = b"\xff".decode(errors="surrogateescape")
    for command in (["keys", "create", "--user", argument], ["runs", "list", "--session-id", argument]):
        assert run(monkeypatch, *command, stdout=sys.stdout) == 2
        assert "must be text that is UTF-8" in capsys.readouterr().err


class Terminal(TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_an_agents_text_does_not_drive_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(printed, encoding="utf-8", write_through=True))
    printer = cli_output.TextPrinter()
    data = {"agent": "demo", "text": f"one\ttwo\n{HOSTILE}"}
    printer.show(EventRecord("run", 1, Token.type, "2026-11-20T10:00:00Z", data))
    assert printed.getvalue().decode() == "one\ttwo\na[/ops] [red]é\\u001b[31m\\u202e\\u009b"


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_log_line_holds_no_control_character(form: Any) -> None:
    line = {"event": f"said {HOSTILE}\u2028x", "level": "info", "who": HOSTILE}
    rendered = logs.RENDER[form](None, "info", line)
    assert rendered == escaped(rendered)
    assert "[31m" in rendered


def test_escaped_text_in_json_is_read_again() -> None:
    assert escaped("\x1b\u2066\n", keep="\n") == "\\u001b\\u2066\n"
