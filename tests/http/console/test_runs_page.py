"""The list of runs in a browser."""

import re

from playwright.sync_api import expect

from tests.http.console.tab import Tab
from tests.server import ServerProcess

ROW = ".run-row:not(.head)"


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
