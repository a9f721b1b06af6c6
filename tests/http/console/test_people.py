"""The users that started, answered and stopped a run, and the view of a workspace's members."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.http.console.conftest import AGENTS, CONFIG
from tests.http.console.tab import Tab, tab_of
from tests.http.console.test_inbox import TEAM
from tests.kit.keys import make_key
from tests.kit.server import ServerProcess, serving

ROW = ".run-row:not(.head)"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose users are approvers in the workspace red; ann has runs in it, and one of her own."""
    folder = tmp_path_factory.mktemp("team")
    with serving(folder, f'{CONFIG}\n[server]\nauthenticate = "agents:who"\n', AGENTS + TEAM) as server:
        server.http.headers["x-user"] = "ann"
        server.ended(server.begin("quick", "for the whole team", workspace_id="red"))
        server.ended(server.begin("quick", "for ann alone"))
        yield server


@pytest.fixture
def ben(browser: Browser, team: ServerProcess) -> Iterator[Tab]:
    """Ben's tab; he has no run of his own."""
    url, headers = str(team.http.base_url), {"x-user": "ben"}
    with tab_of(browser, url, extra_http_headers=headers) as tab:
        yield tab


def test_a_member_sees_the_runs_of_the_workspace_and_only_these(ben: Tab, team: ServerProcess) -> None:
    ben.open()
    ben.shows("No runs yet")
    ben.find("select[aria-label=Workspace]").select_option("red")
    row = ben.find(ROW, has_text="for the whole team")
    expect(row.locator(".user")).to_have_text("ann")
    assert "workspace=red" in ben.page.url
    expect(ben.find(ROW, has_text="for ann alone")).to_have_count(0)
    team.ended(team.begin("quick", "a later one", workspace_id="red"))
    ben.shows("a later one", ROW)
    row.locator("a").click()
    expect(ben.find(".run-head .facts")).to_contain_text(re.compile("userann.*workspacered", re.DOTALL))


def test_a_member_has_no_button_for_what_only_the_owner_may_do(ben: Tab, team: ServerProcess) -> None:
    run_id = team.begin("silent", "hers", workspace_id="red")
    ben.open(f"runs/{run_id}")
    expect(ben.find(".actions a", has_text="Run again")).to_have_count(1)
    for name in ("Stop", "Note or message"):
        expect(ben.find(".actions button", has_text=name)).to_have_count(0)
    team.stop_run(run_id)


def test_an_answer_names_who_gave_it(ben: Tab, team: ServerProcess) -> None:
    run_id = team.begin("bank", "pay the rent", workspace_id="red")
    team.waiting(run_id)
    ben.open(f"runs/{run_id}")
    ben.find(".ask button", has_text="Approve").click()
    expect(ben.find(".run-head .status")).to_have_text("done")
    ben.find(".step.question").click()
    expect(ben.find(".detail")).to_contain_text("Answer of ben")
    ben.open(f"runs/{run_id}?tab=transcript")
    expect(ben.find(".entry.asked")).to_contain_text("Answer of ben")


def test_a_run_shows_who_started_and_who_stopped_it_and_with_which_key(
    browser: Browser, tmp_path: Path
) -> None:
    ann, root = make_key(tmp_path, "ann"), make_key(tmp_path, "root", "admin")
    with serving(tmp_path, CONFIG, AGENTS) as server:
        server.http.headers["Authorization"] = f"Bearer {ann}"
        run_id = server.begin("silent", "stop me")
        server.http.headers["Authorization"] = f"Bearer {root}"
        server.stop_run(run_id)
        record = server.record(run_id)
        started, stopped = record["started_by"]["key_id"], record["stopped_by"]["key_id"]
        assert started != stopped
        with tab_of(browser, str(server.http.base_url)) as tab:
            tab.open(f"runs/{run_id}")
            tab.find("#key").fill(ann)
            tab.find("button[type=submit]").click()
            facts = tab.find(".run-head .facts > div")
            expect(facts.filter(has_text="started by")).to_contain_text(f"ann (key {started})")
            expect(facts.filter(has_text="stopped by")).to_contain_text(f"root (key {stopped})")
