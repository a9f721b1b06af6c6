"""The run registry: a run has an identity of its own, which outlives the request, the tab and the server."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.golden import FOLDER, RELEASES
from tests.kit.code import COUNTS, ENABLED, WAITS, begin, ended, run, until_said, words
from tests.kit.database import migrate
from tests.kit.frames import Frame, read_frames, said, seqs
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import ServerProcess, serving, until

SCHEMA = """
[agents.run-code.output_schema]
type = "object"
required = ["answer"]
properties = { answer = { type = "integer" }, token = { type = "string" } }
"""
RETURNS = "async def run(input, emit):\n    return input"
NUMBERS = 40  # that a run counts, in about a second


class People(NamedTuple):
    """A server, and clients of alice's and of bob's."""

    server: ServerProcess
    alice: httpx.Client
    bob: httpx.Client


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("people")
    keys = make_key(folder, "alice"), make_key(folder, "bob")
    with serving(folder, ENABLED + SCHEMA) as server:
        with client(server, keys[0]) as alice, client(server, keys[1]) as bob:
            server.http.headers.update(alice.headers)
            yield People(server, alice, bob)
        assert_no_traceback(server.log)


@pytest.fixture
def server(people: People) -> ServerProcess:
    """As alice."""
    return people.server


@pytest.fixture
def alice(people: People) -> httpx.Client:
    return people.alice


@pytest.fixture
def bob(people: People) -> httpx.Client:
    return people.bob


# Starting.


def test_a_start_returns_the_run_id_at_once_and_the_run_goes_on(alice: httpx.Client) -> None:
    begun_at = time.monotonic()
    answer = alice.post("/agents/run-code/start", json={"code": WAITS})
    assert (answer.status_code, time.monotonic() - begun_at < 10) == (202, True)
    run_id = answer.json()["run_id"]
    assert answer.headers["location"] == f"/runs/{run_id}"
    until(lambda: alice.get(f"/runs/{run_id}").json()["status"] == "running", "it runs")
    alice.post(f"/runs/{run_id}/stop")


def test_the_first_frame_of_a_stream_has_the_run_id(alice: httpx.Client) -> None:
    with alice.stream("POST", "/agents/run-code/stream", json={"code": "print('hi')"}) as answer:
        assert answer.status_code == 200
        frames = list(read_frames(answer.iter_raw()))
    assert frames[0].event["run_id"] == answer.headers["x-run-id"]
    assert (frames[0].type, frames[-1].type, said(frames)) == (
        "lifecycle.queued",
        "lifecycle.completed",
        "hi\n",
    )


# The tab.


def test_closing_the_stream_that_started_a_run_does_not_end_it(alice: httpx.Client) -> None:
    body = {"code": COUNTS, "input": NUMBERS}
    with alice.stream("POST", "/agents/run-code/stream", json=body) as answer:
        until_said(read_frames(answer.iter_raw()), "3\n")
    record = ended(alice, answer.headers["x-run-id"])
    numbers = [str(number) for number in range(NUMBERS)]
    assert (record["status"], record["result"]["text"].split()) == ("success", numbers)


def test_reconnecting_to_a_running_run_replays_past_events_and_goes_live(server: ServerProcess) -> None:
    run_id = begin(server.http, COUNTS, NUMBERS)
    first = until_said(server.frames(run_id), "3\n")
    assert server.record(run_id)["status"] == "running"
    again = list(server.frames(run_id))
    assert again[: len(first)] == first
    assert seqs(again) == list(range(1, len(again) + 1))
    assert said(again).split() == [str(number) for number in range(NUMBERS)]


def test_reconnecting_with_the_last_event_id_goes_on_after_it(server: ServerProcess) -> None:
    run_id = begin(server.http, COUNTS, NUMBERS)
    first = until_said(server.frames(run_id), "3\n")
    rest = list(server.frames(run_id, after=first[-1].seq))
    assert seqs([*first, *rest]) == list(range(1, rest[-1].seq + 1))


def test_many_tabs_see_the_same_run(server: ServerProcess) -> None:
    run_id = begin(server.http, COUNTS, 5)
    tabs: list[list[Frame]] = [list(server.frames(run_id)) for _ in range(3)]
    assert tabs[0] == tabs[1] == tabs[2]


# Ownership.


def test_user_a_cannot_read_stop_or_delete_user_bs_run(alice: httpx.Client, bob: httpx.Client) -> None:
    run_id = begin(bob, WAITS)
    for method, path in (
        ("GET", ""),
        ("GET", "?include=trace,ops_log,schema_warnings"),
        ("GET", "/stream"),
        ("GET", "/events"),
        ("POST", "/stop"),
        ("DELETE", ""),
    ):
        answer = alice.request(method, f"/runs/{run_id}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), (method, path)
    assert bob.get(f"/runs/{run_id}").json()["status"] in ("queued", "running")
    bob.post(f"/runs/{run_id}/stop")


def test_users_list_their_own_runs(alice: httpx.Client, bob: httpx.Client) -> None:
    hers, his = begin(alice, "print(1)"), begin(bob, "print(1)")
    for http, own, other in ((alice, hers, his), (bob, his, hers)):
        listed = {record["run_id"] for record in http.get("/runs?limit=1000").json()["data"]}
        assert own in listed
        assert other not in listed


def test_the_active_runs_can_be_listed(alice: httpx.Client) -> None:
    run_id = begin(alice, WAITS)

    def running() -> bool:
        listed = alice.get("/runs", params={"status": "running", "agent": "run-code"}).json()["data"]
        return run_id in [record["run_id"] for record in listed]

    until(running, "it is listed as running")
    alice.post(f"/runs/{run_id}/stop")
    until(lambda: not running(), "it is not any more")


# Ending.


def test_a_stop_is_answered_202_and_the_run_ends_as_stopped(alice: httpx.Client) -> None:
    run_id = begin(alice, WAITS)
    answer = alice.post(f"/runs/{run_id}/stop")
    assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)
    assert ended(alice, run_id)["status"] == "stopped"


def test_a_deleted_run_is_gone_from_the_list_and_410(alice: httpx.Client, server: ServerProcess) -> None:
    run_id = run(server, "print(1)")["run_id"]
    assert alice.delete(f"/runs/{run_id}").status_code == 204
    assert alice.get(f"/runs/{run_id}").status_code == 410
    assert run_id not in alice.get("/runs?limit=1000").text


@pytest.mark.parametrize("release", RELEASES)
def test_runs_that_ended_more_than_an_hour_ago_are_there(tmp_path: Path, release: str) -> None:
    """Runs in the log of an old release, which ended when that was made."""
    with closing(sqlite3.connect(tmp_path / "runstore.db")) as connection:
        connection.executescript((FOLDER / release / "log.sql").read_text(encoding="utf-8"))
    (tmp_path / "runstore.db").chmod(0o600)
    migrate(tmp_path / "runstore.db")
    with serving(tmp_path) as server:
        listed = server.http.get("/runs", params={"limit": 1_000}).json()["data"]
        old = [record for record in listed if record["completed_at"] and _age_s(record) > 3_600]
        assert old
        for record in old:
            found = server.record(record["run_id"])
            assert found == {**record, "last_seq": found["last_seq"]}
            assert seqs(server.frames(record["run_id"])) == list(range(1, found["last_seq"] + 1))


def _age_s(record: dict[str, Any]) -> float:
    return time.time() - datetime.fromisoformat(record["completed_at"]).timestamp()


def test_a_closed_run_is_the_same_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path, ENABLED) as server:
        record = run(server, "print('kept')")
        frames = list(server.frames(record["run_id"]))
        server.terminate()
        server.wait()
        server.start()
        assert server.record(record["run_id"]) == record
        assert list(server.frames(record["run_id"])) == frames


# The record.


def test_the_record_has_the_fields_of_a_run(server: ServerProcess) -> None:
    record = run(server, RETURNS, {"answer": 42})
    assert record["user_id"] == "alice"
    assert record["agent_name"] == "run-code"
    assert (record["status"], record["result"], record["error"]) == ("success", {"answer": 42}, None)
    assert record["created_at"] <= record["started_at"] <= record["completed_at"]
    assert not record.keys() & {"trace", "ops_log", "schema_warnings"}


def test_the_trace_has_every_event_except_tokens(server: ServerProcess) -> None:
    run_id = run(server, "print(1)\nemit({'type': 'custom.step', 'data': {'n': 1}})\nprint(2)")["run_id"]
    trace = server.record(run_id, include="trace")["trace"]
    events = server.events(run_id)
    assert trace == {"data": [event for event in events if event["type"] != "llm.token"], "next": None}
    assert len(words(server, run_id)) == 2


@pytest.mark.parametrize(("events", "size"), [(1_500, 1), (6, 100_000)])
def test_a_long_trace_says_where_its_rest_begins(server: ServerProcess, events: int, size: int) -> None:
    code = f"for n in range({events}): emit({{'type': 'custom.step', 'data': 'x' * {size}}})"
    run_id = run(server, code)["run_id"]
    trace = server.record(run_id, include="trace")["trace"]
    assert 0 < len(trace["data"]) <= 1_000
    assert trace["next"] == trace["data"][-1]["seq"]
    rest = [event for event in server.events(run_id) if event["seq"] > trace["next"]]
    assert [*trace["data"], *rest] == server.events(run_id)


def test_the_operations_log_is_the_lifecycle_and_the_cancels(alice: httpx.Client) -> None:
    run_id = begin(alice, WAITS)
    until(lambda: alice.get(f"/runs/{run_id}").json()["last_seq"] >= 4, "it waits")
    alice.post(f"/runs/{run_id}/stop")
    ended(alice, run_id)
    found = alice.get(f"/runs/{run_id}?include=ops_log").json()["ops_log"]
    assert [event["type"] for event in found] == [
        "lifecycle.queued",
        "lifecycle.started",
        "cancel.requested",
        "lifecycle.cancelled",
    ]
    assert found[2]["data"].items() >= {"by": "alice", "reason": "user"}.items()


def test_included_fields_are_as_of_an_earlier_event(server: ServerProcess) -> None:
    run_id = run(server, RETURNS, {"answer": "no"})["run_id"]
    record = server.record(run_id, at=2, include="trace,ops_log,schema_warnings")
    assert [event["seq"] for event in record["trace"]["data"]] == [1, 2]
    assert [event["seq"] for event in record["ops_log"]] == [1, 2]
    assert record["schema_warnings"] is None


@pytest.mark.parametrize(
    ("result", "warnings"),
    [
        ({"answer": 42}, []),
        ({}, [{"path": "$", "message": "'answer' is a required property"}]),
        (
            {"answer": "x", "token": 1},
            [
                {"path": "$.answer", "message": "'x' is not of type 'integer'"},
                {"path": "$.token", "message": "1 is not of type 'string'"},
            ],
        ),
    ],
)
def test_a_result_that_is_not_as_its_schema_says_gives_warnings_and_stays_a_success(
    server: ServerProcess, result: Any, warnings: list[dict[str, str]]
) -> None:
    run_id = run(server, RETURNS, result)["run_id"]
    record = server.record(run_id, include="schema_warnings")
    assert (record["status"], record["result"]) == ("success", result)
    assert sorted(record["schema_warnings"], key=lambda warning: str(warning["path"])) == warnings


@pytest.mark.slow
def test_a_run_is_checked_against_the_schema_of_its_start(tmp_path: Path) -> None:
    with serving(tmp_path, ENABLED + SCHEMA) as server:
        run_id = run(server, RETURNS, {})["run_id"]
        before = server.record(run_id, include="schema_warnings")
        server.terminate()
        server.wait()
        (tmp_path / "runstore.toml").write_text(ENABLED)
        server.start()
        assert server.record(run_id, include="schema_warnings") == before
        assert (
            server.record(run(server, RETURNS, {})["run_id"], include="schema_warnings")["schema_warnings"]
            is None
        )


@pytest.mark.parametrize("include", ["", "traces", "trace,", "trace,all", "trace ops_log"])
def test_an_unknown_name_to_include_is_400(server: ServerProcess, include: str) -> None:
    run_id = run(server, "print(1)")["run_id"]
    answer = server.http.get(f"/runs/{run_id}", params={"include": include})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")
