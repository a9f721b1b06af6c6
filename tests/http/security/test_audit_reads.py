"""A read of another user's run by an admin or auditor is an event, of a stream that the audit log shows."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from runstore.core.ids import reads_id
from runstore.store.keys import key_id_of
from tests.http.conftest import CONFIG
from tests.kit.command_line import call_command
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import SILENT_AGENT, ServerProcess, serving
from tests.kit.teams import EXECUTOR


class People(NamedTuple):
    server: ServerProcess
    alice: httpx.Client
    bob: httpx.Client
    admin: httpx.Client
    auditor: httpx.Client


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("reads")
    roles: list[tuple[str, Any]] = [
        ("alice", "user"), ("bob", "user"), ("root", "admin"), ("carol", "auditor"),
    ]  # fmt: skip
    keys = [make_key(folder, user, role) for user, role in roles]
    with serving(folder, CONFIG, SILENT_AGENT, heartbeat_s=0.2) as server:
        a, b, c, d = (client(server, key) for key in keys)
        with a as alice, b as bob, c as admin, d as auditor:
            yield People(server, alice, bob, admin, auditor)
        assert_no_traceback(server.log)


def begin(http: httpx.Client, agent: str = "silent") -> str:
    run_id: str = http.post(f"/agents/{agent}/start", json={"input": "hi"}).json()["run_id"]
    return run_id


def reads(people: People, run_id: str) -> list[dict[str, Any]]:
    """The reads of a run, as an admin sees them."""
    parameters = {"run_id": run_id, "types": "audit.read", "limit": 1_000}
    found: list[dict[str, Any]] = people.admin.get("/audit/events", params=parameters).json()["data"]
    return found


def test_every_way_to_read_another_users_run_is_recorded_with_who_and_the_key(people: People) -> None:
    run_id, auditor = begin(people.alice), people.auditor
    assert auditor.get(f"/runs/{run_id}").status_code == 200
    assert auditor.get(f"/runs/{run_id}/events").status_code == 200
    assert (
        auditor.get(f"/runs/{run_id}/events", headers={"Accept": "application/x-ndjson"}).status_code == 200
    )
    with auditor.stream("GET", f"/runs/{run_id}/stream") as answer:
        assert answer.status_code == 200
    assert auditor.post(f"/runs/{run_id}/ticket").status_code == 201
    with people.admin.stream("GET", "/stream", params={"run_id": run_id}) as answer:
        assert answer.status_code == 200
    assert people.admin.post(f"{EXECUTOR}/runs/get", json={"run_id": run_id}).status_code == 200
    found = reads(people, run_id)
    assert [(event["by"], event["data"]["what"]) for event in found] == [
        ("carol", "record"), ("carol", "events"), ("carol", "export"), ("carol", "stream"),
        ("carol", "ticket"), ("root", "stream"), ("root", "record"),
    ]  # fmt: skip
    key_id = key_id_of(auditor.headers["authorization"].removeprefix("Bearer "))
    assert found[0]["data"] == {"by": "carol", "what": "record", "key_id": key_id, "run_id": run_id}
    assert {(event["user_id"], event["agent"], event["run_id"]) for event in found} == {
        ("alice", "silent", reads_id(run_id))
    }
    assert [event["seq"] for event in found] == list(range(1, 8))


def test_the_run_is_not_changed_by_its_readers(people: People) -> None:
    run_id = begin(people.alice)
    before = people.alice.get(f"/runs/{run_id}/events").json()
    assert people.auditor.get(f"/runs/{run_id}").status_code == 200
    assert people.alice.get(f"/runs/{run_id}/events").json()["data"][: len(before["data"])] == before["data"]
    for http in (people.admin, people.alice):
        assert http.get(f"/runs/{reads_id(run_id)}").status_code == 404


def test_pages_polls_and_reconnects_are_one_read(people: People) -> None:
    run_id = begin(people.alice)
    for _ in range(3):
        assert people.auditor.get(f"/runs/{run_id}/events", params={"limit": 1}).status_code == 200
        with people.auditor.stream("GET", f"/runs/{run_id}/stream", headers={"Last-Event-ID": "1"}) as answer:
            assert answer.status_code == 200
    assert [event["data"]["what"] for event in reads(people, run_id)] == ["events", "stream"]
    assert people.admin.get(f"/runs/{run_id}/events").status_code == 200  # another reader
    assert len(reads(people, run_id)) == 3


def test_own_reads_and_refused_reads_are_not_recorded(people: People) -> None:
    run_id, of_admin = begin(people.alice), begin(people.admin)
    assert people.alice.get(f"/runs/{run_id}").status_code == 200
    assert people.bob.get(f"/runs/{run_id}").status_code == 403
    assert people.admin.get(f"/runs/{of_admin}").status_code == 200
    assert people.alice.get("/runs").status_code == 200
    assert reads(people, run_id) == reads(people, of_admin) == []


def test_a_search_of_all_users_runs_is_recorded_with_its_filters(people: People) -> None:
    first = {"user_id": "alice", "agent": "one"}
    for after in ({}, {"after": "01890a5d-ac96-774b-bcce-b302099a8057", "limit": 5}):
        assert people.auditor.get("/runs", params={**first, **after}).status_code == 200
    assert people.auditor.get("/audit/events", params={"agent": "two", "after": 0}).status_code == 200
    assert people.auditor.get("/audit/events", params={"agent": "3", "format": "csv"}).status_code == 200
    assert people.auditor.post(f"{EXECUTOR}/runs/list", json={"session_id": "four"}).status_code == 200
    assert people.auditor.get("/runs", params={"user_id": "carol"}).status_code == 200  # one's own
    found = people.admin.get("/audit/events", params={"types": "audit.*", "contains": "carol"}).json()["data"]
    of_carol = [event["data"] for event in found if event["by"] == "carol"]
    searches = [data for data in of_carol if "run_id" not in data]
    assert [(event["what"], event["query"]) for event in searches] == [
        ("list", first),
        ("audit", {"agent": "two"}),
        ("export", {"agent": "3", "format": "csv"}),
        ("list", {"session_id": "four"}),
    ]


@pytest.mark.parametrize("path", ["/audit/events", "/audit/events?format=ndjson", "/audit/search?text=hi"])
def test_a_search_in_one_run_is_a_read_of_that_run(people: People, path: str) -> None:
    run_id = begin(people.alice)
    assert people.auditor.get(path, params={"run_id": run_id, **httpx.URL(path).params}).status_code == 200
    assert [read["data"]["by"] for read in reads(people, run_id)] == ["carol"]


@pytest.mark.parametrize(
    "path",
    [
        "/audit/search?text=!",
        "/audit/runs?sort=nope",
        "/audit/usage?group=nope",
        f"/audit/runs?agent={'a' * 256}",
    ],
)
def test_a_search_that_is_refused_is_not_recorded(people: People, path: str) -> None:
    def searches() -> list[Any]:
        parameters = {"types": "audit.*", "contains": "carol", "limit": 1_000}
        return list(people.admin.get("/audit/events", params=parameters).json()["data"])

    before = searches()
    assert people.auditor.get(path).status_code == 400
    assert searches() == before


def test_the_command_line_lists_the_readers_of_a_run(people: People, tmp_path: Path) -> None:
    run_id = begin(people.alice)
    assert people.auditor.get(f"/runs/{run_id}").status_code == 200
    key = people.admin.headers["authorization"].removeprefix("Bearer ")
    asked = ("audit", "who-read", run_id, "--url", str(people.server.http.base_url), "--api-key", key)
    done = call_command(*asked, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    heading, row = done.stdout.splitlines()
    assert heading.split() == ["AT", "READER", "WHAT", "KEY"]
    assert row.split()[1:3] == ["carol", "record"]
    read = json.loads(call_command(*asked, "--json", folder=tmp_path).stdout)
    assert (read["by"], read["run_id"]) == ("carol", run_id)


@pytest.mark.slow
def test_a_read_that_cannot_be_recorded_fails_and_the_owner_does_not_wait(people: People) -> None:
    run_id = begin(people.alice)
    assert people.alice.get(f"/runs/{run_id}").status_code == 200
    with sqlite3.connect(people.server.database) as writer:
        writer.execute("BEGIN IMMEDIATE")  # no other process can write
        answer = people.auditor.get(f"/runs/{run_id}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "log_unavailable")
        assert people.alice.get(f"/runs/{run_id}").status_code == 200
        writer.rollback()
    answer = people.auditor.get(f"/runs/{run_id}")
    while answer.status_code == 503:
        answer = people.auditor.get(f"/runs/{run_id}")
    assert [event["data"]["what"] for event in reads(people, run_id)] == ["record"]
