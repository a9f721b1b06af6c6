"""`/runs/{id}/stream`: replay, then live, from any cursor."""

import re
from itertools import islice

import httpx
import pytest
from starlette.requests import Request

from runstore.core.limits import MAX_FILTER_TYPES
from runstore.http.requests import read_cursor
from tests.http.conftest import HEARTBEAT_S
from tests.kit.frames import Frame, joined, read_frames, seqs
from tests.kit.server import SILENT_HEAD, ServerProcess, until


def take(server: ServerProcess, run_id: str, count: int, **where: object) -> list[Frame]:
    """The next frames of a run; then the connection is cut."""
    return list(islice(server.frames(run_id, **where), count))  # type: ignore[arg-type]


def test_no_client_may_cache_a_stream_and_no_proxy_may_buffer_it(
    server: ServerProcess, silent_run: str
) -> None:
    with server.stream(silent_run) as answer:
        assert answer.status_code == 200
        assert re.fullmatch(r"text/event-stream(; charset=utf-8)?", answer.headers["content-type"])
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"


def test_a_stream_replays_past_events_and_goes_on_live(server: ServerProcess, silent_run: str) -> None:
    server.note(silent_run, "before")
    frames = server.frames(silent_run)
    assert seqs(islice(frames, SILENT_HEAD + 1)) == list(range(1, SILENT_HEAD + 2))
    server.note(silent_run, "after")
    live = next(frames)
    assert (live.seq, live.data) == (SILENT_HEAD + 2, "after")
    server.stop_run(silent_run)
    rest = list(frames)
    assert [frame.type for frame in rest] == ["cancel.requested", "lifecycle.cancelled"]


def test_live_frames_are_byte_for_byte_the_replayed_ones(server: ServerProcess) -> None:
    run_id = server.begin_silent()
    live = server.frames(run_id)
    seen = list(islice(live, SILENT_HEAD))
    for text in ("plain", "ü\u2028\u0000\U0001f600", 'quote " and \\ and \r\n line'):
        server.note(run_id, text)
        seen.append(next(live))
    server.stop_run(run_id)
    seen += live
    assert joined(seen) == joined(server.frames(run_id))


@pytest.mark.parametrize("how", ["header", "parameter"])
def test_a_stream_goes_on_after_the_cursor(server: ServerProcess, closed_run: str, how: str) -> None:
    whole = list(server.frames(closed_run))
    for after in range(len(whole)):
        where = {"Last-Event-ID": str(after)} if how == "header" else {}
        query = {"after": after} if how == "parameter" else {}
        answer = server.http.get(f"/runs/{closed_run}/stream", headers=where, params=query)
        assert joined(read_frames([answer.content])) == joined(whole[after:])


def test_the_header_goes_before_the_parameter(server: ServerProcess, closed_run: str) -> None:
    answer = server.http.get(
        f"/runs/{closed_run}/stream", params={"after": 1}, headers={"Last-Event-ID": "3"}
    )
    assert next(read_frames([answer.content])).seq == 4


@pytest.mark.parametrize(
    "name",
    ["lastEventId", "lastEventID", "last-event-id", "Last-Event-ID", "last_event_id", "evs_last_event_id"],
)
@pytest.mark.parametrize("route", ["stream", "events"])
def test_a_polyfill_may_say_where_it_is_in_the_query(
    server: ServerProcess, closed_run: str, route: str, name: str
) -> None:
    def read(query: dict[str, str], **headers: str) -> httpx.Response:
        return server.http.get(f"/runs/{closed_run}/{route}", params=query, headers=headers)

    found, wanted = read({name: "3", "after": "1"}), read({"after": "3"})
    assert (found.content, found.headers.get("etag")) == (wanted.content, wanted.headers.get("etag"))
    assert (
        read({name: " 3 "}).content == read({name: "2"}, **{"Last-Event-ID": "3"}).content == wanted.content
    )
    assert read({name: ""}).content == read({}).content
    wrong = read({name: "x"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_cursor")


def test_the_padding_that_a_polyfill_asks_for_is_ignored(server: ServerProcess, closed_run: str) -> None:
    plain, padded = (
        server.http.get(f"/runs/{closed_run}/stream", params=query)
        for query in ({"after": "3"}, {"evs_last_event_id": "3", "evs_preamble": "2056"})
    )
    assert padded.content == plain.content
    elsewhere = server.http.get("/runs", params={"evs_preamble": "2056"})
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (400, "unknown_parameter")


def test_a_cursor_is_given_in_one_parameter(server: ServerProcess, closed_run: str) -> None:
    for query in ("lastEventId=1&lastEventId=2", "lastEventId=1&last-event-id=1"):
        answer = server.http.get(f"/runs/{closed_run}/stream?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize("value", [b"3 ", b"3\r", b"\t3", b"3\r\n"])
def test_blanks_around_a_last_event_id_are_not_part_of_it(value: bytes) -> None:
    scope = {"type": "http", "headers": [(b"last-event-id", value)]}
    assert read_cursor(Request(scope), None, 1) == 3
    assert read_cursor(Request({**scope, "headers": [(b"last-event-id", b" ")]}), None, 1) == 1


def test_a_stream_ends_after_the_terminal_event(server: ServerProcess, closed_run: str) -> None:
    frames = list(server.frames(closed_run))
    assert [frame.ends for frame in frames] == [False] * (len(frames) - 1) + [True]


def test_the_end_of_a_closed_run_is_204_of_the_streams_type(server: ServerProcess, closed_run: str) -> None:
    with server.stream(closed_run, after=server.record(closed_run)["last_seq"]) as answer:
        assert answer.status_code == 204
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.read() == b""


def test_the_head_of_an_open_run_is_not_204(server: ServerProcess, silent_run: str) -> None:
    frames = server.frames(silent_run, after=SILENT_HEAD)
    server.note(silent_run, "news")
    assert next(frames).data == "news"


def test_an_idle_stream_has_heartbeats_and_nothing_else(server: ServerProcess, silent_run: str) -> None:
    with server.stream(silent_run, after=SILENT_HEAD) as answer:
        received = b"".join(islice(answer.iter_raw(), 4))
    assert received == b":\n" * len(received[::2])
    assert len(received) >= 2 * 4
    assert HEARTBEAT_S < 15, "or this test would take a minute"


def test_types_leaves_what_matches(server: ServerProcess, silent_run: str) -> None:
    frames = server.frames(silent_run, types="custom.*")
    for kind in ("custom.a", "custom.b.c"):
        server.http.post(f"/runs/{silent_run}/events", json={"type": kind})
    assert [next(frames).type, next(frames).type] == ["custom.a", "custom.b.c"]


def test_one_type_is_not_a_prefix_of_others(server: ServerProcess, silent_run: str) -> None:
    frames = server.frames(silent_run, types="custom.a")
    for kind in ("custom.ab", "custom.a.b", "custom.a"):
        server.http.post(f"/runs/{silent_run}/events", json={"type": kind})
    assert next(frames).type == "custom.a"


MANY = ",".join(f"custom.x{number}.*" for number in range(MAX_FILTER_TYPES))


@pytest.mark.parametrize("path", ["stream", "events"])
def test_a_filter_has_a_bounded_number_of_names(server: ServerProcess, closed_run: str, path: str) -> None:
    url = f"/runs/{closed_run}/{path}"
    answer = server.http.get(url, params={"types": MANY})
    assert answer.status_code == 200
    assert "lifecycle.completed" in answer.text
    answer = server.http.get(url, params={"types": f"{MANY},llm.token"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")
    assert "100 names" in answer.json()["error"]["message"]


def test_a_filtered_reader_that_reconnects_after_each_event_gets_each_once(
    server: ServerProcess, closed_run: str
) -> None:
    wanted = [frame for frame in server.frames(closed_run) if frame.type == "llm.token" or frame.ends]
    found: list[Frame] = []
    while not found or not found[-1].ends:
        after = found[-1].seq if found else 0
        found += take(server, closed_run, 1, after=after, types="llm.token")
    assert joined(found) == joined(wanted)
    assert take(server, closed_run, 1, after=found[-1].seq, types="llm.token") == []


@pytest.mark.parametrize("types", ["custom.none", "tool.*", "llm.reasoning,tool.started"])
def test_the_ending_passes_every_filter(server: ServerProcess, silent_run: str, types: str) -> None:
    frames = server.frames(silent_run, types=types)
    server.note(silent_run)
    server.stop_run(silent_run)
    assert [frame.type for frame in frames] == ["lifecycle.cancelled"]
    assert [frame.type for frame in server.frames(silent_run, types=types)] == ["lifecycle.cancelled"]


def test_a_second_reader_sees_the_same(server: ServerProcess, silent_run: str) -> None:
    readers = [server.frames(silent_run) for _ in range(5)]
    heads = [list(islice(reader, SILENT_HEAD)) for reader in readers]
    server.note(silent_run)
    server.stop_run(silent_run)
    wholes = {joined(head) + joined(reader) for head, reader in zip(heads, readers, strict=True)}
    assert len(wholes) == 1


def test_closing_every_stream_of_a_run_does_not_end_it(server: ServerProcess) -> None:
    run_id = server.begin("talker", "on and on")
    seen = take(server, run_id, 10)
    until(lambda: server.record(run_id)["last_seq"] > seen[-1].seq + 50, "the run goes on unread")
    assert server.record(run_id)["status"] == "running"
    server.stop_run(run_id)


@pytest.mark.parametrize(
    "path", ["/runs/{run}/stream", "/runs/{run}/events", "/runs/{run}", "/runs", "/agents"]
)
def test_head_answers_as_get_does_but_without_a_body(http: httpx.Client, silent_run: str, path: str) -> None:
    answer = http.head(path.format(run=silent_run))
    assert answer.status_code == 200
    assert answer.content == b""
    expected = "text/event-stream" if path.endswith("stream") else "application/json"
    assert answer.headers["content-type"].startswith(expected)


def test_head_of_ndjson_has_no_body(http: httpx.Client, closed_run: str) -> None:
    answer = http.head(f"/runs/{closed_run}/events", headers={"Accept": "application/x-ndjson"})
    assert answer.status_code == 200
    assert answer.content == b""
    assert http.get(f"/runs/{closed_run}").status_code == 200, "the connection is still good"
