"""`/stream`: several runs as one stream, each from its own cursor, and all of the user's own runs."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

import runstore
from runstore.core.stream_cursors import OwnRunCursors
from runstore.mount import MountedApp
from runstore.runtime.catalog.agents import AgentSpec
from runstore.store import starts as store_starts
from tests.http.eventsource import EventSource, Message
from tests.kit.database import make_database
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import DEADLINE_S, SILENT_AGENT, ServerProcess, serving, until

CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.quick]
model = "scripted"
"""
NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("several")
    with serving(folder, CONFIG, SILENT_AGENT, heartbeat_s=0.2) as server:
        make_key(folder, "somebody")
        until(lambda: server.http.get("/runs").status_code == 401, "keys are asked for")
        yield server
        assert_no_traceback(server.log)
        assert "level=error" not in server.log


@pytest.fixture
def http(running: ServerProcess, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A user of this test's own."""
    with client(running, make_key(running.folder, request.node.name[:255])) as http:
        until(lambda: http.get("/runs").status_code == 200, "the key is known")
        yield http


def begin(http: httpx.Client, agent: str = "silent", input: str = "one two") -> str:
    return str(http.post(f"/agents/{agent}/start", json={"input": input}).json()["run_id"])


def begin_silent(http: httpx.Client) -> str:
    run_id = begin(http)
    until(lambda: http.get(f"/runs/{run_id}").json()["last_seq"] == 3, "the run has started")
    return run_id


def ended(http: httpx.Client, agent: str = "quick", input: str = "one two") -> str:
    run_id = begin(http, agent, input)
    assert http.get(f"/runs/{run_id}", params={"wait": 20}).json()["status"] == "success"
    return run_id


def note(http: httpx.Client, run_id: str, text: str = "note") -> None:
    assert http.post(f"/runs/{run_id}/events", json={"type": "custom.note", "data": text}).is_success


def stop(http: httpx.Client, run_id: str) -> None:
    assert http.post(f"/runs/{run_id}/stop").is_success
    assert http.get(f"/runs/{run_id}", params={"wait": 20}).json()["status"] == "stopped"


def url_of(*run_ids: str, **more: Any) -> str:
    return str(httpx.URL("/stream", params={"run_id": list(run_ids), **more}))


def source(http: httpx.Client, url: str, after: str = "") -> EventSource:
    found = EventSource(http, url, wait=lambda _: None)
    found.last_event_id = after
    return found


def take(http: httpx.Client, url: str, count: int, after: str = "") -> list[Message]:
    """The next messages; then the connection is cut."""
    return list(islice(source(http, url, after).messages(), count))


def one_by_one(http: httpx.Client, url: str, count: int, after: str = "") -> list[Message]:
    """The same, with a new connection for each."""
    found: list[Message] = []
    while len(found) < count:
        found += take(http, url, 1, found[-1].last_event_id if found else after)
    return found


def place(message: Message) -> tuple[str, int]:
    event = json.loads(message.data)
    return event["run_id"], event["seq"]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def seqs(messages: list[Message], run_id: str) -> list[int]:
    return [seq for run, seq in map(place, messages) if run == run_id]


# Named runs.


def test_each_run_comes_whole_and_in_order_and_the_end_of_all_is_the_end(http: httpx.Client) -> None:
    runs = [ended(http), ended(http, input="three")]
    reader = source(http, url_of(*runs))
    messages = list(reader.messages())
    assert reader.closed  # by a 204
    for run_id in runs:
        events = http.get(f"/runs/{run_id}/events").json()["data"]
        assert [json.loads(m.data) for m in messages if place(m)[0] == run_id] == events
    assert [m.type for m in messages] == [json.loads(m.data)["type"] for m in messages]


def test_a_reader_that_reconnects_after_each_event_gets_each_once(http: httpx.Client) -> None:
    runs = [ended(http), ended(http, input="three four five")]
    whole = list(source(http, url_of(*runs)).messages())
    assert sorted(map(place, one_by_one(http, url_of(*runs), len(whole)))) == sorted(map(place, whole))


def test_alternating_events_of_open_runs_come_live(http: httpx.Client) -> None:
    first, second = begin_silent(http), begin_silent(http)
    messages = source(http, url_of(first, second)).messages()
    assert sorted(map(place, islice(messages, 6))) == sorted(
        (run, s) for run in (first, second) for s in (1, 2, 3)
    )
    for number, run_id in enumerate((first, second, second, first)):
        note(http, run_id, f"{number}")
        message = next(messages)
        assert (place(message)[0], json.loads(message.data)["data"]) == (run_id, f"{number}")
    stop(http, first)
    assert seqs([next(messages), next(messages)], first) == [6, 7]
    note(http, second)
    assert place(next(messages)) == (second, 6)
    stop(http, second)
    assert [message.type for message in messages] == ["cancel.requested", "lifecycle.cancelled"]


def test_text_between_two_connections_comes_with_the_second(http: httpx.Client) -> None:
    runs = [begin_silent(http), begin_silent(http)]
    last = take(http, url_of(*runs), 6)[-1].last_event_id
    for run_id in runs:
        note(http, run_id)
    assert sorted(map(place, one_by_one(http, url_of(*runs), 2, last))) == sorted((run, 4) for run in runs)


def test_a_run_may_be_named_with_its_own_place(http: httpx.Client) -> None:
    first, second = ended(http), ended(http)
    messages = list(source(http, url_of(f"{first}:4", second)).messages())
    whole = len(http.get(f"/runs/{second}/events").json()["data"])
    assert seqs(messages, first) == list(range(5, whole + 1))
    assert seqs(messages, second) == list(range(1, whole + 1))


def test_a_filter_holds_for_all_of_them_and_their_ends_pass(http: httpx.Client) -> None:
    runs = [ended(http), ended(http)]
    messages = list(source(http, url_of(*runs, types="llm.token")).messages())
    types = [message.type for message in messages]
    assert types.count("lifecycle.completed") == 2
    assert set(types) == {"llm.token", "lifecycle.completed"}


def test_a_deleted_run_is_reported_once_and_the_others_go_on(http: httpx.Client) -> None:
    gone, there = ended(http), begin_silent(http)
    last = take(http, url_of(gone, there), 1)[-1].last_event_id
    assert http.delete(f"/runs/{gone}").status_code == 204
    messages = one_by_one(http, url_of(gone, there), 4, last)
    told = [json.loads(message.data) for message in messages if message.type == "stream.gone"]
    assert [(each["run_id"], each["seq"], each["data"]["code"]) for each in told] == [
        (gone, 0, "run_deleted")
    ]
    assert seqs(messages, there) == [1, 2, 3]
    stop(http, there)
    reader = source(http, url_of(gone, there), messages[-1].last_event_id)
    assert [message.type for message in reader.messages()] == ["cancel.requested", "lifecycle.cancelled"]
    assert reader.closed


def test_a_cursor_is_answered_exactly_or_refused(http: httpx.Client) -> None:
    first, second = ended(http), ended(http)
    cursor = take(http, url_of(first, second), 3)[-1].last_event_id
    check = cursor.partition(".")[0]

    def refused(url: str, after: str) -> tuple[int, str]:
        return error_of(http.get(url, headers={"Last-Event-ID": after}))

    for url, after in (
        (url_of(second, first), cursor),
        (url_of(first), cursor),
        (url_of(first, second), "3"),
        (url_of(first, second), f"{check}.3"),
        (url_of(first, second), f"{check}.3.x3"),
        (url_of(first, second), f"{check}.3.1000"),
        (url_of(first, second), "own.1.1"),
        ("/stream", cursor),
        ("/stream", "own.1.1.AAAA:3"),
    ):
        assert refused(url, after) == (400, "invalid_cursor"), (url, after)
    assert error_of(http.get(url_of(f"{first}:99"))) == (400, "invalid_cursor")
    assert error_of(http.get(url_of(f"{first}:-1"))) == (400, "invalid_cursor")


def test_wrong_names_are_refused(http: httpx.Client) -> None:
    run_id = ended(http)
    assert error_of(http.get(url_of(run_id, run_id.upper()))) == (400, "invalid_parameter")
    assert error_of(http.get(url_of(*[run_id] * 101))) == (400, "invalid_parameter")
    assert error_of(http.get(url_of(run_id, NOBODY))) == (404, "run_not_found")
    assert error_of(http.get(url_of(run_id, "x"))) == (404, "run_not_found")
    assert error_of(http.get("/stream?run_id=")) == (404, "run_not_found")
    assert error_of(http.get(url_of(run_id, format="openai"))) == (400, "unknown_parameter")


def test_anothers_run_is_in_no_stream(running: ServerProcess, http: httpx.Client) -> None:
    own, messages = begin_silent(http), source(http, "/stream").messages()
    with client(running, make_key(running.folder, "mallory")) as other:
        assert error_of(other.get(url_of(own))) == (403, "forbidden")
        assert next(messages).type == "stream.opened"
        assert seqs(list(islice(messages, 3)), own) == [1, 2, 3]
        ended(other)
        note(http, own)
        assert place(next(messages)) == (own, 4)
        cursor = take(http, "/stream", 2)[-1].last_event_id
        assert error_of(other.get("/stream", headers={"Last-Event-ID": cursor})) == (403, "forbidden")


# All of the user's own runs.


def test_open_runs_come_from_their_beginnings_and_new_ones_as_they_start(http: httpx.Client) -> None:
    ended(http)
    old = begin_silent(http)
    messages = source(http, "/stream").messages()
    assert next(messages).type == "stream.opened"
    assert list(map(place, islice(messages, 3))) == [(old, 1), (old, 2), (old, 3)]
    new = begin_silent(http)
    assert list(map(place, islice(messages, 3))) == [(new, 1), (new, 2), (new, 3)]
    note(http, old)
    note(http, new)
    assert list(map(place, islice(messages, 2))) == [(old, 4), (new, 4)]


def test_a_reader_of_all_that_reconnects_after_each_event_gets_each_once(http: httpx.Client) -> None:
    old = begin_silent(http)
    [opened] = take(http, "/stream", 1)
    missed = ended(http)  # the run starts and ends while there is no reader
    note(http, old)
    events = [(missed, event["seq"]) for event in http.get(f"/runs/{missed}/events").json()["data"]]
    expected = sorted([(old, seq) for seq in (1, 2, 3, 4)] + events)
    found: list[Message] = []
    last = opened.last_event_id
    while len(found) < len(expected):
        _, message = take(http, "/stream", 2, last)  # the first one says that the stream is open
        found.append(message)
        last = message.last_event_id
    assert sorted(map(place, found)) == expected


def test_a_user_without_runs_gets_the_first_one(http: httpx.Client) -> None:
    messages = source(http, "/stream").messages()
    assert next(messages).type == "stream.opened"
    run_id = begin(http, "quick")
    assert place(next(messages)) == (run_id, 1)
    for message in messages:
        if message.type == "lifecycle.completed":
            break


# Places and tickets.


def test_a_ticket_is_for_the_runs_that_it_was_made_for(running: ServerProcess, http: httpx.Client) -> None:
    first, second = ended(http), ended(http)
    answer = http.post("/stream/ticket", json={"run_ids": [first, second]})
    assert answer.status_code == 201
    url, ticket = answer.json()["url"], answer.json()["ticket"]
    assert len(list(source(running.http, url).messages())) > 6
    for other in (
        url_of(first, ticket=ticket),
        url_of(second, first, ticket=ticket),
        f"/stream?ticket={ticket}",
    ):
        assert error_of(running.http.get(other)) == (401, "unauthorized")
    assert error_of(running.http.get(f"/runs/{first}/stream?ticket={ticket}")) == (401, "unauthorized")
    assert error_of(http.post("/stream/ticket", json={"run_ids": [first, NOBODY]})) == (404, "run_not_found")
    assert error_of(http.post("/stream/ticket", json={"run_ids": [first, first]})) == (400, "invalid_body")


def test_a_ticket_for_all_of_ones_own_runs(running: ServerProcess, http: httpx.Client) -> None:
    own = begin_silent(http)
    answer = http.post("/stream/ticket").json()
    messages = list(islice(source(running.http, answer["url"]).messages(), 4))
    assert seqs(messages, own) == [1, 2, 3]
    assert error_of(running.http.get(url_of(own, ticket=answer["ticket"]))) == (401, "unauthorized")


# The Python client.


def python_client(running: ServerProcess, http: httpx.Client) -> runstore.Client:
    key = http.headers["authorization"].removeprefix("Bearer ")
    return runstore.Client(str(running.http.base_url), api_key=key)


def test_the_client_follows_several_runs_to_their_ends(running: ServerProcess, http: httpx.Client) -> None:
    runs = [ended(http), ended(http)]
    with python_client(running, http) as client:
        events = list(client.follow(*runs))
        for run_id in runs:
            assert [event for event in events if event.run_id == run_id] == list(client.events(run_id))
        assert {event.type for event in client.follow(*runs, types=["run.*"])} == {"lifecycle.completed"}


async def test_the_async_client_follows_all_of_ones_own(running: ServerProcess, http: httpx.Client) -> None:
    key = http.headers["authorization"].removeprefix("Bearer ")
    run_id = begin_silent(http)
    async with (
        runstore.AsyncClient(str(running.http.base_url), api_key=key) as client,
        aclosing(client.follow()) as events,
    ):
        assert [(await anext(events)).seq for _ in range(3)] == [1, 2, 3]
        note(http, run_id)
        assert (await anext(events)).seq == 4


# ---- readers who fall too far behind ----


@pytest.fixture
async def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """The API in this process, where at most three runs may follow a cursor of all own runs."""
    monkeypatch.setattr(store_starts, "MAX_SCANNED", 3)
    app = MountedApp(
        f"sqlite:///{make_database(tmp_path / 'runstore.db')}",
        agents={"quick": AgentSpec(model="scripted", tokens_per_s=10_000)},
    )
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with app.open(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def start(client: httpx.AsyncClient, count: int) -> None:
    for _ in range(count):
        answer = await client.post("/agents/quick/start", json={"input": "hi"})
        assert answer.status_code == 202, answer.text


async def test_a_cursor_of_all_that_is_too_far_behind_is_refused(few: httpx.AsyncClient) -> None:
    behind = {"Last-Event-ID": OwnRunCursors(0, int(time.time())).text}
    await start(few, 4)
    answer = await few.get("/stream", headers=behind)
    assert error_of(answer) == (400, "invalid_cursor")
    assert "too far behind: more than 3 runs" in answer.json()["error"]["message"]


async def test_a_stream_of_all_ends_when_its_reader_falls_too_far_behind_and_the_next_is_refused(
    few: httpx.AsyncClient,
) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await start(few, 1)
        following = asyncio.create_task(few.get("/stream"))
        while not following.done():
            await start(few, 1)
        answer = await following
        assert answer.status_code == 200
        [*_, last] = re.findall(rb"^id: (\S+)$", answer.content, re.M)
        again = await few.get("/stream", headers={"Last-Event-ID": last.decode()})
    assert error_of(again) == (400, "invalid_cursor")
