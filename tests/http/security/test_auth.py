"""Permissions: each user has a key, and each route admits only permitted users."""

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest

from runstore.store.keys import key_id_of
from tests.http.conftest import CONFIG
from tests.http.routes import OPEN_PATHS, ROUTES
from tests.kit.keys import client, make_key, revoke_key, url_of
from tests.kit.logs import assert_no_traceback
from tests.kit.metrics import sample
from tests.kit.purging import purge_run
from tests.kit.server import DEADLINE_S, SILENT_AGENT, ServerProcess, run_command, serving, until
from tests.kit.waits import core_waits, within

# What docs/how-to/security.md promises: streams of a revoked key end within about 3 s.
ENDED_IN_S = 3.0  # looks at a login 2 s apart, at what may be 1 s old

NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"
BODIES: dict[str, Any] = {
    "/agents/run-code/start": {"code": "print(1)"},
    "/agents/run-code/stream": {"code": "print(1)"},
    "/agents/{agent}/start": {"input": "hi"},
    "/agents/{agent}/stream": {"input": "hi"},
    "/runs/{run_id}/events": {"type": "custom.note"},
    "/runs/{run_id}/inputs": {"content": "And in French?"},
    "/runs/{run_id}/inputs/{request_id}": {"answer": "yes"},
}


GUARDED = [(method, path) for method, path in ROUTES if path not in OPEN_PATHS]
OF_A_RUN = [(method, path) for method, path in ROUTES if "{run_id}" in path]
READING = [(method, path) for method, path in OF_A_RUN if method in ("GET", "HEAD")]
CHANGING = [route for route in OF_A_RUN if route not in READING and not route[1].endswith("/ticket")]


class People(NamedTuple):
    """A server, and clients with a key of alice's, of bob's and of an admin's, and without any."""

    server: ServerProcess
    alice: httpx.Client
    bob: httpx.Client
    admin: httpx.Client
    stranger: httpx.Client


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("keys")
    keys = [make_key(folder, "alice"), make_key(folder, "bob"), make_key(folder, "root", "admin"), None]
    with serving(folder, CONFIG, SILENT_AGENT, heartbeat_s=0.2) as server:
        alice, bob, admin, stranger = (client(server, key) for key in keys)
        with alice as a, bob as b, admin as c, stranger as d:
            yield People(server, a, b, c, d)
        assert_no_traceback(server.log)


def ask(http: httpx.Client, method: str, path: str, run_id: str = NOBODY, **options: Any) -> int:
    """The status of a request; a stream is not read."""
    names = {"agent": "quick", "model": "quick", "request_id": "1.1", "n": 1, "name": "runs"}
    url = path.format(run_id=run_id, other_id=run_id, **names)
    if method == "POST":
        options.setdefault("json", BODIES.get(path))
    with http.stream(method, url, **options) as answer:
        return answer.status_code


def begin(http: httpx.Client, agent: str = "silent", **body: Any) -> str:
    answer = http.post(f"/agents/{agent}/start", json={"input": "hi", **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


def closed(http: httpx.Client) -> str:
    run_id = begin(http, "quick")
    assert http.get(f"/runs/{run_id}", params={"wait": DEADLINE_S}).json()["status"] == "success"
    return run_id


def error_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["code"])


# Without a key that is good.


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_no_route_answers_without_a_key(people: People, method: str, path: str) -> None:
    assert ask(people.stranger, method, path) == 401


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_how_the_process_is_and_what_the_api_is_needs_no_key(people: People, path: str) -> None:
    assert people.stranger.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/nothing", "/runs/", "/docs", "//runs", "/healthz/"])
def test_without_a_key_no_answer_reveals_whether_a_path_exists(people: People, path: str) -> None:
    assert people.stranger.get(path).status_code == 401


def test_a_401_names_the_scheme_and_never_why_a_key_is_wrong(people: People) -> None:
    answers = [
        people.stranger.get("/runs", headers={"Authorization": f"Bearer {key}"})
        for key in ("rsk_000000000000_wrong", wrong_secret(people), expired(people))
    ]
    assert {error_of(answer, 401) for answer in answers} == {"unauthorized"}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.text for answer in answers}) == 1


def wrong_secret(people: People) -> str:
    key = people.alice.headers["authorization"].removeprefix("Bearer ")
    return key[:-1] + ("A" if key[-1] != "A" else "B")


def expired(people: People) -> str:
    return make_key(people.server.folder, "alice", expires_in_s=-1)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic YWxpY2U6",
        "rsk_1_2",
        "Bearer rsk_",
        "Bearer rsk__",
        "Bearer x",
        "Bearer rsk_1_\xff",
    ],
)
def test_an_invalid_key_is_401(people: People, header: str) -> None:
    answer = people.stranger.get("/runs", headers={"Authorization": header.encode("latin-1")})
    assert error_of(answer, 401) == "unauthorized"


def test_the_scheme_may_be_written_in_any_case(people: People) -> None:
    key = people.alice.headers["authorization"].removeprefix("Bearer ")
    assert people.stranger.get("/runs", headers={"Authorization": f"bEARER  {key}"}).status_code == 200


def test_a_key_in_the_url_is_no_key(people: People) -> None:
    key = people.alice.headers["authorization"].removeprefix("Bearer ")
    assert people.stranger.get("/runs", params={"api_key": key}).status_code == 401


# Another's run.


@pytest.fixture(scope="module")
def alices_run(people: People) -> str:
    """A run of alice's that is still active, for requests that are refused."""
    return begin(people.alice)


@pytest.mark.parametrize(("method", "path"), OF_A_RUN)
def test_another_users_run_is_403_on_every_route(
    people: People, alices_run: str, method: str, path: str
) -> None:
    assert ask(people.bob, method, path, alices_run) == 403


@pytest.fixture(scope="module")
def deleted_run(people: People) -> str:
    """A run of alice's that no request can change any more."""
    run_id = closed(people.alice)
    assert people.alice.delete(f"/runs/{run_id}").status_code == 204
    return run_id


@pytest.mark.parametrize(("method", "path"), OF_A_RUN)
def test_another_users_deleted_run_is_403_on_every_route(
    people: People, deleted_run: str, method: str, path: str
) -> None:
    assert ask(people.bob, method, path, deleted_run) == 403
    assert ask(people.alice, method, path, deleted_run) == 410


def test_another_users_purged_run_is_403_on_every_route_and_in_no_list(people: People) -> None:
    run_id = closed(people.alice)
    purge_run(url_of(people.server.folder), run_id)
    for method, path in OF_A_RUN:
        assert ask(people.bob, method, path, run_id) == 403
        assert ask(people.alice, method, path, run_id) == 410
    for http, listed in ((people.alice, True), (people.admin, True), (people.bob, False)):
        runs = http.get("/runs", params={"purged": "true"}).json()["data"]
        assert (run_id in [run["run_id"] for run in runs]) is listed


@pytest.mark.parametrize(("method", "path"), OF_A_RUN)
def test_an_unknown_run_is_404_for_everyone(people: People, method: str, path: str) -> None:
    for http in (people.alice, people.bob, people.admin):
        assert ask(http, method, path, NOBODY) == 404


def test_a_403_reveals_nothing_about_the_run(people: People, alices_run: str) -> None:
    answer = people.bob.get(f"/runs/{alices_run}")
    assert error_of(answer, 403) == "forbidden"
    assert "alice" not in answer.text


def test_a_refused_append_changes_nothing(people: People, alices_run: str) -> None:
    before = people.alice.get(f"/runs/{alices_run}").json()
    for method, path in CHANGING:
        assert ask(people.bob, method, path, alices_run) == 403
    after = people.alice.get(f"/runs/{alices_run}").json()
    assert after["cancel_requested"] is before["cancel_requested"] is False
    assert before["status"] in ("queued", "running")
    assert after["status"] in ("queued", "running")
    types = [event["type"] for event in people.alice.get(f"/runs/{alices_run}/events").json()["data"]]
    assert not {"cancel.requested", "custom.note", "run.deleted"} & set(types)


@pytest.mark.parametrize(("method", "path"), OF_A_RUN)
def test_the_owner_and_an_admin_are_let_in_on_every_route(
    people: People, alices_run: str, method: str, path: str
) -> None:
    for http in (people.alice, people.admin):
        run_id = alices_run
        if (method, path) in CHANGING:
            run_id = closed(people.alice) if method == "DELETE" else begin(people.alice)
        # The run has asked neither a model nor a person.
        absent = (404,) if "{n}" in path or "{request_id}" in path else ()
        assert ask(http, method, path, run_id) in (absent or (200, 201, 202, 204))


def test_a_list_has_ones_own_runs_only_and_an_admins_has_all(people: People) -> None:
    session = {"session_id": "a-list"}
    of_alice, of_bob = begin(people.alice, **session), begin(people.bob, **session)

    def listed(http: httpx.Client) -> set[str]:
        return {run["run_id"] for run in http.get("/runs", params=session).json()["data"]}

    assert listed(people.alice) == {of_alice}
    assert listed(people.bob) == {of_bob}
    assert listed(people.admin) == {of_alice, of_bob}


def test_a_run_belongs_to_its_key_s_user(people: People) -> None:
    run_id = begin(people.alice)
    assert people.alice.get(f"/runs/{run_id}").json()["user_id"] == "alice"
    assert people.alice.post(f"/runs/{run_id}/stop").status_code == 202
    events = people.alice.get(f"/runs/{run_id}/events").json()["data"]
    assert next(event for event in events if event["type"] == "cancel.requested")["data"]["by"] == "alice"


def last_of(http: httpx.Client, run_id: str, type: str) -> dict[str, Any]:
    events = http.get(f"/runs/{run_id}/events", params={"limit": 1_000}).json()["data"]
    return next(event for event in reversed(events) if event["type"] == type)


def test_a_deletion_and_an_appended_event_have_the_key_of_the_request(people: People) -> None:
    run_id = begin(people.alice)
    key_id = key_id_of(people.admin.headers["authorization"].removeprefix("Bearer "))
    body = {"type": "custom.note", "data": {"by": "mallory", "key_id": "none"}}
    assert people.admin.post(f"/runs/{run_id}/events", json=body).status_code == 201
    note = last_of(people.admin, run_id, "custom.note")
    assert (note["by"], note["key_id"], note["data"]) == ("root", key_id, body["data"])
    people.alice.post(f"/runs/{run_id}/stop")
    people.alice.get(f"/runs/{run_id}", params={"wait": 30})
    assert people.admin.delete(f"/runs/{run_id}").status_code == 204
    deleted = last_of(people.admin, run_id, "run.deleted")
    assert deleted["data"] == {"by": "root", "key_id": key_id}


def test_the_record_says_who_started_and_stopped_a_run_with_which_key(people: People) -> None:
    run_id, by_chat = begin(people.alice), {"prompt": "hi", "model": "quick"}
    actors = {
        name: {"user_id": name, "key_id": key_id_of(http.headers["authorization"].removeprefix("Bearer "))}
        for name, http in (("alice", people.alice), ("root", people.admin))
    }
    record = people.alice.get(f"/runs/{run_id}").json()
    assert (record["input"], record["started_by"], record["stopped_by"]) == ("hi", actors["alice"], None)
    assert people.admin.post(f"/runs/{run_id}/stop").json()["stopped_by"] == actors["root"]
    people.alice.post(f"/runs/{run_id}/stop")  # too late
    record = people.alice.get(f"/runs/{run_id}").json()
    assert (record["started_by"], record["stopped_by"]) == (actors["alice"], actors["root"])
    chat = people.alice.post("/v1/chat/completions", json=by_chat).headers["x-run-id"]
    assert people.alice.get(f"/runs/{chat}").json()["started_by"] == actors["alice"]
    first, second = (begin(people.bob, session_id="s", multitask_strategy="interrupt") for _ in range(2))
    stopped_by = people.bob.get(f"/runs/{first}").json()["stopped_by"]
    assert stopped_by == people.bob.get(f"/runs/{second}").json()["started_by"]
    assert stopped_by["key_id"]


def test_two_keys_of_one_user_are_one_user(people: People) -> None:
    run_id = begin(people.alice)
    with client(people.server, make_key(people.server.folder, "alice")) as other:
        assert other.get(f"/runs/{run_id}").status_code == 200


def test_the_owner_is_known_when_the_run_list_is_not(people: People) -> None:
    """The owner is what the log says: a dropped projection opens nothing and closes nothing."""
    run_id = closed(people.alice)
    dropped = run_command(
        "projections",
        "drop",
        "runs",
        "--yes",
        "--database-url",
        url_of(people.server.folder),
        folder=people.server.folder,
    )
    assert dropped.returncode == 0, dropped.stderr
    assert people.bob.get(f"/runs/{run_id}").status_code == 403
    assert people.alice.get(f"/runs/{run_id}").status_code == 200


# Keys that come and go.


def test_a_key_made_while_the_server_runs_is_good_at_once(people: People) -> None:
    with client(people.server, make_key(people.server.folder, "carol")) as carol:
        assert carol.get("/runs").status_code == 200


def test_a_revoked_key_is_refused_within_seconds(people: People) -> None:
    key = make_key(people.server.folder, "dave")
    with client(people.server, key) as dave:
        assert dave.get("/runs").status_code == 200
        revoke_key(people.server.folder, key)
        until(lambda: dave.get("/runs").status_code == 401, "the key is refused", within_s=5)


@pytest.mark.parametrize("agent", ["silent", "talker"])
def test_a_key_revoked_while_its_stream_is_open_ends_that_stream(people: People, agent: str) -> None:
    """And no other: neither that of another key of the same user, nor the run itself."""
    folder = people.server.folder
    key, other_key = make_key(folder, "erin"), make_key(folder, "erin")
    with client(people.server, key) as erin, client(people.server, other_key) as other:
        run_id = begin(erin, agent)
        url = f"/runs/{run_id}/stream"
        with erin.stream("GET", url) as ending, other.stream("GET", url) as going_on:
            pieces, ending_pieces = going_on.iter_raw(), ending.iter_raw()
            assert next(ending_pieces)
            with within(ENDED_IN_S, people.server.pid):
                revoke_key(folder, key)
                rest = b"".join(ending_pieces)  # returns when the server ends the response, and in order
            assert not re.search(rb"^event: lifecycle\.(completed|failed|cancelled)$", rest, re.M)
            assert next(pieces)
        assert erin.get(url).status_code == 401
        assert other.get(f"/runs/{run_id}").json()["status"] in ("queued", "running")
        assert other.post(f"/runs/{run_id}/stop").status_code == 202


@pytest.mark.slow
@pytest.mark.alone
def test_the_streams_of_keys_that_are_revoked_end_in_time(people: People) -> None:
    folder, count = people.server.folder, 8
    keys = [make_key(folder, "judy") for _ in range(count)]
    with ExitStack() as stack:
        clients = [stack.enter_context(client(people.server, key)) for key in keys]
        run_id = begin(clients[0])
        streams = [stack.enter_context(http.stream("GET", f"/runs/{run_id}/stream")) for http in clients]
        pieces = [stream.iter_raw() for stream in streams]
        assert all(next(each) for each in pieces)

        def ended_at(rest: Iterator[bytes]) -> float:
            for _ in rest:
                pass
            return time.time()

        processes = os.getpid(), people.server.pid
        with core_waits(*processes) as waits, ThreadPoolExecutor(count) as readers:
            ended = [readers.submit(ended_at, rest) for rest in pieces]
            for key in keys:
                revoke_key(folder, key)
            revoked_at = time.time()
            took = [(revoked_at, reading.result()) for reading in ended]
    waits.check(ENDED_IN_S, *took)
    assert people.admin.post(f"/runs/{run_id}/stop").status_code == 202


@pytest.mark.slow
def test_a_key_revoked_during_a_download_cuts_it(people: People) -> None:
    key = make_key(people.server.folder, "heidi")
    with client(people.server, key) as heidi:
        run_id = begin(heidi)
        large = {"type": "custom.large", "data": "x" * 1_000_000}
        for _ in range(40):  # more than the buffers of both ends of a connection hold
            assert heidi.post(f"/runs/{run_id}/events", json=large).status_code == 201
        lines = {"Accept": "application/x-ndjson"}
        with heidi.stream("GET", f"/runs/{run_id}/events", headers=lines) as answer:
            pieces = answer.iter_raw()
            assert next(pieces)
            revoke_key(people.server.folder, key)
            until(lambda: "client_cut" in people.server.log, "the download is cut")
            with pytest.raises(httpx.TransportError):  # and does not look as if it were complete
                list(pieces)
    assert people.admin.post(f"/runs/{run_id}/stop").status_code == 202


def test_a_key_that_expires_while_its_stream_is_open_ends_that_stream(people: People) -> None:
    key = make_key(people.server.folder, "frank", expires_in_s=2)
    with client(people.server, key) as frank:
        run_id = begin(frank)
        with (
            within(2 + ENDED_IN_S, people.server.pid),
            frank.stream("GET", f"/runs/{run_id}/stream") as stream,
        ):
            assert stream.status_code == 200
            for _ in stream.iter_raw():
                pass
        assert frank.get(f"/runs/{run_id}").status_code == 401
    assert people.admin.post(f"/runs/{run_id}/stop").status_code == 202


def test_a_key_revoked_while_a_request_waits_gets_no_answer_of_the_run(people: People) -> None:
    key = make_key(people.server.folder, "grace")
    with client(people.server, key) as grace, ThreadPoolExecutor(1) as waiting:
        run_id = begin(grace)
        followed = sample(people.admin, "runstore_runs_followed")
        answer = waiting.submit(grace.get, f"/runs/{run_id}", params={"wait": 300})
        until(lambda: sample(people.admin, "runstore_runs_followed") == followed + 1, "the request waits")
        with within(ENDED_IN_S, people.server.pid):
            revoke_key(people.server.folder, key)
            assert error_of(answer.result(), 401) == "unauthorized"
        assert people.admin.get(f"/runs/{run_id}").json()["completed_at"] is None
    assert people.admin.post(f"/runs/{run_id}/stop").status_code == 202


# Chats.


def test_below_v1_a_refusal_is_openais_error_object(people: People) -> None:
    answer = people.stranger.post("/v1/chat/completions", json={"prompt": "hi"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("unauthorized", "authentication_error", None)


def test_a_session_is_its_users_own(people: People) -> None:
    session = {"X-Session-Id": "one-name"}
    body = {"prompt": "of alice", "model": "silent", "stream": True}
    with people.alice.stream("POST", "/v1/chat/completions", json=body, headers=session) as alices:
        answer = people.bob.post(
            "/v1/chat/completions", json={"prompt": "of bob", "model": "quick"}, headers=session
        )
        assert answer.json()["usage"]["prompt_tokens"] == 2
        run = people.alice.get(f"/runs/{alices.headers['x-run-id']}").json()
        assert not run["cancel_requested"]


def test_a_chat_whose_key_is_revoked_ends_with_its_run(people: People) -> None:
    key = make_key(people.server.folder, "carol")
    body = {"prompt": "hi", "model": "silent", "stream": True}
    with (
        client(people.server, key) as carol,
        carol.stream("POST", "/v1/chat/completions", json=body) as chat,
    ):
        with within(ENDED_IN_S, people.server.pid):
            revoke_key(people.server.folder, key)
            list(chat.iter_raw())
        run_id = chat.headers["x-run-id"]
    run = people.admin.get(f"/runs/{run_id}", params={"wait": DEADLINE_S}).json()
    assert run["reason"] == "client_disconnect"


def test_a_chat_that_waits_when_its_key_is_revoked_ends_with_its_run(people: People) -> None:
    key = make_key(people.server.folder, "dora")
    body = {"prompt": "hi", "model": "silent"}
    with client(people.server, key) as dora, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dora.post, "/v1/chat/completions", json=body)
        until(lambda: running(people, "dora"), "the run has started")
        (run_id,) = running(people, "dora")
        with within(ENDED_IN_S, people.server.pid):
            revoke_key(people.server.folder, key)
            answer = waiting.result(DEADLINE_S)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    run = people.admin.get(f"/runs/{run_id}", params={"wait": DEADLINE_S}).json()
    assert run["reason"] == "client_disconnect"


def running(people: People, user: str) -> list[str]:
    runs = people.admin.get("/runs", params={"status": "running"}).json()["data"]
    return [run["run_id"] for run in runs if run["user_id"] == user]


def test_the_workers_are_for_admins(people: People) -> None:
    assert people.alice.get("/workers").status_code == 403
    (worker,) = people.admin.get("/workers").json()["data"]
    assert worker["pid"] == people.server.pid


def test_a_run_is_not_compared_with_another_users(people: People) -> None:
    mine, others = begin(people.bob), begin(people.alice)
    for path in (f"/runs/{mine}/compare/{others}", f"/runs/{others}/compare/{mine}"):
        assert people.bob.get(path).status_code == 403
    assert people.admin.get(f"/runs/{mine}/compare/{others}").status_code == 200
