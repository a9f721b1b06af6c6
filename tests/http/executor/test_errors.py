"""The executor surface's errors: its own form, and the codes of all others."""

import copy
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.http.test_bad_input import NOBODY
from tests.kit.server import ServerProcess
from tests.kit.teams import ALONE, EXECUTOR, Executor, hierarchy

ROUTES = {
    "hierarchies/create": ALONE,
    "hierarchies/list": {},
    "hierarchies/get": {"hierarchy_id": NOBODY},
    "hierarchies/delete": {"hierarchy_id": NOBODY},
    "runs/start": {"hierarchy_id": NOBODY, "task": "hi"},
    "runs/stream": {"run_id": NOBODY},
    "runs/cancel": {"run_id": NOBODY},
    "runs/get": {"run_id": NOBODY},
    "runs/list": {},
}
every_route = pytest.mark.parametrize("path", ROUTES)


@pytest.fixture
def executor(server: ServerProcess) -> Executor:
    return Executor(server.http)


def assert_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"success", "error"}
    assert answer.json()["success"] is False
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    return error


# A hierarchy that cannot run.


def wrong(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    body = copy.deepcopy(hierarchy(Red={"Ann": [], "Bob": []}, Blue={"Cid": []}))
    change(body)
    return body


def put(place: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Set what `place` names, as `teams.1.workers.0.name`."""

    def change(body: Any) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
        for part in way:
            body = body[part]
        body[last] = value

    return change


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda body: body.pop(name)


WORKER = {"name": "W", "system_prompt": "p"}
TEAM = {"name": "T", "supervisor_prompt": "p", "workers": [WORKER]}
SECOND = "$.teams[0].workers[1]"
WRONG: list[tuple[str, Callable[[dict[str, Any]], Any], str, str]] = [  # why, change, code, field
    ("no teams", put("teams", []), "invalid_body", "$.teams"),
    ("teams missing", without("teams"), "invalid_body", "$"),
    ("no workers", put("teams.1.workers", []), "invalid_body", "$.teams[1].workers"),
    ("no name", put("name", ""), "invalid_body", "$.name"),
    ("no prompt", put("global_prompt", ""), "invalid_body", "$.global_prompt"),
    ("a prompt too long", put("global_prompt", "p" * 20_001), "invalid_body", "$.global_prompt"),
    (
        "a role too long",
        put("teams.0.workers.1.role", "r" * 501),
        "invalid_body",
        "$.teams[0].workers[1].role",
    ),
    (
        "a prompt that is a number",
        put("teams.0.supervisor_prompt", 5),
        "invalid_body",
        "$.teams[0].supervisor_prompt",
    ),
    ("a team that is a text", put("teams.1", "Blue"), "invalid_body", "$.teams[1]"),
    ("an unknown field", put("teams.1.workers.0.promt", "p"), "invalid_body", "$.teams[1].workers[0]"),
    ("a team's name with a space", put("teams.1.name", "a b"), "invalid_body", "$.teams[1].name"),
    (
        "a worker's name with a slash",
        put("teams.0.workers.1.name", "a/b"),
        "invalid_body",
        "$.teams[0].workers[1].name",
    ),
    ("a name that is too long", put("teams.0.name", "a" * 65), "invalid_body", "$.teams[0].name"),
    ("10,000 workers", put("teams.1.workers", [WORKER] * 10_000), "invalid_body", "$.teams[1].workers"),
    ("10,000 teams", put("teams", [TEAM] * 10_000), "invalid_body", "$.teams"),
    ("51 tools", put("teams.0.workers.0.tools", ["t"] * 51), "invalid_body", "$.teams[0].workers[0].tools"),
    ("two teams of a name", put("teams.1.name", "Red"), "invalid_hierarchy", "$.teams[1].name"),
    (
        "two workers of a tool's name",
        put("teams.0.workers", [{**WORKER, "name": "a-b"}, {**WORKER, "name": "a_b"}]),
        "invalid_hierarchy",
        "$.teams[0].workers[1].name",
    ),
    (
        "two workers of a name",
        put("teams.0.workers.1.name", "Ann"),
        "invalid_hierarchy",
        "$.teams[0].workers[1].name",
    ),
    (
        "an unknown tool",
        put("teams.1.workers.0.tools", ["rm"]),
        "invalid_hierarchy",
        "$.teams[1].workers[0].tools[0]",
    ),
    ("an unknown model", put("teams.1.model", "gpt"), "invalid_hierarchy", "$.teams[1].model"),
    (
        "a worker's unknown model",
        put("teams.0.workers.1.model", "gpt"),
        "invalid_hierarchy",
        "$.teams[0].workers[1].model",
    ),
    ("an unknown model at the top", put("model", "gpt"), "invalid_hierarchy", "$.model"),
]


@pytest.mark.parametrize(("change", "code", "field"), [pytest.param(*row[1:], id=row[0]) for row in WRONG])
def test_a_hierarchy_that_cannot_run_is_refused_with_the_place(
    executor: Executor, change: Callable[[dict[str, Any]], Any], code: str, field: str
) -> None:
    before = executor.data("hierarchies/list", {"limit": 1})
    error = assert_error(executor.ask("hierarchies/create", wrong(change)), 400, code)
    assert error["field"] == field
    assert field in error["message"] or field == "$"
    assert executor.data("hierarchies/list", {"limit": 1}) == before


def test_a_hierarchy_that_is_too_large_in_all_is_refused(executor: Executor) -> None:
    body = wrong(lambda body: None)
    body["teams"] = [
        {"name": f"T{n}", "supervisor_prompt": "p" * 20_000, "workers": [WORKER]} for n in range(20)
    ]
    error = assert_error(executor.ask("hierarchies/create", body), 400, "invalid_hierarchy")
    assert error["field"] == "$"
    assert "262,144" in error["message"]


def test_the_largest_hierarchy_is_taken(executor: Executor) -> None:
    workers = [{**WORKER, "name": f"W{n}"} for n in range(20)]
    teams = [{"name": f"T{n}", "supervisor_prompt": "p", "workers": workers} for n in range(20)]
    created = executor.data("hierarchies/create", {"name": "n" * 255, "global_prompt": "p", "teams": teams})
    assert len(created["teams"]) == 20


# Any other request.


@every_route
@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"{no json", "application/json", 400, "invalid_json"),
        (b"[]", "application/json", 400, "invalid_body"),
        (b'{"colour": "green"}', "application/json", 400, "invalid_body"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"[" + b" " * (9 << 20), "application/json", 413, "body_too_large"),
    ],
)
def test_a_bad_body_is_refused(
    executor: Executor, path: str, content: bytes, kind: str, status: int, code: str
) -> None:
    headers = {"Content-Type": kind}
    answer = executor.http.post(f"{EXECUTOR}/{path}", content=content, headers=headers)
    assert_error(answer, status, code)


@every_route
def test_a_query_parameter_is_refused(executor: Executor, path: str) -> None:
    answer = executor.ask(path, ROUTES[path], params={"after": 1})
    assert_error(answer, 400, "unknown_parameter")


@every_route
def test_only_post_is_allowed(executor: Executor, path: str) -> None:
    answer = executor.http.get(f"{EXECUTOR}/{path}")
    assert_error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@every_route
def test_another_host_is_refused(executor: Executor, path: str) -> None:
    answer = executor.ask(path, ROUTES[path], headers={"Host": "evil.example"})
    assert_error(answer, 400, "unknown_host")


def test_a_path_that_is_not_there_is_404(executor: Executor) -> None:
    assert_error(executor.ask("runs/pause"), 404, "not_found")
    assert_error(executor.ask("agents"), 404, "not_found")


@pytest.mark.parametrize("identity", [NOBODY, "101", "", "x" * 1000])
@pytest.mark.parametrize("path", [path for path, body in ROUTES.items() if "hierarchy_id" in body])
def test_a_hierarchy_that_is_not_there_is_404(executor: Executor, path: str, identity: str) -> None:
    answer = executor.ask(path, {**ROUTES[path], "hierarchy_id": identity})
    assert_error(answer, 404, "hierarchy_not_found")


@pytest.mark.parametrize("identity", [NOBODY, "101", "", "x" * 1000])
@pytest.mark.parametrize("path", [path for path, body in ROUTES.items() if "run_id" in body])
def test_a_run_that_is_not_there_is_404(executor: Executor, path: str, identity: str) -> None:
    assert_error(executor.ask(path, {"run_id": identity}), 404, "run_not_found")


@pytest.mark.parametrize("path", [path for path, body in ROUTES.items() if "run_id" in body])
def test_a_run_id_is_a_text(executor: Executor, path: str) -> None:
    error = assert_error(executor.ask(path, {"run_id": 101}), 400, "invalid_body")
    assert error["field"] == "$.run_id"


def test_a_deleted_run_is_410_except_for_admins_that_read_it(executor: Executor, deleted_run: str) -> None:
    assert_error(executor.ask("runs/cancel", {"run_id": deleted_run}), 410, "run_deleted")
    assert executor.data("runs/get", {"run_id": deleted_run})["deleted"] is True
    assert executor.frames(deleted_run)[-1].ends


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("runs/start", {"task": ""}, "$.task"),
        ("runs/start", {"task": 5}, "$.task"),
        ("runs/start", {"session_id": ""}, "$.session_id"),
        ("runs/start", {"session_id": "s" * 256}, "$.session_id"),
        ("runs/start", {"metadata": []}, "$.metadata"),
        ("runs/stream", {"after": -1}, "$.after"),
        ("runs/stream", {"after": "5"}, "$.after"),
        ("runs/cancel", {"reason": ""}, "$.reason"),
        ("runs/cancel", {"reason": "r" * 201}, "$.reason"),
        ("runs/list", {"status": "paused"}, "$.status"),
        ("runs/list", {"limit": 0}, "$.limit"),
        ("hierarchies/list", {"limit": 1001}, "$.limit"),
    ],
)
def test_a_field_that_cannot_be_so_is_named(
    executor: Executor, path: str, body: dict[str, Any], field: str
) -> None:
    error = assert_error(executor.ask(path, {**ROUTES[path], **body}), 400, "invalid_body")
    assert error["field"] == field


@pytest.mark.parametrize("path", ["runs/list", "hierarchies/list"])
def test_a_lists_cursor_is_the_next_of_a_page(executor: Executor, path: str) -> None:
    assert_error(executor.ask(path, {"after": "5"}), 400, "invalid_cursor")


def test_a_task_over_the_limit_is_refused(executor: Executor) -> None:
    body = {"hierarchy_id": executor.create(), "task": "x" * (1 << 20)}
    error = assert_error(executor.ask("runs/start", body), 413, "limit_exceeded")
    assert error["limit"] == "input_bytes"


def test_an_idempotency_key_that_cannot_be_one_is_refused(executor: Executor) -> None:
    body = {"hierarchy_id": executor.create(), "task": "hi"}
    answer = executor.ask("runs/start", body, headers={"Idempotency-Key": "two words"})
    assert_error(answer, 400, "invalid_idempotency_key")


def test_the_id_of_a_hierarchy_is_checked_as_that_of_a_run(executor: Executor) -> None:
    hierarchy_id = executor.create()
    run_id = executor.start(hierarchy_id)
    assert executor.data("hierarchies/get", {"hierarchy_id": hierarchy_id.upper()})
    [run] = executor.data("runs/list", {"hierarchy_id": hierarchy_id.upper()})["runs"]
    assert run["run_id"] == run_id
    for other in ("x", "", hierarchy_id.replace("-", ""), f"{{{hierarchy_id}}}"):
        for path in ("hierarchies/get", "runs/list"):
            assert_error(executor.ask(path, {"hierarchy_id": other}), 404, "hierarchy_not_found")
