"""The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1), made of the structs and `operations`."""

import hashlib
from collections import defaultdict
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from runstore import __version__
from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES
from runstore.core.limits import Limits
from runstore.core.records import EventRecord
from runstore.http.auth import OPEN_PATHS, Authenticator
from runstore.http.errors import ErrorAnswer, status_of
from runstore.http.operations import (
    JSON,
    OF_A_BODY,
    OF_A_RUN,
    OF_ALL,
    OF_GUARDED,
    OF_PARAMETERS,
    OF_STRICT,
    OPERATIONS,
    RUN_ID,
    Answer,
    Operation,
    Parameter,
    Problem,
    Schema,
)  # fmt: skip
from runstore.http.requests import check_parameters, has_already

DESCRIPTION = (
    "Runs of LLM agents as event logs: start them, follow them from any event on, stop them. "
    "Every GET route also answers HEAD. Other paths are answered 404 `not_found`, other methods 405 "
    "`method_not_allowed`."
)
BY_KEY: Schema = {"key": []}
BY_TICKET: Schema = {"ticket": []}
SECURITY_SCHEMES: Schema = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or what the server's own login function takes.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "For one run's stream, of clients that cannot send headers.",
    },
}
PROBLEM_HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


class OpenApiRoute:
    """`/openapi.json`, which needs no key: it tells what the API is, and of no run."""

    def __init__(self, authenticator: Authenticator | None) -> None:
        self._authenticator = authenticator

    async def get(self, request: Request) -> Response:
        check_parameters(request, ())
        needs_login = self._authenticator is not None and await self._authenticator.required()
        server = {"url": request.scope.get("root_path", "") or "/"}
        body = msgspec.json.encode({**document(needs_login=needs_login), "servers": [server]})
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        if has_already(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=JSON)


@cache
def document(*, needs_login: bool) -> dict[str, Any]:
    """The document, but for where the server is."""
    schemas = _Schemas()
    paths: dict[str, Any] = defaultdict(dict)
    for (method, path), operation in OPERATIONS.items():
        paths[path][method.lower()] = _operation(path, operation, schemas, needs_login=needs_login)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "runstore",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": SECURITY_SCHEMES},
    }


class _Schemas:
    """JSON Schemas of the structs that bodies are read into and made of."""

    def __init__(self) -> None:
        bodies = [operation.body for operation in OPERATIONS.values() if operation.body is not None]
        contents = [
            content
            for operation in OPERATIONS.values()
            for answer in operation.answers.values()
            for content in answer.content.values()
            if not isinstance(content, dict)
        ]
        types = [*bodies, *contents, ErrorAnswer, EventRecord, *EVENT_CLASSES.values()]
        schemas, self.components = msgspec.json.schema_components(
            types, ref_template="#/components/schemas/{name}"
        )
        self._of = list(zip(types, schemas, strict=True))
        self.components["EventRecord"]["oneOf"] = [
            *(
                {"properties": {"type": {"const": cls.type}, "data": self.of(cls)}}
                for cls in EVENT_CLASSES.values()
            ),
            {"properties": {"type": {"pattern": f"^{CUSTOM_TYPE.pattern}$"}}},
        ]

    def of(self, content: Any) -> Schema:
        """The schema of a type, or the schema that it is already."""
        if isinstance(content, dict):
            return content
        return next(schema for known, schema in self._of if known == content)


def _operation(path: str, operation: Operation, schemas: _Schemas, *, needs_login: bool) -> Schema:
    found: Schema = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [_tag(path)],
        "security": _security(path, operation, needs_login=needs_login),
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": {
            **{str(status): _answer(answer, schemas) for status, answer in operation.answers.items()},
            **{str(status): _refusal(status, codes, schemas) for status, codes in _codes(path, operation)},
        },
    }
    if operation.body is not None:
        found["requestBody"] = {
            "description": f"At most {Limits().body_bytes:,} bytes unless configured otherwise.",
            "required": not operation.body_optional,
            "content": {JSON: {"schema": schemas.of(operation.body)}},
        }
    return found


def _tag(path: str) -> str:
    first = path.split("/")[1]
    return first if first in ("agents", "runs") else "server"


def _security(path: str, operation: Operation, *, needs_login: bool) -> list[Schema]:
    if path in OPEN_PATHS:
        return []
    return [*([] if needs_login else [{}]), BY_KEY, *([BY_TICKET] if operation.by_ticket else [])]


def _parameter(parameter: Parameter) -> Schema:
    found: Schema = {"name": parameter.name, "in": parameter.place, "schema": parameter.schema}
    if parameter.description:
        found["description"] = parameter.description
    if parameter.place == "path":
        found["required"] = True
    if parameter.schema.get("type") == "array":  # one text, with commas
        found |= {"style": "form", "explode": False}
    return found


def _answer(answer: Answer, schemas: _Schemas) -> Schema:
    found: Schema = {"description": answer.description}
    if answer.headers:
        found["headers"] = {name: _header(schema, required=True) for name, schema in answer.headers.items()}
    if answer.content:
        found["content"] = {kind: {"schema": schemas.of(content)} for kind, content in answer.content.items()}
    if answer.run_id:
        found["links"] = {
            operation.id: {"operationId": operation.id, "parameters": {"run_id": answer.run_id}}
            for operation in OPERATIONS.values()
            if RUN_ID in operation.parameters
        }
    return found


def _header(schema: Schema, *, required: bool) -> Schema:
    return {"required": required, "schema": schema}


def _codes(path: str, operation: Operation) -> list[tuple[int, list[str]]]:
    """The statuses that an operation may refuse with, and the codes of each."""
    problems: list[Problem] = [*OF_ALL, *operation.problems]
    for applies, more in (
        (path not in OPEN_PATHS, OF_GUARDED),
        (RUN_ID in operation.parameters, OF_A_RUN),
        (operation.body is not None, OF_A_BODY),
        (operation.strict, OF_STRICT),
        (operation.by_ticket or any(each.place == "query" for each in operation.parameters), OF_PARAMETERS),
    ):
        problems += more if applies else ()
    codes: dict[int, set[str]] = defaultdict(set)
    for problem in problems:
        status, code = problem if isinstance(problem, tuple) else (status_of(problem), problem.code)
        codes[status].add(code)
    return [(status, sorted(found)) for status, found in sorted(codes.items())]


def _refusal(status: int, codes: list[str], schemas: _Schemas) -> Schema:
    narrowed = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    found: Schema = {
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": {JSON: {"schema": {**schemas.of(ErrorAnswer), **narrowed}}},
    }
    if name := PROBLEM_HEADERS.get(status):
        found["headers"] = {name: _header({"type": "string"}, required=codes != ["not_ready"])}
    return found
