"""An auditor reads everything and changes nothing, on every surface."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from runstore.http.app import SURFACES
from tests.http.conftest import CONFIG
from tests.http.routes import OPEN_PATHS, ROUTES
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import SILENT_AGENT, ServerProcess, serving
from tests.kit.teams import ALONE, EXECUTOR, Executor

CHANGING = [(o.method, path) for s in SURFACES for path, o in s.operations if o.changes]
POSTS_THAT_READ = {
    "/runs/{run_id}/ticket",
    "/stream/ticket",
    f"{EXECUTOR}/hierarchies/list",
    f"{EXECUTOR}/hierarchies/get",
    f"{EXECUTOR}/runs/stream",
    f"{EXECUTOR}/runs/get",
    f"{EXECUTOR}/runs/list",
}


class People(NamedTuple):
    server: ServerProcess
    alice: httpx.Client
    auditor: httpx.Client
    run_id: str  # alice's, which is active
    hierarchy_id: str  # alice's


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("auditor")
    keys = [make_key(folder, "alice"), make_key(folder, "carol", "auditor")]
    with serving(folder, CONFIG, SILENT_AGENT, heartbeat_s=0.2) as server:
        with client(server, keys[0]) as alice, client(server, keys[1]) as auditor:
            run_id = alice.post("/agents/silent/start", json={"input": "hi"}).json()["run_id"]
            while any(auditor.get(path).status_code == 503 for path in REPORTS):
                pass  # their projections are being made
            yield People(server, alice, auditor, run_id, Executor(alice).create())
        assert_no_traceback(server.log)


REPORTS = ("/audit/runs", "/audit/usage", "/audit/tools", "/audit/search?text=hi", "/sessions")


def bodies(people: People) -> dict[str, Any]:
    """Of each route that takes one, a body that an owner may send."""
    return {
        "/agents/run-code/start": {"code": "print(1)"},
        "/agents/run-code/stream": {"code": "print(1)"},
        "/agents/{agent}/start": {"input": "hi"},
        "/agents/{agent}/stream": {"input": "hi"},
        "/runs/{run_id}/events": {"type": "custom.note"},
        "/v1/chat/completions": {"prompt": "hi", "model": "quick"},
        f"{EXECUTOR}/hierarchies/create": ALONE,
        f"{EXECUTOR}/hierarchies/get": {"hierarchy_id": people.hierarchy_id},
        f"{EXECUTOR}/hierarchies/delete": {"hierarchy_id": people.hierarchy_id},
        f"{EXECUTOR}/runs/start": {"hierarchy_id": people.hierarchy_id, "task": "hi"},
        f"{EXECUTOR}/runs/stream": {"run_id": people.run_id},
        f"{EXECUTOR}/runs/cancel": {"run_id": people.run_id},
        f"{EXECUTOR}/runs/get": {"run_id": people.run_id},
    }


def ask(people: People, method: str, path: str) -> int:
    """The status that the auditor gets for a request that the owner may make; a stream is not read."""
    body = bodies(people).get(path)
    names = {"agent": "quick", "model": "quick", "request_id": "1.1", "n": 1, "name": "runs"}
    url = path.format(run_id=people.run_id, other_id=people.run_id, **names)
    options: dict[str, Any] = {} if body is None else {"json": body}
    if path == "/audit/search":
        options["params"] = {"text": "hi"}
    with people.auditor.stream(method, url, **options) as answer:
        return answer.status_code


def test_every_route_except_get_changes_something_apart_from_these() -> None:
    assert {path for method, path in ROUTES if method not in ("GET", "HEAD")} == {
        path for _, path in CHANGING
    } | POSTS_THAT_READ


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_an_auditor_changes_nothing(people: People, method: str, path: str) -> None:
    assert ask(people, method, path) == 403


@pytest.mark.parametrize(
    ("method", "path"), [route for route in ROUTES if route not in CHANGING and route[1] not in OPEN_PATHS]
)
def test_an_auditor_reads_everything(people: People, method: str, path: str) -> None:
    expected = (404,) if path.endswith("/{n}") else (200, 201)  # the run has asked no model
    assert ask(people, method, path) in expected


def test_a_refused_request_of_an_auditor_changes_nothing(people: People) -> None:
    for method, path in CHANGING:
        ask(people, method, path)
    record = people.alice.get(f"/runs/{people.run_id}").json()
    assert (record["cancel_requested"], record["completed_at"]) == (False, None)
    assert people.auditor.get("/runs", params={"user_id": "carol"}).json()["data"] == []
    hierarchies = Executor(people.alice).data("hierarchies/list")["hierarchies"]
    assert [each["hierarchy_id"] for each in hierarchies] == [people.hierarchy_id]


def test_a_run_is_not_cancelled_when_an_auditor_that_follows_it_goes(people: People) -> None:
    body = {"run_id": people.run_id, "on_disconnect": "cancel"}
    assert people.auditor.post(f"{EXECUTOR}/runs/stream", json=body).status_code == 403


def test_an_auditor_lists_the_runs_of_a_user_and_others_only_their_own(people: People) -> None:
    mine = people.auditor.get("/runs", params={"user_id": "alice"}).json()["data"]
    assert people.run_id in [run["run_id"] for run in mine]
    assert people.alice.get("/runs", params={"user_id": "alice"}).json()["data"] == mine
    assert people.auditor.get("/runs", params={"user_id": "nobody"}).json()["data"] == []
    assert people.alice.get("/runs", params={"user_id": "carol"}).status_code == 403


def test_the_audit_log_is_for_admins_and_auditors(people: People) -> None:
    for path in ("/audit/events", "/audit/events/stream"):
        assert people.alice.get(path).status_code == 403
    items = people.auditor.get("/audit/events", params={"run_id": people.run_id}).json()["data"]
    assert {(item["user_id"], item["agent"]) for item in items} == {("alice", "silent")}


def test_deleted_runs_are_listed_for_admins_and_auditors_alone(people: People) -> None:
    alice, session = people.alice, "deleted"
    start = {"input": "hi", "session_id": session}
    run_ids = [alice.post("/agents/quick/start", json=start).json()["run_id"] for _ in range(3)]
    for run_id in run_ids:
        assert alice.get(f"/runs/{run_id}", params={"wait": 30}).json()["completed_at"]
    assert alice.delete(f"/runs/{run_ids[1]}").status_code == 204

    def listed(**parameters: Any) -> list[str]:
        found: list[str] = []
        after: str | None = None
        while True:
            asked = {"session_id": session, "limit": 1, **parameters}
            page = people.auditor.get("/runs", params=asked | ({"after": after} if after else {})).json()
            found += [run["run_id"] for run in page["data"]]
            if (after := page["next"]) is None:
                return found

    newest_first = run_ids[::-1]
    assert listed() == listed(deleted="false") == [newest_first[0], newest_first[2]]
    assert listed(deleted="true") == [run_ids[1]]
    assert listed(deleted="any") == listed(deleted="any", agent="quick", status="success") == newest_first
    assert alice.get("/runs", params={"deleted": "any"}).status_code == 403
    assert people.auditor.get("/runs", params={"deleted": "any", "purged": "true"}).status_code == 400
