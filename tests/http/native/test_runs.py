"""`/runs` and `/runs/{id}`: list, look at, wait for, stop, delete."""

from itertools import pairwise
from uuid import uuid4

import pytest

from runstore.client import Client
from tests.kit.server import ServerProcess, until

FIELDS = {
    "run_id", "user_id", "agent_name", "session_id", "status", "cancel_requested", "created_at", "started_at",
    "completed_at", "attempt", "last_seq", "result", "error", "error_code", "usage", "metadata",
}  # fmt: skip


@pytest.fixture
def session() -> str:
    """A session of its own, so that other tests' runs are not in the list."""
    return uuid4().hex


# One run.


def test_a_record_has_every_field_that_is_promised(server: ServerProcess, closed_run: str) -> None:
    assert server.record(closed_run).keys() >= FIELDS


def test_a_record_shows_how_a_run_ended(server: ServerProcess, closed_run: str) -> None:
    record = server.record(closed_run)
    assert record["status"] == "success"
    assert record["attempt"] == 1
    assert "one two three" in str(record["result"])
    assert record["error"] is None
    assert record["usage"]["output_tokens"] == 3
    assert record["created_at"] <= record["started_at"] <= record["completed_at"]
    assert record["last_seq"] == len(server.events(closed_run))


def test_a_run_can_be_seen_as_of_each_of_its_events(server: ServerProcess, closed_run: str) -> None:
    events = server.events(closed_run)
    states = [server.record(closed_run, at=event["seq"]) for event in events]
    assert [state["last_seq"] for state in states] == [event["seq"] for event in events]
    assert states[0]["status"] == "queued"
    assert {state["status"] for state in states[1:-1]} == {"running"}
    assert states[-1] == server.record(closed_run)


def test_wait_answers_when_the_run_has_ended(server: ServerProcess) -> None:
    run_id = server.begin("quick", "one two three")
    assert server.record(run_id, wait=20)["status"] == "success"


def test_wait_answers_after_its_seconds_when_the_run_goes_on(server: ServerProcess, silent_run: str) -> None:
    answer = server.http.get(f"/runs/{silent_run}", params={"wait": "0.2"})
    assert answer.json()["status"] == "running"
    assert 0.2 <= answer.elapsed.total_seconds() < 10


# The list.


def test_runs_are_listed_newest_first(server: ServerProcess, session: str) -> None:
    run_ids = [server.begin("quick", "hi", session_id=session) for _ in range(5)]
    answer = server.http.get("/runs", params={"session_id": session})
    assert answer.status_code == 200
    assert [run["run_id"] for run in answer.json()["data"]] == run_ids[::-1]
    assert answer.json()["next"] is None


def test_paging_to_the_end_brings_every_run_once(server: ServerProcess, session: str) -> None:
    run_ids = [server.begin("quick", "hi", session_id=session) for _ in range(5)]
    found, after = [], {}
    while True:
        page = server.http.get("/runs", params={"session_id": session, "limit": 2, **after}).json()
        found.append([run["run_id"] for run in page["data"]])
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert [len(page) for page in found] == [2, 2, 1]
    assert [run_id for page in found for run_id in page] == run_ids[::-1]


def test_a_new_run_does_not_disturb_a_client_that_pages(server: ServerProcess, session: str) -> None:
    run_ids = [server.begin("quick", "hi", session_id=session) for _ in range(3)]
    first = server.http.get("/runs", params={"session_id": session, "limit": 2}).json()
    server.begin("quick", "hi", session_id=session)
    rest = server.http.get("/runs", params={"session_id": session, "after": first["next"]}).json()
    assert [run["run_id"] for run in rest["data"]] == run_ids[:1]


def test_a_list_may_be_empty(server: ServerProcess, session: str) -> None:
    assert server.http.get("/runs", params={"session_id": session}).json() == {"data": [], "next": None}


def test_filters_leave_only_what_matches_all_of_them(server: ServerProcess, session: str) -> None:
    quick = server.begin("quick", "hi", session_id=session)
    server.ended(quick)
    silent = server.begin("silent", "hi", session_id=session)
    stopped = server.begin("silent", "hi", session_id=session)
    server.stop_run(stopped)
    until(lambda: server.record(silent)["status"] == "running", "the silent run runs")

    def found(**filters: str) -> list[str]:
        answer = server.http.get("/runs", params={"session_id": session, **filters})
        return [run["run_id"] for run in answer.json()["data"]]

    assert found(agent="silent") == [stopped, silent]
    assert found(status="running") == [silent]
    assert found(status="stopped", agent="silent") == [stopped]
    assert found(status="success") == [quick]
    assert found(status="error") == []
    assert found(agent="nobody") == []


def test_since_and_until_include_their_own_instant(server: ServerProcess, session: str) -> None:
    runs = [server.record(server.begin("quick", "hi", session_id=session)) for _ in range(3)]
    assert all(one["created_at"] < other["created_at"] for one, other in pairwise(runs))

    def found(**filters: str) -> list[str]:
        answer = server.http.get("/runs", params={"session_id": session, **filters})
        return [run["run_id"] for run in answer.json()["data"]]

    first, second, third = runs
    assert found(since=second["created_at"]) == [third["run_id"], second["run_id"]]
    assert found(until=second["created_at"]) == [second["run_id"], first["run_id"]]
    assert found(since=second["created_at"], until=second["created_at"]) == [second["run_id"]]


def test_a_zone_whose_plus_was_not_escaped_is_understood(server: ServerProcess, session: str) -> None:
    run_id = server.begin("quick", "hi", session_id=session)
    answer = server.http.get(f"/runs?session_id={session}&since=2020-01-01T01:00:00+01:00")
    assert [run["run_id"] for run in answer.json()["data"]] == [run_id]


def test_a_list_leaves_out_large_fields_of_a_run_and_names_them(server: ServerProcess, session: str) -> None:
    metadata = {"text": "x" * 5_000}
    run_id = server.begin("quick", "hi", session_id=session, metadata=metadata)
    server.ended(run_id)
    [listed] = server.http.get("/runs", params={"session_id": session}).json()["data"]
    whole = server.record(run_id)
    assert listed["truncated"] == ["metadata"]
    assert listed["metadata"] == {}
    assert listed["result"] == whole["result"]
    assert whole["metadata"] == server.record(run_id, at=2)["metadata"] == metadata
    assert "truncated" not in whole
    with Client(str(server.http.base_url)) as client:
        [found] = client.list(session_id=session)
        assert found.truncated == ["metadata"]
        assert client.get(run_id).metadata == metadata
        assert client.get(run_id).truncated == []


def test_a_large_input_is_left_out_of_a_list(server: ServerProcess, session: str) -> None:
    large = "x" * 5_000
    run_id = server.begin("silent", large, session_id=session)
    [listed] = server.http.get("/runs", params={"session_id": session}).json()["data"]
    assert (listed["truncated"], listed["input"]) == (["input"], None)
    assert server.record(run_id)["input"] == server.record(run_id, at=1)["input"] == large
    server.stop_run(run_id)


# Stopping.


def test_stopping_answers_202_and_the_run_ends_stopped(server: ServerProcess, silent_run: str) -> None:
    answer = server.http.post(f"/runs/{silent_run}/stop", json={"reason": "enough"})
    assert answer.status_code == 202
    assert answer.json()["cancel_requested"]
    ended = server.ended(silent_run)
    assert ended["status"] == "stopped"
    assert ended["reason"] == "enough"
    assert not ended["forced"]


@pytest.mark.parametrize(
    "body",
    [{}, {"content": b""}, {"json": {}}, {"content": b"", "headers": {"Content-Type": "application/json"}}],
    ids=["no body", "empty body", "empty object", "empty body of a type"],
)
def test_stopping_needs_no_body(server: ServerProcess, silent_run: str, body: dict[str, object]) -> None:
    assert server.http.post(f"/runs/{silent_run}/stop", **body).status_code == 202  # type: ignore[arg-type]
    assert server.ended(silent_run)["reason"] == "user"


def test_stopping_twice_is_stopping_once(server: ServerProcess, silent_run: str) -> None:
    answers = [server.http.post(f"/runs/{silent_run}/stop") for _ in range(5)]
    assert {answer.status_code for answer in answers} <= {200, 202}
    server.ended(silent_run)
    types = [event["type"] for event in server.events(silent_run)]
    assert types.count("cancel.requested") == 1
    assert types.count("lifecycle.cancelled") == 1


def test_stopping_a_closed_run_answers_200_with_the_final_record(
    server: ServerProcess, closed_run: str
) -> None:
    answer = server.http.post(f"/runs/{closed_run}/stop")
    assert answer.status_code == 200
    assert answer.json() == server.record(closed_run)
    assert answer.json()["status"] == "success"


# Deleting.


def test_a_run_that_has_not_ended_cannot_be_deleted(server: ServerProcess, silent_run: str) -> None:
    answer = server.http.delete(f"/runs/{silent_run}")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "run_active"
    assert server.record(silent_run)["status"] == "running"


def test_a_deleted_run_leaves_the_lists(server: ServerProcess, session: str) -> None:
    kept, gone = (server.begin("quick", "hi", session_id=session) for _ in range(2))
    server.ended(gone)
    assert server.http.delete(f"/runs/{gone}").status_code == 204
    listed = server.http.get("/runs", params={"session_id": session}).json()["data"]
    assert [run["run_id"] for run in listed] == [kept]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/events", {"type": "custom.note"}),
        ("POST", "/stop", None),
        ("POST", "/ticket", None),
        ("DELETE", "", None),
    ],
)
def test_a_deleted_run_cannot_be_changed(
    server: ServerProcess, deleted_run: str, method: str, path: str, body: object
) -> None:
    answer = server.http.request(method, f"/runs/{deleted_run}{path}", json=body)
    assert answer.status_code == 410
    assert answer.json()["error"]["code"] == "run_deleted"


def test_an_admin_reads_a_deleted_run_which_is_marked_so(server: ServerProcess, deleted_run: str) -> None:
    record = server.record(deleted_run)
    assert (record["deleted"], record["result"]["text"]) == (True, "one two three")
    assert server.record(deleted_run, wait=1) == record
    before = server.record(deleted_run, at=record["last_seq"] - 1)
    assert "deleted" not in before
    events = server.events(deleted_run)
    assert (events[-1]["type"], events[-1]["data"]) == ("run.deleted", {"by": "local"})
    assert [frame.event for frame in server.frames(deleted_run)] == events[:-1]  # a stream has a run's life
    for after in (record["last_seq"] - 1, record["last_seq"]):
        with server.stream(deleted_run, after) as answer:
            assert answer.status_code == 204
    listed = server.http.get("/runs", params={"deleted": "true", "limit": 1_000}).json()["data"]
    assert [run["deleted"] for run in listed if run["run_id"] == deleted_run] == [True]


# The trace.


def test_the_trace_of_a_run_is_its_tree(server: ServerProcess, closed_run: str) -> None:
    answer = server.http.get(f"/runs/{closed_run}/trace")
    assert answer.status_code == 200
    trace, record = answer.json(), server.record(closed_run)
    assert (trace["status"], trace["input"], trace["output"]) == (
        "success",
        "one two three",
        record["result"],
    )
    ((step,),) = [agent["steps"] for attempt in trace["attempts"] for agent in attempt["agents"]]
    assert (step["kind"], step["status"], step["output"]) == ("model", "success", [{"text": "one two three"}])
    assert step["usage"]["output_tokens"] == 3
    assert step["started_at"] <= step["ended_at"] <= trace["ended_at"]
