"""`authenticate = "package:function"`: logins that are no API keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.routes import ROUTES
from tests.kit.command_line import call_command
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import DEADLINE_S, SILENT_AGENT, ServerProcess, serving, until
from tests.kit.teams import ALONE, EXECUTOR

FUNCTIONS = """
from types import SimpleNamespace

from runstore.http.security.users import User

TEAMS = {"ann": ["red"], "ben": ["red", "blue"], "cleo": [], "dora": ["red"], "elias": ["blue"]}
APPROVERS = {"dora", "elias"}

def by_header(request):
    name = request.headers.get("x-user")
    if name == "banned":
        raise PermissionError("banned until Monday")
    if name == "broken":
        raise RuntimeError("the directory's password is hunter2")
    if name == "nonsense":
        return "ann"
    if name == "nameless":
        return {"user_id": ""}
    if name == "object":
        return SimpleNamespace(user_id="object", roles=["admin"], workspaces=[])
    if name == "dict":
        return {"user_id": "dict"}
    if name in TEAMS:
        roles = {"approver"} if name in APPROVERS else set()
        return User(name, roles=frozenset(roles), workspaces=frozenset(TEAMS[name]))

async def in_a_while(request):
    if request.headers.get("x-user") == "body":
        return (await request.json())["user"]
    return by_header(request)
"""
CONFIG = """
[server]
authenticate = "agents:{function}"

[agents.quick]
model = "scripted"

[agents.silent]
factory = "agents:silent"

[agents.remembers]
model = "scripted"
memory = "session"
"""


@pytest.fixture(scope="module", params=["by_header", "in_a_while"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp(request.param)
    with serving(folder, CONFIG.format(function=request.param), SILENT_AGENT + FUNCTIONS) as server:
        yield server


def get(server: ServerProcess, user: str | None, path: str = "/runs") -> httpx.Response:
    return server.http.get(path, headers={"X-User": user} if user else {})


def begin(server: ServerProcess, user: str, agent: str = "quick", **body: object) -> httpx.Response:
    return server.http.post(f"/agents/{agent}/start", json={"input": "hi", **body}, headers={"X-User": user})


def test_the_function_names_the_user_or_refuses(server: ServerProcess) -> None:
    logged = len(server.log)
    assert begin(server, "ann").json()["user_id"] == "ann"
    assert begin(server, "object").json()["user_id"] == "object"
    assert begin(server, "dict").json()["user_id"] == "dict"
    for nobody in (None, "unknown", "banned"):
        answer = get(server, nobody)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert_no_traceback(server.log[logged:])


@pytest.mark.parametrize("server", ["in_a_while"], indirect=True)
def test_a_function_that_reads_the_body_gets_an_error_with_the_reason(server: ServerProcess) -> None:
    answer = server.http.post("/agents/quick/start", json={"user": "ann"}, headers={"X-User": "body"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    until(lambda: "`authenticate` gets a request without its body" in server.log, "the log says why")


def test_an_error_of_the_function_is_500_and_stands_only_in_the_log(server: ServerProcess) -> None:
    for user in ("broken", "nonsense", "nameless"):
        answer = get(server, user)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert "hunter2" not in answer.text
    until(lambda: "hunter2" in server.log, "what it raised is in the log")
    until(lambda: "`authenticate` must return a user, or None to refuse" in server.log, "so is the rule")


# The permissions of a workspace's member on another user's run, on every route that takes a run.
READING = {
    ("GET", "/runs/{run_id}"): None,
    ("GET", "/runs/{run_id}/events"): None,
    ("GET", "/runs/{run_id}/stream"): None,
    ("GET", "/runs/{run_id}/trace"): None,
    ("GET", "/runs/{run_id}/inputs"): None,
    ("GET", "/runs/{run_id}/requests"): None,
    ("GET", "/runs/{run_id}/steps"): None,
    ("GET", "/runs/{run_id}/compare/{other_id}"): None,
    ("GET", "/runs/{run_id}/transcript"): None,
    ("POST", "/runs/{run_id}/ticket"): None,
    ("POST", "/runs/{run_id}/fork"): {"input": "And in French?"},
    ("POST", f"{EXECUTOR}/runs/stream"): {},
    ("POST", f"{EXECUTOR}/runs/get"): {},
}
CHANGING = {
    ("POST", "/runs/{run_id}/events"): {"type": "custom.note"},
    ("POST", "/runs/{run_id}/inputs"): {"content": "And in French?"},
    ("POST", "/runs/{run_id}/stop"): None,
    ("DELETE", "/runs/{run_id}"): None,
    ("POST", f"{EXECUTOR}/runs/cancel"): {},
    ("POST", f"{EXECUTOR}/runs/stream"): {"on_disconnect": "cancel"},
}
ANSWERING = ("POST", "/runs/{run_id}/inputs/{request_id}")
ABSENT = {  # parts that this run lacks: 404 for users with access
    ("GET", "/runs/{run_id}/requests/{n}"): None,
    ANSWERING: {"answer": "yes"},
}
OF_NO_RUN = {f"{EXECUTOR}/runs/start", f"{EXECUTOR}/runs/list"}


def ask(server: ServerProcess, user: str, method: str, path: str, run_id: str, body: Any) -> int:
    """The status of a request about a run; a stream is not read."""
    if path.startswith(EXECUTOR):
        body = {**body, "run_id": run_id}
    url = path.format(run_id=run_id, other_id=run_id, n=1, request_id="1.1")
    with server.http.stream(method, url, json=body, headers={"X-User": user}) as answer:
        return answer.status_code


def test_every_route_that_takes_a_run_is_tried_below() -> None:
    taking = {
        (method, path)
        for method, path in ROUTES
        if method != "HEAD" and ("{run_id}" in path or path.startswith(f"{EXECUTOR}/runs/"))
    }
    assert {
        route for route in taking if route[1] not in OF_NO_RUN
    } == READING.keys() | CHANGING.keys() | ABSENT.keys()


def test_members_of_a_workspace_may_read_its_runs_and_do_nothing_else_with_them(
    server: ServerProcess,
) -> None:
    run_id = begin(server, "ann", "silent", workspace_id="red").json()["run_id"]
    assert get(server, "ben", f"/runs/{run_id}").json()["workspace_id"] == "red"
    for (method, path), body in READING.items():
        assert ask(server, "ben", method, path, run_id, body) in (200, 201, 202), (method, path)
        assert ask(server, "cleo", method, path, run_id, body) == 403, (method, path)
    for (method, path), body in CHANGING.items():
        for user in ("ben", "cleo"):
            assert ask(server, user, method, path, run_id, body) == 403, (user, method, path)
    for (method, path), body in ABSENT.items():
        assert ask(server, "ann", method, path, run_id, body) == 404, (method, path)
        assert ask(server, "cleo", method, path, run_id, body) == 403, (method, path)
    run = get(server, "ann", f"/runs/{run_id}").json()
    assert (run["status"], run["cancel_requested"]) == ("running", False)
    types = {event["type"] for event in get(server, "ann", f"/runs/{run_id}/events").json()["data"]}
    assert not types & {"custom.note", "cancel.requested"}
    for (method, path), body in sorted(CHANGING.items(), key=lambda route: route[0][0] == "DELETE"):
        if method == "DELETE":  # which takes a run that has ended
            get(server, "ann", f"/runs/{run_id}?wait={DEADLINE_S}")
        assert ask(server, "ann", method, path, run_id, body) in (200, 201, 202, 204), (method, path)


def test_of_the_members_of_a_workspace_only_approvers_may_answer_its_runs(server: ServerProcess) -> None:
    run_id = begin(server, "ann", "silent", workspace_id="red").json()["run_id"]
    asking, ticket = ABSENT[ANSWERING], {"scope": "answer"}
    for user, may in {"ann": True, "dora": True, "ben": False, "cleo": False, "elias": False}.items():
        assert ask(server, user, *ANSWERING, run_id, asking) == (404 if may else 403), user
        answer = ask(server, user, "POST", "/runs/{run_id}/ticket", run_id, ticket)
        assert answer == (201 if may else 403), user
    server.http.post(f"/runs/{run_id}/stop", headers={"X-User": "ann"})


def test_members_of_a_workspace_may_not_read_what_its_members_run_outside_of_it(
    server: ServerProcess,
) -> None:
    own = begin(server, "ann").json()["run_id"]
    assert get(server, "ben", f"/runs/{own}").status_code == 403


def test_members_of_a_workspace_do_not_read_what_a_run_remembers_from_outside_of_it(
    server: ServerProcess,
) -> None:
    def turn(**body: object) -> str:
        run_id = begin(server, "ann", "remembers", session_id="mixed", **body).json()["run_id"]
        get(server, "ann", f"/runs/{run_id}?wait={DEADLINE_S}")
        return str(run_id)

    turn(input="private words")
    shared = turn(input="for all", workspace_id="red")
    for user, knows in (("ann", True), ("ben", False), ("object", True)):
        request = get(server, user, f"/runs/{shared}/requests/1").json()
        assert ("private words" in str(request["messages"])) is knows
        assert request["complete"] is knows
        answer = server.http.post(f"/runs/{shared}/fork", json={"input": "x"}, headers={"X-User": user})
        forked = get(server, user, f"/runs/{answer.json()['run_id']}").json()["input"]
        assert ("private words" in str(forked)) is knows
        assert "for all" in str(forked)


def test_members_of_a_workspace_may_fork_its_runs_of_a_hierarchy_that_they_may_not_read(
    server: ServerProcess,
) -> None:
    def of_teams(user: str, path: str, body: dict[str, Any]) -> httpx.Response:
        return server.http.post(f"{EXECUTOR}/{path}", json=body, headers={"X-User": user})

    held = {"hierarchy_id": of_teams("ann", "hierarchies/create", ALONE).json()["data"]["hierarchy_id"]}
    run = {**held, "task": "What is 2+2?", "workspace_id": "red"}
    run_id = of_teams("ann", "runs/start", run).json()["data"]["run_id"]
    get(server, "ann", f"/runs/{run_id}?wait={DEADLINE_S}")
    for user, status in {"ben": 202, "cleo": 403, "elias": 403}.items():
        assert of_teams(user, "hierarchies/get", held).status_code == 403
        answer = server.http.post(f"/runs/{run_id}/fork", json={"at": 1}, headers={"X-User": user})
        assert answer.status_code == status, user
        if status == 202:
            forked = get(server, user, f"/runs/{answer.json()['run_id']}?wait={DEADLINE_S}").json()
            assert (forked["user_id"], forked["status"]) == (user, "success")
            assert forked["parent_run_id"] == run_id


def test_a_user_with_read_access_cannot_make_a_run_end_with_the_stream(server: ServerProcess) -> None:
    body = {"run_id": begin(server, "ann", workspace_id="red").json()["run_id"]}

    def follow(**more: str) -> httpx.Response:
        return server.http.post(f"{EXECUTOR}/runs/stream", json={**body, **more}, headers={"X-User": "ben"})

    assert follow().status_code == 200
    assert follow(on_disconnect="cancel").status_code == 403


def test_a_workspaces_runs_are_listed_to_its_members(server: ServerProcess) -> None:
    run_id = begin(server, "ann", workspace_id="red").json()["run_id"]
    own = begin(server, "ann").json()["run_id"]
    listed = [run["run_id"] for run in get(server, "ben", "/runs?workspace_id=red").json()["data"]]
    assert run_id in listed
    assert own not in listed
    assert run_id not in [run["run_id"] for run in get(server, "ben").json()["data"]]
    assert get(server, "cleo", "/runs?workspace_id=red").status_code == 403


def test_a_run_is_not_started_in_a_workspace_of_others(server: ServerProcess) -> None:
    before = get(server, "ann").json()["data"]
    assert begin(server, "ann", workspace_id="blue").status_code == 403
    assert begin(server, "ann", workspace_id="").status_code == 400
    after = get(server, "ann").json()["data"]
    assert [run["run_id"] for run in after] == [run["run_id"] for run in before]


def test_keys_are_good_beside_the_function(server: ServerProcess) -> None:
    with client(server, make_key(server.folder, "machine")) as machine:
        assert machine.post("/agents/quick/start", json={"input": "hi"}).json()["user_id"] == "machine"
    wrong = {"Authorization": "Bearer rsk_1_2", "X-User": "ann"}
    assert server.http.get("/runs", headers=wrong).status_code == 401


def test_a_ticket_of_such_a_login_opens_its_stream(server: ServerProcess) -> None:
    run_id = begin(server, "ann").json()["run_id"]
    url = server.http.post(f"/runs/{run_id}/ticket", headers={"X-User": "ann"}).json()["url"]
    with server.http.stream("GET", url) as stream:
        assert stream.status_code == 200


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("agents:missing", "cannot import 'agents:missing'"),
        ("nowhere:f", "No module named 'nowhere'"),
        ("agents:TEAMS", "is not a function"),
        ("agents", "package.module:function"),
    ],
)
def test_a_function_that_is_not_there_stops_the_start(tmp_path: Path, reference: str, said: str) -> None:
    (tmp_path / "runstore.toml").write_text(f'[server]\nport = 0\nauthenticate = "{reference}"\n')
    (tmp_path / "agents.py").write_text(FUNCTIONS)
    ended = call_command("serve", folder=tmp_path)
    assert ended.returncode == 2
    assert "runstore.toml:3: [server]: " in ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
