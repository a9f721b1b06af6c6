"""Logins in a browser: keys that stay in the tab, and users who see nothing of each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.http.console.conftest import AGENTS, CONFIG
from tests.http.console.tab import Tab, tab_of
from tests.kit.keys import client, make_key
from tests.kit.server import ServerProcess, serving

ROW = ".run-row:not(.head)"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("keyed")
    roles = {"alice": "user", "bob": "user", "carol": "auditor", "root": "admin"}
    found = {user: make_key(folder, user, role) for user, role in roles.items()}  # type: ignore[arg-type]
    return {**found, "": str(folder)}


@pytest.fixture(scope="module")
def keyed(keys: dict[str, str]) -> Iterator[ServerProcess]:
    """A server with keys, on which alice has a run."""
    with serving(Path(keys[""]), CONFIG, AGENTS) as server:
        server.http.headers["Authorization"] = f"Bearer {keys['alice']}"
        server.ended(server.begin("quick", "a secret of alice"))
        yield server


@pytest.fixture
def stranger(browser: Browser, keyed: ServerProcess) -> Iterator[Tab]:
    with tab_of(browser, str(keyed.http.base_url)) as tab:
        yield tab


def log_in(tab: Tab, key: str, path: str = "") -> Tab:
    tab.open(path)
    tab.find("#key").fill(key)
    tab.find("button[type=submit]").click()
    return tab


def test_a_key_opens_the_console_and_is_never_in_a_url_or_kept_on_disk(
    stranger: Tab, keys: dict[str, str]
) -> None:
    log_in(stranger, keys["alice"]).shows("a secret of alice", ROW)
    stranger.page.reload()
    stranger.shows("a secret of alice", ROW)
    assert not [each.url for each in stranger.requests if keys["alice"] in each.url]
    assert keys["alice"] not in stranger.page.evaluate("JSON.stringify({...localStorage}) + document.cookie")


def test_a_wrong_key_is_refused_with_the_reason_and_not_kept(stranger: Tab) -> None:
    log_in(stranger, "rsk_wrong")
    stranger.shows("the API key is unknown", "[role=alert]")
    assert stranger.page.evaluate("sessionStorage.length") == 0


def test_a_second_user_sees_nothing_of_the_first_ones_runs(
    stranger: Tab, keys: dict[str, str], keyed: ServerProcess
) -> None:
    run_id = keyed.http.get("/runs").json()["data"][0]["run_id"]
    log_in(stranger, keys["bob"]).shows("No runs yet")
    paths = (
        f"runs/{run_id}", f"runs/{run_id}?at=1", f"compare?a={run_id}&b={run_id}",
        "runs?q=secret", "runs?user=alice", "sessions?user=alice", "usage?user=alice",
    )  # fmt: skip
    for path in paths:
        stranger.open(path)
        stranger.until("document.querySelector('main') && !document.querySelector('[aria-busy]')")
        assert "secret" not in stranger.page.inner_text("main"), path
        assert "alice" not in stranger.page.inner_text("main").replace("user: alice", ""), path
    for name in ("Users", "Tools", "System"):
        expect(stranger.find("nav a", has_text=name)).to_have_count(0)


def test_an_auditor_sees_all_runs_and_has_no_button_that_changes_one(
    stranger: Tab, keys: dict[str, str]
) -> None:
    log_in(stranger, keys["carol"]).shows("a secret of alice", ROW)
    stranger.find(f"{ROW} input").first.click()
    stranger.shows("1 run chosen")
    for name in ("Stop", "Retry", "Delete", "Start a run"):
        expect(stranger.find(".bulk button, .page-head a", has_text=name)).to_have_count(0)


def test_a_login_that_ends_asks_for_another_key(stranger: Tab, keys: dict[str, str]) -> None:
    log_in(stranger, keys["bob"]).shows("No runs yet")
    stranger.find("button", has_text="Log out").click()
    expect(stranger.find("#key")).to_be_visible()
    assert stranger.page.evaluate("sessionStorage.length") == 0


def test_the_api_says_who_the_user_is(keyed: ServerProcess, keys: dict[str, str]) -> None:
    with client(keyed, keys["carol"]) as http:
        found = http.get("/me").json()
    assert (found["user_id"], found["roles"], found["login"]) == ("carol", ["auditor"], "key")
    assert found["key_id"] in keys["carol"]


def test_a_user_gets_reports_of_the_users_own_runs_only(keyed: ServerProcess, keys: dict[str, str]) -> None:
    paths: dict[str, dict[str, str]] = {
        "/audit/runs": {}, "/audit/usage": {}, "/audit/search": {"text": "secret"},
    }  # fmt: skip
    for user, allowed in (("alice", 200), ("bob", 403)):
        with client(keyed, keys[user]) as http:
            for path, asked in paths.items():
                answer = http.get(path, params={"user_id": "alice", **asked})
                assert answer.status_code == allowed, path
                assert http.get(path, params=asked).status_code == 403, "all users' runs"
            assert http.get("/audit/tools").status_code == 403


def test_a_users_own_report_leaves_out_deleted_runs(keyed: ServerProcess, keys: dict[str, str]) -> None:
    run_id = keyed.begin("quick", "a regret of alice")
    keyed.ended(run_id)
    assert keyed.http.delete(f"/runs/{run_id}").status_code == 204
    with client(keyed, keys["alice"]) as http:
        listed = http.get("/audit/runs", params={"user_id": "alice", "deleted": "any"}).json()["data"]
        hits = http.get("/audit/search", params={"user_id": "alice", "text": "regret"}).json()["data"]
    assert run_id not in [run["run_id"] for run in listed]
    assert hits == []
