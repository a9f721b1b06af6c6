"""The code that a configuration names is looked up before a server starts, and checked before a run is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstore import AgentSpec
from runstore.core.errors import ConfigError
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.references import missing
from runstore.runtime.catalog.teams import HierarchySettings, Teams
from runstore.settings import load_settings

SOURCE = """
raise AssertionError("nothing is imported")
from elsewhere import helper as assist

def assistant(ctx): ...

class Desk:
    build = None

if assist:
    late = assistant
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "theirs_static.py").write_text(SOURCE)
    (tmp_path / "theirs_dynamic.py").write_text("globals().update(made=print)\n")
    (tmp_path / "theirs_broken.py").write_text("def (:\n")
    package = tmp_path / "theirs_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('nothing is imported')\n")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "agents.py").write_text("async def build(): ...\n")
    return tmp_path


@pytest.mark.parametrize(
    "reference",
    [
        "theirs_static:assistant", "theirs_static:assist", "theirs_static:Desk.build", "theirs_static:late",
        "theirs_dynamic:whatever", "theirs_package.inner.agents:build", "math:sin",
        "json.decoder:JSONDecoder", "os.path:join",
    ],
)  # fmt: skip
def test_modules_that_exist_or_may_exist_are_not_reported(folder: Path, reference: str) -> None:
    assert missing(reference, folder) is None


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("theirs_static:asistant", "has no 'asistant'; did you mean 'assistant'?"),
        ("theirs_static:nothing_like_it", "theirs_static.py has no 'nothing_like_it'"),
        ("theirs_statik:assistant", "there is no module 'theirs_statik': it is neither in"),
        ("theirs_package.outer.agents:build", "there is no module 'theirs_package.outer'"),
        ("theirs_package.inner.agents:make", "has no 'make'"),
        ("theirs_static.inner:build", "there is no module 'theirs_static.inner'"),
        ("theirs_broken:build", "SyntaxError in"),
    ],
)
def test_a_typo_is_found_and_nothing_imported(folder: Path, reference: str, reason: str) -> None:
    assert reason in (missing(reference, folder) or "")
    assert not any(name.startswith("theirs_") for name in sys.modules)


CONFIG = """
[agents.one]
model = "scripted"
tools = ["{tool}"]
at_most_once = ["{once}"]

[agents.two]
description = "the second"
factory = "{factory}"

[hierarchies.tools]
search = "{searched}"
"""
CODE = """
from strands import tool

@tool
def search(word: str) -> str:
    "Look a word up."
    return word

def build(): ...
def needy(ctx, config): ...
async def speak(input, ctx): yield "x"
async def deaf(): yield "x"
FIVE = 5
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that is there, and forgotten afterwards."""
    (tmp_path / "theirs.py").write_text(CODE)
    (tmp_path / "theirs_failing.py").write_text("import no_such_package\nbuild = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "theirs"
    for name in ("theirs", "theirs_failing"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("wrong", "place", "message"),
    [
        ({"factory": "theirs:biuld"}, ":9: [agents.two]: `factory`", "did you mean 'build'?"),
        ({"tool": "theirs:find"}, ":4: [agents.one]: `tools`", "has no 'find'"),
        ({"searched": "theirs:serch"}, ":12: [hierarchies.tools]: `search`", "did you mean 'search'?"),
        ({"factory": "theirs_failing:build"}, ":9: [agents.two]: `factory`", "no_such_package"),
        ({"factory": "theirs:FIVE"}, ":9: [agents.two]: `factory`", "not a function that builds"),
        ({"factory": "theirs:needy"}, ":9: [agents.two]: `factory`", "missing a required argument: 'config'"),
        ({"factory": "theirs:deaf"}, ":9: [agents.two]: `factory`", "too many positional arguments"),
        ({"tool": "theirs:FIVE"}, ":4: [agents.one]: `tools`", "a tool must be a function"),
        ({"once": "serch"}, ":5: [agents.one]: `at_most_once`", "the agent has no tool 'serch'"),
    ],
)
async def test_an_error_is_named_with_its_place(
    tmp_path: Path, wrong: dict[str, str], place: str, message: str
) -> None:
    right = {
        "tool": "theirs:search", "once": "search", "factory": "theirs:build", "searched": "theirs:search",
    }  # fmt: skip
    (tmp_path / "runstore.toml").write_text(CONFIG.format(**(right | wrong)))
    settings = load_settings(tmp_path / "runstore.toml")

    async def start() -> None:
        settings.look_up_code()
        await AgentCatalog(settings.agents, teams=Teams(settings.hierarchies)).check()

    with pytest.raises(ConfigError) as caught:
        await start()
    error = str(settings.located(caught.value))
    assert place in error
    assert message in error


@pytest.mark.usefixtures("theirs")
async def test_two_tools_of_a_name_are_found_before_a_run_is() -> None:
    twice = AgentSpec(model="scripted", tools=["theirs:search", "theirs:search"])
    with pytest.raises(ConfigError, match="two tools have the name 'search'"):
        await AgentCatalog({"one": twice}).check()


async def test_code_of_an_agent_in_a_process_of_its_own_stays_out_of_the_servers() -> None:
    apart = AgentSpec(factory="no_such_module:build", isolation="process")
    await AgentCatalog({"one": apart}, teams=Teams(HierarchySettings())).check()
    with pytest.raises(ConfigError, match="no_such_module"):
        await AgentCatalog({"one": apart}).check(processes=True)
