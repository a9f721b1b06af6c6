"""Errors become answers here, and only here: the right status, and the surface's form of code and message."""

from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from runstore.core import errors
from runstore.hierarchies import HierarchyNotFound, InvalidHierarchy
from runstore.http.envelope import error_body, path_of
from runstore.http.json import json_response

STATUS: dict[type[errors.RunstoreError], int] = {
    errors.RunNotFound: 404,
    errors.AgentNotFound: 404,
    errors.RunDeleted: 410,
    errors.RunActive: 409,
    errors.AppendRefused: 409,
    errors.IdempotencyConflict: 409,
    HierarchyNotFound: 404,
    InvalidHierarchy: 400,
    errors.InvalidCursor: 400,
    errors.InvalidEvent: 400,
    errors.EventTooLarge: 413,
    errors.LogUnavailable: 503,
}
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}

log = structlog.get_logger(__name__)


class BadRequest(errors.RunstoreError):
    """The request cannot be understood."""

    code = "bad_request"

    def __init__(
        self, message: str, *, code: str = "bad_request", status: int = 400, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.field = field  # the place in the body that is wrong


class Unauthorized(errors.RunstoreError):
    """The request does not tell who sent it, or not so that it can be believed."""

    code = "unauthorized"
    status = 401
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012


class Forbidden(errors.RunstoreError):
    """The user is known, and may not do this."""

    code = "forbidden"
    status = 403


def error_response(
    status: int, code: str, message: str, headers: Any = None, *, path: str = "", **details: Any
) -> Response:
    """`path`: of the request, as `path_of` tells it; the error has the form of the surface that is there."""
    return json_response(error_body(path, {"code": code, "message": message, **details}), status, headers)


async def on_runstore_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status", None) or next(
        (STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), 500
    )
    if status == 500 or not isinstance(error, errors.RunstoreError):
        return await on_unexpected(request, error)
    details = {name: getattr(error, name, None) for name in ("head", "limit", "field")}
    details = {name: value for name, value in details.items() if value is not None}
    headers = {"Retry-After": "1"} if status in (429, 503) else getattr(error, "headers", None)
    return error_response(status, error.code, str(error), headers, path=path_of(request.scope), **details)


async def on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await on_unexpected(request, error)
    code = HTTP_CODES.get(error.status_code, "http_error")
    message = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is not allowed at {request.url.path}",
    }.get(error.status_code, error.detail)
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return error_response(error.status_code, code, message, headers, path=path_of(request.scope))


def _allowed(request: Request) -> str:
    """The methods of every route at this path; Starlette names those of the first one only."""
    matching = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for route in matching for method in route.methods}))


async def on_unexpected(request: Request, error: Exception) -> Response:
    """A defect of ours: the log gets the traceback, the client does not."""
    run_id = request.path_params.get("run_id")
    log.error("request_failed", run_id=run_id, method=request.method, path=request.url.path, exc_info=error)
    message = "the server failed; its log says why"
    return error_response(500, "internal_error", message, path=path_of(request.scope))


EXCEPTION_HANDLERS = {
    errors.RunstoreError: on_runstore_error,
    HTTPException: on_http_exception,
    Exception: on_unexpected,
}
