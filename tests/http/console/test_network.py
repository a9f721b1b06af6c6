"""An open page when the server restarts, and over a network that is slow or cut."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.http.console.conftest import AGENTS, CONFIG
from tests.http.console.tab import tab_of
from tests.kit.proxy import line_to
from tests.kit.server import ServerProcess, serving

TOLD = "(document.querySelector('.entry.said .prose')?.innerText.length ?? 0)"


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


def test_a_page_that_is_cut_as_it_loads_offers_to_load_again(
    browser: Browser, console: ServerProcess
) -> None:
    run_id = console.begin("quick", "patience")
    console.ended(run_id)
    cuts = [3_000, 200, 400, 30_000, 60_000, 90_000]
    loads_left = len(cuts) + 1  # a load that fails has used up a cut at least
    with line_to(console.port, cuts) as line, tab_of(browser, line.url) as tab:
        tab.open(f"runs/{run_id}?tab=transcript")
        shown = tab.find(".entry.said")
        while not shown.count():
            loads_left -= 1
            again = tab.find(".late a, [role=alert] button").first
            shown.or_(again).first.wait_for()
            if not shown.count():
                assert loads_left, "each load failed"
                with tab.page.expect_navigation():
                    again.click()
        expect(shown).to_contain_text("patience")


def test_cut_connections_cost_the_text_of_an_open_run_nothing(
    browser: Browser, console: ServerProcess
) -> None:
    run_id = console.begin("poet", "talk")
    with line_to(console.port, []) as line, tab_of(browser, line.url) as tab:
        tab.open(f"runs/{run_id}?tab=transcript")
        tab.until(f"{TOLD} > 20")
        line.cuts += [8_000] * 6
        line.cut_open_ones()
        shown, said = [], tab.find(".entry.said .prose")
        while line.cuts:  # until each was used, however long that takes
            shown.append(said.inner_text().split())
            tab.page.wait_for_timeout(100)
        tab.until(f"{TOLD} > {len(said.inner_text()) + 1_000}")  # more than passes before the last cut
        shown.append(said.inner_text().split())
        console.stop_run(run_id)
        expect(tab.find(".run-head .status")).to_have_text("stopped")
        told = "".join(e["data"]["text"] for e in console.events(run_id) if e["type"] == "llm.token")
        assert [words for words in shown if words != told.split()[: len(words)]] == []
        expect(tab.find(".actions button", has_text="Stop")).to_have_count(0)


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
