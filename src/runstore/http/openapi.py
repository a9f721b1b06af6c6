"""The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1), made of the structs and `operations`."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from runstore import __version__
from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES
from runstore.core.limits import Limits
from runstore.core.records import EventRecord
from runstore.http.bodies import Body
from runstore.http.errors import NATIVE_ERRORS, ErrorForm, status_of
from runstore.http.openai.objects import MENDED_FIELDS, Chunk
from runstore.http.operations import Operation, Problem, ResponseSpec
from runstore.http.requests import Parameter, Schema
from runstore.http.schemas import (
    ANY_TYPE,
    JSON,
    OF_A_BODY,
    OF_A_CHANGE,
    OF_A_RUN,
    OF_ALL,
    OF_GUARDED,
    OF_STRICT,
    RUN_ID,
    header,
    within,
)
from runstore.http.surfaces import Surface

STREAMED = (EventRecord, *EVENT_CLASSES.values(), Chunk)  # the data of the events of streams

Surfaces = tuple[Surface, ...]

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
        "description": "An API key, or the credentials of the server's login function.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "For a stream, from clients that cannot send headers.",
    },
}


class Schemas:
    """The schemas of `types`; EventRecord and the events must be among them."""

    def __init__(self, types: Sequence[Any]) -> None:
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
        message = self.components["ChatMessage"]["properties"]
        for name, meaning in MENDED_FIELDS.items():
            message[name]["anyOf"].append({"description": meaning})

    def of(self, content: Any) -> Schema:
        """The schema of a type, or the schema that it is already."""
        if isinstance(content, dict):
            return content
        return next(schema for known, schema in self._of if known == content)


@cache
def document(surfaces: Surfaces, *, needs_login: bool) -> dict[str, Any]:
    """The document without the URL of the server."""
    return _Document(surfaces, needs_login=needs_login).whole


class _Document:
    """Makes the document of all operations, which refer to one another and to the same schemas."""

    def __init__(self, surfaces: Surfaces, *, needs_login: bool) -> None:
        self._needs_login = needs_login
        self._surfaces = surfaces
        self._operations = [operation for each in surfaces for _, operation in each.operations]
        self._schemas = Schemas(self._types())

    @property
    def whole(self) -> dict[str, Any]:
        paths: dict[str, Any] = defaultdict(dict)
        for surface in self._surfaces:
            for path, operation in surface.operations:
                method = operation.method.lower()
                paths[path][method] = self._operation(operation, surface.errors)
        return {
            "openapi": "3.1.1",
            "info": {
                "title": "runstore",
                "version": __version__,
                "description": DESCRIPTION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": paths,
            "components": {"schemas": self._schemas.components, "securitySchemes": SECURITY_SCHEMES},
        }

    def _types(self) -> list[Any]:
        """The structs that bodies are read into and made of."""
        bodies = [each.body.described for each in self._operations if each.body is not None]
        contents = [
            content
            for operation in self._operations
            for answer in operation.answers.values()
            for content in answer.content.values()
            if not isinstance(content, dict)
        ]
        errors = [each.errors.struct for each in self._surfaces]
        return [*bodies, *contents, *errors, *STREAMED]

    def _operation(self, operation: Operation[Any], form: ErrorForm) -> Schema:
        query = operation.query.parameters() if operation.query is not None else ()
        found: Schema = {
            "operationId": operation.id,
            "summary": operation.summary,
            "tags": [operation.tag],
            "security": self._security(operation),
            "parameters": [_parameter(each) for each in (*operation.parameters, *query)],
            "responses": {
                **{str(status): self._answer(answer) for status, answer in operation.answers.items()},
                **refusals(form, operation, self._schemas),
            },
        }
        if operation.body is not None:
            found["requestBody"] = self._body(operation.body)
        return found

    def _security(self, operation: Operation[Any]) -> list[Schema]:
        if operation.open:
            return []
        by_ticket = [BY_TICKET] if operation.ticket is not None else []
        return [*([] if self._needs_login else [{}]), BY_KEY, *by_ticket]

    def _body(self, body: Body[Any]) -> Schema:
        description = f"At most {Limits().body_bytes:,} bytes unless configured otherwise."
        if body.any_type:
            description += (
                " With an `Authorization` header the body is read as JSON, whatever its declared type."
            )
        schema = self._schemas.of(body.described)
        content = {JSON: {"schema": schema}}
        if body.any_type:
            content[ANY_TYPE] = {"schema": {"type": "string", **within(schema)}}
        return {"description": description, "required": not body.optional, "content": content}

    def _answer(self, answer: ResponseSpec) -> Schema:
        found: Schema = {"description": answer.description}
        if answer.headers:
            found["headers"] = {name: header(schema) for name, schema in answer.headers.items()}
        if answer.content:
            found["content"] = {
                kind: {"schema": self._schemas.of(content)} for kind, content in answer.content.items()
            }
        if answer.run_id:
            found["links"] = {
                operation.id: {"operationId": operation.id, "parameters": {"run_id": answer.run_id}}
                for operation in self._operations
                if RUN_ID in operation.parameters
            }
        return found


def _parameter(parameter: Parameter) -> Schema:
    found: Schema = {"name": parameter.name, "in": parameter.location, "schema": parameter.schema}
    if parameter.description:
        found["description"] = parameter.description
    if parameter.location == "path":
        found["required"] = True
    if parameter.schema.get("type") == "array":  # given more than once, or one text with commas
        found |= {"style": "form", "explode": parameter.repeated}
    return found


# ---- refusals ----

HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
WITHOUT_HEADERS = {"not_ready", "server_stopping"}
NO_RETRIES = {None, "server_stopping"}  # codes after which a chat is not repeated, besides those of 409

Codes = set[str | None]  # see Problem


def refusals(form: ErrorForm, operation: Operation[Any], schemas: Schemas) -> dict[str, Schema]:
    """The errors that an operation may answer with, by their statuses."""
    return {
        str(status): _refusal(form, status, codes, schemas)
        for status, codes in sorted(_codes(operation).items())
    }


def _codes(operation: Operation[Any]) -> dict[int, Codes]:
    problems: list[Problem] = [*OF_ALL, *operation.problems]
    for applies, more in (
        (not operation.open, OF_GUARDED),
        (RUN_ID in operation.parameters, OF_A_RUN),
        (operation.changes, OF_A_CHANGE),
        (operation.body is not None, OF_A_BODY),
        (operation.strict, OF_STRICT),
    ):
        problems += more if applies else ()
    codes: dict[int, Codes] = defaultdict(set)
    for problem in problems:
        status, code = problem if isinstance(problem, tuple) else (status_of(problem), problem.code)
        codes[status].add(code)
    return codes


def _refusal(form: ErrorForm, status: int, codes: Codes, schemas: Schemas) -> Schema:
    if codes == {"headers_too_large"}:  # refused before the path is known
        form = NATIVE_ERRORS
    known = sorted(code for code in codes if code is not None)
    described, schema = [f"`{code}`" for code in known], schemas.of(form.struct)
    if None in codes:
        described.append("the `error_code` of the run")
    else:
        schema = {**schema, "properties": {"error": {"properties": {"code": {"enum": known}}}}}
    found: Schema = {"description": ", ".join(described), "content": {JSON: {"schema": schema}}}
    if headers := _headers(form, status, codes):
        found["headers"] = headers
    return found


def _headers(form: ErrorForm, status: int, codes: Codes) -> Schema:
    headers = {}
    if name := HEADERS.get(status):
        headers[name] = header({"type": "string"}, required=codes.isdisjoint(WITHOUT_HEADERS))
    if status == 409 or not codes.isdisjoint(NO_RETRIES):
        for name, value in form.conflict_headers.items():
            headers[name] = header({"const": value}, required=status == 409)
    return headers
