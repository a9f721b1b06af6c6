"""A run as a file that people read."""

import re
from typing import Any

import pytest

from tests.kit.server import ServerProcess

HOSTILE = "<script>alert(1)</script> ```` [x](javascript:1) \u202e \x1b]0;title\x07"


def test_a_run_is_kept_as_markdown_unless_html_is_preferred(server: ServerProcess, closed_run: str) -> None:
    plain = server.http.get(f"/runs/{closed_run}/transcript")
    assert plain.headers["content-type"] == "text/markdown; charset=utf-8"
    assert plain.text.startswith(f"# quick, run {closed_run}\n\n- status: success\n- user: local\n")
    assert "## Input of local\n\none two three\n" in plain.text
    html = server.http.get(f"/runs/{closed_run}/transcript", headers={"Accept": "text/html"})
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert html.headers["content-disposition"] == f'attachment; filename="{closed_run}.html"'
    assert "sandbox" in html.headers["content-security-policy"]
    assert html.text.endswith("</body></html>\n")


def test_no_text_becomes_html(server: ServerProcess) -> None:
    run_id = server.begin("quick", HOSTILE)
    server.ended(run_id)
    html = server.http.get(f"/runs/{run_id}/transcript", headers={"Accept": "text/html"}).text
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert re.search(r"http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'", html)


@pytest.mark.parametrize("accept", ["text/html", "text/markdown"])
def test_no_character_hides_text_or_commands_a_terminal(server: ServerProcess, accept: str) -> None:
    run_id = server.begin("quick", HOSTILE, session_id="\u202eevil")
    server.ended(run_id)
    text = server.http.get(f"/runs/{run_id}/transcript", headers={"Accept": accept}).text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    assert "\\u202eevil" in text
    assert "\\u001b]0;title" in text


def test_a_fence_is_longer_than_any_in_its_text(server: ServerProcess) -> None:
    document = {"format": "txt", "name": "````", "source": {"bytes": "aGk="}}
    run_id = server.begin("quick", [{"text": "hi"}, {"document": document}])
    server.ended(run_id)
    assert "\n`````json\n" in server.http.get(f"/runs/{run_id}/transcript").text


def test_an_open_run_is_kept_as_far_as_it_has_come(server: ServerProcess, silent_run: str) -> None:
    server.note(silent_run, "so far")
    text = server.http.get(f"/runs/{silent_run}/transcript").text
    assert "- status: running" in text
    assert "## note of local\n\nso far\n" in text


@pytest.mark.parametrize(
    "data",
    [
        [{"image": {"format": ["png"], "source": {"bytes": "aGk="}}}],
        [{"image": {"format": "png", "source": "aGk="}}],
        [{"image": {"format": {}, "source": None}}],
        [{"text": 5}],
    ],
)
def test_malformed_content_is_shown_as_it_is(server: ServerProcess, silent_run: str, data: Any) -> None:
    answer = server.http.post(f"/runs/{silent_run}/events", json={"type": "custom.odd", "data": data})
    assert answer.status_code == 201
    text = server.http.get(f"/runs/{silent_run}/transcript").text
    assert next(iter(data[0])) in text.partition("## odd of local")[2]
