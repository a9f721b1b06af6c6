"""The console in a real Chromium. A test fails with any error of a script and any violation of the policy."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.http.console.tab import Tab, tab_of
from tests.kit.browser import chromium
from tests.kit.logs import assert_no_traceback
from tests.kit.server import ServerProcess, serving
from tests.kit.tools import lacking

CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.quick]
model = "scripted"

[agents.talker]
model = "scripted"
tokens = 2000
tokens_per_s = 50

[agents.poet]
model = "scripted"
tokens = 20000
tokens_per_s = 60

[agents.clerk]
factory = "agents:clerk"

[agents.teller]
factory = "agents:teller"

[agents.deaf]
factory = "agents:deaf"

[agents.asker]
factory = "agents:asker"

[agents.former]
factory = "agents:former"

[agents.thinker]
factory = "agents:thinker"

[agents.broken]
factory = "agents:broken"

[agents.bank]
model = "scripted"
tools = ["agents:pay"]
approve = ["pay"]

[agents.run-code]
code = true

[agents.an-agent-with-a-name-of-sixty-letters-and-no-space-in-all-of-it]
model = "scripted"

[agents.long]
model = "scripted"
tokens = 100000

[prices.scripted]
input = 3.0
output = 15.0
"""
AGENTS = """
import asyncio
from pathlib import Path

from strands import Agent, tool

from runstore.demo.model import ScriptedModel


def silent():
    async def say_nothing(input):
        await asyncio.Event().wait()
        yield ""
    return say_nothing


@tool
def look_up(word: str) -> str:
    \"\"\"Look up a word.\"\"\"
    return f"{word}: on page 12"


@tool
def pay(to: str) -> str:
    \"\"\"Pay somebody.\"\"\"
    return f"paid {to}"


def clerk():
    return Agent(model=ScriptedModel(), tools=[look_up])


def teller():
    async def tell(input):
        yield f"told {input}"
    return tell


def deaf():
    async def hold(input):
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        yield "done"
    return hold


def asker():
    async def ask(input, ctx):
        while not Path("ask").exists():
            await asyncio.sleep(0.01)
        yield await ctx.ask("Go on?")
    return ask


def former():
    kinds = {"name": "string", "count": "integer", "ratio": "number", "sure": "boolean"}
    fields = {name: {"type": kind} for name, kind in kinds.items()} | {"size": {"enum": ["small", 2]}}

    async def ask(input, ctx):
        yield str(await ctx.ask("Fill in", schema={"type": "object", "properties": fields}))
    return ask


class Thinker(ScriptedModel):
    async def _say(self, words, messages):
        thought = {"reasoningContent": {"text": "let me think"}}
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": thought}}
        yield {"contentBlockStop": {}}
        async for event in super()._say(words, messages):
            if "messageStart" not in event:
                yield event


def thinker():
    return Agent(model=Thinker())


def broken():
    raise RuntimeError("no luck")
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed with the module: Playwright keeps an event loop, beside which no other test could run one."""
    program = chromium() or lacking("Chromium is not installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--no-proxy-server"])


@pytest.fixture(scope="module")
def running_console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("console"), CONFIG, AGENTS) as server:
        yield server


@pytest.fixture
def console(running_console: ServerProcess) -> Iterator[ServerProcess]:
    """A server without keys, which must have nothing to complain of."""
    before = len(running_console.log)
    yield running_console
    assert_no_traceback(running_console.log[before:])


@pytest.fixture
def tab(browser: Browser, console: ServerProcess) -> Iterator[Tab]:
    """A tab at the console of the server without keys."""
    with tab_of(browser, str(console.http.base_url)) as tab:
        yield tab
