"""The list of runs in a browser."""

import re
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.http.console.tab import Tab
from tests.kit.server import ServerProcess

ROW = ".run-row:not(.head)"
SEEN = """
window.seen = new Set();
new MutationObserver(() => {
  const rows = [...document.querySelectorAll(".run-row")];
  const row = rows.find((each) => each.innerText.includes("a patient bird"));
  if (row) window.seen.add(row.querySelector(".status").innerText);
}).observe(document, { subtree: true, childList: true, characterData: true });
"""
SLOW_READS = """
const real = window.fetch;
window.fetch = async (url, options) => {
  const answer = await real(url, options);
  if (!String(url).includes("/audit/runs")) return answer;
  await new Promise((done) => setTimeout(done, 2_000));
  options.signal?.throwIfAborted();
  return answer;
};
"""


def test_a_run_that_starts_and_ends_is_shown_live(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("quick", "an early bird"))
    tab.open()
    tab.shows("an early bird", ROW)
    tab.shows("live", ".live")
    run_id = console.begin("silent", "a late bird")
    row = tab.find(ROW, has_text="a late bird")
    expect(row.locator(".status")).to_have_text("running")
    console.stop_run(run_id)
    expect(row.locator(".status")).to_have_text("stopped")


def test_a_run_that_begins_to_wait_is_shown_live_and_stays_so(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("asker", "a patient bird")
    tab.open()
    row = tab.find(ROW, has_text="a patient bird")
    expect(row.locator(".status")).to_have_text("running")
    tab.page.wait_for_timeout(2_500)  # so that the reads for its start are over
    (console.folder / "ask").touch()
    expect(row.locator(".status")).to_have_text("waiting")
    tab.page.add_init_script(
        SLOW_READS.replace("/audit/runs", "/audit/events/stream").replace("2_000", "500")
    )
    tab.page.add_init_script(SEEN)
    tab.open()  # its start is among the changes that come again
    row.wait_for()
    tab.page.wait_for_timeout(1_500)
    assert "running" not in tab.page.evaluate("[...window.seen]")
    console.stop_run(run_id)


def test_a_row_has_tokens_cost_and_duration(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("quick", "seven small words that cost some money"))
    tab.open()
    row = tab.find(ROW, has_text="seven small words")
    expect(row.locator(".cost")).to_have_text(re.compile(r"^\$0\.000\d$"))
    expect(row.locator(".tokens")).to_have_text("14")
    expect(row.locator(".when")).to_have_text(re.compile("just now|ago"))


def test_filters_and_order_are_in_the_url_and_come_back_with_it(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("quick", "good morning"))
    console.ended(console.begin("broken", "bad morning"))
    tab.open()
    tab.shows("good morning", ROW)
    tab.find(".chips button", has_text="failed").click()
    expect(tab.find(ROW, has_text="good morning")).to_have_count(0)
    tab.shows("bad morning", ROW)
    tab.find("select[aria-label=Order]").select_option("cost")
    assert "status=error" in tab.page.url
    assert "sort=cost" in tab.page.url
    tab.page.reload()
    tab.shows("bad morning", ROW)
    expect(tab.find(ROW, has_text="good morning")).to_have_count(0)
    tab.page.go_back()


def test_f_shows_failures_first(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("broken", "this one fails"))
    console.ended(console.begin("quick", "this one is newer"))
    tab.open()
    tab.shows("this one fails", ROW)
    tab.page.keyboard.press("f")
    expect(tab.find(ROW).first.locator(".status")).to_have_text("failed")
    assert "sort=failed" in tab.page.url


def test_a_search_finds_words_of_answers(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("quick", "an xylophone in the attic"))
    console.ended(console.begin("quick", "a cello"))
    tab.open()
    tab.shows("a cello", ROW)
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("xylophone attic")
    expect(tab.find(ROW, has_text="a cello")).to_have_count(0)
    tab.shows("an xylophone", ROW)
    assert "q=xylophone" in tab.page.url


def test_chosen_runs_are_stopped_retried_and_deleted(console: ServerProcess, tab: Tab) -> None:
    first, second = (console.begin("silent", f"bulk {name}", session_id="bulk-1") for name in ("one", "two"))
    console.begin("silent", "left alone", session_id="bulk-2")
    tab.open("runs?session=bulk-1")
    expect(tab.find(ROW)).to_have_count(2)
    tab.find("input[aria-label='Choose all loaded runs']").click()
    tab.find(".bulk button", has_text="Stop").click()
    assert console.ended(first)["status"] == console.ended(second)["status"] == "stopped"
    expect(tab.find(f"{ROW} .status.stopped")).to_have_count(2)

    row = tab.find(ROW, has_text="bulk one")
    row.locator("input").click()
    tab.find(".bulk button", has_text="Retry").click()
    expect(tab.find(ROW, has_text="bulk one")).to_have_count(2)

    for each in tab.find(ROW, has=tab.find(".status.stopped")).all():
        each.locator("input").click()
    tab.find(".bulk button", has_text="Delete").click()
    tab.find("dialog button", has_text="Delete 2 runs").click()
    expect(tab.find(ROW)).to_have_count(1)
    assert console.http.get(f"/runs/{first}").json().get("deleted") is True


def test_j_k_and_enter_open_a_run(console: ServerProcess, tab: Tab) -> None:
    for text in ("older", "newer"):
        console.ended(console.begin("quick", f"the {text}", session_id="jk"))
    tab.open("runs?session=jk")
    expect(tab.find(ROW)).to_have_count(2)
    for key in ("j", "j", "k", "j"):
        tab.page.keyboard.press(key)
    expect(tab.find(f"{ROW}.cursor")).to_contain_text("the older")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/console/runs/*-*")


@pytest.mark.slow
def test_a_slow_list_is_shown_while_runs_change_all_the_time(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("quick", "a steady one", session_id="busy"))
    tab.page.add_init_script(SLOW_READS)
    tab.open("runs?session=busy&status=success")
    for _ in range(40):
        console.begin("quick", "hurry", session_id="hurry")
        tab.page.wait_for_timeout(200)
        if tab.find(ROW, has_text="a steady one").count():
            return
    raise AssertionError("the list was never shown")


def test_rows_out_of_sight_leave_the_list(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("quick", "one of many", session_id="many"))
    pages = 0

    def answer(route: Route) -> None:
        nonlocal pages
        pages += 1
        page: dict[str, Any] = route.fetch().json()
        [run] = page["data"]
        ids = [f"{run['run_id'][:24]}{pages * 100 - n:012x}" for n in range(-100, 100)]
        route.fulfill(json={**page, "data": [{**run, "run_id": run_id} for run_id in ids], "next": ids[-1]})

    tab.page.route("**/audit/runs?*", answer)
    tab.open("runs?session=many&status=success")
    expect(tab.find("[role=table]")).to_have_attribute("aria-rowcount", "200")
    tab.shows("live", ".live")
    while pages < 3:
        console.ended(console.begin("quick", "a change"))
        tab.page.wait_for_timeout(100)
    newest = f"{300 + 100:012x}"
    tab.find(f"{ROW} a[href$='{newest}']").wait_for()
    expect(tab.find("[role=table]")).to_have_attribute("aria-rowcount", "200")


def test_a_duration_begins_with_the_start_and_not_in_the_queue(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("quick", "it waited long", session_id="queue"))
    run_id = console.begin("silent", "it still works", session_id="queue")

    def answer(route: Route) -> None:
        page: dict[str, Any] = route.fetch().json()
        for run in page["data"]:
            run["created_at"] = "2020-01-01T00:00:00.000Z"
        route.fulfill(json=page)

    tab.page.route("**/audit/runs?*", answer)
    tab.open("runs?session=queue")
    for text in ("it waited long", "it still works"):
        took = tab.find(ROW, has_text=text).locator(".num").first
        expect(took).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    console.stop_run(run_id)


def test_visits_within_ten_minutes_ask_for_the_same_changes(console: ServerProcess, tab: Tab) -> None:
    tab.open()
    tab.shows("live", ".live")
    [asked] = [each.url for each in tab.requests if "/audit/events/stream" in each.url]
    assert re.search(r"since=[-\d]+T\d\d%3A\d0%3A00\.000Z", asked)


def test_a_link_to_all_runs_clears_the_search(console: ServerProcess, tab: Tab) -> None:
    console.ended(console.begin("quick", "always here"))
    tab.open("runs?q=nobodysaidthis")
    tab.find("a", has_text="Show all runs").click()
    tab.shows("always here", ROW)
    expect(tab.find("#search")).to_have_value("")
    assert "q=" not in tab.page.url
