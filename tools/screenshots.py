"""Make the screenshots of the console in docs/images/: a real server, real runs, a real Chromium.

    python -m tools.screenshots [FOLDER]

It needs the development tools (`make install`) and Chromium.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.kit.browser import chromium
from tests.kit.server import ServerProcess, serving, until

IMAGES = Path(__file__).parents[1] / "docs/images"
CONFIG = """
[agents.support]
factory = "agents:support"

[agents.research]
factory = "agents:research"

[agents.bookkeeper]
factory = "agents:bookkeeper"
approve = ["transfer"]

[agents.importer]
factory = "agents:importer"

[agents.writer]
model = "scripted"
tokens = 6000
tokens_per_s = 40

[prices.scripted]
input = 300.0
output = 1500.0
"""
AGENTS = '''
import time

from strands import Agent, tool

from runstore import AgentError
from runstore.demo.model import ScriptedModel


@tool
def search_tickets(query: str) -> list:
    """Search the tickets of all customers."""
    time.sleep(0.21)
    return [{"ticket": 4711, "title": "Refund is missing"}, {"ticket": 4712, "title": "Late parcel"}]


@tool
def read_page(url: str) -> str:
    """Read a page."""
    time.sleep(0.34)
    return "The harbour was opened in 1862. In 1901 a second basin was added."


@tool
def transfer(payment: str) -> str:
    """Transfer money."""
    return "done"


def model():
    return ScriptedModel(tokens_per_s=60)


def support():
    return Agent(model=model(), tools=[search_tickets])


def research():
    reader = Agent(model=model(), tools=[read_page], name="reader", description="Reads pages.")
    return Agent(model=model(), tools=[reader.as_tool(name="reader")])


def bookkeeper():
    return Agent(model=model(), tools=[transfer])


def importer():
    raise AgentError("the file orders-2026-11.csv has no column `amount`", code="bad_file")
'''
RUNS = [
    ("support", "Which tickets of this week mention a missing refund?", "anna"),
    ("research", "When was the old harbour opened, and what was added later?", "harbour"),
    ("importer", "Import the orders of November", None),
    ("support", "Has parcel 8812 left the warehouse?", "anna"),
    ("research", "Compare the harbour's two basins", "harbour"),
    ("support", "Summarise what customers wrote about the new app", "ben"),
    ("importer", "Import the orders of October", None),
    ("bookkeeper", "Pay the invoice of Hansen & Sons: 1,240.00 EUR", None),
    ("research", "Which ships called at the harbour in 1901?", "harbour"),
    ("support", "Draft an answer to ticket 4711", "anna"),
]
# Name, page, width, height, theme, and what to click.
SHOTS = (
    ("console-runs", "runs", 1280, 760, "light", None),
    ("console-run", "runs/{research}", 1280, 760, "light", ".step:has-text('read_page')"),
    ("console-transcript", "runs/{writer}?tab=transcript", 1280, 760, "dark", None),
    ("console-inbox", "inbox", 1280, 560, "light", None),
    ("console-system", "system", 1280, 760, "dark", None),
    ("console-phone", "runs", 360, 720, "dark", None),
    ("console-phone-run", "runs/{research}", 360, 720, "light", None),
)


def fill(server: ServerProcess) -> dict[str, str]:
    """Make the runs; returns the last run of each agent."""
    found = {}
    for agent, text, session in RUNS:
        body: dict[str, Any] = {"session_id": session} if session else {}
        found[agent] = server.begin(agent, text, **body)
        if agent != "bookkeeper":
            server.ended(found[agent])
    waits = found["bookkeeper"]
    until(lambda: server.record(waits)["status"] == "waiting", "the run waits")
    found["writer"] = server.begin("writer", "Write a short story about a lighthouse")
    until(lambda: server.http.get("/audit/tools").json()["data"], "the projections have the tools")
    time.sleep(4)  # for the story
    return found


def shoot(browser: Browser, url: str, folder: Path, runs: dict[str, str]) -> None:
    for name, page_path, width, height, theme, click in SHOTS:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        page = context.new_page()
        page.goto(f"{url}/console/{page_path.format(**runs)}")
        page.locator("main h1").wait_for()
        if click:
            page.locator(click).first.click()
        page.wait_for_timeout(1_500)
        page.screenshot(path=folder / f"{name}.png")
        context.close()


def main(folder: Path = IMAGES) -> None:
    program = chromium()
    if program is None:
        sys.exit("Chromium is not installed (Debian: apt install chromium)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, serving(Path(work), CONFIG, AGENTS) as server:
        runs = fill(server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            shoot(browser, str(server.http.base_url).rstrip("/"), folder, runs)
    for path in sorted(folder.glob("console*.png")):
        print(f"{path.name}: {path.stat().st_size >> 10} KB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
