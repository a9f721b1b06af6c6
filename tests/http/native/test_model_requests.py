"""The requests to a run's models, over HTTP."""

import pytest

from tests.kit.server import ServerProcess


def test_the_requests_of_a_run_are_listed_and_read(server: ServerProcess, closed_run: str) -> None:
    page = server.http.get(f"/runs/{closed_run}/requests").json()
    (listed,) = page["data"]
    assert (listed["n"], listed["agent"], listed["messages"], page["next"]) == (1, "quick", 1, None)
    request = server.http.get(f"/runs/{closed_run}/requests/1").json()
    assert request["messages"] == [{"role": "user", "content": [{"text": "one two three"}]}]
    assert request["sources"] == [{"seq": 1}]
    assert (request["seq"], request["complete"]) == (listed["seq"], True)
    assert server.events(closed_run)[listed["seq"] - 1]["type"] == "llm.request"


def test_the_request_of_an_event_is_found(server: ServerProcess, closed_run: str) -> None:
    (listed,) = server.http.get(f"/runs/{closed_run}/requests").json()["data"]
    for seq, found in ((listed["seq"], [listed]), (listed["seq"] + 1, [])):
        page = server.http.get(f"/runs/{closed_run}/requests", params={"seq": seq}).json()
        assert page == {"data": found, "next": None}


def test_pages_of_requests_end(server: ServerProcess, closed_run: str) -> None:
    page = server.http.get(f"/runs/{closed_run}/requests", params={"after": 1, "limit": 1}).json()
    assert page == {"data": [], "next": None}


@pytest.mark.parametrize("n", ["2", "0", "x", "-1", "9" * 30])
def test_a_request_that_is_not_there_is_404(server: ServerProcess, closed_run: str, n: str) -> None:
    answer = server.http.get(f"/runs/{closed_run}/requests/{n}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found")
