"""`/openapi.json`: valid, complete, and open to everybody."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.routing import Mount

from runstore import MountedApp
from tests.kit.keys import make_key
from tests.kit.server import serving

KEY, TICKET, NOTHING = {"key": []}, {"ticket": []}, dict[str, Any]()
STREAM = "/runs/{run_id}/stream"


def described(http: httpx.Client) -> dict[str, Any]:
    answer = http.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json()
    return found


def test_it_is_a_valid_document_of_openapi_3_1(http: httpx.Client) -> None:
    document = described(http)
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_a_client_that_has_the_document_gets_304(http: httpx.Client) -> None:
    tag = http.get("/openapi.json").headers["etag"]
    again = http.get("/openapi.json", headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


def test_without_keys_it_says_that_none_is_needed(http: httpx.Client) -> None:
    document = described(http)
    assert document["paths"]["/runs"]["get"]["security"] == [NOTHING, KEY]
    assert document["paths"][STREAM]["get"]["security"] == [NOTHING, KEY, TICKET]


def test_with_keys_it_is_there_without_one_and_says_where_one_is_needed(tmp_path: Path) -> None:
    make_key(tmp_path, "alice")
    with serving(tmp_path) as server:
        assert server.http.get("/runs").status_code == 401
        document = described(server.http)
    assert document["paths"]["/runs"]["get"]["security"] == [KEY]
    assert document["paths"][STREAM]["get"]["security"] == [KEY, TICKET]
    assert [
        path for path, route in document["paths"].items() if route.get("get", {}).get("security") == []
    ] == [
        "/healthz",
        "/readyz",
        "/openapi.json",
    ]


def test_lines_of_ndjson_are_event_records(http: httpx.Client, closed_run: str) -> None:
    record = {"$ref": "#/components/schemas/EventRecord", "components": described(http)["components"]}
    headers = {"Accept": "application/x-ndjson"}
    lines = http.get(f"/runs/{closed_run}/events", headers=headers).text.splitlines()
    assert len(lines) > 5
    for line in lines:
        Draft202012Validator(record).validate(msgspec.json.decode(line))


def test_an_event_with_data_of_another_type_is_no_event_record(http: httpx.Client, closed_run: str) -> None:
    record = {"$ref": "#/components/schemas/EventRecord", "components": described(http)["components"]}
    [first, *_] = http.get(f"/runs/{closed_run}/events").json()["data"]
    assert Draft202012Validator(record).is_valid(first)
    assert not Draft202012Validator(record).is_valid({**first, "type": "lifecycle.completed"})
    assert not Draft202012Validator(record).is_valid({**first, "type": "lifecycle.unheard"})


@pytest.fixture
async def mounted(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    inner = MountedApp(f"sqlite:///{tmp_path / 'runstore.db'}")
    outer = Starlette(routes=[Mount("/inner", inner)])
    transport = httpx.ASGITransport(outer, client=("127.0.0.1", 1))
    async with inner.open(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http


async def test_the_document_of_a_mounted_app_names_its_path(mounted: httpx.AsyncClient) -> None:
    document = (await mounted.get("/inner/openapi.json")).json()
    OpenAPIV31SpecValidator(document).validate()
    [server] = document["servers"]
    assert server == {"url": "/inner"}
    assert (await mounted.get(f"{server['url']}/runs")).status_code == 200


def test_every_pattern_is_one_that_other_languages_can_read(http: httpx.Client) -> None:
    """JSON Schema's are JavaScript's (ECMA-262), which has no `\\Z`."""
    patterns = set(found(described(http), "pattern"))
    assert len(patterns) > 5
    assert not [pattern for pattern in patterns if re.search(r"\\[AZ]|\(\?P", pattern)]


def found(schema: Any, keyword: str) -> Iterator[str]:
    """Every text that stands at `keyword`."""
    if isinstance(schema, dict):
        if isinstance(schema.get(keyword), str):
            yield schema[keyword]
        for value in schema.values():
            yield from found(value, keyword)
    elif isinstance(schema, list):
        for value in schema:
            yield from found(value, keyword)


def test_a_chats_body_may_be_of_any_type_and_hold_more_than_is_known(http: httpx.Client) -> None:
    document = described(http)
    content = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    assert content.keys() == {"application/json", "*/*"}
    assert content["*/*"]["schema"]["contentSchema"] == content["application/json"]["schema"]
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    assert Draft202012Validator(schema).is_valid({"prompt": "hi", "temperature": 0.2})
    assert not Draft202012Validator(schema).is_valid({"prompt": "hi", "messages": []})
