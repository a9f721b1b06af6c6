"""The content of deploy/ as data, and its command lines checked against the real command line."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import typer
import yaml

from runstore.cli.main import app as cli
from tests.kit.pages import ROOT

DEPLOY = ROOT / "deploy"
LEAVES_S = 10  # from the end of the drain to that of the process, at most: the database may not answer

_SECONDS = {"": 1, "s": 1, "min": 60, "m": 60}


@cache
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a systemd unit, each with all of its values: unlike those of INI files, they repeat."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (DEPLOY / "systemd" / name).read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif line and not line.startswith("#"):
            setting, equals, value = line.partition("=")
            assert section, f"{name}: outside of a section: {line}"
            assert equals, f"{name}: neither a setting nor a comment: {line}"
            found.setdefault(f"{section}.{setting}", []).append(value)
    return found


def environment_file() -> dict[str, str]:
    """The variables that deploy/systemd/runstore.env sets."""
    lines = (DEPLOY / "systemd" / "runstore.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def seconds(text: str) -> float:
    """A duration, as nginx, systemd and compose write it."""
    found = re.fullmatch(r"(\d+)([a-z]*)", text)
    assert found, text
    return int(found[1]) * _SECONDS[found[2]]


def command_of(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """The command of a command line, and its further arguments."""
    command: Any = typer.main.get_command(cli)
    rest = list(arguments)
    while children := getattr(command, "commands", None):
        assert rest, "no command"
        assert rest[0] in children, f"there is no command {rest[0]!r}"
        command = children[rest.pop(0)]
    return command, rest


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a command line, by their names; fails as the program would at one that is wrong."""
    command, rest = command_of(arguments)
    options: dict[str, Any] = command.make_context("runstore", rest).params
    return options


def variables_of(arguments: Sequence[str]) -> set[str]:
    """The environment variables that a command reads."""
    return {parameter.envvar for parameter in command_of(arguments)[0].params if parameter.envvar}
