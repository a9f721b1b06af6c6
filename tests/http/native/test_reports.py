"""`/audit/runs`, `/audit/usage`, `/audit/tools`, `/audit/search` and `/sessions` on a real server."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.kit.polling import until
from tests.kit.server import ServerProcess


def ask(http: httpx.Client, path: str, **parameters: Any) -> Any:
    answer = http.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def reported(server: ServerProcess) -> str:
    """A new session with one run that has ended, and that the projections have."""
    session_id = f"reported-{uuid4()}"
    server.ended(server.begin("quick", "zebra crossing ahead", session_id=session_id))
    await until(lambda: [each["succeeded"] for each in sessions(server.http, session_id)] == [1])
    await until(lambda: ask(server.http, "/audit/runs", session_id=session_id)["totals"]["duration_ms"] > 0)
    return session_id


def sessions(http: httpx.Client, session_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(http, "/sessions", limit=1_000)["data"]
    return [each for each in found if each["session_id"] == session_id]


async def test_a_run_is_reported_with_what_it_used_also_when_it_is_deleted(server: ServerProcess) -> None:
    session = await reported(server)
    (run,) = ask(server.http, "/audit/runs", session_id=session)["data"]
    assert (run["user_id"], run["agent"], run["status"]) == ("local", "quick", "success")
    assert (run["calls"], run["unpriced"], run["cost"], run["deleted"]) == (1, True, 0, False)
    assert run["tokens"] == 6
    assert run["created_at"] <= run["started_at"] <= run["completed_at"]
    server.http.delete(f"/runs/{run['run_id']}").raise_for_status()
    asked = {"session_id": session, "sort": "tokens", "text": '"zebra crossing"'}
    await until(lambda: len(ask(server.http, "/audit/runs", **asked)["data"]) > 0)
    page = ask(server.http, "/audit/runs", **asked)
    assert [each["deleted"] for each in page["data"]] == [True]
    assert page["totals"] == {
        "runs": 1, "calls": 1, "tokens": 6, "duration_ms": run["duration_ms"], "cost": 0,
    }  # fmt: skip
    await until(lambda: sessions(server.http, session) == [])


async def test_sums_are_of_the_first_page_or_asked_for(server: ServerProcess) -> None:
    session = await reported(server)
    server.ended(server.begin("quick", "zebra", session_id=session))
    await until(lambda: len(ask(server.http, "/audit/runs", session_id=session)["data"]) == 2)
    first = ask(server.http, "/audit/runs", session_id=session, limit=1)
    assert first["totals"]["runs"] == 2
    rest = {"session_id": session, "after": first["next"]}
    assert ask(server.http, "/audit/runs", **rest)["totals"] is None
    assert ask(server.http, "/audit/runs", **rest, totals="true")["totals"]["runs"] == 2
    oldest = ask(server.http, "/audit/runs", session_id=session, order="asc", totals="false")
    assert (oldest["totals"], oldest["data"][-1]) == (None, first["data"][0])


async def test_a_session_has_a_title_and_counts(server: ServerProcess) -> None:
    session = await reported(server)
    (found,) = sessions(server.http, session)
    assert found["title"] == "zebra crossing ahead"
    assert (found["runs"], found["open"], found["user_id"]) == (1, 0, "local")
    assert found["first_at"] <= found["last_at"]


async def test_a_text_is_found_with_its_event(server: ServerProcess) -> None:
    session = await reported(server)
    (run,) = ask(server.http, "/audit/runs", session_id=session)["data"]
    question = {"text": "Crossing zebra", "run_id": run["run_id"]}
    await until(lambda: len(ask(server.http, "/audit/search", **question)["data"]) > 1)
    found = ask(server.http, "/audit/search", **question)
    assert {hit["kind"] for hit in found["data"]} == {"input", "answer"}
    hit = found["data"][-1]
    assert (hit["seq"], hit["snippet"], hit["user_id"]) == (1, "zebra crossing ahead", "local")
    assert ask(server.http, "/audit/search", text="zebra", kind="tool")["data"] == []


async def test_usage_is_grouped(server: ServerProcess) -> None:
    await reported(server)
    rows = ask(server.http, "/audit/usage", group="agent,model", agent="quick")["data"]
    (row,) = [each for each in rows if each["model"] == "scripted"]
    assert row["agent"] == "quick"
    assert row["runs"] >= row["succeeded"] >= 1
    assert row["unpriced_calls"] == row["calls"] >= 1
    assert "day" not in row
    assert ask(server.http, "/audit/usage", until="2001-01-01")["data"] == []
    assert ask(server.http, "/audit/tools", tool="nothing")["data"] == []
    assert ask(server.http, "/audit/tools", group="day", tool="nothing")["data"] == []


@pytest.mark.parametrize(
    ("path", "parameters", "code", "says"),
    [
        ("/audit/search", {"text": "?!"}, "invalid_query", "letter or digit"),
        ("/audit/search", {}, "invalid_query", "letter or digit"),
        ("/audit/search", {"text": "a", "kind": "joke"}, "invalid_parameter", "input, answer, tool"),
        ("/audit/usage", {"group": "week"}, "invalid_query", "day, user, agent, model"),
        ("/audit/usage", {"since": "yesterday"}, "invalid_parameter", "2026-11-29"),
        ("/audit/runs", {"sort": "size"}, "invalid_parameter", "created, failed, cost"),
        ("/audit/runs", {"sort": "cost", "after": "x"}, "invalid_cursor", "next"),
        ("/audit/runs", {"after": "x"}, "invalid_cursor", "next"),
        ("/audit/runs", {"min_cost": "-1"}, "invalid_parameter", "0.25"),
        ("/audit/tools", {"group": "day,week"}, "invalid_query", "day, agent, tool"),
        ("/audit/tools", {"until": "2026-02-30"}, "invalid_parameter", "2026-02-30"),
        ("/sessions", {"after": "x"}, "invalid_cursor", "next"),
        *(
            (path, {"since": f"2026-02-02{time}", "until": f"2026-02-01{time}"}, "invalid_parameter", "later")
            for path, time in (
                ("/runs", "T00:00:00Z"),
                ("/audit/runs", "T00:00:00Z"),
                ("/audit/usage", ""),
                ("/audit/tools", ""),
            )
        ),
    ],
)
def test_a_wrong_question_is_refused(
    http: httpx.Client, path: str, parameters: dict[str, str], code: str, says: str
) -> None:
    answer = http.get(path, params=parameters)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == code
    assert says in error["message"]
