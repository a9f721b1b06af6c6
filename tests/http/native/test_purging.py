"""`DELETE /runs/{run_id}?purge=true`: an admin removes a run's events for good."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.http.conftest import CONFIG
from tests.http.test_documented_answers import assert_documented
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import SILENT_AGENT, ServerProcess, serving

PATH = "/runs/{run_id}"
PURGE = {"purge": "true", "reason": "request 4711"}


class People(NamedTuple):
    server: ServerProcess
    alice: httpx.Client
    admin: httpx.Client
    auditor: httpx.Client

    def closed_run(self) -> str:
        started = self.alice.post("/agents/quick/start", json={"input": "zebrafish", "session_id": "s"})
        run_id = str(started.json()["run_id"])
        self.alice.get(f"/runs/{run_id}", params={"wait": 60})
        return run_id


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("purging")
    keys = [make_key(folder, *who) for who in (("alice",), ("root", "admin"), ("carol", "auditor"))]  # type: ignore[arg-type]
    with serving(folder, CONFIG, SILENT_AGENT, heartbeat_s=0.2) as server:
        with client(server, keys[0]) as a, client(server, keys[1]) as b, client(server, keys[2]) as c:
            yield People(server, a, b, c)
        assert_no_traceback(server.log)


def audit_of(people: People, run_id: str) -> list[dict[str, Any]]:
    filters = {"run_id": run_id, "types": "audit.erased"}
    found: list[dict[str, Any]] = people.auditor.get("/audit/events", params=filters).json()["data"]
    return found


def test_an_admin_purges_a_run_and_the_audit_log_says_why(people: People) -> None:
    run_id = people.closed_run()
    assert people.admin.delete(f"/runs/{run_id}", params=PURGE).status_code == 200
    for each in (people.alice, people.admin, people.auditor):
        assert_documented(each.get(f"/runs/{run_id}"), 410, "run_purged", "get", PATH)
    [event] = audit_of(people, run_id)
    assert (event["by"], event["user_id"]) == ("root", "alice")
    assert event["data"].items() >= {"reason": "request 4711", "runs": 1, "run_id": run_id}.items()
    assert event["data"]["key_id"]
    [run] = [r for r in people.alice.get("/runs?purged=true").json()["data"] if r["run_id"] == run_id]
    assert (run["session_id"], run["input"]) == ("s", None)


def test_a_pseudonym_takes_the_run_from_its_user_also_after_a_purge(people: People) -> None:
    run_id = people.closed_run()
    assert people.admin.delete(f"/runs/{run_id}", params=PURGE).status_code == 200
    again = people.admin.delete(f"/runs/{run_id}", params=PURGE)
    assert_documented(again, 410, "run_purged", "delete", PATH)
    for _ in range(2):
        renamed = people.admin.delete(f"/runs/{run_id}", params={**PURGE, "pseudonym": "true"})
        assert renamed.status_code == 200
    assert run_id not in [run["run_id"] for run in people.alice.get("/runs?purged=true").json()["data"]]
    assert audit_of(people, run_id)[-1]["data"]["user_id"].startswith("erased-")


def test_a_purge_lists_the_forks_that_keep_its_text(people: People) -> None:
    run_id = people.closed_run()
    first = people.alice.post(f"/runs/{run_id}/fork", json={"input": "more"}).json()["run_id"]
    people.alice.get(f"/runs/{first}", params={"wait": 60})
    second = people.alice.post(f"/runs/{first}/fork", json={"input": "more"}).json()["run_id"]
    people.alice.get(f"/runs/{second}", params={"wait": 60})
    answer = people.admin.delete(f"/runs/{run_id}", params={**PURGE, "pseudonym": "true"})
    assert answer.status_code == 200
    assert answer.json() == {"run_id": run_id, "forks": [first, second], "forks_total": 2}
    assert people.admin.delete(f"/runs/{second}", params=PURGE).json()["forks"] == []
    assert people.admin.delete(f"/runs/{first}", params=PURGE).json()["forks"] == []


def test_a_deleted_run_can_be_purged(people: People) -> None:
    run_id = people.closed_run()
    assert people.alice.delete(f"/runs/{run_id}").status_code == 204
    assert people.admin.delete(f"/runs/{run_id}", params=PURGE).status_code == 200
    assert people.auditor.get(f"/runs/{run_id}").status_code == 410


def test_only_an_admin_may_purge(people: People) -> None:
    run_id = people.closed_run()
    for each in (people.alice, people.auditor):
        assert_documented(each.delete(f"/runs/{run_id}", params=PURGE), 403, "forbidden", "delete", PATH)
    assert people.alice.get(f"/runs/{run_id}").status_code == 200


def test_an_active_run_is_not_purged(people: People) -> None:
    run_id = people.alice.post("/agents/silent/start", json={"input": "hi"}).json()["run_id"]
    answer = people.admin.delete(f"/runs/{run_id}", params=PURGE)
    assert_documented(answer, 409, "run_active", "delete", PATH)
    assert people.alice.get(f"/runs/{run_id}").status_code == 200
    assert audit_of(people, run_id) == []
    people.alice.post(f"/runs/{run_id}/stop")


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"purge": "true"}, "invalid_query"),
        ({"purge": "yes", "reason": "r"}, "invalid_parameter"),
        ({"purge": "true", "reason": ""}, "invalid_parameter"),
        ({"purge": "true", "reason": "x" * 201}, "invalid_parameter"),
        ({"purge": "true", "reason": "r", "pseudonym": "1"}, "invalid_parameter"),
        ({"reason": "r"}, "invalid_query"),
        ({"pseudonym": "true"}, "invalid_query"),
    ],
)
def test_a_purge_that_is_not_clear_is_400_and_changes_nothing(
    people: People, parameters: dict[str, str], code: str
) -> None:
    run_id = people.closed_run()
    answer = people.admin.delete(f"/runs/{run_id}", params=parameters)
    assert_documented(answer, 400, code, "delete", PATH)
    assert people.alice.get(f"/runs/{run_id}").status_code == 200
