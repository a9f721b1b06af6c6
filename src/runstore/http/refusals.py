"""What an operation may refuse with: the answers of the OpenAPI document that are errors."""

from collections import defaultdict

from runstore.http.errors import NO_RETRY, ErrorAnswer, error_form, status_of
from runstore.http.openai.objects import ErrorResponse
from runstore.http.openapi.schemas import Schemas
from runstore.http.operations import (
    JSON,
    OF_A_BODY,
    OF_A_RUN,
    OF_ALL,
    OF_GUARDED,
    OF_STRICT,
    RUN_ID,
    Operation,
    Problem,
    Schema,
    header,
)  # fmt: skip
from runstore.http.security.auth import OPEN_PATHS

HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
WITHOUT_HEADERS = {"not_ready", "server_stopping"}
NO_RETRIES = {None, "server_stopping"}  # of chats, besides every 409

Codes = set[str | None]  # see Problem


def refusals(path: str, operation: Operation, schemas: Schemas) -> dict[str, Schema]:
    """The answers by their statuses."""
    return {
        str(status): _refusal(path, status, codes, schemas)
        for status, codes in sorted(_codes(path, operation).items())
    }


def _codes(path: str, operation: Operation) -> dict[int, Codes]:
    problems: list[Problem] = [*OF_ALL, *operation.problems]
    for applies, more in (
        (path not in OPEN_PATHS, OF_GUARDED),
        (RUN_ID in operation.parameters, OF_A_RUN),
        (operation.body is not None, OF_A_BODY),
        (operation.strict, OF_STRICT),
    ):
        problems += more if applies else ()
    codes: dict[int, Codes] = defaultdict(set)
    for problem in problems:
        status, code = problem if isinstance(problem, tuple) else (status_of(problem), problem.code)
        codes[status].add(code)
    return codes


def _refusal(path: str, status: int, codes: Codes, schemas: Schemas) -> Schema:
    before_the_path_is_known = codes == {"headers_too_large"}
    form = ErrorAnswer if before_the_path_is_known else error_form(path)
    known = sorted(code for code in codes if code is not None)
    described, schema = [f"`{code}`" for code in known], schemas.of(form)
    if None in codes:
        described.append("the `error_code` of the run")
    else:
        schema = {**schema, "properties": {"error": {"properties": {"code": {"enum": known}}}}}
    found: Schema = {"description": ", ".join(described), "content": {JSON: {"schema": schema}}}
    if headers := _headers(form, status, codes):
        found["headers"] = headers
    return found


def _headers(form: object, status: int, codes: Codes) -> Schema:
    headers = {}
    if name := HEADERS.get(status):
        headers[name] = header({"type": "string"}, required=codes.isdisjoint(WITHOUT_HEADERS))
    if form is ErrorResponse and (status == 409 or not codes.isdisjoint(NO_RETRIES)):
        for name, value in NO_RETRY.items():
            headers[name] = header({"const": value}, required=status == 409)
    return headers
