"""The only place where errors become answers: with a status, and in the surface's form."""

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from msgspec import UNSET, Struct, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from runstore.core import errors
from runstore.http.json import json_response
from runstore.store.hierarchies import HierarchyNotFound, InvalidHierarchy

STATUS: dict[type[errors.RunstoreError], int] = {
    errors.RunNotFound: 404,
    errors.RequestNotFound: 404,
    errors.AgentNotFound: 404,
    errors.InputNotFound: 404,
    errors.InputClosed: 409,
    errors.InvalidAnswer: 400,
    errors.RunDeleted: 410,
    errors.RunPurged: 410,
    errors.RunActive: 409,
    errors.AppendRefused: 409,
    errors.IdempotencyConflict: 409,
    errors.SessionBusy: 409,
    HierarchyNotFound: 404,
    InvalidHierarchy: 400,
    errors.InvalidCursor: 400,
    errors.InvalidQuery: 400,
    errors.InvalidEvent: 400,
    errors.InvalidName: 400,
    errors.EventTooLarge: 413,
    errors.LimitExceeded: 429,
    errors.TooLarge: 413,
    errors.Busy: 503,
    errors.ProjectionNotBuilt: 503,
    errors.LogUnavailable: 503,
}
# The message hides the database's address and user.
UNAVAILABLE = "the database cannot be used now; the server's log says why"
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
    """The body of any error."""

    error: ErrorDetail


class ErrorForm(Struct, frozen=True, eq=False):
    """The form of a surface's errors.

    Args:
        struct: the body of such an answer.
        write: makes that body from a status and the error.
        conflict_headers: the headers of answers with status 409.
    """

    struct: type[Struct]
    write: Callable[[int, ErrorDetail], Struct]
    conflict_headers: dict[str, str] = {}

    def response(self, status: int, error: ErrorDetail, headers: Any = None) -> Response:
        if status == 409 and self.conflict_headers:
            headers = {**(headers or {}), **self.conflict_headers}
        return json_response(self.write(status, error), status, headers)


NATIVE_ERRORS = ErrorForm(ErrorAnswer, lambda status, error: ErrorAnswer(error))


class BadRequest(errors.RunstoreError):
    """The request cannot be understood."""

    code = "bad_request"

    def __init__(
        self, message: str, *, code: str = "bad_request", status: int = 400, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.field = field  # the place of the fault in the body, such as `$.metadata`


class Unauthorized(errors.RunstoreError):
    """The request has no valid login."""

    code = "unauthorized"
    status = 401
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012


class Forbidden(errors.RunstoreError):
    """The user is known, but lacks the right."""

    code = "forbidden"
    status = 403


def status_of(error: errors.RunstoreError | type[errors.RunstoreError]) -> int:
    """The status of an error's answer; 500 for an error that clients should not meet."""
    cls = error if isinstance(error, type) else type(error)
    known = next((STATUS[base] for base in cls.__mro__ if base in STATUS), 500)
    return getattr(error, "status", None) or known


def error_response(status: int, code: str, message: str, headers: Any = None, **details: Any) -> Response:
    """An error in the native form."""
    return NATIVE_ERRORS.response(status, ErrorDetail(code, message, **details), headers)


class ErrorResponder:
    """Turns errors into responses, each in the form of the surface at the request's path.

    Args:
        forms: by the prefixes of the surfaces. The first match counts; without one, the native form is used.
    """

    def __init__(self, forms: Mapping[str, ErrorForm]) -> None:
        self._forms = forms
        self.handlers = {
            errors.RunstoreError: self.runstore_error,
            HTTPException: self.http_exception,
            Exception: self.unexpected,
        }

    def respond(
        self, scope: Scope, status: int, code: str, message: str, headers: Any = None, **details: Any
    ) -> Response:
        path = path_of(scope)
        fitting = (form for prefix, form in self._forms.items() if path.startswith(f"{prefix}/"))
        return next(fitting, NATIVE_ERRORS).response(status, ErrorDetail(code, message, **details), headers)

    async def runstore_error(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, errors.RunstoreError) or (status := status_of(error)) == 500:
            return await self.unexpected(request, error)
        details = {name: getattr(error, name, None) for name in ("head", "limit", "field")}
        details = {name: value for name, value in details.items() if value is not None}
        headers = {"Retry-After": "1"} if status in (429, 503) else getattr(error, "headers", None)
        message = UNAVAILABLE if isinstance(error, errors.LogUnavailable) else str(error)
        return self.respond(request.scope, status, error.code, message, headers, **details)

    async def http_exception(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return await self.unexpected(request, error)
        code = HTTP_CODES.get(error.status_code, "http_error")
        message = {
            404: f"there is nothing at {request.url.path}",
            405: f"{request.method} is not allowed at {request.url.path}",
        }.get(error.status_code, error.detail)
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
        return self.respond(request.scope, error.status_code, code, message, headers)

    async def unexpected(self, request: Request, error: Exception) -> Response:
        """A defect of the server: the log gets the traceback, the client does not."""
        run_id = request.path_params.get("run_id")
        log.error(
            "request_failed", run_id=run_id, method=request.method, path=request.url.path, exc_info=error
        )
        return self.respond(request.scope, 500, "internal_error", "the server failed; its log says why")


def path_of(scope: Scope) -> str:
    """The request's path, relative to the application's mount point."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _allowed(request: Request) -> str:
    """The methods of all routes at this path; Starlette names only those of the first one."""
    matching = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for route in matching for method in route.methods}))
