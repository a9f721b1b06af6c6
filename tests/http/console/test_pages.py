"""The other pages in a browser; and what holds for every page: width, keyboard, accessibility."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.http.console.tab import Tab, tab_of
from tests.kit.server import ServerProcess, until
from tests.kit.tools import lacking

AXE = Path(__file__).parents[2] / "node/node_modules/axe-core/axe.min.js"
WORD = "Rindfleischetikettierungsueberwachungsaufgabenuebertragungsgesetz_" * 4
LONG_NAME = "an-agent-with-a-name-of-sixty-letters-and-no-space-in-all-of-it"
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
CUT_MENU = (
    "(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(document.querySelector('.menu nav'))"
)
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
    found["long"] = server.begin(LONG_NAME, WORD, session_id=WORD[:200], metadata={WORD: WORD})
    for run_id in list(found.values()):
        server.ended(run_id)
    found["waits"] = server.begin("bank", f"Pay {WORD}")
    server.waiting(found["waits"])
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


def test_a_duration_is_that_of_the_work_on_sessions_and_in_a_comparison(
    tab: Tab, runs: dict[str, str]
) -> None:
    """A run that waited in the queue for years has not taken years."""

    def waited(record: dict[str, Any]) -> None:
        record["created_at"] = "2020-01-01T00:00:00.000Z"

    def of_list(route: Route) -> None:
        page: dict[str, Any] = route.fetch().json()
        for record in page["data"]:
            waited(record)
        route.fulfill(json=page)

    def of_both(route: Route) -> None:
        page: dict[str, Any] = route.fetch().json()
        for each in page["runs"]:
            waited(each["run"])
        route.fulfill(json=page)

    tab.page.route("**/runs?*", of_list)
    tab.page.route("**/compare/*-*", of_both)
    tab.open("sessions?session=conversation")
    expect(tab.find(".turn .said time").first).to_have_text(re.compile(r"^[\d.]+ m?s · \d+ tokens$"))
    tab.open(f"compare?a={runs['run']}&b={runs['other']}")
    expect(tab.find("tr", has_text="Duration").locator("td").first).to_have_text(re.compile(r"^[\d.]+ m?s$"))


def test_the_system_page_has_the_size_of_the_database(tab: Tab, console: ServerProcess) -> None:
    tab.open("system")
    expect(tab.find(".facts")).to_contain_text("SQLite")
    expect(tab.find(".facts")).to_contain_text(re.compile(r"size[\d.]+ [KM]B"))


def test_the_system_page_has_workers_queues_writer_and_feed(tab: Tab, console: ServerProcess) -> None:
    tab.open("system")
    tab.shows("ready The log takes writes.", ".totals")
    expect(tab.find(".page > section", has_text="Workers").locator("tbody tr")).to_have_count(1)
    for figure in ("runs queued", "queue events", "commit failures total", "log unavailable", "subscribers"):
        expect(tab.find(".figures dt", has_text=figure).first).to_be_visible()


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
    expect(tab.find(".plot figcaption h2")).to_have_text(["Calls", "Latency"])
    calls, latency = tab.find(".plot").all()
    expect(calls.locator("figcaption .dim")).to_have_text(re.compile(r"^\d+$"))
    expect(calls.locator("rect.fill-green")).to_have_count(1)
    expect(latency.locator("figcaption .dim")).to_have_text("")
    p95, p50 = (latency.locator(f"rect.fill-{color}").bounding_box() for color in ("amber", "accent"))
    assert p95 is not None
    assert p50 is not None
    assert p95["height"] >= p50["height"], "one stands behind the other"
    tab.open("users")
    expect(tab.find(".plot h2")).to_have_text(["Cost", "Tokens", "Runs", "First token, on average"])
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
    tab.shows("result", "th")
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
        for page in [
            *PAGES,
            "start?from={long}",
            "runs/{long}",
            "runs/{long}?tab=transcript",
            "runs/{waits}",
        ]:
            tab.open(page.format(**runs))
            tab.until("document.querySelector('main > *') && !document.querySelector('[aria-busy]')")
            assert tab.page.evaluate(WIDER) is False, page
            assert tab.page.evaluate(CUT_MENU) is False, page
        tab.find("summary", has_text="Keep").click()
        assert tab.page.evaluate(WIDER) is False, "the menu"
        box = tab.find(".menu-list").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


@pytest.mark.parametrize(
    ("theme", "width"), [("light", 1280), pytest.param("dark", 1280, marks=pytest.mark.slow), ("dark", 360)]
)
def test_axe_finds_no_serious_fault(
    browser: Browser, console: ServerProcess, runs: dict[str, str], theme: str, width: int
) -> None:
    if not AXE.exists():
        lacking("axe-core is not installed (make node)")
    size = {"width": width, "height": 800}
    with tab_of(browser, str(console.http.base_url), color_scheme=theme, viewport=size) as tab:
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
