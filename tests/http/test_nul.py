"""No name holds the character NUL or half of a surrogate pair: 400 everywhere, on every database."""

import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

import runstore
from runstore.core.errors import InvalidName
from runstore.core.ids import new_run_id
from runstore.database.opening import read_from, write_to
from runstore.http.security.users import User
from runstore.mount import MountedApp
from runstore.projections.runs import RunQuery
from runstore.store.keys import create_key, list_keys
from tests.http.routes import ROUTES
from tests.kit.teams import ALONE, EXECUTOR

NUL = "a\0b"
FORMS: dict[str, str] = {"nul": NUL, "half a pair": "a\ud800"}
CONFIG = """
[server]
authenticate = "tests.http.test_nul:by_header"

[agents.run-code]
code = true
"""


def by_header(request: Any) -> User:
    """A proxy's header with these bytes."""
    name = request.headers.get("x-remote-user", "ann")
    return User(name.replace("%00", "\0"), frozenset({"admin"}))


@pytest.fixture
async def http(database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The API in this process, on each kind of database."""
    config = tmp_path / "runstore.toml"
    config.write_text(CONFIG)
    app = MountedApp(database_url, config=config)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with app.open(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


# Routes that ignore parameters which they do not know, as clients of chats, probes and proxies send some.
IGNORING = ("/v1", "/healthz", "/readyz", "/metrics", "/openapi.json")
RUN = new_run_id()
HIERARCHY = new_run_id()
BODIES: list[tuple[str, Any]] = [
    ("/agents/demo/start", {"input": NUL}),
    ("/agents/demo/start", {"input": [{"text": NUL}]}),
    ("/agents/demo/start", {"input": "hi", "session_id": NUL}),
    ("/agents/demo/start", {"input": "hi", "workspace_id": NUL}),
    ("/agents/demo/start", {"input": "hi", "metadata": {NUL: 1}}),
    ("/agents/demo/start", {"input": "hi", "metadata": {"a": [{"b": NUL}]}}),
    ("/agents/demo/stream", {"input": "hi", "session_id": NUL}),
    ("/agents/run-code/start", {"code": "print()", "input": NUL}),
    ("/v1/chat/completions", {"prompt": NUL}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": NUL}]}),
    ("/v1/chat/completions", {"prompt": "hi", "model": NUL}),
    (f"{EXECUTOR}/hierarchies/create", {**ALONE, "name": NUL}),
    (f"{EXECUTOR}/runs/list", {"session_id": NUL}),
    (f"{EXECUTOR}/runs/cancel", {"run_id": RUN, "reason": NUL}),
    ("/runs/{run}/stop", {"reason": NUL}),
    ("/runs/{run}/events", {"type": NUL}),
    ("/runs/{run}/fork", {"input": NUL}),
    ("/runs/{run}/fork", {"input": "hi", "system_prompt": NUL}),
    ("/runs/{run}/inputs", {"content": NUL}),
    (f"/runs/{{run}}/inputs/{RUN}", {"answer": NUL}),
    (f"{EXECUTOR}/hierarchies/create", {**ALONE, "global_prompt": NUL}),
    (f"{EXECUTOR}/hierarchies/create", {**ALONE, "teams": [{**ALONE["teams"][0], "supervisor_prompt": NUL}]}),
    (f"{EXECUTOR}/hierarchies/get", {"hierarchy_id": NUL}),
    (f"{EXECUTOR}/hierarchies/delete", {"hierarchy_id": NUL}),
    (f"{EXECUTOR}/runs/start", {"hierarchy_id": HIERARCHY, "task": NUL}),
    (f"{EXECUTOR}/runs/stream", {"run_id": NUL}),
    (f"{EXECUTOR}/runs/get", {"run_id": NUL}),
]
PATHS = [
    ("GET", "/runs/a%00b"), ("POST", "/runs/%00/stop"), ("GET", "/runs/a%00b/stream"),
    ("POST", "/agents/a%00b/start"), ("GET", "/v1/models/a%00b"), ("GET", "/%00"),
]  # fmt: skip
QUERIES = [
    "/runs?session_id=a%00b", "/runs?agent=%00", "/runs?workspace_id=a%00b",
    "/runs?status=%00", "/runs?after=%00",
    "/runs?session_id=%ED%A0%80", "/runs?agent=%ff", "/runs/{run}/events?types=custom.%00", "/agents?%00=1",
]  # fmt: skip


async def test_no_request_holds_nul(http: httpx.AsyncClient) -> None:
    run_id = (await http.post("/agents/demo/start", json={"input": "hi"})).json()["run_id"]
    for path, body in BODIES:
        answer = await http.post(path.format(run=run_id), json=body)
        assert answer.status_code == 400, (path, body, answer.text)
        assert "SELECT" not in answer.text
    for method, path in PATHS:
        answer = await http.request(method, path, json={"input": "hi"} if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_path"), path
    for path in QUERIES:
        answer = await http.get(path.format(run=run_id))
        assert answer.status_code == 400, (path, answer.text)
    for headers in ({"X-Remote-User": "a%00b"}, {"X-Session-Id": "a\0b"}):
        answer = await http.post("/v1/chat/completions", json={"prompt": "hi"}, headers=headers)
        assert answer.status_code == 400, (headers, answer.text)
    assert [run["run_id"] for run in (await http.get("/runs")).json()["data"]] == [run_id]


async def test_no_route_takes_nul_in_its_path_or_its_query(http: httpx.AsyncClient) -> None:
    run_id = (await http.post("/agents/demo/start", json={"input": "hi"})).json()["run_id"]
    usual = {"run_id": run_id, "other_id": run_id, "agent": "demo", "model": "demo", "name": "runs", "n": "1"}
    documented = (await http.get("/openapi.json")).json()["paths"]
    for method, route in ROUTES:
        names = re.findall(r"{(\w+)}", route)
        paths = [route.format(**{**usual, "request_id": RUN, name: "a%00b"}) for name in names]
        at = route.format(**usual, request_id=RUN)
        declared = documented.get(route, {}).get(method.lower(), {}).get("parameters", ())
        queries = [each["name"] for each in declared if each["in"] == "query"]
        if not route.startswith(IGNORING):
            queries.append("%00")
        paths += [f"{at}?{name}=a%00b" for name in queries]
        for path in paths:
            answer = await http.request(method, path, json={} if method == "POST" else None)
            assert answer.status_code == 400, (method, path, answer.text)


async def test_a_body_that_holds_nul_or_half_a_pair_is_refused_with_the_place(
    http: httpx.AsyncClient,
) -> None:
    for path, body, place in (
        ("/agents/demo/start", b'{"input": [{"text": "%b"}]}', "$.input[0].text"),
        ("/agents/demo/start", b'{"input": "hi", "metadata": {"a": [{"%b": 1}]}}', "$.metadata.a[0]"),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "%b"}]}', "messages[0].content"),
        (f"{EXECUTOR}/runs/list", b'{"session_id": "%b"}', "$.session_id"),
    ):
        for form, word in ((rb"a\u0000b", "NUL"), (rb"\ud83d", "surrogate"), (rb"\udc00", "surrogate")):
            if path.startswith("/v1") and word == "surrogate":
                continue  # a chat's client could not repair its history
            headers = {"Content-Type": "application/json"}
            answer = await http.post(path, content=body % form, headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "invalid_body"), answer.text
            assert place in error["message"]
            assert word in error["message"]
            assert place in (error.get("param"), error.get("field")), answer.text


async def test_the_data_of_an_event_may_hold_nul(http: httpx.AsyncClient) -> None:
    run_id = (await http.post("/agents/demo/start", json={"input": "hi " * 50})).json()["run_id"]
    answer = await http.post(f"/runs/{run_id}/events", json={"type": "custom.x", "data": {NUL: NUL}})
    assert answer.status_code == 201
    page = (await http.get(f"/runs/{run_id}/events", params={"types": "custom.x"})).json()
    assert page["data"][0]["data"] == {NUL: NUL}
    await http.post(f"/runs/{run_id}/stop")
    await http.get(f"/runs/{run_id}", params={"wait": 60})
    written = rb'"data":{"a\u0000b":"a\u0000b"}'
    ndjson = {"Accept": "application/x-ndjson"}
    for path, headers in (("stream", {}), ("events", {}), ("events", ndjson)):
        assert written in (await http.get(f"/runs/{run_id}/{path}", headers=headers)).content


@pytest.mark.parametrize("name", [*FORMS.values(), "", "x" * 256], ids=[*FORMS, "empty", "too long"])
async def test_a_program_gives_no_such_name(database_url: str, name: str) -> None:
    async with runstore.open(database_url) as store:
        for names in ({"user_id": name}, {"session_id": name}):
            with pytest.raises(InvalidName):
                async with store.begin("own", **names):
                    raise AssertionError("it has begun")
        with pytest.raises(InvalidName):
            async with store.begin(name):
                raise AssertionError("it has begun")
        assert await store.find() == []
    async with runstore.open(database_url, agents={}) as store:
        for names in ({"user_id": name}, {"session_id": name}, {"workspace_id": name}):
            with pytest.raises(InvalidName):
                await store.start("demo", "hi", **names)


@pytest.mark.parametrize("name", FORMS.values(), ids=FORMS)
async def test_a_program_does_not_look_for_such_a_name(database_url: str, name: str) -> None:
    async with runstore.open(database_url) as store:
        for field in ("user_id", "session_id", "agent", "workspace_id", "agent_prefix"):
            with pytest.raises(InvalidName):
                await store.find(RunQuery(**{field: name}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FORMS.values(), ids=FORMS)
def test_no_key_has_such_a_name(database_url: str, name: str) -> None:
    for user, label in ((name, ""), ("ann", name)):
        made = partial(create_key, user_id=user, role="user", name=label, now=0, expires_at=None)
        with pytest.raises(InvalidName):
            write_to(database_url, made)
    with read_from(database_url) as connection:
        assert list_keys(connection) == []


@pytest.mark.parametrize("name", FORMS.values(), ids=FORMS)
def test_the_client_sends_no_such_name(name: str) -> None:
    with runstore.Client("http://127.0.0.1:1") as client, pytest.raises(InvalidName):
        list(client.list(session_id=name))
    if name != NUL:  # which the server refuses
        with runstore.Client("http://127.0.0.1:1") as client, pytest.raises(InvalidName):
            client.start("demo", "hi", session_id=name)
