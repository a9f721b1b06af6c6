"""Whose a hierarchy and its runs are, what the limits say, and what the configuration allows."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.test_disk import locked
from tests.http.executor.test_errors import ROUTES, assert_error
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import SILENT_AGENT, ServerProcess, serving, until
from tests.kit.teams import ALONE, EXECUTOR, Executor, hierarchy

LIMITS = "[limits]\nhierarchies_per_user = 3\nruns_per_user = 2\nsubscribers_per_user = 1\n"
ESSAY = "Write a very long essay about space exploration"


class People(NamedTuple):
    """Clients with a key of alice's, of bob's and of an admin's, and without any."""

    alice: Executor
    bob: Executor
    admin: Executor
    stranger: Executor


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("owners")
    keys = [make_key(folder, "alice"), make_key(folder, "bob"), make_key(folder, "root", "admin"), None]
    with serving(folder, "", SILENT_AGENT, heartbeat_s=0.2) as server:
        alice, bob, admin, stranger = (client(server, key) for key in keys)
        with alice as a, bob as b, admin as c, stranger as d:
            yield People(Executor(a), Executor(b), Executor(c), Executor(d))
        assert_no_traceback(server.log)


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_answers_without_a_key(people: People, path: str) -> None:
    answer = people.stranger.ask(path, ROUTES[path])
    assert_error(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_another_users_hierarchy_is_403(people: People) -> None:
    body = {"hierarchy_id": people.alice.create()}
    for path in ("hierarchies/get", "hierarchies/delete", "runs/start"):
        asked = body | ({"task": "hi"} if path == "runs/start" else {})
        assert_error(people.bob.ask(path, asked), 403, "forbidden")
    assert people.alice.data("hierarchies/get", body)["user_id"] == "alice"


def test_another_users_run_is_403(people: People) -> None:
    body = {"run_id": people.alice.start(people.alice.create(), ESSAY)}
    for path in ("runs/get", "runs/stream", "runs/cancel"):
        assert_error(people.bob.ask(path, body), 403, "forbidden")
    assert people.alice.get(body["run_id"])["cancel_requested"] is False
    assert people.alice.ask("runs/cancel", body).status_code == 202


def test_lists_show_ones_own(people: People) -> None:
    hierarchy_id = people.alice.create()
    run_id = people.alice.start(hierarchy_id)
    for who, sees in ((people.alice, True), (people.bob, False), (people.admin, True)):
        listed = who.data("hierarchies/list", {"limit": 1000})["hierarchies"]
        assert (hierarchy_id in [each["hierarchy_id"] for each in listed]) is sees
        runs = who.data("runs/list", {"hierarchy_id": hierarchy_id})["runs"]
        assert [run["run_id"] for run in runs] == ([run_id] if sees else [])


def test_an_admin_may_see_run_and_delete_all(people: People) -> None:
    body = {"hierarchy_id": people.alice.create()}
    assert people.admin.data("hierarchies/get", body)["user_id"] == "alice"
    run_id = people.admin.start(body["hierarchy_id"])
    assert people.admin.get(run_id)["user_id"] == "root"
    assert_error(people.alice.ask("runs/get", {"run_id": run_id}), 403, "forbidden")
    assert people.admin.ask("hierarchies/delete", body).status_code == 200


def test_a_workspace_of_others_is_403(people: People) -> None:
    body = {"hierarchy_id": people.alice.create(), "task": "hi", "workspace_id": "red"}
    assert_error(people.alice.ask("runs/start", body), 403, "forbidden")


def test_the_limits_hold_here_too(tmp_path: Path) -> None:
    with serving(tmp_path, LIMITS) as server:
        executor = Executor(server.http)
        hierarchy_id = executor.create()
        executor.create()
        executor.create()
        error = assert_error(executor.ask("hierarchies/create", ALONE), 429, "limit_exceeded")
        assert error["limit"] == "hierarchies_per_user"
        executor.data("hierarchies/delete", {"hierarchy_id": hierarchy_id})
        hierarchy_id = executor.create()

        runs = [executor.start(hierarchy_id, ESSAY) for _ in range(2)]
        answer = executor.ask("runs/start", {"hierarchy_id": hierarchy_id, "task": "hi"})
        assert assert_error(answer, 429, "limit_exceeded")["limit"] == "runs_per_user"
        assert answer.headers["retry-after"] == "1"

        with executor.stream(runs[0]) as frames:
            next(frames)
            answer = executor.ask("runs/stream", {"run_id": runs[1]})
            assert assert_error(answer, 429, "limit_exceeded")["limit"] == "subscribers_per_user"
        for run_id in runs:
            server.stop_run(run_id)


def test_hierarchies_outlive_the_server_and_run_with_the_tools_allowed_then(tmp_path: Path) -> None:
    tools = '[hierarchies.tools]\nshout = "agents:shout"\n'
    agents = "def shout(word: str) -> str:\n    '''Say it aloud.'''\n    return word.upper()\n"
    server = ServerProcess(tmp_path, tools, agents)
    try:
        executor = Executor(server.start().http)
        hierarchy_id = executor.create(hierarchy(Red={"Ann": ["shout"]}))
        assert executor.ended(executor.start(hierarchy_id, "hello"))["result"]["text"] == "HELLO"
        server.kill()
        (tmp_path / "runstore.toml").write_text("")
        server.start()
        error = assert_error(
            executor.ask("runs/start", {"hierarchy_id": hierarchy_id, "task": "hello"}),
            400, "invalid_hierarchy",
        )  # fmt: skip
        assert error["field"] == "$.teams[0].workers[0].tools[0]"
    finally:
        server.close()


@pytest.mark.slow
def test_while_the_database_takes_no_writes_it_is_503(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        executor = Executor(server.http)
        hierarchy_id = executor.create()
        with locked(server.database):
            for path, body in (
                ("hierarchies/create", ALONE),
                ("hierarchies/delete", {"hierarchy_id": hierarchy_id}),
                ("runs/start", {"hierarchy_id": hierarchy_id, "task": "hi"}),
            ):
                answer = executor.ask(path, body)
                assert_error(answer, 503, "log_unavailable")
                assert answer.headers["retry-after"] == "1"
        until(lambda: executor.ask("hierarchies/create", ALONE).status_code == 201, "it writes again")
        assert executor.http.post(f"{EXECUTOR}/hierarchies/list").json()["data"]["hierarchies"]
