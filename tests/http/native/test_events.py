"""`/runs/{id}/events`: pages, NDJSON, and what an external producer appends."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.kit.frames import read_frames
from tests.kit.server import SILENT_HEAD, ServerProcess

NDJSON = {"Accept": "application/x-ndjson"}


# Reading.


def test_paging_to_the_end_brings_every_event_once(server: ServerProcess, closed_run: str) -> None:
    found, after, pages = [], 0, 0
    while after is not None:
        page = server.http.get(f"/runs/{closed_run}/events", params={"after": after, "limit": 2}).json()
        assert len(page["data"]) <= 2
        found += page["data"]
        after, pages = page["next"], pages + 1
    last_seq = server.record(closed_run)["last_seq"]
    assert [event["seq"] for event in found] == list(range(1, last_seq + 1))
    assert pages == (last_seq + 1) // 2


def test_an_event_of_a_page_is_the_data_of_its_frame(server: ServerProcess, closed_run: str) -> None:
    answer = server.http.get(f"/runs/{closed_run}/events", params={"limit": 1000})
    lines = [frame.line for frame in server.frames(closed_run)]
    assert answer.content == b'{"data":[%b],"next":null}' % b",".join(lines)
    assert answer.headers["content-type"] == "application/json"


def test_ndjson_is_the_data_of_the_frames_line_by_line(server: ServerProcess, closed_run: str) -> None:
    answer = server.http.get(f"/runs/{closed_run}/events", headers=NDJSON)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert answer.content == b"".join(frame.line + b"\n" for frame in server.frames(closed_run))


@pytest.mark.parametrize(
    ("accept", "lines"),
    [
        ("application/json, {}", True), ("*/*, Application/X-NDJSON", True), ("{};q=0.5", True),
        ("application/json;q=0.4,{};q=0.5", True), ("{} ; v=1 ; q = 1.000, */*;q=0.8", True),
        ("{};q=x", True), ("{};q=0", False), ("application/json, {};q=0.5", False),
        ("{};q=0.5, */*", False), ("{};q=0.5, application/*;q=0.9", False), ("{};q=0.0, */*;q=0", False),
        ("application/*", False), ("text/html", False), ("", False), (";;,,q=1", False), ("{}2", False),
    ],
)  # fmt: skip
def test_ndjson_comes_if_accept_prefers_it(
    server: ServerProcess, closed_run: str, accept: str, lines: bool
) -> None:
    headers = {"Accept": accept.format(NDJSON["Accept"])}
    answer = server.http.get(f"/runs/{closed_run}/events", headers=headers)
    assert answer.headers["content-type"].startswith(NDJSON["Accept"]) == lines
    assert answer.headers["vary"] == "Accept"


def test_several_accept_lines_are_one_list(server: ServerProcess, closed_run: str) -> None:
    lines = [("Accept", "application/x-ndjson;q=0.5"), ("Accept", "application/json")]
    answer = server.http.get(f"/runs/{closed_run}/events", headers=lines)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("accept", ["text/event-stream;q=0", "application/json, text/event-stream;q=0.5", ""])
def test_a_stream_is_a_stream_for_any_accept_header(
    server: ServerProcess, closed_run: str, accept: str
) -> None:
    answer = server.http.get(f"/runs/{closed_run}/stream", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_ndjson_has_no_page_unless_a_limit_is_asked_for(server: ServerProcess, silent_run: str) -> None:
    body = {"events": [{"type": "custom.note", "data": n} for n in range(1000)]}
    for _ in range(2):
        assert server.http.post(f"/runs/{silent_run}/events", json=body).status_code == 201
    url = f"/runs/{silent_run}/events"
    lines = server.http.get(url, headers=NDJSON).content.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, SILENT_HEAD + 2001))
    lines = server.http.get(url, headers=NDJSON, params={"after": 3, "limit": 1500}).content.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(4, 1504))


@pytest.mark.parametrize("headers", [{}, NDJSON], ids=["json", "ndjson"])
def test_types_leaves_what_matches_and_the_ending(
    server: ServerProcess, closed_run: str, headers: dict[str, str]
) -> None:
    answer = server.http.get(
        f"/runs/{closed_run}/events", params={"types": "llm.token,agent.*"}, headers=headers
    )
    events = answer.json()["data"] if not headers else list(map(json.loads, answer.text.splitlines()))
    kinds = {event["type"] for event in events}
    assert {"llm.token", "lifecycle.completed"} <= kinds <= {
        "llm.token", "agent.started", "agent.finished", "lifecycle.completed",
    }  # fmt: skip
    assert [event["data"]["text"] for event in events if event["type"] == "llm.token"] == [
        "one ", "two ", "three",
    ]  # fmt: skip


@pytest.mark.parametrize("known", ['W/"other", {}', "W/{}", "*"])
def test_a_closed_runs_page_is_not_sent_again_to_a_client_that_has_it(
    server: ServerProcess, closed_run: str, known: str
) -> None:
    url = f"/runs/{closed_run}/events"
    etag = server.http.get(url).headers["etag"]
    again = server.http.get(url, headers={"If-None-Match": known.format(etag)})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == etag


def test_another_page_of_a_closed_run_has_another_etag(server: ServerProcess, closed_run: str) -> None:
    url = f"/runs/{closed_run}/events"
    pages = [{}, {"after": 1}, {"limit": 1}, {"types": "llm.token"}, {"types": "llm.*"}]
    etags = {server.http.get(url, params=page).headers["etag"] for page in pages}
    assert len(etags) == len(pages)


def test_a_run_that_goes_on_has_no_etag(server: ServerProcess, silent_run: str) -> None:
    assert "etag" not in server.http.get(f"/runs/{silent_run}/events").headers


# Appending.


def test_an_appended_event_is_answered_with_its_seq_once_it_is_stored(
    server: ServerProcess, silent_run: str
) -> None:
    body = {"type": "custom.progress", "data": {"percent": 10, "nested": [None, True, "ä\u0000"]}}
    answer = server.http.post(f"/runs/{silent_run}/events", json=body)
    assert answer.status_code == 201
    assert answer.json() == {"run_id": silent_run, "last_seq": SILENT_HEAD + 1}
    stored = server.events(silent_run)[-1]
    assert (stored["seq"], stored["type"], stored["data"]) == (SILENT_HEAD + 1, body["type"], body["data"])


def test_data_may_be_left_out(server: ServerProcess, silent_run: str) -> None:
    assert server.http.post(f"/runs/{silent_run}/events", json={"type": "custom.x"}).status_code == 201
    assert server.events(silent_run)[-1]["data"] is None


def test_several_events_are_stored_together(server: ServerProcess, silent_run: str) -> None:
    body = {"events": [{"type": f"custom.{n}", "data": n} for n in range(10)]}
    answer = server.http.post(f"/runs/{silent_run}/events", json=body)
    assert answer.json()["last_seq"] == SILENT_HEAD + 10
    assert [event["data"] for event in server.events(silent_run)[SILENT_HEAD:]] == list(range(10))


@pytest.mark.parametrize(
    "body", [{"type": "custom.a"}, {"events": [{"type": "custom.a"}]}], ids=["one", "many"]
)
def test_an_append_where_the_head_is_expected_succeeds(
    server: ServerProcess, silent_run: str, body: dict[str, object]
) -> None:
    answer = server.http.post(f"/runs/{silent_run}/events", json={**body, "expected_seq": SILENT_HEAD})
    assert answer.status_code == 201


@pytest.mark.parametrize("expected_seq", [0, SILENT_HEAD - 1, SILENT_HEAD + 1, -1, 10**20])
@pytest.mark.parametrize(
    "body", [{"type": "custom.a"}, {"events": [{"type": "custom.a"}]}], ids=["one", "many"]
)
def test_an_append_elsewhere_is_409_and_names_the_head(
    server: ServerProcess, silent_run: str, body: dict[str, object], expected_seq: int
) -> None:
    answer = server.http.post(f"/runs/{silent_run}/events", json={**body, "expected_seq": expected_seq})
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "wrong_expected_seq"
    assert answer.json()["error"]["head"] == SILENT_HEAD
    assert server.record(silent_run)["last_seq"] == SILENT_HEAD


def test_a_closed_run_takes_no_more_events(server: ServerProcess, closed_run: str) -> None:
    last_seq = server.record(closed_run)["last_seq"]
    answer = server.http.post(f"/runs/{closed_run}/events", json={"type": "custom.late"})
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "run_closed"
    assert answer.json()["error"]["head"] == last_seq
    assert server.record(closed_run)["last_seq"] == last_seq


def test_one_bad_event_of_several_stores_none_of_them(server: ServerProcess, silent_run: str) -> None:
    body = {"events": [{"type": "custom.good"}, {"type": "lifecycle.completed"}]}
    answer = server.http.post(f"/runs/{silent_run}/events", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_event"
    assert server.record(silent_run)["last_seq"] == SILENT_HEAD


def test_an_event_over_its_limit_is_413_and_the_run_goes_on(server: ServerProcess, silent_run: str) -> None:
    body = {"type": "custom.big", "data": "x" * (1 << 20)}
    answer = server.http.post(f"/runs/{silent_run}/events", json=body)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "event_too_large"
    assert server.note(silent_run) == SILENT_HEAD + 1


def test_appends_of_several_clients_all_get_a_seq_of_their_own(
    server: ServerProcess, silent_run: str
) -> None:
    with ThreadPoolExecutor(8) as clients:
        given = list(clients.map(lambda n: server.note(silent_run, str(n)), range(100)))
    assert sorted(given) == list(range(SILENT_HEAD + 1, SILENT_HEAD + 101))
    stored = {event["seq"]: event["data"] for event in server.events(silent_run)[SILENT_HEAD:]}
    assert stored == {seq: str(n) for n, seq in enumerate(given)}


def test_the_pages_of_a_run_are_read_with_httpx_as_any_json(http: httpx.Client, closed_run: str) -> None:
    first = http.get(f"/runs/{closed_run}/events", params={"limit": 1}).json()["data"][0]
    assert first.keys() == {"run_id", "seq", "type", "at", "data"}
    assert first["run_id"] == closed_run
    assert first["at"].endswith("Z")


def test_an_appended_event_names_its_user_in_every_read(server: ServerProcess, silent_run: str) -> None:
    """An event's data stay unchanged: live, replayed, as a page, as lines, in a trace, in the audit log."""
    data = {"by": "mallory", "n": [1]}
    with server.stream(silent_run, SILENT_HEAD) as answer:
        seq = server.http.post(
            f"/runs/{silent_run}/events", json={"type": "custom.note", "data": data}
        ).json()["last_seq"]
        live = next(read_frames(answer.iter_raw()))
    assert live.raw == next(server.frames(silent_run, SILENT_HEAD)).raw
    event = live.event
    assert (event["seq"], event["by"], event["data"]) == (seq, "local", data)
    page = server.http.get(f"/runs/{silent_run}/events", params={"after": SILENT_HEAD})
    assert page.json()["data"] == [event]
    lines = server.http.get(f"/runs/{silent_run}/events", params={"after": SILENT_HEAD}, headers=NDJSON)
    assert lines.content == live.line + b"\n"
    assert server.record(silent_run, include="trace")["trace"]["data"][-1] == event
    audited = {"run_id": silent_run, "types": "custom.note"}
    (item,) = server.http.get("/audit/events", params=audited).json()["data"]
    assert (item["by"], item["data"], item["user_id"]) == ("local", data, "local")
    rows = server.http.get("/audit/events", params={**audited, "format": "csv"}).text.splitlines()
    assert rows[1].endswith(',local,silent,local,"{""by"":""mallory"",""n"":[1]}"')
    server.stop_run(silent_run)
