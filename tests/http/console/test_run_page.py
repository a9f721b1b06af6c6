"""One run in a browser: its steps, its text, its events, its past, and the actions on it."""

import json
import re
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.http.console.tab import Tab
from tests.kit.code import begin
from tests.kit.server import ServerProcess

STEP = ".step:not(.axis)"
CLERK = "find the planets please"


def clerks_run(console: ServerProcess) -> str:
    run_id = console.begin("clerk", CLERK)
    assert console.ended(run_id)["status"] == "success"
    return run_id


def labels(tab: Tab) -> list[str]:
    return [each.inner_text().replace("\n", " ") for each in tab.find(f"{STEP} .name").all()]


def downloaded(page: Page, label: str) -> str:
    page.locator("summary", has_text="Keep").click()
    with page.expect_download() as download:
        page.locator(".menu-list button", has_text=label).click()
    return Path(download.value.path()).read_text()


def test_a_run_is_a_tree_of_attempts_agents_and_calls(console: ServerProcess, tab: Tab) -> None:
    tab.open(f"runs/{clerks_run(console)}")
    tab.shows("look_up", STEP)
    kinds = [re.split(r"\s", each.strip("▾▸ "))[0] for each in labels(tab)]
    assert kinds == ["attempt", "agent", "model", "tool", "model", "end"]
    levels = tab.page.evaluate(f"[...document.querySelectorAll('{STEP}')].map((row) => row.ariaLevel)")
    assert levels == ["1", "2", "3", "3", "3", "2"]
    tab.find(STEP, has_text="look_up").click()
    expect(tab.find(".detail .part", has_text="Input")).to_contain_text(CLERK)
    expect(tab.find(".detail .part", has_text="Output")).to_contain_text("on page 12")
    assert "step=tool-" in tab.page.url
    tab.page.keyboard.press("j")
    expect(tab.find(".detail")).to_contain_text("model call")
    expect(tab.find(".detail .facts")).to_contain_text("cost")


def test_tokens_appear_live_and_a_stop_ends_the_run(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("talker", "talk")
    tab.open(f"runs/{run_id}?tab=transcript")
    length = "(document.querySelector('.entry.said .prose')?.innerText.length ?? 0)"
    tab.until(f"{length} > 20")
    for _ in range(3):
        tab.page.wait_for_timeout(500)
        tab.until(f"{length} > {tab.page.evaluate(length)} + 20")
    tab.find("button", has_text="Stop").click()
    expect(tab.find(".run-head .status")).to_have_text("stopped")
    expect(tab.find(".run-head")).to_contain_text("stopped by")
    assert console.record(run_id)["status"] == "stopped"


def test_the_slider_shows_the_run_as_it_was(console: ServerProcess, tab: Tab) -> None:
    run_id = clerks_run(console)
    [called] = [event["seq"] for event in console.events(run_id) if event["type"] == "tool.started"]
    tab.open(f"runs/{run_id}?at={called}")
    row = tab.find(STEP, has_text="look_up")
    expect(row.locator(".word")).to_have_text("running")
    expect(tab.find(".run-head .status")).to_have_text("running")
    tab.find(".time-slider button[aria-label='One event on']").click()
    assert f"at={called + 1}" in tab.page.url
    expect(row.locator(".word")).to_have_count(0)
    tab.find("button", has_text="Back to now").click()
    expect(tab.find(".run-head .status")).to_have_text("done")
    assert "at=" not in tab.page.url


def test_text_that_was_being_said_is_shown_as_of_then(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("quick", "one two three four")
    console.ended(run_id)
    tokens = [event["seq"] for event in console.events(run_id) if event["type"] == "llm.token"]
    tab.open(f"runs/{run_id}?tab=transcript&at={tokens[1]}")
    expect(tab.find(".entry.said .prose")).to_have_text("one two")


def test_events_are_shown_with_their_seq_and_data(console: ServerProcess, tab: Tab) -> None:
    run_id = clerks_run(console)
    events = console.events(run_id)
    tab.open(f"runs/{run_id}?tab=events")
    expect(tab.find(".event")).to_have_count(len(events))
    tab.find(".event", has_text="tool.finished").click()
    expect(tab.find(".detail")).to_contain_text("on page 12")
    assert "from=" in tab.page.url


def test_a_note_is_an_event_of_its_author(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin_silent()
    tab.open(f"runs/{run_id}")
    tab.find("button", has_text="Note or message").click()
    tab.find("dialog textarea").fill("checked by hand")
    tab.find("dialog button[type=submit]").click()
    tab.shows("note", STEP)
    assert tab.page.evaluate("getComputedStyle(document.querySelector('.step.note')).boxShadow") == "none"
    [note] = [event for event in console.events(run_id) if event["type"] == "custom.note"]
    assert (note["data"], note["by"]) == ({"text": "checked by hand"}, "local")
    console.stop_run(run_id)


def test_a_run_is_started_again_with_edits(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("quick", "say this", session_id="again", metadata={"a": 1})
    console.ended(run_id)
    tab.open(f"runs/{run_id}")
    tab.find("a", has_text="Run again").click()
    expect(tab.find("#input")).to_have_value("say this")
    tab.find("#input").fill("say that")
    tab.find("button[type=submit]").click()
    tab.shows("say that", "h1")
    record = console.record(tab.page.url.rpartition("/")[2])
    assert (record["input"], record["session_id"], record["metadata"]) == ("say that", "again", {"a": 1})


def test_a_run_is_forked_at_the_time_of_the_slider(console: ServerProcess, tab: Tab) -> None:
    run_id = clerks_run(console)
    tool_ended = next(each["seq"] for each in console.events(run_id) if each["type"] == "tool.finished")
    tab.open(f"runs/{run_id}?at={tool_ended}")
    tab.page.get_by_role("button", name="Fork…").click()
    tab.page.get_by_role("button", name="Fork", exact=True).click()
    tab.page.wait_for_url(lambda url: "/runs/" in url and run_id not in url)
    forked = re.search(r"/runs/([0-9a-f-]+)", tab.page.url)
    assert forked is not None
    record = console.ended(forked[1])
    assert (record["parent_run_id"], record["status"]) == (run_id, "success")
    assert console.events(forked[1])[0]["data"]["forked_at_seq"] <= tool_ended
    expect(tab.find(f".facts a[href*='runs/{run_id}']")).to_have_text(run_id[-12:])
    tab.find(".facts a", has_text="compare").click()
    tab.shows("Compare two runs", "h1")
    types = [each["type"] for each in console.events(forked[1])]
    assert types.count("tool.started") == 0  # its result came from the log


def test_a_run_is_kept_as_ndjson_html_and_markdown(console: ServerProcess, tab: Tab) -> None:
    run_id = clerks_run(console)
    tab.open(f"runs/{run_id}")
    lines = downloaded(tab.page, "NDJSON").splitlines()
    assert [json.loads(line) for line in lines] == console.events(run_id)
    html, markdown = downloaded(tab.page, "HTML"), downloaded(tab.page, "Markdown")
    for kept in (html, markdown):
        assert "on page 12" in kept
        assert "look_up" in kept
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert not re.search(r"https?://", html)


def test_the_first_sight_of_a_run_has_its_answer_and_what_each_step_did(
    console: ServerProcess, tab: Tab
) -> None:
    run_id = clerks_run(console)
    tab.open(f"runs/{run_id}")
    answer = console.record(run_id)["result"]["text"]
    expect(tab.find(".answer-box")).to_contain_text(answer[:20])
    expect(tab.find(".step.tool .preview")).to_contain_text("word")
    expect(tab.find(".step.model .preview").last).to_contain_text(answer[:20])
    expect(tab.find(".step.model .spent").last).to_contain_text(re.compile(r"\d tok"))
    tab.find(".step.tool").click()
    expect(tab.find(".answer-box")).to_have_count(0)


def test_the_reason_of_a_stop_is_shown_but_not_before_it(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin_silent()
    console.http.post(f"/runs/{run_id}/stop", json={"reason": "user_cancelled"})
    reason = console.ended(run_id)["reason"]
    tab.open(f"runs/{run_id}")
    expect(tab.find(".run-head .facts")).to_contain_text(f"reason{reason}")
    expect(tab.find(".run-head .facts")).to_contain_text("stopped by")
    tab.open(f"runs/{run_id}?at=2")
    expect(tab.find(".run-head .status")).to_have_text("running")
    expect(tab.find(".run-head .facts")).not_to_contain_text("stopped by")
    expect(tab.find(".run-head .facts")).not_to_contain_text("reason")


def test_a_past_that_cannot_be_read_is_an_error_and_not_the_present(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("quick", "one two three four")
    console.ended(run_id)
    [second] = [each["seq"] for each in console.events(run_id) if each["type"] == "llm.token"][1:2]
    refusal = {"error": {"code": "broken", "message": "The disk is gone."}}
    tab.page.route("**/steps?*at=*", lambda route: route.fulfill(status=500, json=refusal))
    tab.open(f"runs/{run_id}?tab=transcript&at={second}")
    tab.shows("The disk is gone.")
    assert tab.find(".entry.said").count() == 0


def test_text_that_is_not_loaded_is_named(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("quick", "one two three four")
    console.ended(run_id)
    last = [each["seq"] for each in console.events(run_id) if each["type"] == "llm.token"][-1]

    def cut(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "unread": [2, last]})

    tab.page.route("**/steps?*at=*", cut)
    tab.open(f"runs/{run_id}?tab=transcript&at={last}")
    tab.shows(f"between the events 2 and {last} is not loaded", ".hint")


def test_a_kept_file_has_the_text_of_an_agent_without_messages(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("teller", "tales")
    console.ended(run_id)
    tab.open(f"runs/{run_id}")
    for label in ("HTML", "Markdown"):
        assert "told tales" in downloaded(tab.page, label)


def test_the_result_of_code_is_on_the_transcript(console: ServerProcess, tab: Tab) -> None:
    code = "async def run(input, emit):\n    return {'planets': 8, 'nearest': input}"
    run_id = begin(console.http, code, "Mercury")
    console.ended(run_id)
    tab.open(f"runs/{run_id}?tab=transcript")
    expect(tab.find(".answer-box summary")).to_have_text("Result")
    expect(tab.find(".answer-box")).to_contain_text("planets")
    expect(tab.find(".answer-box")).to_contain_text("Mercury")


def test_messages_that_the_agent_has_not_taken_are_named(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("deaf", "shirts")
    said = [
        console.http.post(f"/runs/{run_id}/inputs", json={"content": text}).json()["last_seq"]
        for text in ("And socks.", "And shoes.")
    ]
    (console.folder / "go").touch()
    assert console.ended(run_id)["unheard"] == said
    tab.open(f"runs/{run_id}")
    named = f"The agent has not taken the messages added as events {said[0]}, {said[1]}."
    expect(tab.find(".hint")).to_have_text(named)
