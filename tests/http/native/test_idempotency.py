"""`Idempotency-Key`: a start that is repeated is the same run."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.kit.frames import read_frames
from tests.kit.server import ServerProcess

START, STREAM = "/agents/quick/start", "/agents/quick/stream"


@pytest.fixture
def key() -> str:
    return uuid4().hex


def start(http: httpx.Client, key: str, path: str = START, **body: object) -> httpx.Response:
    return http.post(path, json={"input": "one two", **body}, headers={"Idempotency-Key": key})


def test_the_same_key_and_body_is_the_same_run(http: httpx.Client, key: str) -> None:
    first, second = start(http, key), start(http, key)
    assert first.status_code == second.status_code == 202
    assert first.json()["run_id"] == second.json()["run_id"]
    assert first.headers["location"] == second.headers["location"]


def test_the_order_of_the_fields_does_not_matter(http: httpx.Client, key: str) -> None:
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    bodies = (
        b'{"input": "hi", "metadata": {"a": 1, "b": 2}}',
        b'{"metadata":{"b":2,"a":1},"input":"hi","session_id":null}',
    )
    answers = [http.post(START, content=body, headers=headers) for body in bodies]
    assert answers[0].json()["run_id"] == answers[1].json()["run_id"]


@pytest.mark.parametrize("change", [{"input": "three"}, {"session_id": "s"}, {"metadata": {"a": 1}}])
def test_the_same_key_with_another_body_is_409(
    http: httpx.Client, key: str, change: dict[str, object]
) -> None:
    start(http, key)
    answer = start(http, key, **change)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "idempotency_conflict"


def test_the_same_key_for_another_agent_is_409(http: httpx.Client, key: str) -> None:
    start(http, key)
    assert start(http, key, "/agents/silent/start").status_code == 409


def test_a_repeated_stream_is_the_stream_of_the_same_run(server: ServerProcess, key: str) -> None:
    run_id = start(server.http, key).json()["run_id"]
    server.ended(run_id)
    answer = start(server.http, key, STREAM)
    assert answer.status_code == 200
    assert answer.headers["x-run-id"] == run_id
    frames = list(read_frames([answer.content]))
    assert frames[0].event["run_id"] == run_id
    assert frames[-1].ends


@pytest.mark.parametrize("path", [START, STREAM])
def test_the_key_of_a_deleted_run_is_410(server: ServerProcess, key: str, path: str) -> None:
    run_id = start(server.http, key).json()["run_id"]
    server.ended(run_id)
    assert server.http.delete(f"/runs/{run_id}").status_code == 204
    answer = start(server.http, key, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "run_deleted")


def test_duplicates_at_the_same_moment_are_one_run(http: httpx.Client, key: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: start(http, key, session_id=key), range(32)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert len(http.get("/runs", params={"session_id": key}).json()["data"]) == 1


def test_starts_without_a_key_are_different_runs(http: httpx.Client) -> None:
    first, second = (http.post(START, json={"input": "hi"}).json()["run_id"] for _ in range(2))
    assert first != second


def test_a_key_outlives_the_server(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    server = ServerProcess(tmp_path_factory.mktemp("idempotency"), '[agents.quick]\nmodel = "scripted"\n')
    try:
        run_id = start(server.start().http, key).json()["run_id"]
        server.kill()
        assert start(server.start().http, key).json()["run_id"] == run_id
    finally:
        server.close()


def test_a_bad_body_uses_up_no_key(http: httpx.Client, key: str) -> None:
    assert start(http, key, unknown=1).status_code == 400
    assert start(http, key).status_code == 202


@pytest.mark.parametrize("wrong", ["", "two words", "k" * 256, "ü", "a\tb"])
def test_a_key_is_1_to_255_visible_ascii_characters(http: httpx.Client, wrong: str) -> None:
    headers = {"Idempotency-Key": wrong.encode("latin-1")}
    answer = http.post(START, json={"input": "hi"}, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_idempotency_key"


def test_a_key_is_given_once(http: httpx.Client, key: str) -> None:
    headers = [("Idempotency-Key", key), ("Idempotency-Key", key)]
    assert http.post(START, json={"input": "hi"}, headers=headers).status_code == 400
