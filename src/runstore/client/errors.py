"""Errors of a client.

ClientError
├── ServerUnreachable   no answer came, even after retries
├── UnexpectedAnswer    the answer is not a runstore's
└── ApiError            the server refused: `status`, `code`, the message, `details`
    ├── Unauthorized    401
    ├── Forbidden       403
    ├── NotFound        404
    ├── Conflict        409
    ├── Gone            410
    ├── RateLimited     429
    └── Unavailable     502, 503, 504, even after retries
"""

from collections.abc import Mapping
from http.client import responses
from typing import Any

import msgspec

from runstore.core.errors import RunstoreError

_SHOWN = 200  # characters of an unexpected answer in the message


class ClientError(RunstoreError):
    """The request failed or was refused."""


class ServerUnreachable(ClientError):
    """The server cannot be reached."""

    code = "unreachable"


class UnexpectedAnswer(ClientError):
    """The answer is not one that a runstore gives."""

    code = "unexpected_answer"


class ApiError(ClientError):
    """The server refused. `code` is for programs.

    `details` holds further fields of the answer, such as `head`.
    """

    def __init__(
        self, status: int, code: str, message: str, details: dict[str, Any], retry_after_s: float = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.code}: {self.args[0]}"


class Unauthorized(ApiError):
    """The API key is missing or wrong."""


class Forbidden(ApiError):
    """The run belongs to another user."""


class NotFound(ApiError):
    """There is no such run or agent."""


class Conflict(ApiError):
    """The run's state does not allow this."""


class Gone(ApiError):
    """The run was deleted or purged; `code` says which."""


class RateLimited(ApiError):
    """A limit is reached; the request may succeed later."""


class Unavailable(ApiError):
    """The server cannot do this now."""


_CLASSES: dict[int, type[ApiError]] = {
    401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone, 429: RateLimited,
    502: Unavailable, 503: Unavailable, 504: Unavailable,
}  # fmt: skip


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error in an answer, which may also come from a proxy."""
    try:
        rest = msgspec.json.decode(body, type=dict[str, dict[str, Any]])["error"]
        code, message = str(rest.pop("code")), str(rest.pop("message"))
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        shown = " ".join(body.decode(errors="replace").split())[:_SHOWN]
        code, message, rest = "http_error", f"{status} {responses.get(status, '')}: {shown}".rstrip(": "), {}
    return _CLASSES.get(status, ApiError)(status, code, message, rest, _retry_after_s(headers))


def _retry_after_s(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text[:9]) if text.isascii() and text.isdigit() else 0
