"""Independent clients, and one with a browser's rules."""

import json
import subprocess
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from tests.http.conftest import CONFIG, HEARTBEAT_S
from tests.http.eventsource import EventSource, Message
from tests.kit.frames import joined, read_frames, without_heartbeats
from tests.kit.keys import url_of
from tests.kit.purging import purge_run
from tests.kit.server import DEADLINE_S, SILENT_HEAD, ServerProcess, new_client, serving, until
from tests.kit.tools import require


@pytest.fixture
def talking_run(server: ServerProcess) -> Iterator[str]:
    run_id = server.begin("talker", "on and on")
    yield run_id
    server.stop_run(run_id)


# httpx-sse


def sse(server: ServerProcess, run_id: str, after: str = "") -> Iterator[ServerSentEvent]:
    headers = {"Last-Event-ID": after} if after else {}
    with connect_sse(server.http, "GET", f"/runs/{run_id}/stream", headers=headers) as source:
        yield from source.iter_sse()


def test_httpx_sse_reads_a_run_without_phantom_events(server: ServerProcess, closed_run: str) -> None:
    events = list(sse(server, closed_run))
    expected = [(str(e["seq"]), e["type"], e) for e in server.events(closed_run)]
    assert [(event.id, event.event, event.json()) for event in events] == expected
    assert [event.retry for event in events] == [1000] + [None] * (len(events) - 1)


def test_httpx_sse_makes_no_event_of_a_heartbeat(server: ServerProcess, silent_run: str) -> None:
    events = sse(server, silent_run, after=str(SILENT_HEAD))
    with server.stream(
        silent_run, after=SILENT_HEAD
    ) as idle:  # as many heartbeats as the other stream has had
        list(islice(idle.iter_raw(), 4))
    server.note(silent_run, "first")
    assert next(events).json()["data"] == "first"


def test_httpx_sse_reconnects_in_the_middle_of_a_live_run(server: ServerProcess, talking_run: str) -> None:
    seen: list[ServerSentEvent] = []
    for _ in range(10):
        seen += islice(sse(server, talking_run, after=seen[-1].id if seen else ""), 7)
    assert [event.id for event in seen] == [str(seq) for seq in range(1, 71)]
    assert {event.json()["run_id"] for event in seen} == {talking_run}


def test_httpx_sse_finds_nothing_at_the_end_of_a_closed_run(server: ServerProcess, closed_run: str) -> None:
    assert list(sse(server, closed_run, after=str(server.record(closed_run)["last_seq"]))) == []


# curl


def test_curl_reads_a_run_to_its_end(server: ServerProcess, closed_run: str) -> None:
    done = subprocess.run(
        [require("curl"), "-sSN", f"{server.http.base_url}/runs/{closed_run}/stream"],
        capture_output=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    assert without_heartbeats(done.stdout) == joined(server.frames(closed_run))


def test_curl_sees_each_event_as_it_comes(server: ServerProcess, silent_run: str) -> None:
    command = [
        require("curl"),
        "-sSN",
        "-H",
        f"Last-Event-ID: {SILENT_HEAD}",
        f"{server.http.base_url}/runs/{silent_run}/stream",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        frames = read_frames(iter(lambda: curl.stdout.read1(), b""))  # type: ignore[union-attr]
        for text in ("one", "two"):
            server.note(silent_run, text)
            assert next(frames).data == text
        server.stop_run(silent_run)
        assert [frame.type for frame in frames] == ["cancel.requested", "lifecycle.cancelled"]
        assert curl.wait(DEADLINE_S) == 0


def test_curl_starts_a_run_and_reads_it(server: ServerProcess) -> None:
    done = subprocess.run(
        [
            require("curl"), "-sSN", f"{server.http.base_url}/agents/quick/stream",
            "-H", "Content-Type: application/json", "-d", '{"input": "one two three"}',
        ],
        capture_output=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    frames = list(read_frames([done.stdout]))
    assert frames[-1].type == "lifecycle.completed"
    assert joined(frames) == joined(server.frames(frames[0].event["run_id"]))


def test_a_client_of_http_1_0_gets_no_chunks(server: ServerProcess, closed_run: str) -> None:
    def get(path: str) -> tuple[bytes, bytes]:
        done = subprocess.run(
            [require("curl"), "-sSN", "--http1.0", "--raw", "-i", f"{server.http.base_url}{path}"],
            capture_output=True, timeout=DEADLINE_S, check=True,
        )  # fmt: skip
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        return head.lower(), body

    head, body = get(f"/runs/{closed_run}/stream")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert without_heartbeats(body) == joined(server.frames(closed_run))
    head, body = get(f"/runs/{closed_run}")
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body)["run_id"] == closed_run


# A browser


class CutTransport(httpx.HTTPTransport):
    """A line that breaks, each time a little later, until it holds."""

    def __init__(self, cuts: list[int]) -> None:
        super().__init__()
        self._cuts = cuts

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        assert isinstance(answer.stream, httpx.SyncByteStream)
        if self._cuts:
            answer.stream = _CutStream(answer.stream, self._cuts.pop(0))
        return answer


class _CutStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        left = self._limit
        for part in self._stream:
            yield part[:left]
            left -= len(part)
            if left <= 0:
                raise httpx.ReadError("the line broke")

    def close(self) -> None:
        self._stream.close()


def as_events(messages: list[Message]) -> list[dict[str, object]]:
    return [json.loads(message.data) for message in messages]


def test_a_browser_reads_a_run_and_stops_at_its_end(server: ServerProcess, closed_run: str) -> None:
    waits: list[float] = []
    source = EventSource(server.http, f"/runs/{closed_run}/stream", waits.append)
    messages = list(source.messages())
    assert as_events(messages) == server.events(closed_run)
    assert [message.type for message in messages] == [event["type"] for event in server.events(closed_run)]
    assert source.opened == 1
    assert waits == [1.0], "one reconnection, after the time that the stream asked for, which met 204"


@pytest.mark.parametrize("first_cut", [0, 1, 100, 1000])
def test_a_browser_on_a_line_that_breaks_misses_nothing(
    server: ServerProcess, closed_run: str, first_cut: int
) -> None:
    cuts = [first_cut + 37 * n for n in range(20)]
    with httpx.Client(base_url=server.http.base_url, transport=CutTransport(cuts)) as client:
        source = EventSource(client, f"/runs/{closed_run}/stream", lambda seconds: None)
        messages = list(source.messages())
    assert as_events(messages) == server.events(closed_run)
    assert [message.last_event_id for message in messages] == [
        str(event["seq"]) for event in server.events(closed_run)
    ]


def test_a_browser_gives_up_on_a_run_that_is_not_there(server: ServerProcess) -> None:
    source = EventSource(server.http, "/runs/01890a5d-ac96-774b-bcce-b302099a8057/stream")
    assert list(source.messages()) == []
    assert source.closed
    assert source.opened == 0


def test_a_browser_gives_up_on_a_run_that_was_purged(server: ServerProcess, closed_run: str) -> None:
    purge_run(url_of(server.folder), closed_run)
    source = EventSource(server.http, f"/runs/{closed_run}/stream")
    assert list(source.messages()) == []
    assert source.closed


def test_a_browser_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG, heartbeat_s=HEARTBEAT_S, drain_s=0) as server:
        server.options["port"] = server.port  # the page knows no other
        run_id = server.begin_silent()
        server.note(run_id, "before")
        tries = count(1)

        def wait(seconds: float) -> None:
            if next(tries) == 3:  # the first tries get no answer
                server.start()
                until(lambda: server.record(run_id)["attempt"] == 2, "the run goes on")
                server.stop_run(run_id)

        with new_client(str(server.http.base_url)) as page:
            source = EventSource(page, f"/runs/{run_id}/stream", wait)
            messages: list[Message] = []
            for message in source.messages():
                messages.append(message)
                if len(messages) == SILENT_HEAD + 1:
                    server.terminate()
                    server.wait()
        assert as_events(messages) == server.events(run_id)
        assert messages[-1].type == "lifecycle.cancelled"
        assert source.opened == 2


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_the_browsers_rules_are_those_of_the_standard(end: str) -> None:
    stream = (
        "\ufeff: a comment||data: YHOO|data: +2|data: 10||data|| data: no field of this name||"
        "event: add|data:no space|id: 7|retry: 5||id: 8|retry: 5s||data: two  spaces|id: a\0b||data: cut off"
    ).replace("|", end)
    body = stream.encode()

    def answer(request: httpx.Request) -> httpx.Response:
        if "Last-Event-ID" in request.headers:  # it comes back
            return httpx.Response(204)
        parts = (body[place : place + 1] for place in range(len(body)))
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=parts)

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://page") as client:
        source = EventSource(client, "/stream")
        assert list(source.messages()) == [
            Message("message", "YHOO\n+2\n10", ""),
            Message("message", "", ""),
            Message("add", "no space", "7"),
            Message("message", "two  spaces", "8"),
        ]
        assert source.reconnection_s == 0.005
        assert source.last_event_id == "8"


# Readers that end a line where Python's `splitlines` does, as httpx' `iter_lines`

LINE_ENDS = "\x85\u2028\u2029"


def test_no_answer_has_line_ends_beyond_those_of_its_format(server: ServerProcess) -> None:
    text = f"one{LINE_ENDS}two"
    run_id = server.begin_silent()
    server.note(run_id, text)
    server.stop_run(run_id)
    ndjson = {"Accept": "application/x-ndjson"}
    answers = [
        server.http.get(f"/runs/{run_id}/stream"),
        server.http.get("/stream", params={"run_id": run_id}),
        server.http.get(f"/runs/{run_id}/events", headers=ndjson),
        server.http.get("/audit/events", params={"run_id": run_id}, headers=ndjson),
    ]
    for answer in answers:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if not line.startswith("id: ")]
        values = [json.loads(line) for line in lines if line.startswith("{")]
        assert LINE_ENDS in json.dumps(values, ensure_ascii=False)
        assert answer.text.splitlines() == answer.text.removesuffix("\n").split("\n")
