"""A run's steps beside their times, what a step holds, and the follow toggle."""

from datetime import datetime, timedelta
from typing import Any

from playwright.sync_api import Route, expect

from tests.http.console.tab import Tab
from tests.kit.server import ServerProcess

STEP = ".step:not(.axis)"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
IDLE = timedelta(hours=5)
BOX = "document.querySelector('.transcript')"
AT_END = f"{BOX}.scrollHeight - {BOX}.clientHeight - {BOX}.scrollTop < 80"


def idle_run(console: ServerProcess, tab: Tab) -> str:
    """A run with two notes, shown as if the second had come after IDLE, and the end some seconds later."""
    run_id = console.begin_silent()
    console.note(run_id, "early")
    late = console.note(run_id, "late")
    console.stop_run(run_id)

    def answer(route: Route) -> None:
        page: dict[str, Any] = route.fetch().json()
        for step in page["data"]:
            around = step["kind"] in ("attempt", "agent")
            for name in ("started_at", "ended_at"):
                moved = step["seq"] >= late or (around and name == "ended_at")
                later = IDLE if step["seq"] == late else IDLE + timedelta(seconds=10)
                if step.get(name) and moved:
                    step[name] = (datetime.fromisoformat(step[name]) + later).isoformat()
        route.fulfill(json=page)

    tab.page.route("**/steps?*", answer)
    return run_id


def test_idle_time_is_cut_from_the_axis(console: ServerProcess, tab: Tab) -> None:
    tab.open(f"runs/{idle_run(console, tab)}")
    expect(tab.find(".axis .cut")).to_have_attribute("title", "5h 00m without a step are left out")
    early, late = (tab.find(".step.note .dot").nth(n).bounding_box() for n in (0, 1))
    lane = tab.find(".axis .lane").bounding_box()
    assert early is not None
    assert late is not None
    assert lane is not None
    assert early["x"] < late["x"]
    assert late["x"] - lane["x"] < 0.99 * lane["width"], "what comes after the gap has a place of its own"


def test_a_part_of_the_axis_is_chosen_with_the_mouse(console: ServerProcess, tab: Tab) -> None:
    tab.open(f"runs/{idle_run(console, tab)}")
    expect(tab.find(".step.note")).to_have_count(2)
    lane = tab.find(".axis .lane").bounding_box()
    assert lane is not None
    middle, y = lane["x"] + lane["width"] / 2, lane["y"] + lane["height"] / 2
    tab.page.mouse.move(middle, y)
    tab.page.mouse.down()
    tab.page.mouse.move(lane["x"] + lane["width"], y, steps=4)
    tab.page.mouse.up()
    expect(tab.find(".step.note")).to_have_count(0)
    expect(tab.find(".step.end")).to_have_count(1)
    tab.find("button", has_text="whole run").click()
    expect(tab.find(".step.note")).to_have_count(2)


def test_an_image_is_shown_as_an_image(console: ServerProcess, tab: Tab) -> None:
    image = {"image": {"format": "png", "source": {"bytes": PIXEL}}}
    run_id = console.begin("quick", [{"text": "look at this"}, image])
    console.ended(run_id)
    tab.open(f"runs/{run_id}?tab=transcript")
    tab.find(".entry.input img").wait_for()
    tab.until("document.querySelector('.entry.input img').naturalWidth === 1")


def test_reasoning_stands_apart_and_is_folded(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("thinker", "an answer")
    console.ended(run_id)
    tab.open(f"runs/{run_id}?tab=transcript")
    expect(tab.find(".entry.said .prose")).to_have_text("an answer")
    reasoning = tab.find(".entry.said details")
    expect(reasoning).not_to_have_attribute("open", "")
    reasoning.locator("summary").click()
    expect(reasoning.locator(".text")).to_be_visible()
    expect(reasoning.locator(".text")).to_have_text("let me think")


def test_json_folds(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("silent", "hi", metadata={"deep": [[[["the core"]]]], "many": list(range(250))})
    console.stop_run(run_id)
    tab.open(f"runs/{run_id}?tab=record")
    many = tab.find(".json li", has_text="many:").last
    many.locator(".fold").click()
    expect(many.locator("ul > li")).to_have_count(101)
    many.locator("button", has_text="150 more").click()
    expect(many.locator("ul > li")).to_have_count(250)
    many.locator(".fold").click()
    expect(many.locator("ul")).to_have_count(0)
    expect(many).to_contain_text("250 items")


def test_f_follows_the_text_and_scrolling_up_ends_that(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("poet", "talk")
    tab.page.set_viewport_size({"width": 800, "height": 420})
    tab.open(f"runs/{run_id}?tab=transcript")
    following = tab.find(".bar-line [aria-pressed=true]")
    expect(following).to_have_text("● following")
    tab.until(f"{BOX}.scrollTop > 200")
    tab.until(AT_END)
    tab.find(".transcript").hover()
    tab.page.mouse.wheel(0, -300)
    expect(following).to_have_count(0)
    place = tab.page.evaluate(f"{BOX}.scrollTop")
    said = tab.find(".entry.said .prose").inner_text()
    tab.until(f"document.querySelector('.entry.said .prose').innerText.length > {len(said)} + 200")
    assert abs(tab.page.evaluate(f"{BOX}.scrollTop") - place) < 5
    tab.page.keyboard.press("f")
    expect(following).to_have_count(1)
    tab.until(AT_END)
    console.stop_run(run_id)
