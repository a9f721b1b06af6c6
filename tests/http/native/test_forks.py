"""Runs that begin with the conversation of another one."""

from typing import Any

import pytest

from tests.kit.server import ServerProcess


def fork(server: ServerProcess, run_id: str, **body: Any) -> dict[str, Any]:
    answer = server.http.post(f"/runs/{run_id}/fork", json=body)
    assert answer.status_code == 202, answer.text
    forked: dict[str, Any] = answer.json()
    return forked


def test_a_fork_begins_with_the_conversation_and_the_new_input(
    server: ServerProcess, closed_run: str
) -> None:
    forked = fork(server, closed_run, input="four")
    events = server.events(closed_run)
    (answered,) = [event["seq"] for event in events if event["type"] == "llm.message"]
    assert (forked["parent_run_id"], forked["forked_at_seq"]) == (closed_run, answered)
    server.ended(forked["run_id"])
    queued = server.events(forked["run_id"])[0]["data"]
    assert (queued["parent_run_id"], queued["forked_at_seq"]) == (closed_run, answered)
    assert server.record(forked["run_id"])["parent_run_id"] == closed_run
    asked = server.http.get(f"/runs/{forked['run_id']}/requests/1").json()
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]
    assert asked["messages"][-1]["content"] == [{"text": "four"}]


def test_without_input_the_model_answers_again(server: ServerProcess, closed_run: str) -> None:
    forked = fork(server, closed_run)
    assert forked["forked_at_seq"] == 1
    assert server.ended(forked["run_id"])["result"]["text"] == "one two three"


def test_a_seq_within_an_answer_is_rounded_down(server: ServerProcess, closed_run: str) -> None:
    (token, *_) = [event["seq"] for event in server.events(closed_run) if event["type"] == "llm.token"]
    assert fork(server, closed_run, at=token, input="more")["forked_at_seq"] == 1


def test_a_fork_may_have_another_agent(server: ServerProcess, closed_run: str) -> None:
    forked = fork(server, closed_run, agent="silent", input="hi")
    assert server.record(forked["run_id"])["agent_name"] == "silent"
    server.stop_run(forked["run_id"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"at": 10_000}, 400, "invalid_cursor"),
        ({"at": 0}, 400, "invalid_body"),
        ({"agent": "nobody"}, 404, "agent_not_found"),
        ({"model": "gpt-5"}, 400, "invalid_query"),
        ({"input": []}, 400, "invalid_body"),
    ],
)
def test_a_fork_that_cannot_be_is_refused(
    server: ServerProcess, closed_run: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = server.http.post(f"/runs/{closed_run}/fork", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_the_same_key_leads_to_the_same_fork(server: ServerProcess, closed_run: str) -> None:
    headers = {"Idempotency-Key": f"fork-{closed_run}"}
    first, second = (
        server.http.post(f"/runs/{closed_run}/fork", json={"input": "x"}, headers=headers).json()["run_id"]
        for _ in range(2)
    )
    assert first == second
