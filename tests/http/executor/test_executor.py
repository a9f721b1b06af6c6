"""The executor surface: hierarchies are stored, run, read and deleted."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.kit.frames import joined, said, seqs
from tests.kit.server import ServerProcess
from tests.kit.teams import ALONE, EXECUTOR, Executor, hierarchy


@pytest.fixture
def executor(server: ServerProcess) -> Executor:
    return Executor(server.http)


# Hierarchies.


def test_a_hierarchy_is_stored_as_it_was_given(executor: Executor) -> None:
    answer = executor.ask("hierarchies/create", ALONE)
    assert answer.status_code == 201
    created = answer.json()["data"]
    assert UUID(created["hierarchy_id"]).version == 7
    assert created["user_id"] == "local"
    assert {name: created[name] for name in ALONE} == ALONE
    assert created["model"] is None
    assert executor.data("hierarchies/get", {"hierarchy_id": created["hierarchy_id"]}) == created


def test_hierarchies_are_listed_newest_first_page_by_page(executor: Executor) -> None:
    made = [executor.create() for _ in range(3)]
    first = executor.data("hierarchies/list", {"limit": 2})
    assert [each["hierarchy_id"] for each in first["hierarchies"]] == made[:0:-1]
    assert first["hierarchies"][0].keys() == {"hierarchy_id", "user_id", "name", "created_at"}
    second = executor.data("hierarchies/list", {"limit": 1, "after": first["next"]})
    assert [each["hierarchy_id"] for each in second["hierarchies"]] == made[:1]


def test_the_list_needs_no_body(executor: Executor) -> None:
    made = executor.create()
    answer = executor.http.post(f"{EXECUTOR}/hierarchies/list")
    assert answer.json()["data"]["hierarchies"][0]["hierarchy_id"] == made


def test_hierarchies_may_have_the_same_name(executor: Executor) -> None:
    assert executor.create() != executor.create()


def test_a_deleted_hierarchy_is_gone(executor: Executor) -> None:
    body = {"hierarchy_id": executor.create()}
    assert executor.data("hierarchies/delete", body) == body
    for path in ("hierarchies/get", "hierarchies/delete"):
        answer = executor.ask(path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "hierarchy_not_found")
    assert executor.ask("runs/start", {**body, "task": "hi"}).status_code == 404


# Runs.


def test_a_run_is_started_followed_and_read(executor: Executor) -> None:
    hierarchy_id = executor.create()
    answer = executor.ask("runs/start", {"hierarchy_id": hierarchy_id, "task": "What is 2+2?"})
    assert answer.status_code == 202
    started = answer.json()["data"]
    assert answer.headers["x-run-id"] == started["run_id"]
    assert (started["status"], started["hierarchy_id"]) == ("queued", hierarchy_id)
    frames = executor.frames(started["run_id"])
    assert seqs(frames) == list(range(1, len(frames) + 1))
    assert {frame.event["run_id"] for frame in frames} == {started["run_id"]}
    assert said(frames) == "444", "the worker, its supervisor, and the global one"
    assert frames[-1].type == "lifecycle.completed"
    run = executor.get(started["run_id"])
    assert (run["status"], run["result"]["text"], run["last_seq"]) == ("success", "4", frames[-1].seq)


def test_every_word_comes_with_its_agent(executor: Executor) -> None:
    frames = executor.frames(executor.start(executor.create()))
    spoken = [(f.data["agent"], f.data.get("call_id")) for f in frames if f.type == "llm.token"]
    assert spoken == [
        ("global/Team/Worker", "scripted-1"),
        ("global/Team", "scripted-1"),
        ("global", None),
    ]


def test_the_stream_goes_on_where_a_reader_left_off(executor: Executor) -> None:
    run_id = executor.start(executor.create())
    whole = executor.frames(run_id)
    assert joined(executor.frames(run_id, after=5)) == joined(whole[5:])
    body, header = {"run_id": run_id, "after": 2}, {"Last-Event-ID": "7"}
    answer = executor.ask("runs/stream", body, headers=header)
    assert answer.content.endswith(joined(whole[7:])), "the header goes before the body"
    assert b"\nid: 7\n" not in answer.content


def test_the_stream_is_that_of_the_native_surface(server: ServerProcess, executor: Executor) -> None:
    run_id = executor.start(executor.create())
    assert joined(executor.frames(run_id)) == joined(server.frames(run_id))


def test_the_end_of_a_closed_run_is_204(executor: Executor) -> None:
    run_id = executor.start(executor.create())
    last = executor.frames(run_id)[-1].seq
    assert executor.ask("runs/stream", {"run_id": run_id, "after": last}).status_code == 204


@pytest.mark.parametrize(
    ("body", "headers"), [({"after": 10**6}, {}), ({}, {"Last-Event-ID": "x"}), ({}, {"Last-Event-ID": "-1"})]
)
def test_a_cursor_that_cannot_be_is_refused(
    executor: Executor, body: dict[str, Any], headers: dict[str, str]
) -> None:
    run_id = executor.start(executor.create())
    answer = executor.ask("runs/stream", {"run_id": run_id, **body}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


def test_a_cancelled_run_ends_as_cancelled(executor: Executor) -> None:
    run_id = executor.start(executor.create(), "Write a very long essay about space exploration")
    answer = executor.ask("runs/cancel", {"run_id": run_id, "reason": "enough"})
    assert answer.status_code == 202
    assert answer.json()["data"]["cancel_requested"] is True
    frames = executor.frames(run_id)
    assert frames[-1].type == "lifecycle.cancelled"
    assert executor.get(run_id)["reason"] == "enough"
    assert executor.ask("runs/cancel", {"run_id": run_id}).status_code == 200


@pytest.mark.parametrize(("on_disconnect", "asked"), [("cancel", True), ("continue", False)])
def test_a_run_goes_on_without_its_reader_unless_that_asked_it_to_end(
    server: ServerProcess, executor: Executor, on_disconnect: str, asked: bool
) -> None:
    run_id = executor.start(executor.create(), "Write a very long essay")
    with executor.stream(run_id, on_disconnect=on_disconnect) as frames:
        next(frames)
    if asked:
        assert executor.ended(run_id)["reason"] == "client_disconnect"
    else:
        assert not server.record(run_id, wait=0.5)["cancel_requested"]
        server.stop_run(run_id)


def test_ids_are_read_in_upper_case_too_and_in_no_other_notation(
    server: ServerProcess, executor: Executor
) -> None:
    hierarchy_id = executor.create()
    run_id = executor.start(hierarchy_id.upper())
    server.ended(run_id)
    assert executor.get(run_id.upper())["run_id"] == run_id
    listed = executor.data("runs/list", {"hierarchy_id": hierarchy_id.upper()})["runs"]
    assert [run["run_id"] for run in listed] == [run_id]
    for path, body in (("runs/start", {"task": "hi"}), ("runs/list", {}), ("hierarchies/get", {})):
        answer = executor.ask(path, {**body, "hierarchy_id": hierarchy_id.replace("-", "")})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "hierarchy_not_found")


def test_runs_are_listed_by_hierarchy_status_and_session(server: ServerProcess, executor: Executor) -> None:
    first, second = executor.create(), executor.create()
    session = uuid4().hex
    done = [executor.start(first), executor.start(first, session_id=session)]
    other = executor.start(second, session_id=session)
    single = server.begin("quick", "hi", session_id=session)
    for run_id in (*done, other, single):
        server.ended(run_id)
    going = executor.start(first, "Write a very long essay")

    def listed(**body: Any) -> list[str]:
        return [run["run_id"] for run in executor.data("runs/list", body)["runs"]]

    assert listed(hierarchy_id=first) == [going, *reversed(done)]
    assert listed(hierarchy_id=first, status="success") == [*reversed(done)]
    assert listed(session_id=session) == [other, done[1]], "no run of a single agent"
    page = executor.data("runs/list", {"hierarchy_id": first, "limit": 2})
    assert listed(hierarchy_id=first, after=page["next"]) == [done[0]]
    server.stop_run(going)
    assert listed(hierarchy_id=first, status="stopped") == [going]


def test_every_run_can_be_read_here_and_there(server: ServerProcess, executor: Executor) -> None:
    team, single = executor.start(executor.create()), server.begin("quick", "hi")
    server.ended(team)
    server.ended(single)
    assert executor.get(single)["hierarchy_id"] is None
    native = server.record(team)
    assert executor.get(team) == {**native, "hierarchy_id": native["agent_name"].removeprefix("hierarchy:")}


def test_a_run_holds_its_definition(executor: Executor) -> None:
    hierarchy_id = executor.create()
    run_id = executor.start(hierarchy_id)
    executor.data("hierarchies/delete", {"hierarchy_id": hierarchy_id})
    frames = executor.frames(run_id)
    held = frames[0].data["definition"]["hierarchy"]
    assert held["teams"][0]["workers"][0]["system_prompt"] == "Answer."
    assert frames[-1].type == "lifecycle.completed"
    assert executor.get(run_id)["status"] == "success"
    listed = executor.data("runs/list", {"hierarchy_id": hierarchy_id})["runs"]
    assert [run["run_id"] for run in listed] == [run_id]


# A start that is repeated.


def test_the_same_key_and_task_is_the_same_run(executor: Executor) -> None:
    hierarchy_id, headers = executor.create(), {"Idempotency-Key": uuid4().hex}
    body = {"hierarchy_id": hierarchy_id, "task": "hi"}
    first, second = (executor.data("runs/start", body, headers=headers)["run_id"] for _ in range(2))
    assert first == second
    for change in ({"task": "ho"}, {"hierarchy_id": executor.create()}, {"session_id": "s"}):
        answer = executor.ask("runs/start", body | change, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_a_parallel_hierarchy_reports_what_all_said(executor: Executor) -> None:
    office = hierarchy(Red={"Ann": [], "Bob": []}, Blue={"Cid": []})
    run_id = executor.start(executor.create(office))
    assert executor.ended(run_id)["result"]["text"] == "4 4 4"


# Forks.


def test_a_run_is_started_again_with_its_task_and_the_hierarchy_that_it_holds(executor: Executor) -> None:
    hierarchy_id = executor.create()
    run_id = executor.start(hierarchy_id, "Say 'hats' twice")
    first = executor.ended(run_id)
    executor.data("hierarchies/delete", {"hierarchy_id": hierarchy_id})
    answer = executor.http.post(f"/runs/{run_id}/fork", json={"at": 1})
    assert answer.status_code == 202, answer.text
    again = executor.ended(answer.json()["run_id"])
    for field in ("status", "input", "result", "agent_name", "hierarchy_id"):
        assert again[field] == first[field], field
    definitions = [
        executor.http.get(f"/runs/{each}/events").json()["data"][0]["data"]["definition"]
        for each in (run_id, again["run_id"])
    ]
    assert definitions[0]["hierarchy"] == definitions[1]["hierarchy"]


def test_a_fork_goes_on_with_the_global_supervisors_conversation(executor: Executor) -> None:
    run_id = executor.start(executor.create(), "Say 'hats' twice")
    executor.ended(run_id)
    forked = executor.http.post(f"/runs/{run_id}/fork", json={"input": "Say 'coats' once"}).json()
    assert executor.ended(forked["run_id"])["status"] == "success"
    asked = executor.http.get(f"/runs/{forked['run_id']}/requests/1").json()
    assert asked["agent"] == "global"
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert asked["messages"][-1]["content"] == [{"text": "Say 'coats' once"}]


@pytest.mark.parametrize("change", [{"model": "gpt-5"}, {"system_prompt": "Be brief."}])
def test_a_fork_of_a_hierarchy_changes_no_model_and_no_prompt(
    executor: Executor, change: dict[str, str]
) -> None:
    run_id = executor.start(executor.create())
    executor.ended(run_id)
    answer = executor.http.post(f"/runs/{run_id}/fork", json=change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_query"), answer.text
    assert "a hierarchy names" in answer.json()["error"]["message"]
