"""`/audit/events`: pages, NDJSON, CSV and the stream."""

import csv
import io
import json
from typing import Any

import httpx
import pytest

from runstore.core.printable import csv_cell
from tests.kit.server import ServerProcess

NDJSON, CSV = "application/x-ndjson", "text/csv"


def pages(http: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:
    """All matching events, page by page."""
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        answer = http.get("/audit/events", params={"limit": 1_000, **parameters, "after": after})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["next"] is None or page["next"] > after
        found, after = found + page["data"], page["next"]
    return found


def test_an_event_is_that_of_its_run_with_its_position_user_and_agent(
    server: ServerProcess, closed_run: str
) -> None:
    found = pages(server.http, run_id=closed_run.upper(), limit=3)
    positions = [event.pop("position") for event in found]
    assert positions == sorted(set(positions))
    assert {(event.pop("user_id"), event.pop("agent")) for event in found} == {("local", "quick")}
    assert found == server.events(closed_run)


def test_the_filters_are_all_applied(server: ServerProcess, silent_run: str) -> None:
    run_id = server.begin("quick", "one two", session_id="audited", metadata={"key": "Grüße"})
    server.ended(run_id)
    session = {"session_id": "audited"}
    everything = pages(server.http, **session)
    assert {event["run_id"] for event in everything} == {run_id}
    middle = everything[2]
    for parameters, keep in (
        ({"types": "llm.token,lifecycle.*"}, lambda e: e["type"] == "llm.token" or "lifecycle." in e["type"]),
        ({"agent": "silent"}, lambda e: False),
        ({"user_id": "local", "agent": "quick"}, lambda e: True),
        ({"user_id": "nobody"}, lambda e: False),
        ({"workspace_id": "w"}, lambda e: False),
        ({"contains": "Grüße"}, lambda e: e["type"] == "lifecycle.queued"),
        ({"since": middle["at"]}, lambda e: e["at"] >= middle["at"]),
        ({"until": middle["at"]}, lambda e: e["at"] <= middle["at"]),
    ):
        assert pages(server.http, **session, **parameters) == list(filter(keep, everything)), parameters
    assert pages(server.http, run_id=run_id, user_id="local") == everything
    assert pages(server.http, run_id=silent_run, session_id="audited") == []


@pytest.mark.parametrize("choice", [{"headers": {"Accept": NDJSON}}, {"params": {"format": "ndjson"}}])
def test_ndjson_is_one_item_of_a_page_on_each_line(
    server: ServerProcess, closed_run: str, choice: dict[str, Any]
) -> None:
    parameters = {"run_id": closed_run, **choice.get("params", {})}
    answer = server.http.get("/audit/events", params=parameters, headers=choice.get("headers"))
    assert answer.headers["content-type"].startswith(NDJSON)
    assert list(map(json.loads, answer.text.splitlines())) == pages(server.http, run_id=closed_run)
    parameters["limit"] = 2
    answer = server.http.get("/audit/events", params=parameters, headers=choice.get("headers"))
    assert len(answer.text.splitlines()) == 2


@pytest.mark.parametrize("choice", [{"headers": {"Accept": CSV}}, {"params": {"format": "csv"}}])
def test_csv_has_a_heading_and_the_data_as_json(
    server: ServerProcess, closed_run: str, choice: dict[str, Any]
) -> None:
    parameters = {"run_id": closed_run, **choice.get("params", {})}
    answer = server.http.get("/audit/events", params=parameters, headers=choice.get("headers"))
    assert answer.headers["content-type"].startswith(CSV)
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(rows[0]) == ["position", "run_id", "seq", "type", "at", "user_id", "agent", "by", "data"]
    for row, event in zip(rows, pages(server.http, run_id=closed_run), strict=True):
        assert json.loads(row.pop("data")) == event.pop("data")
        assert row == {**{name: str(value) for name, value in event.items()}, "by": event.get("by", "")}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_csv_is_a_formula(server: ServerProcess, text: str) -> None:
    run_id = server.begin("quick", "hi", session_id="s")
    server.ended(run_id)
    assert csv_cell(text) == f"'{text}"
    assert [csv_cell(value) for value in ("1=1", 5, -5, None, "")] == ["1=1", 5, -5, None, ""]
    agent = server.http.get("/audit/events", params={"run_id": run_id, "format": "csv"}).text
    assert ",'" not in agent


def test_the_user_who_stopped_or_deleted_a_run_is_beside_the_data(server: ServerProcess) -> None:
    run_id = server.begin_silent()
    server.stop_run(run_id)
    assert server.http.delete(f"/runs/{run_id}").status_code == 204
    said = {event["type"]: event.get("by") for event in pages(server.http, run_id=run_id)}
    assert said["cancel.requested"] == said["run.deleted"] == "local"
    assert said["lifecycle.started"] is None


def test_a_stream_replays_and_goes_on_live_from_any_position(server: ServerProcess) -> None:
    run_id = server.begin_silent()
    stored = pages(server.http, run_id=run_id)
    with follow(server.http, run_id) as lines:
        assert [next(lines) for _ in stored] == stored
        server.note(run_id, "live")
        live = next(lines)
    assert live["data"] == "live" or live["data"]["data"] == "live"
    with follow(server.http, run_id, headers={"Last-Event-ID": str(stored[-1]["position"])}) as lines:
        assert next(lines) == live
    server.stop_run(run_id)


class follow:
    """The items of a stream, whose ids are their positions."""

    def __init__(self, http: httpx.Client, run_id: str, **options: Any) -> None:
        self._stream = http.stream("GET", "/audit/events/stream", params={"run_id": run_id}, **options)

    def __enter__(self) -> Any:
        answer = self._stream.__enter__()
        assert answer.status_code == 200
        return self._items(answer.iter_lines())

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)

    def _items(self, lines: Any) -> Any:
        frame: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            if line and name != ":":
                frame[name] = value
            elif frame and not line:
                item = json.loads(frame["data"])
                assert (frame["id"], frame["event"]) == (str(item["position"]), item["type"])
                yield item
                frame = {}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"run_id": "no"}, "run_id='no' must be a UUID"),
        ({"types": "llm.nothing"}, "unknown event type 'llm.nothing'"),
        ({"contains": ""}, "contains must have 1 to 200 characters"),
        ({"contains": "x" * 201}, "contains must have 1 to 200 characters"),
        ({"since": "yesterday"}, "since='yesterday' must be a time"),
        ({"format": "xml"}, "format='xml' must be one of json, ndjson, csv"),
        ({"limit": "1001"}, "limit='1001' must be a whole number from 1 to 1000"),
        ({"since": "2026-02-02T00:00:00Z", "until": "2026-02-01T00:00:00Z"}, "must not be later than until="),
        ({"after": "1e3"}, "the cursor '1e3' must be a whole number"),
        ({"after": "999999999999"}, "the cursor 999999999999 is ahead of the log"),
        ({"tenant": "x"}, "unknown query parameter 'tenant'"),
    ],
)
@pytest.mark.parametrize("path", ["/audit/events", "/audit/events/stream"])
def test_impossible_filters_are_refused_with_a_reason(
    server: ServerProcess, path: str, parameters: dict[str, str], message: str
) -> None:
    if path.endswith("stream") and parameters.keys() & {"format", "limit"}:
        message = "unknown query parameter"
    answer = server.http.get(path, params=parameters)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
