"""Each method against a real server, by both clients."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest

import runstore
from runstore import Custom
from runstore.client import ApiError, Conflict, Gone, NotFound, RunRecord, calls
from runstore.http.native import runs
from runstore.http.native.included import INCLUDES
from tests.kit.keys import url_of
from tests.kit.purging import purge_run
from tests.kit.server import SILENT_HEAD, ServerProcess


def as_sent(events: Any) -> list[Any]:
    return [msgspec.to_builtins(event) for event in events]


def test_a_run_is_started_and_followed_to_its_end(client: Any, server: ServerProcess) -> None:
    run = client.start("quick", "one two three", session_id="s", metadata={"a": 1})
    events = list(client.stream(run.run_id))
    assert as_sent(events) == server.events(run.run_id)
    assert runstore.text(events) == "one two three"
    assert (run.session_id, run.metadata) == ("s", {"a": 1})
    assert [event.ends for event in events] == [False] * (len(events) - 1) + [True]


def test_what_a_model_was_asked_is_listed_and_read(
    client: Any, server: ServerProcess, closed_run: str
) -> None:
    (listed,) = client.requests(closed_run)
    assert (listed.n, listed.messages) == (1, 1)
    assert as_sent([client.request(closed_run, 1)])[0]["messages"] == [
        {"role": "user", "content": [{"text": "one two three"}]}
    ]


def test_a_message_is_added_and_a_question_that_was_not_asked_takes_no_answer(
    client: Any, server: ServerProcess, silent_run: str
) -> None:
    seq = client.say(silent_run, "Hurry.")
    [added] = [event for event in server.events(silent_run) if event["type"] == "input.added"]
    assert (added["seq"], added["data"]["content"]) == (seq, "Hurry.")
    assert list(client.inputs(silent_run)) == []
    with pytest.raises(NotFound) as refusal:
        client.answer(silent_run, "1.1", "S")
    assert refusal.value.code == "input_not_found"


def test_a_run_is_forked_once_for_a_key(client: Any, closed_run: str) -> None:
    key = str(uuid4())
    first, again = (client.fork(closed_run, at=2, input="four", idempotency_key=key) for _ in range(2))
    assert (first.parent_run_id, first.forked_at_seq) == (closed_run, 1)
    assert (again.run_id, first.run.agent_name) == (first.run_id, "quick")


def test_a_stream_begins_after_its_cursor(client: Any, server: ServerProcess, closed_run: str) -> None:
    assert as_sent(client.stream(closed_run, after=4)) == server.events(closed_run)[4:]


def test_the_stream_of_a_closed_run_after_its_end_is_empty(
    client: Any, server: ServerProcess, closed_run: str
) -> None:
    assert list(client.stream(closed_run, after=server.record(closed_run)["last_seq"])) == []


def test_a_filtered_stream_has_the_ending_too(client: Any, closed_run: str) -> None:
    types = [event.type for event in client.stream(closed_run, types=["llm.token", "custom.*"])]
    assert set(types) == {"llm.token", "lifecycle.completed"}


def test_a_stream_of_a_run_that_is_not_there_is_refused(client: Any) -> None:
    with pytest.raises(NotFound):
        next(client.stream(str(uuid4())))


def test_a_cursor_ahead_of_the_run_is_refused(client: Any, closed_run: str) -> None:
    with pytest.raises(ApiError) as refusal:
        next(client.stream(closed_run, after=1_000))
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_cursor")


def test_a_run_is_purged_with_a_reason(client: Any, closed_run: str) -> None:
    assert client.purge(closed_run, reason="request 4711", pseudonym=True) == []
    with pytest.raises(Gone) as refusal:
        client.get(closed_run)
    assert refusal.value.code == "run_purged"
    [event] = client.audit(run_id=closed_run, types=["audit.erased"])
    assert event.data["reason"] == "request 4711"
    assert event.data["user_id"].startswith("erased-")


def test_a_trace_is_the_tree_of_the_run(client: Any, server: ServerProcess, closed_run: str) -> None:
    answer = server.http.get(f"/runs/{closed_run}/trace").json()
    assert msgspec.to_builtins(client.trace(closed_run)) == answer


def test_leaving_the_loop_leaves_the_run_running(client: Any, server: ServerProcess) -> None:
    run = client.start("talker", "on and on")
    for event in client.stream(run.run_id, types=["llm.token"]):
        if event.seq > 10:
            break
    assert client.get(run.run_id).status == "running"
    server.stop_run(run.run_id)


def test_a_run_is_stopped_and_waited_for(client: Any, server: ServerProcess) -> None:
    run_id = server.begin_silent()
    assert client.stop(run_id, reason="enough").cancel_requested
    ended = client.get(run_id, wait=20)
    assert (ended.status, ended.reason, ended.ended) == ("stopped", "enough", True)
    assert client.stop(run_id).status == "stopped"


def test_a_run_is_read_as_it_was(client: Any, closed_run: str) -> None:
    assert client.get(closed_run, at=1).status == "queued"
    assert client.get(closed_run).status == "success"


def test_a_ticket_opens_the_stream_and_is_good_for_as_long_as_was_asked(
    client: Any, server: ServerProcess, closed_run: str
) -> None:
    ticket = client.ticket(closed_run, ttl_s=60)
    left = datetime.fromisoformat(ticket.expires_at) - datetime.now(UTC)
    assert timedelta(0) < left <= timedelta(seconds=60)
    assert server.http.get(ticket.url).text.count("lifecycle.completed") > 0
    assert server.http.get(ticket.url.replace(ticket.ticket, "x")).status_code == 401
    with pytest.raises(ApiError, match="ttl_s"):
        client.ticket(closed_run, ttl_s=0)


def test_a_list_goes_through_all_pages(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAGE", 2)
    session = str(uuid4())
    started = [client.start("quick", "hi", session_id=session).run_id for _ in range(5)]
    listed = [run.run_id for run in client.list(session_id=session, agent="quick")]
    assert listed == started[::-1]
    assert [run.run_id for run in client.list(session_id=session, limit=3)] == listed[:3]


def test_a_list_takes_times(client: Any, closed_run: str) -> None:
    now = datetime.now(UTC)
    assert closed_run in [run.run_id for run in client.list(since=now - timedelta(hours=1), until=now)]
    assert list(client.list(until=now - timedelta(days=3650))) == []


def test_events_go_through_all_pages(
    client: Any, server: ServerProcess, closed_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PAGE", 2)
    expected = server.events(closed_run)
    assert as_sent(client.events(closed_run)) == expected
    assert as_sent(client.events(closed_run, after=1, limit=3)) == expected[1:4]
    types = ("llm.", "lifecycle.completed")
    assert as_sent(client.events(closed_run, types=["llm.*"])) == [
        event for event in expected if event["type"].startswith(types)
    ]


def test_events_are_appended_where_they_are_expected(client: Any, silent_run: str) -> None:
    notes = [Custom("custom.note", {"n": 1}), Custom("custom.note", {"n": 2})]
    assert client.append(silent_run, notes, expected_seq=SILENT_HEAD) == SILENT_HEAD + 2
    with pytest.raises(Conflict) as refusal:
        client.append(silent_run, notes, expected_seq=SILENT_HEAD)
    assert refusal.value.code == "wrong_expected_seq"
    assert refusal.value.details["head"] == SILENT_HEAD + 2
    assert [event.data for event in client.events(silent_run, after=SILENT_HEAD)] == [{"n": 1}, {"n": 2}]


def test_a_run_is_deleted(client: Any, closed_run: str) -> None:
    client.delete(closed_run)
    assert client.get(closed_run).deleted  # for an admin
    with pytest.raises(Gone) as refusal:
        client.delete(closed_run)
    assert refusal.value.code == "run_deleted"


def test_a_purged_run_is_gone_and_listed_with_the_others_of_its_kind(
    client: Any, server: ServerProcess, closed_run: str
) -> None:
    purge_run(url_of(server.folder), closed_run)
    with pytest.raises(Gone) as refusal:
        client.get(closed_run)
    assert refusal.value.code == "run_purged"
    with pytest.raises(Gone):
        list(client.stream(closed_run))
    [run] = [run for run in client.list(purged=True) if run.run_id == closed_run]
    assert (run.status, run.result, run.counts["llm.token"]) == ("success", None, 3)
    assert run.purged_at is not None
    assert closed_run not in [run.run_id for run in client.list()]


def test_a_run_that_has_not_ended_is_not_deleted(client: Any, silent_run: str) -> None:
    with pytest.raises(Conflict, match="run_active"):
        client.delete(silent_run)


def test_an_unknown_agent_is_named_by_the_error(client: Any) -> None:
    with pytest.raises(NotFound, match="agent_not_found: there is no agent 'nobody'"):
        client.start("nobody", "hi")


def test_names_that_are_no_names_do_not_reach_another_route(client: Any) -> None:
    with pytest.raises(NotFound):
        client.get("../agents")
    with pytest.raises(NotFound):
        client.start("a/b?c", "hi")


def test_the_agents_are_listed(client: Any) -> None:
    assert {"quick", "silent", "talker"} <= {agent["name"] for agent in client.agents()}


def test_the_clients_run_record_has_the_fields_of_the_api() -> None:
    assert set(RunRecord.__struct_fields__) >= set(runs.RunRecord.__struct_fields__) - set(INCLUDES)


def test_a_start_says_what_becomes_of_the_sessions_other_run(client: Any, server: ServerProcess) -> None:
    session = f"client-{uuid4()}"
    first = client.start("silent", "hi", session_id=session)
    with pytest.raises(Conflict) as busy:
        client.start("quick", "hi", session_id=session, multitask_strategy="reject")
    assert busy.value.code == "session_busy"
    second = client.start("quick", "hi", session_id=session, multitask_strategy="interrupt")
    assert server.ended(first.run_id)["superseded_by"] == second.run_id
    assert server.ended(second.run_id)["status"] == "success"


# The audit log.


def test_the_audit_log_is_read_page_by_page_with_every_filter(
    client: Any, server: ServerProcess, closed_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PAGE", 3)
    events = list(client.audit(run_id=closed_run))
    assert [event.seq for event in events] == list(range(1, server.record(closed_run)["last_seq"] + 1))
    assert {(event.user_id, event.agent, event.by) for event in events} == {("local", "quick", None)}
    queued, last = events[0], events[-1]
    filters = {
        "run_id": closed_run, "user_id": "local", "agent": "quick", "types": ["lifecycle.*"], "contains": "{",
        "since": queued.at, "until": datetime.now(UTC) + timedelta(hours=1), "after": queued.position,
    }  # fmt: skip
    found = list(client.audit(**filters))
    assert [event.type for event in found] == ["lifecycle.started", "lifecycle.completed"]
    assert list(client.audit(session_id="none", workspace_id="none")) == []
    assert list(client.audit(run_id=closed_run, limit=4)) == events[:4]
    assert list(client.audit(run_id=closed_run, after=last.position)) == []


def test_the_audit_log_is_followed_from_any_position(client: Any, server: ServerProcess) -> None:
    run_id = server.begin_silent()
    stored = list(client.audit(run_id=run_id))
    following = client.follow_audit(run_id=run_id, after=stored[0].position)
    assert [next(following) for _ in stored[1:]] == stored[1:]
    server.note(run_id)
    assert next(following).type == "custom.note"
    server.stop_run(run_id)
