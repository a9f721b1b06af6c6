"""The console's files over HTTP."""

import re
from pathlib import Path

import httpx
import pytest

import runstore
from runstore.http.console.assets import Assets
from runstore.http.console.routes import POLICY
from tests.kit.server import ServerProcess, serving

STATIC = Path(runstore.__file__).parent / "http/console/static"
MOST_BYTES = 150 * 1_000  # of all scripts together, vendored and own, uncompressed
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def http(console: ServerProcess) -> httpx.Client:
    return console.http


def test_a_browser_is_led_from_the_root_to_the_console(http: httpx.Client) -> None:
    answer = http.get("/", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (307, "console/")
    answer = http.get("/", headers=HTML, follow_redirects=True)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
def test_a_client_of_the_api_finds_nothing_at_the_root(http: httpx.Client, accept: str) -> None:
    answer = http.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_every_file_of_a_page_is_found_relative_to_it(http: httpx.Client) -> None:
    for path in ("/console/", "/console/runs", "/console/runs/01890a5d-ac96-774b-bcce-b302099a8057"):
        page = http.get(path)
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) > 5
        for link in links:
            assert not link.startswith(("/", "http"))
            answer = http.get(str(page.url.join(link)))
            assert answer.status_code == 200, link
            assert "immutable" in answer.headers["cache-control"]
            assert list(answer.headers)[-1] == "cache-control", "headers that are cut do not have it"
            assert answer.headers["content-security-policy"] == POLICY


def test_a_page_allows_no_script_style_or_connection_from_elsewhere(http: httpx.Client) -> None:
    answer = http.get("/console/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|style=", answer.text)


def test_a_known_version_is_answered_304(http: httpx.Client) -> None:
    page = http.get("/console/")
    assert page.headers["cache-control"] == "no-cache"
    again = http.get("/console/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_file_is_compressed_for_clients_that_take_it(http: httpx.Client) -> None:
    path = f"/console/static/{Assets().version}/app.js"
    packed = http.get(path, headers={"Accept-Encoding": "gzip"})
    plain = http.get(path, headers={"Accept-Encoding": "gzip;q=0"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content == (STATIC / "app.js").read_bytes()


@pytest.mark.parametrize(
    "path", ["/console/static/1/app.py", "/console/static/1/../../app.js", "/console/a/b/c", "/console/A"]
)
def test_other_paths_are_not_found(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404


def test_all_scripts_together_are_small_and_each_is_of_some_page() -> None:
    scripts = {str(path.relative_to(STATIC)): path.stat().st_size for path in STATIC.rglob("*.js")}
    assert sum(scripts.values()) < MOST_BYTES
    pages = [f"pages/{path.name}" for path in (STATIC / "pages").glob("*.js")]
    assert {each for page in pages for each in Assets().scripts(page)} == set(scripts)


@pytest.mark.parametrize(("page", "module"), [("usage", "reports"), ("", "runs"), ("runs/x", "run")])
def test_a_page_links_its_own_scripts(http: httpx.Client, page: str, module: str) -> None:
    assert f'pages/{module}.js">' in http.get(f"/console/{page}").text


def test_each_file_of_another_project_is_listed_with_version_licence_and_digest() -> None:
    listed = (STATIC / "vendor/VENDORED.txt").read_text()
    for path in (STATIC / "vendor").glob("*.js"):
        section = listed.partition(f"\n{path.name}\n")[2]
        assert re.search(r"package +\S+ \d+\.\d+\.\d+", section)
        assert re.search(r"licence +\S+", section)
        assert Assets().files[f"vendor/{path.name}"].etag[1:33] in section


def test_the_console_can_be_turned_off(tmp_path: Path) -> None:
    with serving(tmp_path, no_console=True) as server:
        assert server.http.get("/", headers=HTML).status_code == 404
        assert server.http.get("/console/").status_code == 404
        assert "/console/" not in server.log


def test_the_server_says_where_the_console_is(console: ServerProcess) -> None:
    assert f"url={console.http.base_url}".rstrip("/") + "/console/" in console.log


def test_a_file_needs_no_login_and_the_api_does(tmp_path: Path) -> None:
    from tests.kit.keys import make_key

    make_key(tmp_path, "alice")
    with serving(tmp_path) as server:
        assert server.http.get("/console/").status_code == 200
        assert server.http.get("/me").status_code == 401
