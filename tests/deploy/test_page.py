"""docs/how-to/deploying.md names files, services, units and commands that are there."""

import re
import shlex

import pytest

from tests.deploy.files import DEPLOY, compose, parse
from tests.kit.pages import ROOT, fenced, page

PAGE = page("docs/how-to/deploying.md")
LINES = [
    line.partition("  #")[0]
    for line in "".join(fenced(PAGE, "sh")).replace("\\\n", "").splitlines()
    if not line.startswith("#")
]


def calls(program: str) -> list[list[str]]:
    """The words after `program` wherever the page has it in a line of shell."""
    found = [line.partition(f"{program} ")[2] for line in LINES if f"{program} " in line]
    found += re.findall(rf"`{program} ([^`]+)`", PAGE)
    return [shlex.split(line) for line in sorted(set(found))]


def test_every_file_of_the_deployment_that_it_names_is_there() -> None:
    named = {name.rstrip(".") for name in re.findall(r"\bdeploy/[\w./*@-]+", PAGE)}
    assert len(named) > 10
    for name in named - {"deploy/.env"}:
        assert list(ROOT.glob(name)), name


@pytest.mark.parametrize("words", calls("docker compose"), ids=str)
def test_every_service_that_it_names_is_one_of_the_compose_file(words: list[str]) -> None:
    services = compose()["services"]
    command, *rest = words
    names = [word for word in rest if not word.startswith("-")]
    if command == "run":
        assert names[0] in services
        if names[0] == "cli":
            parse(rest[rest.index("cli") + 1 :])
    else:
        assert command in ("build", "up")
        assert set(names) <= set(services)


def test_every_unit_that_it_names_is_there() -> None:
    units = {path.stem for path in (DEPLOY / "systemd").glob("runstore-*.*")}
    for name in re.findall(r"\brunstore-[a-z]+(?:\.timer)?(?:@\w+)?", PAGE):
        stem = name.removesuffix(".timer").partition("@")[0]
        assert stem in units or f"{stem}@" in units, name
        assert not name.endswith(".timer") or (DEPLOY / "systemd" / name).exists(), name


@pytest.mark.parametrize("words", calls("/opt/runstore/bin/runstore"), ids=str)
def test_every_command_that_it_shows_is_one_of_the_command_line(words: list[str]) -> None:
    parse(words)
