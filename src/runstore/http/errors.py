"""The only place where errors become answers: with a status, and in the surface's form."""

from collections.abc import Callable, Iterable
from typing import Any

import structlog
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
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
FORM = "runstore.error_form"  # key in a request's scope for the form of its errors

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


class NothingThere(errors.RunstoreError):
    """No operation has the path of a request."""

    code = "not_found"
    status = 404

    def __init__(self, request: Request) -> None:
        super().__init__(f"there is nothing at {request.url.path}")


class MethodNotAllowed(errors.RunstoreError):
    """The path of a request has operations of other methods only."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, request: Request, allowed: Iterable[str]) -> None:
        super().__init__(f"{request.method} is not allowed at {request.url.path}")
        self.headers = {"Allow": ", ".join(sorted(allowed))}


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


def respond(
    scope: Scope, status: int, code: str, message: str, headers: Any = None, **details: Any
) -> Response:
    """An error in the form of the request's surface."""
    form: ErrorForm = scope.get(FORM, NATIVE_ERRORS)
    return form.response(status, ErrorDetail(code, message, **details), headers)


async def answer_error(request: Request, error: Exception) -> Response:
    """The answer to an error of this package."""
    if not isinstance(error, errors.RunstoreError) or (status := status_of(error)) == 500:
        return await answer_defect(request, error)
    details = {name: getattr(error, name, None) for name in ("head", "limit", "field")}
    details = {name: value for name, value in details.items() if value is not None}
    headers = {"Retry-After": "1"} if status in (429, 503) else getattr(error, "headers", None)
    message = UNAVAILABLE if isinstance(error, errors.LogUnavailable) else str(error)
    return respond(request.scope, status, error.code, message, headers, **details)


async def answer_defect(request: Request, error: Exception) -> Response:
    """A defect of the server: the log gets the traceback, the client does not."""
    run_id = request.path_params.get("run_id")
    log.error("request_failed", run_id=run_id, method=request.method, path=request.url.path, exc_info=error)
    return respond(request.scope, 500, "internal_error", "the server failed; its log says why")


def path_of(scope: Scope) -> str:
    """The request's path, relative to the application's mount point."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
