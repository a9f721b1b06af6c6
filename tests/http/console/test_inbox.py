"""Runs that wait for a person, and what a model was asked."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.http.console.conftest import AGENTS, CONFIG
from tests.http.console.tab import Tab, tab_of
from tests.kit.server import ServerProcess, serving

TEAM = """

def who(request):
    from runstore import User
    name = request.headers.get("x-user")
    return name and User(name, roles=frozenset({"approver"}), workspaces=frozenset({"red"}))
"""


def waiting(console: ServerProcess, text: str) -> str:
    run_id = console.begin("bank", text)
    console.waiting(run_id)
    return run_id


def test_a_call_is_approved_in_the_inbox_and_the_run_goes_on(console: ServerProcess, tab: Tab) -> None:
    run_id = waiting(console, "pay bob five")
    tab.open("inbox")
    card = tab.find(".card", has_text="pay bob five")
    expect(card.locator(".json")).to_contain_text("bob")
    card.locator("button", has_text="Approve").click()
    expect(tab.find(".card", has_text="pay bob five")).to_have_count(0)
    assert console.ended(run_id)["status"] == "success"
    [given] = [event for event in console.events(run_id) if event["type"] == "input.given"]
    assert (given["data"]["answer"], given["data"]["by"]) == ({"approve": True}, "local")


def test_a_call_is_denied_with_a_reason_on_the_runs_page(console: ServerProcess, tab: Tab) -> None:
    run_id = waiting(console, "pay eve all")
    tab.open(f"runs/{run_id}")
    expect(tab.find(".run-head .status")).to_have_text("waiting")
    tab.find(".ask input").fill("not her")
    tab.find(".ask button", has_text="Deny").click()
    expect(tab.find(".run-head .status")).to_have_text("done")
    expect(tab.find(".ask")).to_have_count(0)
    assert console.record(run_id)["status"] == "success"
    tab.find(".step.question").click()
    expect(tab.find(".detail")).to_contain_text("not her")


def test_a_call_is_approved_with_other_arguments(console: ServerProcess, tab: Tab) -> None:
    run_id = waiting(console, "pay ann")
    tab.open(f"runs/{run_id}?tab=transcript")
    tab.find(".ask button", has_text="Change the arguments").click()
    tab.find(".ask textarea").fill('{"to": "zoe"}')
    tab.find(".ask button", has_text="Approve").click()
    expect(tab.find(".run-head .status")).to_have_text("done")
    assert "paid zoe" in str(console.events(run_id))


def test_a_form_is_made_of_the_questions_schema(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("former", "a form")
    console.waiting(run_id)
    tab.open("inbox")
    card = tab.find(".card", has_text="a form")
    for name, value in (("name", "Bob"), ("count", "3"), ("ratio", "0.5")):
        card.locator(f"#answer-{name}").fill(value)
    card.locator("#answer-sure").check()
    card.locator("#answer-size").select_option("2")
    card.locator("button", has_text="Answer").click()
    expect(card).to_have_count(0)
    console.ended(run_id)
    [given] = [event for event in console.events(run_id) if event["type"] == "input.given"]
    assert given["data"]["answer"] == {"name": "Bob", "count": 3, "ratio": 0.5, "sure": True, "size": 2}


def test_the_exact_request_of_a_model_call_is_shown(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("clerk", "ask exactly this")
    console.ended(run_id)
    tab.open(f"runs/{run_id}")
    tab.find(".step.model").last.click()
    request = tab.find(".detail .request")
    expect(request).to_contain_text("ask exactly this")
    expect(request).to_contain_text("on page 12")
    request.locator("summary", has_text="Tools").click()
    expect(request.locator(".json").first).to_contain_text("look_up")


def test_a_message_is_added_to_a_run_under_way(console: ServerProcess, tab: Tab) -> None:
    run_id = console.begin("talker", "talk")
    tab.open(f"runs/{run_id}")
    tab.find("button", has_text="Note or message").click()
    tab.find("dialog button", has_text="Message to the agent").click()
    tab.find("dialog textarea").fill("hurry up")
    tab.find("dialog button[type=submit]").click()
    expect(tab.find(".step.added")).to_have_count(1)
    [added] = [event for event in console.events(run_id) if event["type"] == "input.added"]
    assert added["data"]["content"] == "hurry up"
    console.stop_run(run_id)


def test_an_approver_answers_for_another_member_of_the_workspace(browser: Browser, tmp_path: Path) -> None:
    config = f'{CONFIG}\n[server]\nauthenticate = "agents:who"\n'
    with serving(tmp_path, config, AGENTS + TEAM) as server:
        server.http.headers["x-user"] = "ann"
        run_id = server.begin("bank", "pay the rent", workspace_id="red")
        server.waiting(run_id)
        url, headers = str(server.http.base_url), {"x-user": "ben"}
        with tab_of(browser, url, extra_http_headers=headers) as tab:
            tab.open("inbox")
            tab.find(".card", has_text="pay the rent").locator("button", has_text="Approve").click()
            expect(tab.find(".card")).to_have_count(0)
        assert server.ended(run_id)["status"] == "success"


def test_questions_that_cannot_be_read_are_an_error(console: ServerProcess, tab: Tab) -> None:
    run_id = waiting(console, "pay nobody")
    refusal = {"error": {"code": "broken", "message": "The disk is gone."}}
    tab.page.route("**/inputs", lambda route: route.fulfill(status=500, json=refusal))
    tab.open("inbox")
    tab.shows("The disk is gone.")
    console.http.post(f"/runs/{run_id}/stop")
    console.ended(run_id)


def test_a_large_question_does_not_fold_the_call_of_another_one(console: ServerProcess, tab: Tab) -> None:
    run_ids = [waiting(console, "pay greta"), waiting(console, "pay large")]  # the newest is shown first
    [asked] = console.http.get(f"/runs/{run_ids[1]}/inputs").json()["data"]
    large = {"data": [asked | {"data": [["x"] * 100] * 100}]}
    tab.page.route(f"**/runs/{run_ids[1]}/inputs", lambda route: route.fulfill(json=large))
    tab.open("inbox")
    expect(tab.find(".card", has_text="pay large")).to_have_count(1)
    expect(tab.find(".card", has_text="pay greta").locator(".json")).to_contain_text("greta")
    for run_id in run_ids:
        console.stop_run(run_id)
