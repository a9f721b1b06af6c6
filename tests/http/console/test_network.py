"""An open page when the server restarts, and over a network that is slow or cut."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, TimeoutError, expect

from tests.http.console.conftest import AGENTS, CONFIG
from tests.http.console.tab import tab_of
from tests.proxy import line_to
from tests.server import ServerProcess, serving

OPEN_MS = 2_000
TOLD = "[...document.querySelectorAll('.entry.said .prose')].map((each) => each.innerText).join('').length"


def test_an_open_run_goes_on_after_the_server_was_killed(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG, AGENTS) as server, tab_of(browser, str(server.http.base_url)) as tab:
        run_id = server.begin_silent()
        tab.open(f"runs/{run_id}")
        tab.shows("live", ".live")
        server.note(run_id, "before")
        expect(tab.find(".step.note")).to_have_count(1)
        server.options["port"] = server.port
        server.kill()
        tab.shows("connecting", ".live")
        server.start()
        server.note(run_id, "after")
        expect(tab.find(".step.note")).to_have_count(2, timeout=30_000)
        server.stop_run(run_id)
        expect(tab.find(".run-head .status")).to_have_text("stopped", timeout=30_000)


def test_the_list_of_runs_goes_on_after_the_server_was_killed(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG, AGENTS) as server, tab_of(browser, str(server.http.base_url)) as tab:
        tab.open()
        tab.shows("No runs yet")
        server.options["port"] = server.port
        server.kill()
        tab.shows("connecting", ".live")
        server.start()
        server.begin("quick", "the first one after the restart")
        tab.shows("the first one after the restart", ".run-row")


@pytest.mark.slow
def test_cut_connections_cost_the_text_nothing(browser: Browser, console: ServerProcess) -> None:
    """Each of the first connections is cut after some bytes."""
    run_id = console.begin("long", "talk")
    with line_to(console.port, [30_000, 200_000, 60_000, 400_000, 90_000] * 3) as line:
        console.ended(run_id)
        with tab_of(browser, line.url) as tab:

            def opens() -> bool:
                tab.open(f"runs/{run_id}?tab=transcript")
                try:
                    tab.find(".entry.said").first.wait_for(timeout=OPEN_MS)
                except TimeoutError:  # the page itself may be cut, too
                    return False
                return True

            assert any(opens() for _ in range(20))
            expect(tab.find(".run-head .status")).to_have_text("done")


def test_a_slow_network_shows_that_it_loads_and_then_the_run(
    browser: Browser, console: ServerProcess
) -> None:
    run_id = console.begin("clerk", "slowly")
    console.ended(run_id)
    with tab_of(browser, str(console.http.base_url)) as tab:
        devtools = tab.page.context.new_cdp_session(tab.page)
        slow = {"offline": False, "latency": 300, "downloadThroughput": 60_000, "uploadThroughput": 60_000}
        devtools.send("Network.emulateNetworkConditions", slow)
        tab.open(f"runs/{run_id}")
        tab.shows("look_up", ".step")


def test_an_action_without_a_network_says_so(browser: Browser, console: ServerProcess) -> None:
    run_id = console.begin_silent()
    with tab_of(browser, str(console.http.base_url)) as tab:
        tab.open(f"runs/{run_id}")
        tab.shows("live", ".live")
        tab.page.context.set_offline(True)
        tab.find("button", has_text="Stop").click()
        tab.shows("The server cannot be reached", ".note")
        tab.page.context.set_offline(False)
        tab.find("button", has_text="Stop").click()
        expect(tab.find(".run-head .status")).to_have_text("stopped")
