"""Errors become answers here, and only here: the right status, and the surface's form of code and message."""

from typing import Annotated, Any

import structlog
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from runstore.core import errors
from runstore.http.envelope import EXECUTOR, OPENAI, path_of
from runstore.http.json import json_response
from runstore.http.openai.objects import ErrorResponse, error_object
from runstore.store.hierarchies import HierarchyNotFound, InvalidHierarchy

STATUS: dict[type[errors.RunstoreError], int] = {
    errors.RunNotFound: 404,
    errors.AgentNotFound: 404,
    errors.RunDeleted: 410,
    errors.RunPurged: 410,
    errors.RunActive: 409,
    errors.AppendRefused: 409,
    errors.IdempotencyConflict: 409,
    errors.SessionBusy: 409,
    HierarchyNotFound: 404,
    InvalidHierarchy: 400,
    errors.InvalidCursor: 400,
    errors.InvalidEvent: 400,
    errors.InvalidName: 400,
    errors.EventTooLarge: 413,
    errors.LimitExceeded: 429,
    errors.TooLarge: 413,
    errors.Busy: 503,
    errors.LogUnavailable: 503,
}
NO_RETRY = {"X-Should-Retry": "false"}  # OpenAI's clients try again after 409 and 5xx unless told not to
UNAVAILABLE = "the database cannot be used now; the server's log says why"  # and where it is, and as whom
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}

log = structlog.get_logger(__name__)


class ErrorDetail(Struct, frozen=True):
    """`code` is for programs, `message` for people.

    `head`: the run's last seq; `limit`: which one; `field`: the place in the body.
    """

    code: str
    message: str
    head: int | UnsetType = UNSET
    limit: str | UnsetType = UNSET
    field: str | UnsetType = UNSET


class ErrorAnswer(Struct, frozen=True):
    """Whatever went wrong."""

    error: ErrorDetail


class Failure(Struct, frozen=True):
    """The same in the executor's form."""

    success: Annotated[bool, Meta(extra_json_schema={"const": False})]
    error: ErrorDetail


ERROR_FORMS = (ErrorAnswer, ErrorResponse, Failure)


class BadRequest(errors.RunstoreError):
    """The request cannot be understood."""

    code = "bad_request"

    def __init__(
        self, message: str, *, code: str = "bad_request", status: int = 400, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.field = field  # the place in the body that is wrong, as `$.metadata`


class Unauthorized(errors.RunstoreError):
    """The request does not tell who sent it, or not so that it can be believed."""

    code = "unauthorized"
    status = 401
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012


class Forbidden(errors.RunstoreError):
    """The user is known, and may not do this."""

    code = "forbidden"
    status = 403


def status_of(error: errors.RunstoreError | type[errors.RunstoreError]) -> int:
    """The status of an error's answer; 500 if it is none that a client should meet."""
    cls = error if isinstance(error, type) else type(error)
    known = next((STATUS[base] for base in cls.__mro__ if base in STATUS), 500)
    return getattr(error, "status", None) or known


def error_response(status: int, code: str, message: str, headers: Any = None, **details: Any) -> Response:
    """An error in the native form."""
    return json_response(ErrorAnswer(ErrorDetail(code, message, **details)), status, headers)


def error_form(path: str) -> Any:
    """The struct of the errors at a path, one of ERROR_FORMS, as its surface has it."""
    if path.startswith(f"{EXECUTOR}/"):
        return Failure
    return ErrorResponse if path.startswith(f"{OPENAI}/") else ErrorAnswer


def openai_error(
    status: int, code: str, message: str, *, field: str | None = None, headers: Any = None
) -> Response:
    param = field.removeprefix("$").removeprefix(".") if field else None
    return json_response(error_object(status, code, message, param or None), status, headers)


def error_for(
    scope: Scope, status: int, code: str, message: str, headers: Any = None, **details: Any
) -> Response:
    """An error in the form that the request's surface has."""
    form = error_form(path_of(scope))
    if form is Failure:
        return json_response(Failure(False, ErrorDetail(code, message, **details)), status, headers)
    if form is ErrorAnswer:
        return error_response(status, code, message, headers, **details)
    if status == 409:
        headers = {**(headers or {}), **NO_RETRY}
    return openai_error(status, code, message, field=details.get("field"), headers=headers)


async def on_runstore_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, errors.RunstoreError) or (status := status_of(error)) == 500:
        return await on_unexpected(request, error)
    details = {name: getattr(error, name, None) for name in ("head", "limit", "field")}
    details = {name: value for name, value in details.items() if value is not None}
    headers = {"Retry-After": "1"} if status in (429, 503) else getattr(error, "headers", None)
    message = UNAVAILABLE if isinstance(error, errors.LogUnavailable) else str(error)
    return error_for(request.scope, status, error.code, message, headers, **details)


async def on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await on_unexpected(request, error)
    code = HTTP_CODES.get(error.status_code, "http_error")
    message = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is not allowed at {request.url.path}",
    }.get(error.status_code, error.detail)
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return error_for(request.scope, error.status_code, code, message, headers)


def _allowed(request: Request) -> str:
    """The methods of every route at this path; Starlette names those of the first one only."""
    matching = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for route in matching for method in route.methods}))


async def on_unexpected(request: Request, error: Exception) -> Response:
    """A defect of ours: the log gets the traceback, the client does not."""
    run_id = request.path_params.get("run_id")
    log.error("request_failed", run_id=run_id, method=request.method, path=request.url.path, exc_info=error)
    return error_for(request.scope, 500, "internal_error", "the server failed; its log says why")


EXCEPTION_HANDLERS = {
    errors.RunstoreError: on_runstore_error,
    HTTPException: on_http_exception,
    Exception: on_unexpected,
}
