"""What a client meets.

ClientError
├── ServerUnreachable   no answer came, however often it was tried
├── UnexpectedAnswer    what answered is no runstore, or speaks another language
└── ApiError            the server said no: `status`, `code`, the message, `details`
    ├── Unauthorized    401
    ├── Forbidden       403
    ├── NotFound        404
    ├── Conflict        409
    ├── Gone            410
    ├── RateLimited     429
    └── Unavailable     502, 503, 504, however often it was tried
"""

from collections.abc import Mapping
from http.client import responses
from typing import Any

import msgspec

from runstore.core.errors import RunstoreError

_SHOWN = 200  # characters of an answer that nobody expected


class ClientError(RunstoreError):
    """The server could not be asked, or said no."""


class ServerUnreachable(ClientError):
    """The server cannot be reached."""

    code = "unreachable"


class UnexpectedAnswer(ClientError):
    """The answer is none that a runstore gives."""

    code = "unexpected_answer"


class ApiError(ClientError):
    """The server said no. `code` is for programs; `details` has what else the answer tells, as `head`."""

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
    """The run belongs to somebody else."""


class NotFound(ApiError):
    """There is no such run or agent."""


class Conflict(ApiError):
    """The run is not in a state for this."""


class Gone(ApiError):
    """The run was deleted or purged: `code` tells which."""


class RateLimited(ApiError):
    """A limit is reached; later it may go."""


class Unavailable(ApiError):
    """The server cannot do it now."""


_CLASSES: dict[int, type[ApiError]] = {
    401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone, 429: RateLimited,
    502: Unavailable, 503: Unavailable, 504: Unavailable,
}  # fmt: skip


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error that an answer tells of, also when something in between has answered."""
    try:
        told = msgspec.json.decode(body, type=dict[str, dict[str, Any]])["error"]
        code, message = str(told.pop("code")), str(told.pop("message"))
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        shown = " ".join(body.decode(errors="replace").split())[:_SHOWN]
        code, message, told = "http_error", f"{status} {responses.get(status, '')}: {shown}".rstrip(": "), {}
    return _CLASSES.get(status, ApiError)(status, code, message, told, _retry_after_s(headers))


def _retry_after_s(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text[:9]) if text.isascii() and text.isdigit() else 0
