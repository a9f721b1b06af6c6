"""The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1), made of the structs and `operations`."""

import hashlib
from collections import defaultdict
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from runstore import __version__
from runstore.core.limits import Limits
from runstore.http.errors import ERROR_FORMS
from runstore.http.executor.operations import EXECUTOR_OPERATIONS
from runstore.http.native.run_operations import RUN_OPERATIONS
from runstore.http.native.server_operations import SERVER_OPERATIONS
from runstore.http.openai.operations import CHAT_OPERATIONS
from runstore.http.openapi.schemas import Schemas
from runstore.http.operations import (
    ANY_TYPE,
    JSON,
    RUN_ID,
    STREAMED,
    Answer,
    Operation,
    Parameter,
    Schema,
    header,
    within,
)  # fmt: skip
from runstore.http.refusals import refusals
from runstore.http.requests import check_parameters, has_already
from runstore.http.security.auth import OPEN_PATHS, Authenticator

OPERATIONS = {**RUN_OPERATIONS, **CHAT_OPERATIONS, **EXECUTOR_OPERATIONS, **SERVER_OPERATIONS}
TAGS = {"agents": "agents", "runs": "runs", "v1": "chat", "api": "hierarchies"}  # by a path's first part

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
    schemas = Schemas(_types())
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


def _types() -> list[Any]:
    """The structs that bodies are read into and made of."""
    bodies = [operation.body for operation in OPERATIONS.values() if operation.body is not None]
    contents = [
        content
        for operation in OPERATIONS.values()
        for answer in operation.answers.values()
        for content in answer.content.values()
        if not isinstance(content, dict)
    ]
    return [*bodies, *contents, *ERROR_FORMS, *STREAMED]


def _operation(path: str, operation: Operation, schemas: Schemas, *, needs_login: bool) -> Schema:
    found: Schema = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [_tag(path)],
        "security": _security(path, operation, needs_login=needs_login),
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": {
            **{str(status): _answer(answer, schemas) for status, answer in operation.answers.items()},
            **refusals(path, operation, schemas),
        },
    }
    if operation.body is not None:
        found["requestBody"] = _body(operation, schemas)
    return found


def _body(operation: Operation, schemas: Schemas) -> Schema:
    description = f"At most {Limits().body_bytes:,} bytes unless configured otherwise."
    if operation.any_type:
        description += " JSON whatever its type is said to be, if the request has an `Authorization` header."
    schema = schemas.of(operation.body)
    content = {JSON: {"schema": schema}}
    if operation.any_type:
        content[ANY_TYPE] = {"schema": {"type": "string", **within(schema)}}
    return {"description": description, "required": not operation.body_optional, "content": content}


def _tag(path: str) -> str:
    first = path.split("/")[1]
    return TAGS.get(first, "server")


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


def _answer(answer: Answer, schemas: Schemas) -> Schema:
    found: Schema = {"description": answer.description}
    if answer.headers:
        found["headers"] = {name: header(schema) for name, schema in answer.headers.items()}
    if answer.content:
        found["content"] = {kind: {"schema": schemas.of(content)} for kind, content in answer.content.items()}
    if answer.run_id:
        found["links"] = {
            operation.id: {"operationId": operation.id, "parameters": {"run_id": answer.run_id}}
            for operation in OPERATIONS.values()
            if RUN_ID in operation.parameters
        }
    return found
