"""The other pages in a browser; and what holds for every page: width, keyboard, accessibility."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.http.console.tab import Tab, tab_of
from tests.server import ServerProcess, until
from tests.tools import lacking

AXE = Path(__file__).parents[2] / "node/node_modules/axe-core/axe.min.js"
PAGES = [
    *(
        "runs",
        "inbox",
        "sessions",
        "sessions?session=conversation",
        "users",
        "tools",
        "usage",
        "system",
        "start",
    ),
    *("runs/{run}", "runs/{run}?tab=transcript", "runs/{run}?tab=events&from=3", "runs/{run}?tab=record"),
    *("runs/{run}?step=tool-{tool}", "compare?a={run}&b={run}"),
]
WIDER = (
    "document.documentElement.scrollWidth > innerWidth"
    " || document.querySelector('main').scrollWidth > innerWidth"
)


@pytest.fixture(scope="module")
def runs(running_console: ServerProcess) -> dict[str, str]:
    """Runs that every page shows, once the projections have them."""
    server = running_console
    found = {
        "run": server.begin("clerk", "find the planets please", session_id="conversation"),
        "other": server.begin("quick", "count the planets please", session_id="conversation"),
        "broken": server.begin("broken", "break"),
    }
    for run_id in list(found.values()):
        server.ended(run_id)
    events = server.events(found["run"])
    [found["tool"]] = [str(event["seq"]) for event in events if event["type"] == "tool.started"]

    def reported() -> Any:
        return {each["agent"] for each in server.http.get("/audit/usage?group=agent").json()["data"]}

    until(lambda: {"clerk", "quick", "broken"} <= reported(), "the projections have the runs")
    until(lambda: server.http.get("/audit/tools").json()["data"], "the projections have the tools")
    return found


@pytest.fixture
def tab(browser: Browser, console: ServerProcess, runs: dict[str, str]) -> Iterator[Tab]:
    with tab_of(browser, str(console.http.base_url)) as tab:
        yield tab


def test_a_session_is_a_conversation(tab: Tab) -> None:
    tab.open("sessions")
    tab.shows("find the planets please", "table a").click()
    expect(tab.find(".turn")).to_have_count(2)
    expect(tab.find(".turn").first).to_contain_text("on page 12")
    expect(tab.find(".turn").last).to_contain_text("count the planets please")


def test_usage_has_plots_and_a_table_of_agents(tab: Tab) -> None:
    tab.open("usage?days=7")
    expect(tab.find(".plot figcaption h2")).to_have_text(
        ["Cost", "Tokens", "Runs", "First token, on average"]
    )
    row = tab.find("tr", has=tab.find("a", has_text="clerk"))
    expect(row).to_contain_text("$0.000")
    assert tab.find(".plot rect.fill-green").count() == 1


def test_tools_and_users_have_calls_and_cost(tab: Tab) -> None:
    tab.open("tools")
    expect(tab.find("tr", has_text="look_up")).to_contain_text("ms")
    tab.open("users")
    tab.find("tr a", has_text="local").click()
    tab.shows("of local")


def test_a_projection_is_rebuilt_from_the_system_page(tab: Tab, console: ServerProcess) -> None:
    before = console.log.count("projection_rebuild_asked")
    tab.open("system")
    row = tab.find("tr", has_text="usage")
    expect(row.locator(".status")).to_have_text("running")
    row.locator("button").click()
    tab.shows("usage is being rebuilt")
    assert console.log.count("projection_rebuild_asked") == before + 1
    expect(tab.find("tr", has_text="a lock")).to_have_count(1)


def test_two_runs_are_compared_with_their_differences_marked(tab: Tab, runs: dict[str, str]) -> None:
    tab.open(f"compare?a={runs['run']}&b={runs['other']}")
    expect(tab.find("tr", has_text="Agent")).to_have_class("differs")
    expect(tab.find("mark.left").first).to_have_text("find")
    expect(tab.find("mark.right").first).to_have_text("count")
    tab.open(f"compare?a={runs['run']}&b={runs['run']}")
    tab.shows("Result", "th")
    expect(tab.find(".differs")).to_have_count(0)


def test_the_help_lists_the_keys_of_the_page(tab: Tab) -> None:
    tab.open("runs")
    tab.shows("find the planets", ".run-row")
    tab.page.keyboard.press("?")
    expect(tab.find("dialog kbd", has_text="j")).to_be_visible()
    tab.page.keyboard.press("Escape")
    expect(tab.find("dialog")).to_have_count(0)


def test_an_unknown_page_leads_back(tab: Tab) -> None:
    tab.open("nowhere")
    tab.shows("No such page")


def test_no_page_is_wider_than_a_phone(
    browser: Browser, console: ServerProcess, runs: dict[str, str]
) -> None:
    with tab_of(browser, str(console.http.base_url), viewport={"width": 360, "height": 640}) as tab:
        for page in PAGES:
            tab.open(page.format(**runs))
            tab.until("document.querySelector('main > *') && !document.querySelector('[aria-busy]')")
            assert tab.page.evaluate(WIDER) is False, page


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_serious_fault(
    browser: Browser, console: ServerProcess, runs: dict[str, str], theme: str
) -> None:
    if not AXE.exists():
        lacking("axe-core is not installed (make node)")
    with tab_of(browser, str(console.http.base_url), color_scheme=theme) as tab:
        devtools = tab.page.context.new_cdp_session(tab.page)
        for page in PAGES:
            tab.open(page.format(**runs))
            tab.until("document.querySelector('main > *') && !document.querySelector('[aria-busy]')")
            devtools.send("Runtime.evaluate", {"expression": AXE.read_text()})
            found = devtools.send(
                "Runtime.evaluate",
                {"expression": "axe.run()", "awaitPromise": True, "returnByValue": True},
            )["result"]["value"]["violations"]
            faults = [
                (each["id"], [node["html"][:200] for node in each["nodes"][:3]])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert faults == [], page
