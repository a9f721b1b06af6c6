"""A run as a tree of steps, and two runs beside each other, over HTTP."""

from typing import Any

import pytest

from runstore.http.native.steps import LATEST, SHORT_RUN
from runstore.store.steps import MAX_FOLDED, MAX_FOLDED_BYTES
from tests.http.test_documented_answers import assert_documented
from tests.kit.keys import url_of
from tests.kit.purging import purge_run
from tests.kit.server import ServerProcess


def steps(server: ServerProcess, run_id: str, **parameters: Any) -> dict[str, Any]:
    answer = server.http.get(f"/runs/{run_id}/steps", params=parameters)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def test_a_closed_run_has_all_its_steps(server: ServerProcess, closed_run: str) -> None:
    page = steps(server, closed_run)
    assert [step["kind"] for step in page["data"]] == ["attempt", "agent", "model", "end"]
    assert (page["status"], page["ended"], page["next"], page["after"]) == ("success", True, None, 0)
    assert page["upto"] == server.record(closed_run)["last_seq"]
    assert (page["input"]["input"], page["input"]["user_id"]) == ("one two three", "local")
    assert page["output_tokens"] > 0


def test_the_steps_at_an_earlier_event_have_the_text_of_then(server: ServerProcess, closed_run: str) -> None:
    [first, second, *_] = [each for each in server.events(closed_run) if each["type"] == "llm.token"]
    page = steps(server, closed_run, at=second["seq"])
    [call] = [step for step in page["data"] if step["kind"] == "model"]
    assert call["text"] == first["data"]["text"] + second["data"]["text"]
    assert (page["status"], page["ended"]) == ("running", False)


def test_changes_are_only_the_steps_of_later_events(server: ServerProcess, silent_run: str) -> None:
    before = steps(server, silent_run)
    server.note(silent_run, "news")
    [note] = steps(server, silent_run, changed=before["upto"])["data"]
    assert (note["kind"], note["data"], note["by"]) == ("note", "news", "local")


def test_a_limit_says_where_the_steps_go_on(server: ServerProcess, silent_run: str) -> None:
    server.note(silent_run, "one")
    seq = server.note(silent_run, "two")
    page = steps(server, silent_run, limit=2)
    assert page["next"] == page["upto"] < seq
    rest = steps(server, silent_run, after=page["next"])
    assert (rest["next"], rest["after"], rest["data"][-1]["seq"]) == (None, page["next"], seq)


@pytest.mark.slow
def test_a_long_open_run_begins_with_its_last_events(server: ServerProcess, silent_run: str) -> None:
    for start in range(0, SHORT_RUN, 1_000):
        events = [{"type": "custom.note", "data": {"text": f"{start + n}"}} for n in range(1_000)]
        assert server.http.post(f"/runs/{silent_run}/events", json={"events": events}).status_code == 201
    page = steps(server, silent_run)
    assert page["after"] == page["upto"] - LATEST
    assert len(page["data"]) == LATEST
    assert steps(server, silent_run, at=50)["after"] == 0


@pytest.mark.parametrize("parameters", [{"limit": 0}, {"limit": MAX_FOLDED + 1}, {"after": -1}, {"at": 0}])
def test_bounds_are_kept(server: ServerProcess, closed_run: str, parameters: dict[str, int]) -> None:
    answer = server.http.get(f"/runs/{closed_run}/steps", params=parameters)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")


def test_a_place_beyond_the_run_is_refused(server: ServerProcess, closed_run: str) -> None:
    answer = server.http.get(f"/runs/{closed_run}/steps", params={"at": 9_999})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


def test_two_runs_are_compared(server: ServerProcess, closed_run: str) -> None:
    other = server.begin("quick", "one four three")
    server.ended(other)
    page = server.http.get(f"/runs/{closed_run}/compare/{other}").json()
    assert [each["run"]["run_id"] for each in page["runs"]] == [closed_run, other]
    first = page["data"][0]
    assert (first["kind"], first["parts"]) == (
        "input", [["same", "one "], ["left", "two "], ["right", "four "], ["same", "three"]],
    )  # fmt: skip
    assert [pair["kind"] for pair in page["data"]] == ["input", "model", "result"]
    assert page["complete"] is True


def test_a_comparison_with_a_purged_run_is_410(server: ServerProcess, closed_run: str) -> None:
    other = server.begin("quick", "secret")
    server.ended(other)
    purge_run(url_of(server.folder), other)
    for path in (f"/runs/{closed_run}/compare/{other}", f"/runs/{other}/compare/{closed_run}"):
        assert_documented(
            server.http.get(path), 410, "run_purged", "get", "/runs/{run_id}/compare/{other_id}"
        )


def test_steps_of_large_events_end_at_a_size_and_go_on_after_it(
    server: ServerProcess, silent_run: str
) -> None:
    large = "x" * 1_000_000
    for _ in range(MAX_FOLDED_BYTES // 1_000_000 + 2):
        server.note(silent_run, large)
    page = steps(server, silent_run)
    assert (
        sum(len(step["data"]) for step in page["data"] if step["kind"] == "note")
        <= MAX_FOLDED_BYTES + 1_000_000
    )
    rest = steps(server, silent_run, after=page["next"])
    assert [step["seq"] for step in rest["data"]] == list(range(page["next"] + 1, rest["upto"] + 1))


def test_a_comparison_with_no_run_is_not_found(server: ServerProcess, closed_run: str) -> None:
    answer = server.http.get(f"/runs/{closed_run}/compare/{closed_run[:-1]}x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "run_not_found")
